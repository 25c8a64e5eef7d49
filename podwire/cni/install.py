"""The node's CNI files: the shim and the configuration list, put in place and taken away.

Runtimes watch the directory, so every file appears whole (written beside, then renamed), the executable before the
configuration that names it, and on removal the configuration goes first: the node turns NotReady cleanly.
"""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

NETWORK = "k8s-pod-network"
CONFLIST = "05-podwire.conflist"
PROGRAM = "podwire"


@dataclass(frozen=True, slots=True)
class Places:
    """Where things go on the node; socket and spool are written beside the shim when they are not the usual ones."""

    conf_dir: Path = Path("/etc/cni/net.d")
    bin_dir: Path = Path("/opt/cni/bin")
    socket: Path = Path("/run/podwire/cni.sock")
    spool: Path = Path("/var/lib/podwire/cni-spool")


_USUAL = Places()


def conflist(mtu: int) -> str:
    """The configuration list. Old runtimes take `cniVersion` literally; newer ones choose from `cniVersions`.

    1.1.0 is not offered yet: it promises GC and STATUS.
    """
    plugin = {"type": PROGRAM, "mtu": mtu, "ipam": {"type": "podwire-ipam"}}
    whole = {
        "cniVersion": "1.0.0",
        "cniVersions": ["0.3.1", "0.4.0", "1.0.0"],
        "name": NETWORK,
        "plugins": [plugin],
    }
    return json.dumps(whole, indent=2) + "\n"


def write_atomically(path: Path, content: bytes, mode: int) -> bool:
    """Make `path` hold `content` with `mode`; False when it did already. Raises OSError."""
    try:
        if path.read_bytes() == content and path.stat().st_mode & 0o7777 == mode and not path.is_symlink():
            return False
    except OSError:
        pass  # absent or unreadable: written below, which reports what is really wrong
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        temporary.rename(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return True


def install(shim: Path, mtu: int, places: Places | None = None) -> list[Path]:
    """Put shim and configuration in place; the paths that changed. Raises OSError."""
    places = places or Places()
    changed: list[Path] = []
    paths = places.bin_dir / f"{PROGRAM}.paths"
    if (places.socket, places.spool) != (_USUAL.socket, _USUAL.spool):
        if write_atomically(paths, f"{places.socket}\n{places.spool}\n".encode(), 0o644):
            changed.append(paths)
    elif paths.exists():
        paths.unlink()
        changed.append(paths)
    program = places.bin_dir / PROGRAM
    if write_atomically(program, shim.read_bytes(), 0o755):
        changed.append(program)
    listing = places.conf_dir / CONFLIST
    if write_atomically(listing, conflist(mtu).encode(), 0o644):
        changed.append(listing)
    return changed


def uninstall(places: Places | None = None) -> list[Path]:
    """Take configuration, then shim away; the paths that were there. Raises OSError."""
    places = places or Places()
    gone: list[Path] = []
    for path in (places.conf_dir / CONFLIST, places.bin_dir / PROGRAM, places.bin_dir / f"{PROGRAM}.paths"):
        if path.is_symlink() or path.exists():
            path.unlink()
            gone.append(path)
    return gone
