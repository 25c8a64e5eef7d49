"""Volumes of a pod: laid out below `pods`/<uid>/volumes before its sandbox is made, refreshed while it runs.

Object volumes are written as kubelet does: a directory named by time, `..data` pointing to it, one link per file, so
that an update is one rename for whoever reads.
"""

from __future__ import annotations

import base64
import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from podwire.kube.api import Api, ApiError
from podwire.kubelet import syscalls
from podwire.kubelet.downward import FieldError, NodeFacts, field_value, resource_value
from podwire.model.gvr import CONFIGMAPS, SECRETS, SERVICEACCOUNTS
from podwire.model.quantity import parse_quantity

Object = dict[str, Any]
TOKEN_SECONDS = 3607
TOKEN_PATH = "/var/run/secrets/kubernetes.io/serviceaccount"
TOKEN_VOLUME = "kube-api-access"
_KINDS = {
    "configMap": "kubernetes.io~configmap",
    "secret": "kubernetes.io~secret",
    "projected": "kubernetes.io~projected",
    "downwardAPI": "kubernetes.io~downward-api",
    "emptyDir": "kubernetes.io~empty-dir",
}


class VolumeError(Exception):
    """A volume could not be set up; the text is what kubelet says in FailedMount."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of an object volume."""

    data: bytes
    mode: int


def with_token(pod: Object, account_automount: bool = True) -> Object:
    """The pod with its API access volume where it has none at that path and did not opt out; else the same object."""
    spec = pod["spec"]
    automount = spec.get("automountServiceAccountToken")
    if automount is False or (automount is None and not account_automount):
        return pod
    sources = [
        {"serviceAccountToken": {"expirationSeconds": TOKEN_SECONDS, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}]}},
    ]

    def mounted(container: Object) -> Object:
        mounts = container.get("volumeMounts") or []
        if any(str(mount.get("mountPath", "")).rstrip("/") == TOKEN_PATH for mount in mounts):
            return container
        own = {"name": TOKEN_VOLUME, "mountPath": TOKEN_PATH, "readOnly": True}
        return {**container, "volumeMounts": [*mounts, own]}

    changed = {**spec}
    for key in ("containers", "initContainers"):
        if spec.get(key):
            changed[key] = [mounted(container) for container in spec[key]]
    if changed.get("containers") == spec.get("containers") and changed.get("initContainers") == spec.get(
        "initContainers"
    ):
        return pod
    volume = {"name": TOKEN_VOLUME, "projected": {"sources": sources, "defaultMode": 0o644}}
    changed["volumes"] = [*(spec.get("volumes") or []), volume]
    return {**pod, "spec": changed}


def decoded(obj: Mapping[str, Any]) -> dict[str, bytes]:
    """All values of a ConfigMap or Secret as bytes."""
    if obj.get("kind") == "Secret":
        return {key: base64.b64decode(value or "") for key, value in (obj.get("data") or {}).items()}
    found = {key: str(value).encode() for key, value in (obj.get("data") or {}).items()}
    found.update({key: base64.b64decode(value) for key, value in (obj.get("binaryData") or {}).items()})
    return found


def chosen(source: Mapping[str, Any], values: Mapping[str, bytes], mode: int, what: str) -> dict[str, Entry]:
    """The files of a configMap or secret source: all keys, or its `items`. Raises VolumeError."""
    items = source.get("items")
    if not items:
        return {key: Entry(value, mode) for key, value in values.items()}
    found = {}
    for item in items:
        if item["key"] in values:
            found[item["path"]] = Entry(values[item["key"]], item.get("mode", mode))
        elif not source.get("optional"):
            raise VolumeError(f"{what} references non-existent config key: {item['key']}")
    return found


