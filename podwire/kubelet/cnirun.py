"""Running a chain of CNI plugins, as libcni does for a runtime: all verbs, and its result cache.

GC runs while no ADD and no DEL does: its list of valid attachments must not be older than what it collects.
"""

from __future__ import annotations

import asyncio
import base64
import errno
import os
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from podwire.kubelet import cniconf
from podwire.kubelet.children import Children, Finished
from podwire.kubelet.cniconf import CniError, NetworkConfig

_BUSY_TRIES, _BUSY_PAUSE = 6, 1.0
_PLUGIN_TIMEOUT = 220.0  # below the kubelet's runtime request timeout of 4 minutes for sandboxes
_STATUS_TIMEOUT = 10.0  # an agent that hangs serves nobody
INTERFACE = "eth0"


@dataclass(frozen=True, slots=True)
class Attachment:
    """What is to be attached: the sandbox, the path of its network namespace ("" when it is gone), the pod."""

    container_id: str
    netns: str
    namespace: str = ""
    pod: str = ""
    pod_uid: str = ""
    capabilities: Mapping[str, Any] = field(default_factory=dict)

    @property
    def args(self) -> list[tuple[str, str]]:
        """The pairs of CNI_ARGS."""
        return [
            ("IgnoreUnknown", "1"),
            ("K8S_POD_NAMESPACE", self.namespace),
            ("K8S_POD_NAME", self.pod),
            ("K8S_POD_INFRA_CONTAINER_ID", self.container_id),
            ("K8S_POD_UID", self.pod_uid),
        ]


