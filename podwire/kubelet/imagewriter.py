"""Images into a file: an OCI image layout in one tar, as `podwire lab load`, containerd and podman read it.

The other way round than `archive`. Nothing of the machine goes in but what the caller names: entries are sorted, times
are zero, layers are not compressed, so the same content always gives the same bytes and digests. Sources: OCI
image-spec (layout, index, manifest, config, layer); the annotation of the name is the one containerd imports by.
"""

import hashlib
import os
import platform
import stat
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, Any, Protocol, TypeAlias

import msgspec

from podwire.kubelet.archive import ARCHITECTURES
from podwire.kubelet.image import Image, ImageError
from podwire.kubelet.layer import LayerError, safe_parts
from podwire.kubelet.reference import parse

_CHUNK = 256 << 10
_CAPABILITY = "security.capability"
_OPAQUE = ("trusted.overlay.opaque", "user.overlay.opaque")
_TYPES = {stat.S_IFDIR: tarfile.DIRTYPE, stat.S_IFLNK: tarfile.SYMTYPE, stat.S_IFIFO: tarfile.FIFOTYPE}


class Sink(Protocol):
    """Where bytes go."""

    def write(self, data: bytes, /) -> int: ...


@dataclass(frozen=True, slots=True)
class Entry:
    """One name in a layer: a file, unless `link` or `mode` says otherwise. Folders above it need no entry."""

    path: str
    """Relative to the image's root, such as `usr/bin/curl`."""
    content: bytes | Path = b""
    """A file's, or the file that has it."""
    mode: int = stat.S_IFREG | 0o644
    """As `st_mode`; without a type it is a regular file's."""
    link: str = ""
    """A symbolic link's target, or the path of the layer's file that a hard link (mode S_IFREG) is another name of."""
    uid: int = 0
    gid: int = 0
    capability: bytes = b""
    """The extended attribute `security.capability`."""


Layer: TypeAlias = Path | tuple[Entry, ...]
"""A folder exactly as it is (an overlay's lower directory, whiteouts included), or what to put in."""


@dataclass(frozen=True, slots=True)
class NewImage:
    """What to make an image of."""

    names: tuple[str, ...]
    layers: tuple[Layer, ...]
    """The lowest first."""
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    workdir: str = ""
    user: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)


def copy(image: Image, names: Iterable[str]) -> NewImage:
    """An image of this machine's cache (loaded, or a stand-in) under these names."""
    layers = tuple(reversed(image.layers))
    return NewImage(tuple(names), layers, image.entrypoint, image.cmd, image.env, image.workdir, image.user)


def folder(root: Path, at: str = "") -> Iterator[Entry]:
    """What is in a folder, sorted, under the path `at`. Hard links stay such; overlay whiteouts become removals.

    Raises ImageError for what no image can hold (a device, a socket), OSError for the folder itself.
    """
    first: dict[tuple[int, int], str] = {}
    pending = [root]
    while pending:
        directory = pending.pop()
        base = at if directory == root else f"{at}/{directory.relative_to(root)}".lstrip("/")
        if _opaque(directory):
            yield Entry(f"{base}/.wh..wh..opq".lstrip("/"))
        for found in sorted(directory.iterdir()):
            path = f"{base}/{found.name}".lstrip("/")
            status = found.lstat()
            yield _entry(found, path, status, first)
            if stat.S_ISREG(status.st_mode) and status.st_nlink > 1:
                first.setdefault((status.st_dev, status.st_ino), path)
            if stat.S_ISDIR(status.st_mode):
                pending.append(found)


def _opaque(directory: Path) -> bool:
    names = set(os.listxattr(directory))
    return any(name in names and os.getxattr(directory, name) == b"y" for name in _OPAQUE)


def _entry(found: Path, path: str, status: os.stat_result, first: Mapping[tuple[int, int], str]) -> Entry:
    mode, owner = status.st_mode, (status.st_uid, status.st_gid)
    if stat.S_ISLNK(mode):
        return Entry(path, b"", mode, str(found.readlink()), *owner)
    if stat.S_ISDIR(mode) or stat.S_ISFIFO(mode):
        return Entry(path, b"", mode, "", *owner)
    if stat.S_ISCHR(mode) and status.st_rdev == 0:
        parent, _, name = path.rpartition("/")
        return Entry(f"{parent}/.wh.{name}".lstrip("/"))
    if not stat.S_ISREG(mode):
        raise ImageError(f"{found} is a device or a socket: no image can hold it")
    same = first.get((status.st_dev, status.st_ino))
    if same is not None:
        return Entry(path, b"", mode, same, *owner)
    capability = os.getxattr(found, _CAPABILITY) if _CAPABILITY in os.listxattr(found) else b""
    return Entry(path, found, mode, "", *owner, capability)


def write(path: Path, images: Sequence[NewImage]) -> dict[str, str]:
    """Write the images into one archive, in one step; each full name and the digest of its manifest.

    A layer that several images share is stored once. Raises ImageError for an entry that cannot be, InvalidReference
    for a name that is none, OSError.
    """
    descriptor, fresh = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(descriptor, "w+b") as file:
            digests = _write_all(_Archive(file), images)
        Path(fresh).chmod(0o644)
        Path(fresh).replace(path)
    finally:
        with suppress(FileNotFoundError):
            Path(fresh).unlink()
    return digests


def write_layer(entries: Iterable[Entry], out: Sink) -> None:
    """The entries as an uncompressed layer. Raises ImageError, OSError."""
    for entry in entries:
        _add(out, entry)
    out.write(bytes(2 * tarfile.BLOCKSIZE))