class Volumes:
    """Lays out volumes for the pods of one node. `pods` is /var/lib/kubelet/pods."""

    def __init__(self, api: Api, pods: Path, node: NodeFacts, call: Callable[[Callable[[], None]], Awaitable[None]]):
        self._api = api
        self._pods = pods
        self._node = node
        self._call = call
        self._tokens: dict[tuple[str, str, str], tuple[str, float]] = {}  # by pod, audience, path: token, when to renew

    def path(self, pod: Object, volume: Mapping[str, Any]) -> Path:
        """Where a volume stands on the node. Raises VolumeError for a kind that is not supported."""
        if "hostPath" in volume:
            return Path(volume["hostPath"]["path"])
        for kind, directory in _KINDS.items():
            if kind in volume:
                return self._pods / str(pod["metadata"]["uid"]) / "volumes" / directory / str(volume["name"])
        kind = next((key for key in volume if key != "name"), "emptyDir")
        if kind == "emptyDir":
            return self._pods / str(pod["metadata"]["uid"]) / "volumes" / _KINDS["emptyDir"] / str(volume["name"])
        raise VolumeError(f'MountVolume.SetUp failed for volume "{volume["name"]}" : {kind} volumes are not supported')

    async def setup(self, pod: Object, addresses: tuple[str, ...] = ()) -> None:
        """Make every volume of the pod, or bring it up to date. Raises VolumeError."""
        for volume in pod["spec"].get("volumes") or []:
            name, path = volume["name"], self.path(pod, volume)
            prefix = f'MountVolume.SetUp failed for volume "{name}" : '
            try:
                if "hostPath" in volume:
                    _check_host_path(path, volume["hostPath"].get("type") or "")
                elif any(kind in volume for kind in ("configMap", "secret", "projected", "downwardAPI")):
                    files = await self._files(pod, volume, addresses)
                    group = (pod["spec"].get("securityContext") or {}).get("fsGroup")
                    await self._call(lambda path=path, files=files, group=group: write_files(path, files, group))  # type: ignore[misc]
                else:
                    self._empty_dir(pod, path, volume.get("emptyDir") or {})
            except ApiError as error:
                raise VolumeError(prefix + str(error)) from error
            except (OSError, VolumeError, FieldError, ValueError) as error:
                raise VolumeError(prefix + str(error)) from error

    def _empty_dir(self, pod: Object, path: Path, source: Mapping[str, Any]) -> None:
        if path.is_dir():
            return
        path.mkdir(parents=True)
        if source.get("medium") == "Memory":
            limit = source.get("sizeLimit")
            size = f",size={int(parse_quantity(limit))}" if limit else ""
            syscalls.mount("tmpfs", path, "tmpfs", 0, "mode=0777" + size)
        path.chmod(0o777)
        group = (pod["spec"].get("securityContext") or {}).get("fsGroup")
        if group is not None:
            os.chown(path, -1, int(group))
            path.chmod(0o2777)

    async def _files(self, pod: Object, volume: Mapping[str, Any], addresses: tuple[str, ...]) -> dict[str, Entry]:
        for kind in ("configMap", "secret", "downwardAPI"):
            if kind in volume:
                return await self._source(pod, kind, volume[kind], volume[kind].get("defaultMode", 0o644), addresses)
        projected = volume["projected"]
        mode = projected.get("defaultMode", 0o644)
        found: dict[str, Entry] = {}
        for source in projected.get("sources") or []:
            for kind, part in source.items():
                found.update(await self._source(pod, kind, part, mode, addresses))
        return found

    async def _source(
        self, pod: Object, kind: str, source: Mapping[str, Any], mode: int, addresses: tuple[str, ...]
    ) -> dict[str, Entry]:
        namespace = pod["metadata"]["namespace"]
        if kind in ("configMap", "secret"):
            name = source.get("name") or source.get("secretName") or ""
            try:
                obj = await self._api.get(CONFIGMAPS if kind == "configMap" else SECRETS, name, namespace)
            except ApiError as error:
                if not error.not_found:
                    raise
                if source.get("optional"):
                    return {}
                raise VolumeError(f'{kind.lower()} "{name}" not found') from error
            obj.setdefault("kind", "ConfigMap" if kind == "configMap" else "Secret")
            return chosen(source, decoded(obj), mode, f"{kind.lower()} {namespace}/{name}")
        if kind == "downwardAPI":
            return self._downward(pod, source, mode, addresses)
        if kind == "serviceAccountToken":
            token = await self._token(pod, source)
            return {source["path"]: Entry(token.encode(), mode)}
        raise VolumeError(f"projected source {kind} is not supported")

    def _downward(
        self, pod: Object, source: Mapping[str, Any], mode: int, addresses: tuple[str, ...]
    ) -> dict[str, Entry]:
        found = {}
        for item in source.get("items") or []:
            if "fieldRef" in item:
                text = field_value(pod, item["fieldRef"]["fieldPath"], self._node, addresses)
            else:
                reference = item["resourceFieldRef"]
                name = reference.get("containerName")
                container: Object = next((one for one in pod["spec"]["containers"] if one["name"] == name), {})
                text = resource_value(container, reference["resource"], reference.get("divisor"), self._node)
            found[item["path"]] = Entry(text.encode(), item.get("mode", mode))
        return found

    async def _token(self, pod: Object, source: Mapping[str, Any]) -> str:
        """The pod's token; a new one when four fifths of its life are over, as kubelet does."""
        metadata = pod["metadata"]
        audience = source.get("audience")
        key = (metadata["uid"], audience or "", source["path"])
        token, renew = self._tokens.get(key, ("", 0.0))
        if time.monotonic() < renew:
            return token
        seconds = source.get("expirationSeconds", 3600)
        bound = {"apiVersion": "v1", "kind": "Pod", "name": metadata["name"], "uid": metadata["uid"]}
        request = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {
                "audiences": [audience] if audience else [],
                "expirationSeconds": seconds,
                "boundObjectRef": bound,
            },
        }
        account = pod["spec"].get("serviceAccountName") or "default"
        answer = await self._api.create(
            SERVICEACCOUNTS, request, metadata["namespace"], subresource="token", name=account
        )
        token = str(answer["status"]["token"])
        self._tokens[key] = (token, time.monotonic() + 0.8 * seconds)
        return token

    def teardown(self, uid: str) -> None:
        """Take all volumes of a pod away. Idempotent; blocking."""
        for key in [key for key in list(self._tokens) if key[0] == uid]:
            self._tokens.pop(key, None)
        top = self._pods / uid
        for kind in ("volumes/kubernetes.io~empty-dir", "volume-subpaths"):
            for mounted in sorted((top / kind).glob("*")) if (top / kind).is_dir() else ():
                syscalls.unmount(mounted)
        shutil.rmtree(top, ignore_errors=True)


