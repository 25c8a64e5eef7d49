"""Probes of a container: one check (exec, httpGet, tcpSocket), and the loop that counts results.

Checks go from the node's namespace to the pod's address. Source: the behaviour of kubelet's pkg/probe and prober.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

_BODY_LIMIT = 10 * 1024
_REDIRECTS = 10
_FIRST_PAUSE = 0.1


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of one check and what kubelet would say of it."""

    ok: bool
    message: str = ""


class Exec(Protocol):
    """Runs a command in the container: exit code and output; raises TimeoutError and others."""

    def __call__(self, argv: list[str], timeout: float) -> Awaitable[tuple[int, bytes]]: ...


@dataclass(frozen=True, slots=True)
class Target:
    """What a check is aimed at."""

    address: str
    container: Mapping[str, Any]
    run: Exec


class ProbeError(ValueError):
    """The probe cannot be made; the text names the field."""


def port_number(container: Mapping[str, Any], port: int | str) -> int:
    """A port's number, by name where it is one. Raises ProbeError."""
    if isinstance(port, int):
        return port
    for one in container.get("ports") or []:
        if one.get("name") == port:
            return int(one["containerPort"])
    if port.isdigit():
        return int(port)
    raise ProbeError(f"couldn't find port: {port!r} in container {container.get('name')!r}")


async def check(probe: Mapping[str, Any], target: Target) -> Outcome:
    """One attempt, within timeoutSeconds."""
    timeout = float(probe.get("timeoutSeconds") or 1)
    try:
        if "exec" in probe:
            return await _exec(probe["exec"].get("command") or [], target, timeout)
        if "httpGet" in probe:
            return await asyncio.wait_for(http_get(probe["httpGet"], target), timeout)
        if "tcpSocket" in probe:
            return await _tcp(probe["tcpSocket"], target, timeout)
    except TimeoutError:
        kind = "Get" if "httpGet" in probe else "probe"
        return Outcome(False, f"{kind} timed out after {timeout:g}s: context deadline exceeded")
    except (OSError, ProbeError) as error:
        return Outcome(False, str(error))
    kind = next((name for name in probe if isinstance(probe[name], dict)), "none")
    return Outcome(False, f"probe handler {kind} is not supported")


async def _exec(argv: list[str], target: Target, timeout: float) -> Outcome:
    try:
        code, output = await target.run(argv, timeout)
    except TimeoutError:
        return Outcome(False, f'command timed out: "{" ".join(argv)}" timed out after {timeout:g}s')
    return Outcome(code == 0, output.decode(errors="replace"))


async def _tcp(action: Mapping[str, Any], target: Target, timeout: float) -> Outcome:
    host = action.get("host") or target.address
    port = port_number(target.container, action["port"])
    try:
        _, writer = await asyncio.wait_for(asyncio.open_connection(host, port), timeout)
    except TimeoutError:
        return Outcome(False, f"dial tcp {host}:{port}: i/o timeout")
    except OSError as error:
        return Outcome(False, f"dial tcp {host}:{port}: {_refusal(error)}")
    writer.close()
    return Outcome(True)


def _refusal(error: OSError) -> str:
    """What Go's net package says of a connect(2) that failed; asyncio's own text has the address in it."""
    return f"connect: {os.strerror(error.errno).lower()}" if error.errno and error.errno > 0 else str(error)


async def http_get(action: Mapping[str, Any], target: Target) -> Outcome:
    """GET; 200 to 399 is success. Redirects on the same host are followed, one elsewhere counts as success.

    Raises OSError and ProbeError; also used for lifecycle hooks."""
    import aiohttp

    host = action.get("host") or target.address
    port = port_number(target.container, action["port"])
    scheme = str(action.get("scheme") or "HTTP").lower()
    path = str(action.get("path") or "/")
    shown = f"[{host}]" if ":" in host else host
    url = f"{scheme}://{shown}:{port}{path if path.startswith('/') else '/' + path}"
    headers = {"User-Agent": "kube-probe/1.36", "Accept": "*/*"}
    headers.update({one["name"]: one["value"] for one in action.get("httpHeaders") or []})
    connector = aiohttp.TCPConnector(ssl=False, force_close=True)
    try:
        async with aiohttp.ClientSession(connector=connector, auto_decompress=False) as session:
            for _ in range(_REDIRECTS):
                async with session.get(url, headers=headers, allow_redirects=False) as answer:
                    await answer.content.read(_BODY_LIMIT)
                    status = answer.status
                    if status in (301, 302, 303, 307, 308) and "Location" in answer.headers:
                        following = answer.url.join(type(answer.url)(answer.headers["Location"]))
                        if following.host == answer.url.host:
                            url = str(following)
                            continue
                    break
    except aiohttp.ClientConnectorError as error:
        return Outcome(False, f'Get "{url}": dial tcp {shown}:{port}: {_refusal(error.os_error)}')
    except aiohttp.ClientError as error:
        return Outcome(False, f'Get "{url}": {str(error) or "EOF"}')
    if 200 <= status < 400:
        return Outcome(True)
    return Outcome(False, f"HTTP probe failed with statuscode: {status}")


class Counter:
    """Turns single outcomes into a standing result: changed by failureThreshold or successThreshold alike ones."""

    def __init__(self, probe: Mapping[str, Any], initial: bool) -> None:
        self.result = initial
        self._failures = int(probe.get("failureThreshold") or 3)
        self._successes = int(probe.get("successThreshold") or 1)
        self._last: bool | None = None
        self._run = 0

    def add(self, ok: bool) -> bool:
        """Note an outcome; whether the standing result is due (the threshold is met)."""
        self._run = self._run + 1 if ok == self._last else 1
        self._last = ok
        if self._run < (self._successes if ok else self._failures):
            return False
        self.result = ok
        return True


async def watch(
    probe: Mapping[str, Any],
    initial: bool,
    target: Target,
    report: Callable[[bool, Outcome, bool], bool],
) -> None:
    """Probe for ever, or until `report(standing result, outcome, due)` says False. Sleeps initialDelaySeconds first,
    periodSeconds between.

    A program that just began is often a moment short of listening: what waits for a first success tries again soon
    within the first period, and failures of those extra attempts count for nothing.
    """
    counter = Counter(probe, initial)
    period = float(probe.get("periodSeconds") or 10)
    extra = not initial and int(probe.get("successThreshold") or 1) == 1
    await asyncio.sleep(float(probe.get("initialDelaySeconds") or 0))
    while True:
        outcome = await check(probe, target)
        due = counter.add(outcome.ok)
        if not report(counter.result, outcome, due):
            return
        if extra and not outcome.ok:
            found = await _soon(probe, target, period)
            if found is not None:
                due = counter.add(True)
                if not report(counter.result, found, due):
                    return
                await asyncio.sleep(period)
        else:
            await asyncio.sleep(period)
        extra = False


async def _soon(probe: Mapping[str, Any], target: Target, period: float) -> Outcome | None:
    """Attempts with growing pauses; the first success, or None after `period` seconds."""
    end, pause = time.monotonic() + period, _FIRST_PAUSE
    while (left := end - time.monotonic()) > 0:
        await asyncio.sleep(min(pause, left))
        if left <= pause:
            break
        outcome = await check(probe, target)
        if outcome.ok:
            return outcome
        pause *= 2
    return None
