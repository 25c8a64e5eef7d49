"""Sockets inside another network namespace. A socket belongs for good to the namespace it was created in."""

import ctypes
import os
import socket
import threading
from pathlib import Path

_CLONE_NEWNET = 0x40000000


def socket_in(netns_path: str, family: int) -> socket.socket:
    """A non-blocking TCP socket of that namespace ("" is the caller's own). Raises OSError. Blocks shortly.

    A thread of its own enters the namespace and ends: no other thread of this process is ever moved.
    """
    if not netns_path:
        return _new(family)
    made: list[socket.socket | OSError] = []

    def work() -> None:
        try:
            descriptor = os.open(Path(netns_path), os.O_RDONLY | os.O_CLOEXEC)
            try:
                enter(descriptor, netns_path)
            finally:
                os.close(descriptor)
            made.append(_new(family))
        except OSError as error:
            made.append(error)

    thread = threading.Thread(target=work, name="netns-socket", daemon=True)
    thread.start()
    thread.join()
    if isinstance(made[0], OSError):
        raise made[0]
    return made[0]


def enter(descriptor: int, name: str) -> None:
    """Move the calling thread into the network namespace. Raises OSError."""
    if ctypes.CDLL(None, use_errno=True).setns(descriptor, _CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"setns {name}: {os.strerror(number)}")


def _new(family: int) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    sock.setblocking(False)
    return sock
