"""The few system calls Python 3.11 has no name for: namespaces, mounts, pivot_root, process names.

Everything raises OSError with the call and its object in `filename`, so a message reads
`[Errno 1] Operation not permitted: 'mount overlay on /usr'`.
"""

from __future__ import annotations

import ctypes
import os
import platform
from pathlib import Path

CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_RDONLY = 0x1
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_REMOUNT = 0x20
MS_BIND = 0x1000
MS_REC = 0x4000
MS_PRIVATE = 0x40000
MS_SHARED = 0x100000
MNT_DETACH = 2

_PR_SET_NAME = 15
_PR_SET_PDEATHSIG = 1
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41, "riscv64": 41, "armv7l": 218, "ppc64le": 203, "s390x": 217}

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)


def unshare(flags: int) -> None:
    """Leave the shared namespaces named by `flags` for new ones (new pid namespaces hold the next child)."""
    _check(_libc.unshare(ctypes.c_int(flags)), f"unshare {flags:#x}")


def setns(fd: int, flags: int = 0) -> None:
    """Enter the namespace (or with a pidfd, the namespaces of that process named by `flags`)."""
    _check(_libc.setns(ctypes.c_int(fd), ctypes.c_int(flags)), "setns")


def mount(source: str, target: str | Path, kind: str = "", flags: int = 0, options: str = "") -> None:
    """mount(2): `kind` is the file system type, `options` the comma separated data string."""
    _check(
        _libc.mount(
            os.fsencode(source),
            os.fsencode(str(target)),
            kind.encode() if kind else None,
            ctypes.c_ulong(flags),
            os.fsencode(options) if options else None,
        ),
        f"mount {kind or source} on {target}",
    )


def unmount(target: str | Path, flags: int = 0) -> None:
    """umount2(2)."""
    _check(_libc.umount2(os.fsencode(str(target)), ctypes.c_int(flags)), f"unmount {target}")


def pivot_into(root: Path) -> None:
    """Make `root` (a mount point) the root of this mount namespace and drop the old one.

    Whoever enters the namespace later starts at its root, not at ours. In a chroot the two differ: entering the
    namespace that we are in takes us to its true root, so that nothing of the machine outside stays within reach.
    """
    number = _PIVOT_ROOT.get(platform.machine())
    if number is None:
        raise OSError(38, f"pivot_root has no known number on {platform.machine()}", str(root))
    folder = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    space = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    setns(space, CLONE_NEWNS)
    os.fchdir(folder)
    os.close(space)
    os.close(folder)
    _check(_libc.syscall(ctypes.c_long(number), b".", b"."), f"pivot_root {root}")
    unmount(".", MNT_DETACH)
    os.chdir("/")


def die_with_parent(signal_number: int = 9) -> None:
    """Have the kernel send `signal_number` when the parent thread ends."""
    _check(_libc.prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal_number), 0, 0, 0), "prctl PDEATHSIG")


def name_process(name: str) -> None:
    """Show `name` in ps and top: the thread's name (15 bytes) and the command line (as much as fits)."""
    _libc.prctl(_PR_SET_NAME, ctypes.c_char_p(name.encode()[:15]), 0, 0, 0)
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    start, end = int(fields[45]), int(fields[46])  # arg_start, arg_end: proc(5) fields 48 and 49
    if start == 0 or end - start < 2:
        return
    size = end - start
    text = name.encode()[: size - 1]
    ctypes.memmove(start, text + b"\0" * (size - len(text)), size)
