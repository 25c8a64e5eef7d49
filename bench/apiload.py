"""Load for the API server: clients that cost little, so that the server is what is measured.

Requests are made beforehand; answers are counted, not decoded. Each function runs in a process of its own, tells its
progress through a pipe, and works on TLS connections that stay open.
"""

from __future__ import annotations

import asyncio
import json
import re
import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar, cast

import uvloop

P = TypeVar("P", bound=asyncio.Protocol)
_SENT = re.compile(rb'"sent":"(\d+)"')
_LENGTH = b"Content-Length: "
CONFIG_MAPS = "/api/v1/namespaces/default/configmaps"
PODS = "/api/v1/namespaces/default/pods"


@dataclass(frozen=True)
class Where:
    """A server and the certificates to call it with."""

    port: int
    pki: Path


def config_map(name: str, size: int = 700, **data: str) -> dict[str, Any]:
    """A ConfigMap with `size` bytes of text."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "labels": {"app.kubernetes.io/name": "bench", "bench": "yes"}},
        "data": {"settings.ini": ("key = value of it\n" * (size // 18 + 1))[:size], **data},
    }


def pod(name: str) -> dict[str, Any]:
    """A pod as a ReplicaSet makes them: ports, environment, resources, a probe and a volume."""
    probe = {"httpGet": {"path": "/healthz", "port": 8080}, "periodSeconds": 5}
    container = {
        "name": "web",
        "image": "nginx:1.27",
        "ports": [{"name": "http", "containerPort": 8080}],
        "env": [
            {"name": "LEVEL", "value": "info"},
            {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        ],
        "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"memory": "128Mi"}},
        "readinessProbe": probe,
        "volumeMounts": [{"name": "settings", "mountPath": "/etc/settings"}],
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": "web", "pod-template-hash": "5d59d67564"}},
        "spec": {"containers": [container], "volumes": [{"name": "settings", "configMap": {"name": "settings"}}]},
    }


def request(method: str, path: str, obj: dict[str, Any] | None = None) -> bytes:
    """A whole HTTP request."""
    body = json.dumps(obj).encode() if obj is not None else b""
    head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: bench/1\r\nAccept: application/json\r\n"
    if body:
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + b"\r\n" + body


class Writer(asyncio.Protocol):
    """Sends what `following` gives, one request at a time, until it gives None."""

    def __init__(self, following: Callable[[], bytes | None], expected: bytes) -> None:
        self.following, self.expected = following, expected
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.idle = True
        self.transport: asyncio.Transport | None = None
        self._got = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(error or ConnectionError("the server closed the connection"))

    def send(self) -> None:
        """The next request, if there is one."""
        assert self.transport
        data = self.following()
        self.idle = data is None
        if data is not None:
            self.transport.write(data)
        elif not self.done.done():
            self.done.set_result(None)

    def data_received(self, data: bytes) -> None:
        got = self._got + data if self._got else data
        end = got.find(b"\r\n\r\n")
        if end >= 0:
            at = got.find(_LENGTH, 0, end) + len(_LENGTH)
            if len(got) >= end + 4 + int(got[at : got.index(b"\r\n", at)]):
                if not got.startswith(self.expected):
                    raise RuntimeError(got.decode())
                self._got = b""
                self.send()
                return
        self._got = got


class Watcher(asyncio.Protocol):
    """Counts the events of one watch, and notes how old each was when it came."""

    def __init__(self, ages: list[float]) -> None:
        self.ages = ages
        self.count = 0
        self.alive = True
        self._rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast(asyncio.Transport, transport).write(request("GET", f"{CONFIG_MAPS}?watch=true&resourceVersion="))

    def connection_lost(self, error: Exception | None) -> None:
        self.alive = False

    def data_received(self, data: bytes) -> None:
        now = time.monotonic()
        data = self._rest + data
        cut = data.rfind(b"\n")
        self._rest = data[cut + 1 :]
        for sent in _SENT.findall(data, 0, cut + 1):
            self.count += 1
            self.ages.append(now - int(sent) / 1e9)


async def _connect(where: Where, make: Callable[[], P]) -> P:
    context = ssl.create_default_context(cafile=str(where.pki / "ca.crt"))
    context.load_cert_chain(where.pki / "admin.crt", where.pki / "admin.key")
    _, protocol = await asyncio.get_running_loop().create_connection(make, "127.0.0.1", where.port, ssl=context)
    return protocol


def create(where: Where, pipe: Connection, kind: str, prefix: str, count: int, clients: int) -> None:
    """Create `count` objects over `clients` connections as fast as they are answered; tells the seconds it took."""
    uvloop.run(_create(where, pipe, kind, prefix, count, clients))


async def _create(where: Where, pipe: Connection, kind: str, prefix: str, count: int, clients: int) -> None:
    made = [
        request("POST", PODS, pod(f"{prefix}-{n}")) if kind == "pod" else _post_map(f"{prefix}-{n}")
        for n in range(count)
    ]
    left: Iterator[bytes] = iter(made)
    writers = [await _connect(where, lambda: Writer(lambda: next(left, None), b"HTTP/1.1 201")) for _ in range(clients)]
    pipe.send("ready")
    pipe.recv()
    began = time.monotonic()
    for writer in writers:
        writer.send()
    await asyncio.gather(*(writer.done for writer in writers))
    pipe.send(time.monotonic() - began)


def _post_map(name: str) -> bytes:
    return request("POST", CONFIG_MAPS, config_map(name))


def change(where: Where, pipe: Connection, rate: int, seconds: float, clients: int) -> None:
    """Replace ConfigMaps `rate` times a second, whatever it takes; tells (changes, seconds)."""
    uvloop.run(_change(where, pipe, rate, seconds, clients))


async def _change(where: Where, pipe: Connection, rate: int, seconds: float, clients: int) -> None:
    total, sent, allowed, objects = round(rate * seconds), 0, 0, 100

    def following() -> bytes | None:
        nonlocal sent
        if sent >= min(allowed, total):
            return None
        sent += 1
        name = f"watched-{sent % objects}"
        return request("PUT", f"{CONFIG_MAPS}/{name}", config_map(name, 260, sent=str(time.monotonic_ns())))

    writers = [await _connect(where, lambda: Writer(following, b"HTTP/1.1 20")) for _ in range(clients)]
    pipe.send("ready")
    pipe.recv()
    began = time.monotonic()
    while sent < total:
        allowed = int((time.monotonic() - began) * rate) + 1
        for writer in writers:
            if writer.idle and sent < min(allowed, total):
                writer.send()
        await asyncio.sleep(0.001)
    while not all(writer.idle for writer in writers):
        await asyncio.sleep(0.001)
    pipe.send((sent, time.monotonic() - began))


def watch(where: Where, pipe: Connection, watchers: int) -> None:
    """Watch all ConfigMaps over `watchers` connections until told the number of events each must get; tells (events
    in all, ages in seconds, sorted)."""
    uvloop.run(_watch(where, pipe, watchers))


async def _watch(where: Where, pipe: Connection, watchers: int) -> None:
    ages: list[float] = []
    opened = [await _connect(where, lambda: Watcher(ages)) for _ in range(watchers)]
    await asyncio.sleep(0.5)
    ages.clear()
    before = sum(each.count for each in opened)
    pipe.send("ready")
    expected = await asyncio.get_running_loop().run_in_executor(None, pipe.recv)
    end = time.monotonic() + 10
    while sum(each.count for each in opened) - before < expected * watchers and time.monotonic() < end:
        await asyncio.sleep(0.01)
    if not all(each.alive for each in opened):
        raise ConnectionError("the server closed a watch")
    pipe.send((sum(each.count for each in opened) - before, sorted(ages)))
