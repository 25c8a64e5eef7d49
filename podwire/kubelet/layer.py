"""One layer of an image, from a tar stream that may mean harm to a directory that overlayfs can stack.

Names are resolved inside the layer as if it were the root directory: neither `..`, an absolute name, nor a link that
the layer itself brought leads out. Removals (`.wh.NAME`) become overlay whiteouts, `.wh..wh..opq` an opaque directory.
Source: OCI image-spec, layer.md.
"""

import gzip
import hashlib
import io
import os
import shutil
import stat
import subprocess
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Protocol

_WHITEOUT = ".wh."
_OPAQUE = ".wh..wh..opq"
_CHUNK = 256 << 10
_LINKS_FOLLOWED = 40


class LayerError(Exception):
    """The layer is damaged or holds an entry that is refused; the message names the entry."""


class _Source(Protocol):
    def read(self, size: int = -1, /) -> bytes: ...


class _Hashing(io.RawIOBase):
    """Passes reads on and remembers the digest of all that was read."""

    def __init__(self, source: _Source) -> None:
        self._source = source
        self.digest = hashlib.sha256()

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        data = self._source.read(size)
        self.digest.update(data)
        return data


def unpack(source: IO[bytes], place: Path, diff_id: str) -> None:
    """Unpack into `place`, which appears only when everything is done and the content's sha256 is `diff_id`.

    Raises LayerError, OSError.
    """
    fresh = Path(tempfile.mkdtemp(dir=place.parent, prefix=".layer-"))
    try:
        with _uncompressed(source) as plain:
            hashing = _Hashing(plain)
            try:
                with tarfile.open(fileobj=hashing, mode="r|", bufsize=_CHUNK) as archive:
                    _Layer(fresh).take_all(archive)
                while hashing.read(_CHUNK):
                    pass
            except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
                raise LayerError(f"layer {diff_id[:12]} is not a sound tar: {error}") from error
        if hashing.digest.hexdigest() != diff_id:
            raise LayerError(f"layer {diff_id[:12]} does not have the content that the image's configuration says")
        fresh.rename(place)
    finally:
        remove(fresh)


def remove(directory: Path) -> None:
    """Take a tree away, also one with directories that their owner may not write."""
    if not directory.is_dir():
        return
    for path, _, _ in os.walk(directory):
        with suppress(OSError):
            Path(path).chmod(0o700)
    shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def _uncompressed(source: IO[bytes]) -> Iterator[_Source]:
    magic = source.read(4)
    source.seek(0)
    if magic[:2] == b"\x1f\x8b":
        with gzip.GzipFile(fileobj=source) as plain:
            yield plain
    elif magic == b"\x28\xb5\x2f\xfd":
        with _zstd(source) as plain:
            yield plain
    else:
        yield source


@contextmanager
def _zstd(source: IO[bytes]) -> Iterator[_Source]:
    """By the program: Python has zstd only from 3.14 on."""
    program = shutil.which("zstd")
    if program is None:
        raise LayerError("a layer is compressed with zstd, and the program zstd is not installed")
    with tempfile.TemporaryFile() as spool:
        shutil.copyfileobj(source, spool, _CHUNK)
        spool.seek(0)
        child = subprocess.Popen([program, "-d", "-c", "-q"], stdin=spool, stdout=subprocess.PIPE)
        assert child.stdout is not None
        try:
            yield child.stdout
        finally:
            child.stdout.close()
            if child.wait() != 0:
                raise LayerError("a layer's zstd stream is damaged")


