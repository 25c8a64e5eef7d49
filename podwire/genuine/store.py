"""containerd's images, imported and unpacked once by a containerd of its own, then shared by every node of every lab.

    <folder>/store-<key>/root/       a containerd root: content, unpacked snapshots, metadata
                        /names.json  image name → manifest digest

A node's own containerd root begins with copies of the small metadata and with symbolic links to each shared snapshot
and blob. What a node adds or removes afterwards is its own; the shared folder is only read.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from podwire.genuine.settings import containerd

_LAYOUT = 1
_SECONDS = 60.0
_KEPT = 600.0
_CONTENT = Path("io.containerd.content.v1.content/blobs/sha256")
_SNAPSHOTTER = Path("io.containerd.snapshotter.v1.overlayfs")
_METADATA = (Path("io.containerd.metadata.v1.bolt/meta.db"), _SNAPSHOTTER / "metadata.db")


class StoreError(Exception):
    """The images could not be prepared; the message holds containerd's or ctr's last words."""


def ensure(archive: Path, programs: Path, folder: Path, say: Callable[[str], None]) -> Path:
    """The store that holds the images of `archive` (an OCI layout in a tar), made if it is not there. `programs` holds
    containerd, ctr and runc. Raises StoreError."""
    place = folder / f"store-{_key(archive, programs)}"
    if (place / "names.json").exists():
        return place
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder / "store.lock"):
        if not (place / "names.json").exists():
            say("preparing the images for containerd (once)")
            _make(archive, programs, folder, place)
            _clear_others(place)
    return place


def names(store: Path) -> dict[str, str]:
    """Image name → digest of its manifest."""
    found = json.loads((store / "names.json").read_text())
    return {str(name): str(digest) for name, digest in found.items()}


def blob(store: Path, digest: str) -> Path:
    """Where the blob of that digest (sha256:…) is."""
    return store / "root" / _CONTENT / digest.removeprefix("sha256:")


def lay_out(store: Path, seen_at: Path, target: Path) -> None:
    """Make `target` a node's containerd root with the store's images in it. `seen_at` is the store's path in the node.
    A root that is there already is left as it is."""
    if (target / _METADATA[0]).exists():
        return
    origin = store / "root"
    for name in (_CONTENT, _SNAPSHOTTER / "snapshots"):
        (target / name).mkdir(parents=True, exist_ok=True)
        for entry in (origin / name).iterdir():
            (target / name / entry.name).symlink_to(seen_at / "root" / name / entry.name)
    for name in reversed(_METADATA):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(origin / name, target / name)
    target.chmod(0o711)


def _key(archive: Path, programs: Path) -> str:
    """Of what goes in: an archive is named after its content, a program is known by size and time."""
    facts = (programs / "containerd").stat()
    text = f"{_LAYOUT}\0{archive.name}\0{facts.st_size}\0{facts.st_mtime_ns}"
    return hashlib.sha256(text.encode()).hexdigest()[:12]


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _make(archive: Path, programs: Path, folder: Path, place: Path) -> None:
    fresh = Path(tempfile.mkdtemp(prefix=".store-", dir=folder))
    try:
        with _running(programs, fresh) as client:
            _call([*client, "images", "import", "--snapshotter=overlayfs", str(archive)])
            listed = _call([*client, "images", "list"]).splitlines()
        found = {words[0]: words[2] for line in listed[1:] if len(words := line.split()) > 2}
        if not found:
            raise StoreError(f"{archive} holds no image")
        for name in ("state", "config.toml", "log"):
            path = fresh / name
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
        fresh.chmod(0o755)
        (fresh / "names.json").write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
        shutil.rmtree(place, ignore_errors=True)
        fresh.rename(place)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


@contextlib.contextmanager
def _running(programs: Path, fresh: Path) -> Iterator[list[str]]:
    """A containerd in namespaces of its own (its mounts and children end with it); gives the first words of a call."""
    socket = fresh / "state/c.sock"
    text = containerd(root=str(fresh / "root"), state=str(fresh / "state"), socket=str(socket), programs=str(programs))
    (fresh / "config.toml").write_text(text)
    path = f"{programs}:{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    apart = [
        "unshare",
        "--mount",
        "--net",
        "--ipc",
        "--pid",
        "--fork",
        "--kill-child",
        "--mount-proc",
        "--propagation",
        "private",
    ]
    with (fresh / "log").open("wb") as log:
        process = subprocess.Popen(
            [*apart, str(programs / "containerd"), f"--config={fresh / 'config.toml'}", "--log-level=warn"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, "PATH": path},
        )
    client = [str(programs / "ctr"), f"--address={socket}", "--namespace=k8s.io"]
    try:
        _await(process, [*client, "images", "list", "--quiet"], fresh / "log")
        yield client
        _stop(process, socket)
    finally:
        process.kill()
        process.wait()


def _await(process: subprocess.Popen[bytes], probe: list[str], log: Path) -> None:
    deadline = time.monotonic() + _SECONDS
    while subprocess.run(probe, capture_output=True, check=False).returncode:
        if process.poll() is not None or time.monotonic() > deadline:
            raise StoreError(f"containerd does not start: {_end(log.read_text(errors='replace'))}")
        time.sleep(0.05)


def _stop(process: subprocess.Popen[bytes], socket: Path) -> None:
    """An orderly end, so that its databases are closed: the signal goes to containerd, the child of `unshare`."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    for child in children:
        os.kill(int(child), signal.SIGTERM)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        raise StoreError(f"containerd at {socket} does not end") from None


def _call(words: list[str]) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise StoreError(f"{' '.join(words[3:6])}: {_end(done.stderr or done.stdout)}")
    return done.stdout


def _end(text: str) -> str:
    return "\n".join(text.strip().splitlines()[-3:])


def hold(store: Path) -> int:
    """A descriptor that keeps the store from being cleared away for as long as it is open, also in a child."""
    descriptor = os.open(store / "names.json", os.O_RDONLY | os.O_CLOEXEC)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    return descriptor


def _clear_others(place: Path) -> None:
    """Remove stores of former images that no lab holds; young ones may be just about to be held."""
    for other in place.parent.glob("store-*/names.json"):
        if other.parent == place or time.time() - other.stat().st_mtime < _KEPT:
            continue
        with other.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            shutil.rmtree(other.parent, ignore_errors=True)
