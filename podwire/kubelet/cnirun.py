"""Running a chain of CNI plugins for a sandbox, as libcni does for a runtime: ADD, DEL, and its result cache."""

from __future__ import annotations

import asyncio
import base64
import errno
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from podwire.kubelet import cniconf
from podwire.kubelet.children import Children, Finished
from podwire.kubelet.cniconf import CniError, NetworkConfig

_BUSY_TRIES, _BUSY_PAUSE = 6, 1.0
_PLUGIN_TIMEOUT = 220.0  # below the kubelet's runtime request timeout of 4 minutes for sandboxes
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

    def network(self) -> NetworkConfig:
        """The configuration in force. Raises CniError while there is none."""
        return cniconf.load(self._conf_dir)

    async def add(self, attachment: Attachment) -> dict[str, Any]:
        """Attach; the last plugin's result. Raises CniError in the runtime's words; nothing is undone here: the caller
        sends DEL, as runtimes do."""
        network = self.network()
        result: dict[str, Any] | None = None
        for plugin in network.plugins:
            stdin = cniconf.plugin_input(network, plugin, result, attachment.capabilities)
            done = await self._execute("ADD", plugin["type"], stdin, attachment)
            try:
                answer = msgspec.json.decode(done.stdout)
            except msgspec.DecodeError as error:
                raise CniError(f'plugin type="{plugin["type"]}" failed (add): decoding result: {error}') from error
            if not isinstance(answer, dict):
                raise CniError(f'plugin type="{plugin["type"]}" failed (add): the result is not an object')
            answer.setdefault("cniVersion", network.version)
            result = answer
        assert result is not None  # a configuration has at least one plugin
        self._remember(network, attachment, result)
        return result

    async def delete(self, attachment: Attachment) -> None:
        """Detach: the chain backwards, with the result that ADD left. Succeeds when there was nothing to do."""
        remembered = self._recall(attachment.container_id)
        try:
            network = self.network()
        except CniError:
            if remembered is None:
                raise
            network = cniconf.parse(base64.b64decode(remembered["config"]), self._conf_dir)
        previous = None
        if remembered is not None and cniconf.version_key(network.version) >= (0, 4, 0):
            previous = remembered.get("result")
        if remembered is not None:
            attachment = _with_cached(attachment, remembered)
        for plugin in reversed(network.plugins):
            stdin = cniconf.plugin_input(network, plugin, previous, attachment.capabilities)
            await self._execute("DEL", plugin["type"], stdin, attachment)
        for path in self._cache_files(attachment.container_id):
            path.unlink(missing_ok=True)

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

    async def _execute(self, command: str, kind: str, stdin: bytes, attachment: Attachment) -> Finished:
        """Run one plugin, again while its file is just being written. Raises CniError."""
        prefix = f'plugin type="{kind}" failed ({command.lower()})'
        environment = {
            **os.environ,
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": attachment.container_id,
            "CNI_NETNS": attachment.netns,
            "CNI_IFNAME": INTERFACE,
            "CNI_ARGS": ";".join(f"{key}={value}" for key, value in attachment.args),
            "CNI_PATH": ":".join(str(directory) for directory in self._bin_dirs),
        }
        for attempt in range(_BUSY_TRIES):
            try:
                program = str(self._find(kind))
                done = await self._children.run([program], env=environment, stdin=stdin, timeout=_PLUGIN_TIMEOUT)
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


def _read(path: Path) -> dict[str, Any] | None:
    """A cache entry; an unreadable one counts as absent (DEL must go on without it)."""
    try:
        entry = msgspec.json.decode(path.read_bytes())
    except (OSError, msgspec.DecodeError):
        return None
    return entry if isinstance(entry, dict) and entry.get("kind") == "cniCacheV1" else None


def _with_cached(attachment: Attachment, entry: Mapping[str, Any]) -> Attachment:
    """Fill what a caller after a restart does not know from what ADD was called with."""
    args = dict(entry.get("cniArgs") or [])
    return Attachment(
        attachment.container_id,
        attachment.netns,
        attachment.namespace or args.get("K8S_POD_NAMESPACE", ""),
        attachment.pod or args.get("K8S_POD_NAME", ""),
        attachment.pod_uid or args.get("K8S_POD_UID", ""),
        attachment.capabilities or entry.get("capabilityArgs") or {},
    )
