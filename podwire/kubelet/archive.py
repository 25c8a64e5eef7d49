"""Images out of files: what `docker save` writes, and OCI image layouts in a tar; kept in the cache for all labs.

    <cache>/images/layers/<diff id>/    a layer unpacked, ready to be an overlay lower directory
    <cache>/images/names/<name>.json    what a name stands for (the last load of a name wins)

An archive is somebody else's input: every document is checked against its digest, every layer against its diff id, and
`layer` lets nothing out of the layer's directory. Sources: OCI image-spec (layout, index, manifest, config, layer).
"""

import errno
import fcntl
import hashlib
import os
import platform
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import quote, unquote

import msgspec

from podwire.kubelet.image import Image, ImageError
from podwire.kubelet.layer import LayerError, unpack
from podwire.kubelet.reference import InvalidReference, Reference, parse

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "ppc64le": "ppc64le", "s390x": "s390x"}
_DOCUMENT_LIMIT = 8 << 20
_LAYER_COUNT = 400
_NESTED = 4

Json: TypeAlias = dict[str, Any]


class ArchiveError(ImageError):
    """The file is no image archive, is damaged, or is for other machines; nothing of it was kept under a name."""


class Stored(msgspec.Struct, frozen=True):
    """What the cache knows of a name. `layers` are diff ids, the lowest first, as in the image's configuration."""

    reference: str
    image_id: str
    layers: tuple[str, ...]
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    workdir: str = ""
    user: str = ""


def find(name: Reference, cache: Path) -> Image | None:
    """The loaded image of that name, or None. A digest, where one is given, is what counts."""
    wanted = f"{name.registry}/{name.path}@{name.digest}" if name.digest else name.name
    try:
        stored = msgspec.json.decode(_record(cache, wanted).read_bytes(), type=Stored)
    except (FileNotFoundError, msgspec.DecodeError):
        return None
    layers = tuple(_layer_path(cache, layer) for layer in reversed(stored.layers))
    if not all(layer.is_dir() for layer in layers):
        return None
    return Image(
        name.name, stored.image_id, layers, stored.entrypoint, stored.cmd, stored.env, stored.workdir, stored.user
    )


def names(cache: Path) -> list[str]:
    """The full names of all loaded images whose layers are there."""
    found = [unquote(path.name.removesuffix(".json")) for path in (cache / "images" / "names").glob("[!.]*.json")]
    return sorted(name for name in found if "@" not in name and find(parse(name), cache) is not None)


def load(tar: Path, cache: Path) -> list[str]:
    """Take the archive's images into the cache; their full names. Raises ArchiveError, or OSError for the file itself.

    A layer that is there already is not unpacked again. An archive in which one image is bad loads none.
    """
    try:
        with tarfile.open(tar) as archive, _locked(cache / "images"):
            images = [_take(archive, found, cache) for found in _images(archive)]
    except (tarfile.TarError, EOFError) as error:
        raise ArchiveError(f"{tar} is not a readable tar archive: {error}") from error
    except LayerError as error:
        raise ArchiveError(f"{tar}: {error}") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ArchiveError(f"no space left in {cache} for the layers of {tar}") from error
        raise
    if not any(names for names, _ in images):
        raise ArchiveError(f"{tar} names no image: save it by name (docker save NAME:TAG -o FILE)")
    for names, stored in images:
        for name in names:
            _write(_record(cache, name), msgspec.json.encode(stored))
    return [name for names, _ in images for name in names if "@" not in name]


class Found(msgspec.Struct, frozen=True):
    """One image of an archive: its names, its configuration, and the members that hold its layers."""

    names: tuple[str, ...]
    config: Json
    config_digest: str
    layers: tuple[str, ...]
    digest: str = ""


