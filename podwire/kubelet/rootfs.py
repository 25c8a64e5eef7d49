"""A container's root file system: an overlay of the image's layers below a writable directory of its own; and the
control groups it leaves behind. Blocking: run in worker threads."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path

from podwire.kubelet import syscalls
from podwire.kubelet.oci import User, find_user

_CGROUPS = Path("/sys/fs/cgroup")


def mount_overlay(directory: Path, layers: Sequence[Path], links: Path, *, rootless: bool) -> Path:
    """Mount `directory`/rootfs over `layers` (top first). Raises OSError.

    mount(2) takes 4 KiB of options and splits at colons: layers go by short links in `links`.
    """
    root, upper, work = directory / "rootfs", directory / "upper", directory / "work"
    for path in (root, upper, work):
        path.mkdir(parents=True, exist_ok=True)
    upper.chmod(0o755)
    lower = ":".join(str(_link(links, layer)) for layer in layers)
    options = f"lowerdir={lower},upperdir={upper},workdir={work}"
    syscalls.mount("overlay", root, "overlay", data=options + (",userxattr" if rootless else ""))
    return root


def _link(links: Path, layer: Path) -> Path:
    link = links / hashlib.sha256(os.fsencode(layer)).hexdigest()[:10]
    if not link.is_symlink():
        links.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            link.symlink_to(layer)
    return link


def remove(directory: Path) -> None:
    """Unmount and delete; what is already gone is not an error."""
    syscalls.unmount(directory / "rootfs")
    shutil.rmtree(directory, ignore_errors=True)


def read_inside(root: Path, name: str) -> str:
    """A small text file of the image, links resolved inside it; "" when it is not there."""
    path = root / name
    for _ in range(8):
        if not path.is_symlink():
            break
        target = Path(os.readlink(path))  # noqa: PTH115 (the text of the link is wanted)
        path = root / target.relative_to("/") if target.is_absolute() else path.parent / target
    real = path.resolve()
    if not real.is_relative_to(root.resolve()) or not real.is_file():
        return ""
    return real.read_text(errors="replace")


def user_of(root: Path, text: str) -> User:
    """Look `user[:group]` up in the image. Raises oci.SpecError."""
    if text in ("", "0", "root", "0:0"):
        return User()
    return find_user(text, read_inside(root, "etc/passwd"), read_inside(root, "etc/group"))


def cgroup_directories(cgroup: str) -> list[Path]:
    """The directories of a control group in all hierarchies of this machine (v1, v2 or both)."""
    name = cgroup.strip("/")
    if not name or not _CGROUPS.is_dir():
        return []
    places = [_CGROUPS / name] + [hierarchy / name for hierarchy in _CGROUPS.iterdir() if hierarchy.is_dir()]
    return [place for place in places if place.is_dir()]


def out_of_memory(cgroup: str) -> bool:
    """Whether the kernel killed a process of this control group for its memory limit."""
    for directory in cgroup_directories(cgroup):
        for name in ("memory.oom_control", "memory.events"):
            with contextlib.suppress(OSError):
                facts = dict(line.split() for line in (directory / name).read_text().splitlines())
                if int(facts.get("oom_kill", "0")):
                    return True
    return False


def remove_cgroup(cgroup: str) -> None:
    """Kill what is left in a control group and remove it, children first. A group still in use stays; best effort."""
    for top in cgroup_directories(cgroup):
        for directory, _, _ in os.walk(top, topdown=False):
            with contextlib.suppress(OSError, ValueError):
                for pid in (Path(directory) / "cgroup.procs").read_text().split():
                    os.kill(int(pid), signal.SIGKILL)
            with contextlib.suppress(OSError):
                os.rmdir(directory)  # noqa: PTH106
