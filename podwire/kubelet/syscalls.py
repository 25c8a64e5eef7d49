"""The few system calls that a container runtime needs and Python does not offer: mounts, unshare, pidfd facts.

All functions raise OSError with the kernel's errno and what was tried.
"""

from __future__ import annotations

import array
import ctypes
import fcntl
import os
import signal
import socket
import struct
from pathlib import Path

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE, MS_SHARED = 32, 4096, 16384, 1 << 18, 1 << 20
MNT_DETACH = 2
CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC, CLONE_NEWPID, CLONE_NEWNET = (
    0x00020000,
    0x04000000,
    0x08000000,
    0x20000000,
    0x40000000,
)
_PR_SET_CHILD_SUBREAPER = 36
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1
# _IOWR(0xFF, 11, struct pidfd_info of 64 bytes): Linux 6.13, its exit code 6.15 (include/uapi/linux/pidfd.h)
_PIDFD_GET_INFO = (3 << 30) | (64 << 16) | (0xFF << 8) | 11
_PIDFD_INFO_EXIT = 1 << 3


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def mount(source: str, target: str | Path, kind: str = "", flags: int = 0, data: str = "") -> None:
    """mount(2)."""
    result = _libc().mount(
        source.encode(),
        os.fsencode(target),
        kind.encode() if kind else None,
        ctypes.c_ulong(flags),
        data.encode() if data else None,
    )
    _check(result, f"mount {kind or 'bind'} {source} on {target}")


def bind(source: str | Path, target: str | Path, *, recursive: bool = True, read_only: bool = False) -> None:
    """Bind mount; the second call is the kernel's way to a read-only one."""
    mount(os.fspath(source), target, flags=MS_BIND | (MS_REC if recursive else 0))
    if read_only:
        mount("none", target, flags=MS_BIND | MS_REMOUNT | MS_RDONLY)


def unmount(target: str | Path) -> None:
    """Take the topmost mount away, lazily; nothing mounted or nothing there is not an error."""
    if _libc().umount2(os.fsencode(target), MNT_DETACH) != 0:
        number = ctypes.get_errno()
        if number not in (2, 22):  # ENOENT, EINVAL: not a mount point
            raise OSError(number, f"umount {target}: {os.strerror(number)}")


def unshare(flags: int) -> None:
    """Move the calling thread to new namespaces."""
    _check(_libc().unshare(flags), f"unshare {flags:#x}")


def set_hostname(name: str) -> None:
    """Set the host name of the calling thread's UTS namespace."""
    socket.sethostname(name)


def become_subreaper() -> None:
    """Orphans below this process become its children, so that it reads their exit codes."""
    _check(_libc().prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), "prctl PR_SET_CHILD_SUBREAPER")


def loopback_up() -> None:
    """Raise `lo` in the calling thread's network namespace."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        request = struct.pack("16sH14x", b"lo", 0)
        flags = struct.unpack("16sH14x", fcntl.ioctl(sock, _SIOCGIFFLAGS, request))[1]
        fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", flags | _IFF_UP))


def exit_status_of(pidfd: int) -> int | None:
    """The wait status of a dead process that was somebody else's child; None where the kernel does not keep it."""
    info = array.array("B", struct.pack("=Q", _PIDFD_INFO_EXIT) + bytes(56))
    try:
        fcntl.ioctl(pidfd, _PIDFD_GET_INFO, info, True)
    except OSError:
        return None
    mask = struct.unpack_from("=Q", info, 0)[0]
    return int(struct.unpack_from("=i", info, 60)[0]) if mask & _PIDFD_INFO_EXIT else None


def start_time(pid: int) -> int | None:
    """Clock ticks since boot at which the process started: tells it from a later one of the same number."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19])


def signal_process(pid: int, started: int | None, number: signal.Signals) -> bool:
    """Send a signal unless the process is gone or its number belongs to another one by now."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        if started is not None and start_time(pid) != started:
            return False
        signal.pidfd_send_signal(pidfd, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(pidfd)
    return True