def _images(archive: tarfile.TarFile) -> list[Found]:
    members = set(archive.getnames())
    if "manifest.json" in members:
        return [_docker_image(archive, entry) for entry in _list(_document(archive, "manifest.json"))]
    if "index.json" in members:
        return list(_oci_images(archive))
    raise ArchiveError("neither manifest.json (docker save) nor index.json (OCI layout) is in the archive")


def _docker_image(archive: tarfile.TarFile, entry: Any) -> Found:
    if not isinstance(entry, dict) or not isinstance(entry.get("Config"), str):
        raise ArchiveError("manifest.json: an entry without Config")
    raw = _read(archive, entry["Config"])
    names = tuple(_name(str(tag)) for tag in _list(entry.get("RepoTags") or []))
    layers = tuple(str(layer) for layer in _list(entry.get("Layers") or []))
    return Found(names, _object(raw, entry["Config"]), hashlib.sha256(raw).hexdigest(), layers)


def _oci_images(archive: tarfile.TarFile) -> Iterator[Found]:
    index = _document(archive, "index.json")
    for descriptor in _list(index.get("manifests") if isinstance(index, dict) else None):
        annotations = descriptor.get("annotations") or {}
        given = (
            annotations.get("io.containerd.image.name") or annotations.get("org.opencontainers.image.ref.name") or ""
        )
        names = (_name(given),) if given else ()
        manifest = _manifest(archive, descriptor, _NESTED)
        if manifest is None:
            if names:
                raise ArchiveError(f"{names[0]}: the archive holds nothing for linux/{_architecture()}")
            continue
        config = manifest.get("config") or {}
        raw = _blob(archive, config.get("digest"))
        layers = tuple(_blob_name(layer.get("digest")) for layer in _list(manifest.get("layers")))
        digest = str(descriptor.get("digest"))
        yield Found(names, _object(raw, "the image configuration"), _hex(config.get("digest")), layers, digest)


def _manifest(archive: tarfile.TarFile, descriptor: Any, depth: int) -> Json | None:
    """The image manifest that a descriptor leads to, through indexes, for this machine; None if there is none."""
    if not isinstance(descriptor, dict) or depth == 0:
        raise ArchiveError("index.json: indexes are nested too deeply or hold no descriptors")
    if not _suits(descriptor.get("platform")):
        return None
    document = _object(_blob(archive, descriptor.get("digest")), str(descriptor.get("digest")))
    if "manifests" not in document:
        return document
    for inner in _list(document["manifests"]):
        if _blob_name(inner.get("digest")) in archive.getnames():  # multi-platform archives may be sparse
            found = _manifest(archive, inner, depth - 1)
            if found is not None:
                return found
    return None


def _suits(system: Any) -> bool:
    if not isinstance(system, dict):
        return True
    return system.get("os") == "linux" and system.get("architecture") == _architecture()


def _architecture() -> str:
    return ARCHITECTURES.get(platform.machine(), platform.machine())


def _take(archive: tarfile.TarFile, found: Found, cache: Path) -> tuple[list[str], Stored]:
    """Unpack an image's layers; its names and what to store under them."""
    label = found.names[0] if found.names else f"image {found.config_digest[:12]}"
    if not _suits({"os": found.config.get("os"), "architecture": found.config.get("architecture")}):
        system = f"{found.config.get('os')}/{found.config.get('architecture')}"
        raise ArchiveError(f"{label} is for {system}, this machine is linux/{_architecture()}")
    rootfs = found.config.get("rootfs") or {}
    diff_ids = [_hex(identity) for identity in _list(rootfs.get("diff_ids"))]
    if len(diff_ids) != len(found.layers) or len(diff_ids) > _LAYER_COUNT:
        raise ArchiveError(f"{label}: {len(found.layers)} layers in the archive, {len(diff_ids)} in its configuration")
    for diff_id, member in zip(diff_ids, found.layers, strict=True):
        _take_layer(archive, member, diff_id, cache)
    settings = found.config.get("config") or {}
    reference = found.names[0] if found.names else ""
    stored = Stored(
        reference,
        f"sha256:{found.config_digest}",
        tuple(diff_ids),
        _texts(settings, "Entrypoint"),
        _texts(settings, "Cmd"),
        _texts(settings, "Env"),
        str(settings.get("WorkingDir") or ""),
        str(settings.get("User") or ""),
    )
    return [*found.names, *_digest_names(found)], stored


