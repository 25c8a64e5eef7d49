"""Network namespaces: enter one in the calling thread, open sockets inside, write sysctls of one.

A namespace is named by an open file descriptor (from `/proc/PID/ns/net`, `/run/netns/NAME` or SCM_RIGHTS).
Only the calling thread moves, and it always comes back; a thread that cannot come back must not live on, so
that failure is fatal for it (RuntimeError).
"""

from __future__ import annotations

import ctypes
import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from podwire.kernel.netlink import KernelError

CLONE_NEWNET = 0x40000000
_NS_GET_NSTYPE = 0xB703
PROC_SYS = Path("/proc/sys")

T = TypeVar("T")


_libc = ctypes.CDLL(None, use_errno=True)  # once: opening it takes longer than the call


def _setns(fd: int) -> None:
    if hasattr(os, "setns"):
        os.setns(fd, CLONE_NEWNET)
        return
    if _libc.setns(fd, CLONE_NEWNET) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def open_own() -> int:
    """Descriptor of the calling thread's own network namespace; the caller closes it."""
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def open_path(path: str | os.PathLike[str]) -> int:
    """Descriptor of the namespace at `path`; the caller closes it. Raises KernelError naming the path. What is no
    namespace (a FIFO, a terminal) neither holds the caller nor is made its own."""
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError as error:
        raise KernelError(f"open network namespace {os.fspath(path)}", error.errno or 0) from error


def identity(fd: int) -> tuple[int, int]:
    """(device, inode): equal for two descriptors of one namespace."""
    status = os.fstat(fd)
    return status.st_dev, status.st_ino


def is_network(fd: int) -> bool:
    """Whether the descriptor is a network namespace, and not some other file (ioctl NS_GET_NSTYPE, linux/nsfs.h)."""
    try:
        return fcntl.ioctl(fd, _NS_GET_NSTYPE) == CLONE_NEWNET
    except OSError:
        return False


@contextmanager
def inside(fd: int, home: int | None = None) -> Iterator[None]:
    """The body runs in the namespace `fd`. Raises KernelError when it is not a namespace (or not ours to enter).

    `home` is the calling thread's own namespace, where a descriptor of it is at hand; it stays open.
    """
    if home is not None:
        with _there_and_back(fd, home):
            yield
        return
    home = open_own()
    try:
        with _there_and_back(fd, home):
            yield
    finally:
        os.close(home)


@contextmanager
def _there_and_back(fd: int, home: int) -> Iterator[None]:
    try:
        _setns(fd)
    except OSError as error:
        raise KernelError("enter network namespace", error.errno or 0) from error
    try:
        yield
    finally:
        try:
            _setns(home)
        except OSError as error:
            raise RuntimeError("thread is stranded in a foreign network namespace") from error


def run_inside(fd: int, work: Callable[[], T]) -> T:
    """The result of `work`, called in the namespace `fd`."""
    with inside(fd):
        return work()


def place_sysctls(root: Path) -> None:
    """Where the process finds sysctls from now on, if not in /proc/sys: a container has that read-only, and the node's
    under another path. Which namespace is meant is decided by the calling thread all the same."""
    global PROC_SYS
    PROC_SYS = root


def write_sysctl(name: str, value: str, root: Path | None = None) -> bool:
    """Set a sysctl of the calling thread's namespace (`net/ipv4/ip_forward`); False when it had the value already.

    Reads first, so that repeating it writes nothing. Raises KernelError.
    """
    path = f"{root or PROC_SYS}/{name}"
    try:
        if _get(path).strip() == value:
            return False
        _put(path, value)
    except OSError as error:
        raise KernelError(f"set sysctl {name}={value}", error.errno or 0) from error
    return True


def put_sysctl(name: str, value: str, root: Path | None = None) -> None:
    """The same without a look first, for what is new: half the time. Raises KernelError."""
    try:
        _put(f"{root or PROC_SYS}/{name}", value)
    except OSError as error:
        raise KernelError(f"set sysctl {name}={value}", error.errno or 0) from error


def read_sysctl(name: str, root: Path | None = None) -> str:
    """A sysctl of the calling thread's namespace. Raises KernelError."""
    try:
        return _get(f"{root or PROC_SYS}/{name}").strip()
    except OSError as error:
        raise KernelError(f"read sysctl {name}", error.errno or 0) from error


def _get(path: str) -> str:
    """A small file's text, in three system calls. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, 4096).decode()
    finally:
        os.close(descriptor)


def _put(path: str, text: str) -> None:
    """Raises OSError."""
    descriptor = os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)