def _add(out: Sink, entry: Entry) -> None:
    kind = stat.S_IFMT(entry.mode) or stat.S_IFREG
    member = tarfile.TarInfo(entry.path)
    member.type = _TYPES.get(kind, tarfile.LNKTYPE if entry.link else tarfile.REGTYPE)
    member.mode, member.linkname = stat.S_IMODE(entry.mode), entry.link
    member.uid, member.gid = entry.uid, entry.gid
    if kind not in (stat.S_IFREG, *_TYPES):
        raise ImageError(f"the entry {entry.path!r} is a device or a socket: no image can hold it")
    try:
        safe_parts(entry.path)
    except LayerError as error:
        raise ImageError(str(error)) from error
    if entry.capability:
        value = entry.capability.decode("utf-8", "surrogateescape")
        member.pax_headers = {f"SCHILY.xattr.{_CAPABILITY}": value}
    if member.type != tarfile.REGTYPE:
        out.write(_header(member))
    elif isinstance(entry.content, bytes):
        member.size = len(entry.content)
        out.write(_header(member) + entry.content + bytes(-member.size % tarfile.BLOCKSIZE))
    else:
        with entry.content.open("rb") as content:
            member.size = os.fstat(content.fileno()).st_size
            out.write(_header(member))
            if sum(out.write(piece) for piece in iter(partial(content.read, _CHUNK), b"")) != member.size:
                raise ImageError(f"{entry.content} changed while it was read")
        out.write(bytes(-member.size % tarfile.BLOCKSIZE))


def _header(member: tarfile.TarInfo) -> bytes:
    return member.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def _write_all(archive: "_Archive", images: Sequence[NewImage]) -> dict[str, str]:
    layers: dict[Layer, tuple[str, int]] = {}
    manifests: list[dict[str, Any]] = []
    digests: dict[str, str] = {}
    for image in images:
        for layer in image.layers:
            if layer not in layers:
                entries = folder(layer) if isinstance(layer, Path) else layer
                layers[layer] = archive.blob(partial(write_layer, entries))
        manifest = _manifest(archive, image, [layers[layer] for layer in image.layers])
        for name in image.names:
            reference = parse(name)
            notes = {
                "io.containerd.image.name": reference.name,
                "org.opencontainers.image.ref.name": reference.tag,
            }
            manifests.append(manifest | {"annotations": notes})
            digests[reference.name] = manifest["digest"]
    index = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": manifests,
    }
    archive.document("index.json", index)
    archive.document("oci-layout", {"imageLayoutVersion": "1.0.0"})
    archive.end()
    return digests


def _manifest(archive: "_Archive", image: NewImage, layers: list[tuple[str, int]]) -> dict[str, Any]:
    """Write an image's configuration and manifest; the descriptor of the latter."""
    settings = {
        "Entrypoint": list(image.entrypoint),
        "Cmd": list(image.cmd),
        "Env": list(image.env),
        "WorkingDir": image.workdir,
        "User": image.user,
        "Labels": dict(sorted(image.labels.items())),
    }
    system = {"architecture": ARCHITECTURES.get(platform.machine(), platform.machine()), "os": "linux"}
    config = {
        "created": "1970-01-01T00:00:00Z",
        **system,
        "config": {key: value for key, value in settings.items() if value},
        "rootfs": {"type": "layers", "diff_ids": [digest for digest, _ in layers]},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": _descriptor("application/vnd.oci.image.config.v1+json", *archive.json(config)),
        "layers": [_descriptor("application/vnd.oci.image.layer.v1.tar", *layer) for layer in layers],
    }
    return _descriptor(str(manifest["mediaType"]), *archive.json(manifest)) | {"platform": system}


def _descriptor(media_type: str, digest: str, size: int) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest, "size": size}


class _Archive:
    """The outer tar. A blob's name is its digest, so its header is written when the blob is there."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._known: set[str] = set()

    def blob(self, fill: Callable[[Sink], object]) -> tuple[str, int]:
        """Store what `fill` writes; digest and size. Known content is not stored again."""
        start = self._file.tell()
        self._file.write(bytes(tarfile.BLOCKSIZE))
        hashing = _Hashing(self._file)
        fill(hashing)
        size = self._file.tell() - start - tarfile.BLOCKSIZE
        digest = hashing.digest.hexdigest()
        if digest in self._known:
            self._file.seek(start)
            self._file.truncate()
        else:
            self._known.add(digest)
            self._head(start, f"blobs/sha256/{digest}", size)
        return f"sha256:{digest}", size

    def json(self, document: Any) -> tuple[str, int]:
        content = msgspec.json.encode(document)
        return self.blob(lambda out: out.write(content))

    def document(self, name: str, document: Any) -> None:
        content = msgspec.json.encode(document)
        start = self._file.tell()
        self._file.write(bytes(tarfile.BLOCKSIZE) + content)
        self._head(start, name, len(content))

    def end(self) -> None:
        self._file.write(bytes(2 * tarfile.BLOCKSIZE))

    def _head(self, start: int, name: str, size: int) -> None:
        self._file.write(bytes(-size % tarfile.BLOCKSIZE))
        end = self._file.tell()
        self._file.seek(start)
        member = tarfile.TarInfo(name)
        member.size, member.mode = size, 0o644
        self._file.write(member.tobuf(tarfile.GNU_FORMAT))
        self._file.seek(end)


class _Hashing:
    """Passes writes on and remembers the digest of all that was written."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.digest = hashlib.sha256()

    def write(self, data: bytes, /) -> int:
        self.digest.update(data)
        return self._file.write(data)