class CniRunner:
    """Executes plugins of `bin_dirs` under the configuration of `conf_dir`; remembers results in `cache`."""

    def __init__(self, children: Children, conf_dir: Path, bin_dirs: Sequence[Path], cache: Path) -> None:
        self._children = children
        self._conf_dir = conf_dir
        self._bin_dirs = tuple(bin_dirs)
        self._cache = cache
        self._idle = asyncio.Condition()
        self._calls = 0  # ADDs and DELs going on; -1 while GC does

    def network(self) -> NetworkConfig:
        """The configuration in force. Raises CniError while there is none."""
        return cniconf.load(self._conf_dir)

    async def add(self, attachment: Attachment) -> dict[str, Any]:
        """Attach; the last plugin's result. Raises CniError in the runtime's words; nothing is undone here: the caller
        sends DEL, as runtimes do."""
        network = self.network()
        result: dict[str, Any] | None = None
        async with self._busy():
            for plugin in network.plugins:
                stdin = cniconf.plugin_input(network, plugin, result, attachment.capabilities)
                done = await self._execute("ADD", plugin["type"], stdin, attachment)
                result = _answer(done, plugin["type"], network.version)
            assert result is not None  # a configuration has at least one plugin
            self._remember(network, attachment, result)
        return result

    async def delete(self, attachment: Attachment) -> None:
        """Detach: the chain backwards, with the result that ADD left. Succeeds when there was nothing to do."""
        async with self._busy():
            await self._delete(attachment)

    async def _delete(self, attachment: Attachment) -> None:
        remembered = self._recall(attachment.container_id)
        try:
            network = self.network()
        except CniError:
            if remembered is None:
                raise
            network = cniconf.parse(base64.b64decode(remembered["config"]), self._conf_dir)
        previous = None
        if remembered is not None and network.speaks("0.4.0"):
            previous = remembered.get("result")
        if remembered is not None:
            attachment = _with_cached(attachment, remembered)
        for plugin in reversed(network.plugins):
            stdin = cniconf.plugin_input(network, plugin, previous, attachment.capabilities)
            await self._execute("DEL", plugin["type"], stdin, attachment)
        for path in self._cache_files(attachment.container_id):
            path.unlink(missing_ok=True)

    async def check(self, attachment: Attachment) -> None:
        """Whether everything is still as ADD left it. Raises CniError with what is not, or without a result."""
        network = self.network()
        if not network.speaks("0.4.0"):
            raise CniError(f'configuration version "{network.version}" does not support CHECK command')
        if network.disable_check:
            return
        remembered = self._recall(attachment.container_id)
        if remembered is None:
            raise CniError(f"failed to get network {network.name!r} cached result: there is none")
        attachment = _with_cached(attachment, remembered)
        for plugin in network.plugins:
            stdin = cniconf.plugin_input(network, plugin, remembered.get("result"), attachment.capabilities)
            await self._execute("CHECK", plugin["type"], stdin, attachment)

    async def status(self) -> None:
        """Whether an ADD would be served. Raises CniError: no configuration, or a plugin's own words."""
        network = self.network()
        if network.speaks("1.1.0"):
            for plugin in network.plugins:
                await self._execute("STATUS", plugin["type"], cniconf.plugin_input(network, plugin, None, {}))

    async def collect(self, valid: Callable[[], Iterable[str]]) -> None:
        """Give back what belongs to no container of `valid`, which is asked while nothing else goes on: DEL for each
        attachment on record, then GC. Every plugin is called; their faults come in one CniError. Raises what `valid`
        raises; then nothing is collected."""
        async with self._alone():
            network = self.network()
            if network.disable_gc:
                return
            live, faults = set(valid()), []
            for container_id in self.remembered().keys() - live:
                try:
                    await self._delete(Attachment(container_id, ""))
                except CniError as error:
                    faults.append(str(error))
            if network.speaks("1.1.0"):
                pairs = [(container_id, INTERFACE) for container_id in live]
                for plugin in network.plugins:
                    try:
                        await self._execute(
                            "GC", plugin["type"], cniconf.plugin_input(network, plugin, None, {}, pairs)
                        )
                    except CniError as error:
                        faults.append(str(error))
            if faults:
                raise CniError("; ".join(faults))

    @asynccontextmanager
    async def _busy(self) -> AsyncIterator[None]:
        async with self._idle:
            await self._idle.wait_for(lambda: self._calls >= 0)
            self._calls += 1
        try:
            yield
        finally:
            async with self._idle:
                self._calls -= 1
                self._idle.notify_all()

    @asynccontextmanager
    async def _alone(self) -> AsyncIterator[None]:
        """Comes when nothing goes on; it does not hold up what comes before that."""
        async with self._idle:
            await self._idle.wait_for(lambda: self._calls == 0)
            self._calls = -1
        try:
            yield
        finally:
            async with self._idle:
                self._calls = 0
                self._idle.notify_all()

    def remembered(self) -> dict[str, str]:
        """Container ids of all cached results, with the namespace path each was attached by."""
        found = {}
        for path in self._cache.glob(f"*-{INTERFACE}") if self._cache.is_dir() else ():
            entry = _read(path)
            if entry is not None:
                found[str(entry.get("containerId", ""))] = str(entry.get("netns", ""))
        return found

    def _find(self, kind: str) -> Path:
        for directory in self._bin_dirs:
            candidate = directory / kind
            if "/" not in kind and candidate.is_file():
                return candidate
        paths = " ".join(str(directory) for directory in self._bin_dirs)
        raise CniError(f'failed to find plugin "{kind}" in path [{paths}]')

    async def _execute(self, command: str, kind: str, stdin: bytes, attachment: Attachment | None = None) -> Finished:
        """Run one plugin, again while its file is just being written. Raises CniError."""
        prefix = f'plugin type="{kind}" failed ({command.lower()})'
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("CNI_")},
            "CNI_COMMAND": command,
            "CNI_PATH": ":".join(str(directory) for directory in self._bin_dirs),
        }
        if attachment is not None:
            environment |= {
                "CNI_CONTAINERID": attachment.container_id,
                "CNI_NETNS": attachment.netns,
                "CNI_IFNAME": INTERFACE,
                "CNI_ARGS": ";".join(f"{key}={value}" for key, value in attachment.args),
            }
        limit = _STATUS_TIMEOUT if command == "STATUS" else _PLUGIN_TIMEOUT
        for attempt in range(_BUSY_TRIES):
            try:
                program = str(self._find(kind))
                done = await self._children.run([program], env=environment, stdin=stdin, timeout=limit)
                break
            except CniError as error:
                raise CniError(f"{prefix}: {error}") from error
            except OSError as error:  # TimeoutError is one, too
                if error.errno != errno.ETXTBSY or attempt == _BUSY_TRIES - 1:
                    raise CniError(f"{prefix}: {error}") from error
                await asyncio.sleep(_BUSY_PAUSE)
        if done.code != 0:
            raise CniError(f"{prefix}: {cniconf.plugin_error(done.code, done.stdout, done.stderr)}")
        return done

    def _cache_files(self, container_id: str) -> list[Path]:
        return list(self._cache.glob(f"*-{container_id}-{INTERFACE}")) if self._cache.is_dir() else []

    def _remember(self, network: NetworkConfig, attachment: Attachment, result: dict[str, Any]) -> None:
        """Write libcni's cache entry, whole or not at all."""
        entry = {
            "kind": "cniCacheV1",
            "containerId": attachment.container_id,
            "config": base64.b64encode(network.text).decode(),
            "ifName": INTERFACE,
            "networkName": network.name,
            "netns": attachment.netns,
            "cniArgs": [[key, value] for key, value in attachment.args],
            "capabilityArgs": dict(attachment.capabilities),
            "result": result,
        }
        self._cache.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = self._cache / f"{network.name}-{attachment.container_id}-{INTERFACE}"
        fresh = path.with_name(f".{path.name}.new")
        fresh.write_bytes(msgspec.json.encode(entry))
        fresh.chmod(0o600)
        fresh.replace(path)

    def _recall(self, container_id: str) -> dict[str, Any] | None:
        for path in self._cache_files(container_id):
            entry = _read(path)
            if entry is not None:
                return entry
        return None


def _answer(done: Finished, kind: str, version: str) -> dict[str, Any]:
    """The result of an ADD. Raises CniError."""
    try:
        answer = msgspec.json.decode(done.stdout)
    except msgspec.DecodeError as error:
        raise CniError(f'plugin type="{kind}" failed (add): decoding result: {error}') from error
    if not isinstance(answer, dict):
        raise CniError(f'plugin type="{kind}" failed (add): the result is not an object')
    answer.setdefault("cniVersion", version)
    return answer


def _read(path: Path) -> dict[str, Any] | None:
    """A cache entry; an unreadable one counts as absent (DEL must go on without it)."""
    try:
        entry = msgspec.json.decode(path.read_bytes())
    except (OSError, msgspec.DecodeError):
        return None
    return entry if isinstance(entry, dict) and entry.get("kind") == "cniCacheV1" else None


def _with_cached(attachment: Attachment, entry: Mapping[str, Any]) -> Attachment:
    """What ADD was called with, but for the namespace: DEL ends what ADD was asked for, whatever the pod says now."""
    args = dict(entry.get("cniArgs") or [])
    return Attachment(
        attachment.container_id,
        attachment.netns,
        attachment.namespace or args.get("K8S_POD_NAMESPACE", ""),
        attachment.pod or args.get("K8S_POD_NAME", ""),
        attachment.pod_uid or args.get("K8S_POD_UID", ""),
        entry.get("capabilityArgs") or attachment.capabilities,
    )