def _check_host_path(path: Path, kind: str) -> None:
    """hostPath.type. Raises VolumeError."""
    match kind:
        case "":
            return
        case "DirectoryOrCreate":
            path.mkdir(parents=True, exist_ok=True, mode=0o755)
        case "FileOrCreate":
            path.touch(mode=0o644)
        case _:
            checks: dict[str, Callable[[], bool]] = {
                "Directory": path.is_dir,
                "File": path.is_file,
                "Socket": path.is_socket,
                "CharDevice": path.is_char_device,
                "BlockDevice": path.is_block_device,
            }
            if kind not in checks or not checks[kind]():
                raise VolumeError(f"hostPath type check failed: {path} is not a {kind.lower()}")


def write_files(directory: Path, files: Mapping[str, Entry], group: int | None = None) -> None:
    """Bring the directory to exactly these files in one step; the same content again changes nothing. Blocking.

    Paths may have slashes; absolute ones, and those that lead outside, are refused (VolumeError).
    """
    directory.mkdir(parents=True, exist_ok=True)
    data = directory / "..data"
    for name in files:
        if name.startswith("/") or ".." in Path(name).parts or name.startswith(".."):
            raise VolumeError(f"invalid path {name!r}")
    if data.is_symlink() and _content(data.resolve()) == {name: (one.data, one.mode) for name, one in files.items()}:
        return
    old = data.resolve() if data.is_symlink() else None
    stamp = time.strftime("..%Y_%m_%d_%H_%M_%S.", time.gmtime())
    fresh = Path(tempfile.mkdtemp(prefix=stamp, dir=directory))
    fresh.chmod(0o755)
    for name, one in files.items():
        path = fresh / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(one.data)
        path.chmod(one.mode if group is None else one.mode | 0o040)
        if group is not None:
            os.chown(path, -1, group)
    link = directory / "..data_tmp"
    link.unlink(missing_ok=True)
    link.symlink_to(fresh.name)
    link.replace(data)
    _link_top(directory, {Path(name).parts[0] for name in files})
    if old is not None:
        shutil.rmtree(old, ignore_errors=True)


def _link_top(directory: Path, names: set[str]) -> None:
    for name in names:
        visible = directory / name
        if not visible.is_symlink():
            visible.symlink_to(Path("..data") / name)
    for visible in directory.iterdir():
        if visible.is_symlink() and not visible.name.startswith("..") and visible.name not in names:
            visible.unlink()


def _content(directory: Path) -> dict[str, tuple[bytes, int]]:
    found = {}
    for path in directory.rglob("*"):
        if path.is_file():
            with contextlib.suppress(OSError):
                found[str(path.relative_to(directory))] = (path.read_bytes(), path.stat().st_mode & 0o777)
    return found


def inside(root: Path, name: str) -> Path:
    """A subPath below a volume. Raises VolumeError when it leads outside."""
    if name.startswith("/") or ".." in Path(name).parts:
        raise VolumeError(f"subPath {name!r} must be a relative path without ..")
    found = (root / name).resolve()
    if not found.is_relative_to(root.resolve()):
        raise VolumeError(f"subPath {name!r} leads outside of the volume")
    return found