class _Layer:
    """The directory being filled."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._directories: list[tuple[Path, tarfile.TarInfo]] = []
        self._privileged = os.geteuid() == 0

    def take_all(self, archive: tarfile.TarFile) -> None:
        self._root.chmod(0o755)
        for entry in archive:
            self._take(archive, entry)
        for path, entry in reversed(self._directories):  # last, so that a read-only directory could still be filled
            if self._is_plain_directory(path):
                self._settle(path, entry)

    def _is_plain_directory(self, path: Path) -> bool:
        """Whether it is one still: a later entry may have put a link in the place of it or of one above it."""
        above = [path, *path.parents]
        chain = above[: above.index(self._root) + 1]
        return path.is_dir() and not any(step.is_symlink() for step in chain)

    def _take(self, archive: tarfile.TarFile, entry: tarfile.TarInfo) -> None:
        parts = safe_parts(entry.name)
        if not parts:
            if entry.isdir():
                self._directories.append((self._root, entry))
            return
        parent = self._directory(parts[:-1], entry.name)
        name = parts[-1]
        if name == _OPAQUE:
            _make_opaque(parent)
        elif name.startswith(_WHITEOUT):
            self._whiteout(parent, name.removeprefix(_WHITEOUT), entry.name)
        else:
            self._place(archive, entry, parent / name)

    def _place(self, archive: tarfile.TarFile, entry: tarfile.TarInfo, path: Path) -> None:
        if entry.isdir():
            if path.is_symlink() or not path.is_dir():
                _clear(path)
                path.mkdir()
            self._directories.append((path, entry))
            return
        if entry.ischr() or entry.isblk():
            # a container gets a /dev of its own; elsewhere a device has no business in an image
            if safe_parts(entry.name)[0] == "dev":
                return
            raise LayerError(f"the entry {entry.name!r} is a device: refused")
        _clear(path)
        if entry.issym():
            path.symlink_to(entry.linkname)
        elif entry.islnk():
            self._hard_link(entry, path)
            return
        elif entry.isfifo():
            os.mkfifo(path)
        elif entry.isreg():
            content = archive.extractfile(entry)
            assert content is not None
            with path.open("xb") as file:
                shutil.copyfileobj(content, file, _CHUNK)
        else:
            raise LayerError(f"the entry {entry.name!r} is of an unknown type: refused")
        self._settle(path, entry)

    def _hard_link(self, entry: tarfile.TarInfo, path: Path) -> None:
        parts = safe_parts(entry.linkname)
        target = self._directory(parts[:-1], entry.linkname) / parts[-1] if parts else self._root
        try:
            kind = target.lstat().st_mode
        except FileNotFoundError:
            kind = 0
        if not (stat.S_ISREG(kind) or stat.S_ISLNK(kind)):
            raise LayerError(f"the entry {entry.name!r} is a hard link to {entry.linkname!r}, no file of this layer")
        os.link(target, path, follow_symlinks=False)

    def _whiteout(self, parent: Path, name: str, entry: str) -> None:
        if name in ("", ".", "..") or name.startswith(_WHITEOUT):
            raise LayerError(f"the entry {entry!r} removes nothing that has a name")
        _clear(parent / name)
        os.mknod(parent / name, stat.S_IFCHR | 0o000, os.makedev(0, 0))

    def _directory(self, parts: list[str], entry: str) -> Path:
        """The directory of that name inside the layer, made where missing; links are followed inside the layer."""
        path, todo, followed = self._root, list(reversed(parts)), 0
        while todo:
            part = todo.pop()
            if part == "..":
                path = path.parent if path != self._root else path
                continue
            step = path / part
            if step.is_symlink():
                followed += 1
                if followed > _LINKS_FOLLOWED:
                    raise LayerError(f"the entry {entry!r} goes through a loop of links")
                target = os.readlink(step)  # noqa: PTH115
                if target.startswith("/"):
                    path = self._root
                todo.extend(reversed([piece for piece in target.split("/") if piece not in ("", ".")]))
                continue
            if not step.is_dir():
                _clear(step)
                step.mkdir(mode=0o755)
            path = step
        return path

    def _settle(self, path: Path, entry: tarfile.TarInfo) -> None:
        """Owner, mode, extended attributes and time; an ordinary user owns everything that he unpacks."""
        if self._privileged:
            with suppress(OSError):  # in a user namespace most owners cannot be given
                os.chown(path, entry.uid, entry.gid, follow_symlinks=False)
        if not entry.issym():
            mode = entry.mode & 0o7777
            path.chmod(mode if self._privileged else mode | (0o700 if entry.isdir() else 0o400))
        capability = entry.pax_headers.get("SCHILY.xattr.security.capability")
        if capability and entry.isreg():
            with suppress(OSError):
                os.setxattr(path, "security.capability", capability.encode("utf-8", "surrogateescape"))
        with suppress(OSError, OverflowError, ValueError):
            os.utime(path, (entry.mtime, entry.mtime), follow_symlinks=False)


def safe_parts(name: str) -> list[str]:
    """An entry's name in pieces. Raises LayerError for names that want out of the layer."""
    if name.startswith("/"):
        raise LayerError(f"the entry {name!r} has an absolute name: refused")
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise LayerError(f"the entry {name!r} leaves the layer: refused")
    return parts


def _clear(path: Path) -> None:
    """Make room: what an earlier entry of that name left is taken away, links not followed."""
    try:
        kind = path.lstat().st_mode
    except FileNotFoundError:
        return
    if stat.S_ISDIR(kind):
        remove(path)
    else:
        path.unlink()


def _make_opaque(directory: Path) -> None:
    """For overlays mounted with privilege and for those of a user namespace (mount option userxattr)."""
    done = 0
    for name in ("trusted.overlay.opaque", "user.overlay.opaque"):
        with suppress(OSError):
            os.setxattr(directory, name, b"y")
            done += 1
    if not done:
        raise LayerError("the cache's file system has no extended attributes, which this image's layers need")
