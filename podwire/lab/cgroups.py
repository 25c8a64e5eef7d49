"""The cgroup directories of a lab: one per node, in every hierarchy of the machine (v1, hybrid or v2).

Their names carry the lab's, so a lab finds and removes what an earlier, killed run left behind.
"""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

from podwire.lab.state import LabError

_V2_CONTROLLERS = ("cpuset", "cpu", "io", "memory", "pids", "hugetlb")


def hierarchies(mounts: str | None = None) -> list[Path]:
    """Mount points of the cgroup file systems, from the text of /proc/self/mounts."""
    text = Path("/proc/self/mounts").read_text() if mounts is None else mounts
    found = []
    for line in text.splitlines():
        fields = line.split()
        if len(fields) > 2 and fields[2] in ("cgroup", "cgroup2"):
            found.append(Path(fields[1].replace("\\040", " ")))
    return found


def create(lab: str, nodes: list[str], roots: list[Path] | None = None) -> bool:
    """Make LAB/NODE in every hierarchy. False (and nothing left) where this user may not: then pods have no limits."""
    for root in hierarchies() if roots is None else roots:
        try:
            _create_in(root, lab, nodes)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
                raise LabError(f"cgroup {root}/{lab}: {error.strerror}") from None
            remove(lab, roots)
            return False
    return True


def _create_in(root: Path, lab: str, nodes: list[str]) -> None:
    top = root / lab
    for directory in (top, *(top / node for node in nodes)):
        directory.mkdir(exist_ok=True)
        _inherit_cpuset(directory)
        _delegate(directory)


def _inherit_cpuset(directory: Path) -> None:
    """A new v1 cpuset is empty and takes no process; give it what its parent has."""
    if not (directory / "cgroup.clone_children").exists():
        return
    for name in ("cpuset.cpus", "cpuset.mems"):
        file = directory / name
        if file.exists() and not file.read_text().strip():
            file.write_text((directory.parent / name).read_text())


def _delegate(directory: Path) -> None:
    """In v2, let children use the controllers that there are; one that cannot be delegated is left out."""
    control = directory / "cgroup.subtree_control"
    if not control.exists():
        return
    offered = (directory / "cgroup.controllers").read_text().split()
    for name in _V2_CONTROLLERS:
        if name in offered:
            try:
                control.write_text(f"+{name}")
            except OSError:
                continue


def remove(lab: str, roots: list[Path] | None = None, seconds: float = 5.0) -> None:
    """Remove the lab's directories with all below. The kernel may need a moment after the last process ended."""
    deadline = time.monotonic() + seconds
    for root in hierarchies() if roots is None else roots:
        while not _removed(root / lab):
            if time.monotonic() > deadline:
                raise LabError(f"cgroup {root / lab} still holds processes and cannot be removed")
            time.sleep(0.02)


def renew(lab: str, node: str, roots: list[Path] | None = None, seconds: float = 5.0) -> None:
    """Empty a node's directories of what a former life of the node left in them. No process of that life may run."""
    remove(f"{lab}/{node}", roots, seconds)
    for root in hierarchies() if roots is None else roots:
        _create_in(root, lab, [node])


def _removed(top: Path) -> bool:
    if not top.is_dir():
        return True
    for directory, _, _ in os.walk(top, topdown=False):
        try:
            Path(directory).rmdir()
        except FileNotFoundError:
            continue
        except OSError:
            return False
    return True