def _digest_names(found: Found) -> list[str]:
    if not found.digest:
        return []
    return [f"{parse(name).registry}/{parse(name).path}@{found.digest}" for name in found.names]


def _take_layer(archive: tarfile.TarFile, member: str, diff_id: str, cache: Path) -> None:
    place = _layer_path(cache, diff_id)
    if place.is_dir():
        return
    source = archive.extractfile(_member(archive, member))
    if source is None:
        raise ArchiveError(f"{member} is not a file")
    place.parent.mkdir(parents=True, exist_ok=True)
    with source:
        unpack(source, place, diff_id)


def _member(archive: tarfile.TarFile, name: str) -> tarfile.TarInfo:
    """A member by name; a link inside the archive (older `docker save` had them for equal layers) is followed once."""
    try:
        member = archive.getmember(name)
        if member.issym():
            member = archive.getmember(os.path.normpath(os.path.join(os.path.dirname(name), member.linkname)))  # noqa: PTH118, PTH120
    except KeyError as error:
        raise ArchiveError(f"{name} is missing in the archive") from error
    if not member.isreg():
        raise ArchiveError(f"{name} is not a file")
    return member


def _read(archive: tarfile.TarFile, name: str) -> bytes:
    member = _member(archive, name)
    source = archive.extractfile(member)
    if source is None or member.size > _DOCUMENT_LIMIT:
        raise ArchiveError(f"{name} is no document of reasonable size")
    return source.read()


def _document(archive: tarfile.TarFile, name: str) -> Any:
    return _decoded(_read(archive, name), name)


def _blob(archive: tarfile.TarFile, digest: Any) -> bytes:
    content = _read(archive, _blob_name(digest))
    if hashlib.sha256(content).hexdigest() != _hex(digest):
        raise ArchiveError(f"the blob {digest} does not have that digest: the archive is damaged")
    return content


def _blob_name(digest: Any) -> str:
    return f"blobs/sha256/{_hex(digest)}"


def _hex(digest: Any) -> str:
    kind, _, value = str(digest).partition(":")
    if kind != "sha256" or len(value) != 64 or set(value) - set("0123456789abcdef"):
        raise ArchiveError(f"{str(digest)[:80]!r} is not a sha256 digest")
    return value


def _decoded(content: bytes, name: str) -> Any:
    try:
        return msgspec.json.decode(content)
    except msgspec.DecodeError as error:
        raise ArchiveError(f"{name}: {error}") from error


def _object(content: bytes, name: str) -> Json:
    value = _decoded(content, name)
    if not isinstance(value, dict):
        raise ArchiveError(f"{name} is not a JSON object")
    return value


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ArchiveError("the archive's documents lack a list where one must be")
    return value


def _texts(settings: Mapping[str, Any], key: str) -> tuple[str, ...]:
    return tuple(str(value) for value in _list(settings.get(key) or []))


def _name(text: str) -> str:
    try:
        return parse(text).name
    except InvalidReference as error:
        raise ArchiveError(str(error)) from error


def _layer_path(cache: Path, diff_id: str) -> Path:
    return cache / "images" / "layers" / diff_id


def _record(cache: Path, name: str) -> Path:
    return cache / "images" / "names" / f"{quote(name, safe='')}.json"


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, fresh = tempfile.mkstemp(dir=path.parent, prefix=".")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        Path(fresh).chmod(0o644)
        Path(fresh).replace(path)
    finally:
        with suppress(FileNotFoundError):
            Path(fresh).unlink()


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
