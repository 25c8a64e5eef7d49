"""Receiving a container's terminal: runc sends the pty's master over a unix socket (runc docs/terminals.md)."""

from __future__ import annotations

import os
import secrets
import socket
from pathlib import Path


class ConsoleSocket:
    """A one-shot listening socket; its path is short, since unix socket paths are limited to 107 bytes."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.path = directory / f"t{secrets.token_hex(4)}"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(10)
        self._socket.bind(str(self.path))
        self._socket.listen(1)

    def receive(self) -> int:
        """Block until runc has sent the master; its file descriptor. Raises OSError (a timeout is one)."""
        connection, _ = self._socket.accept()
        with connection:
            connection.settimeout(10)
            _, descriptors, _, _ = socket.recv_fds(connection, 4096, 1)
        if not descriptors:
            raise OSError("runc sent no terminal")
        os.set_inheritable(descriptors[0], False)
        return descriptors[0]

    def close(self) -> None:
        """Take the socket away."""
        self._socket.close()
        self.path.unlink(missing_ok=True)
