"""The unix socket that the shim calls: one call a connection, served by threads.

Request: u32 length, environment as NUL-ended strings, u32 length, stdin (host byte order); the pod's namespace comes as
a descriptor with the first byte. Reply: one byte exit code, then stdout, then end of stream.
"""

from __future__ import annotations

import array
import contextlib
import logging
import os
import socket
import struct
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

log = logging.getLogger(__name__)

Serve = Callable[[dict[str, str], bytes, int | None], tuple[int, bytes]]

THREADS = 32
LIMIT_BYTES = 1 << 20
CALLER_SECONDS = 30.0
_LENGTH = struct.Struct("=I")


class ProtocolError(Exception):
    """The caller sent something else than a request."""


class CniSocket:
    """Listens from `start` to `close`; calls in flight are let finish."""

    def __init__(self, path: Path, serve: Serve) -> None:
        self._path = path
        self._serve = serve
        self._listener: socket.socket | None = None
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="cni")

    def start(self) -> None:
        """Bind and listen; a socket left by a former agent is replaced in one step. Raises OSError."""
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
        temporary = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        temporary.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(os.fspath(temporary))
        temporary.chmod(0o600)
        listener.listen(512)
        temporary.rename(self._path)
        self._listener = listener
        threading.Thread(target=self._accept, args=(listener,), name="cni-accept", daemon=True).start()

    def close(self) -> None:
        if self._listener is not None:
            self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._path.unlink(missing_ok=True)
        self._pool.shutdown(wait=True, cancel_futures=False)

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return  # closed
            self._pool.submit(self._call, connection)

    def _call(self, connection: socket.socket) -> None:
        descriptors: list[int] = []
        try:
            with connection:
                connection.settimeout(CALLER_SECONDS)
                env, stdin = receive(connection, descriptors)
                code, output = self._serve(env, stdin, descriptors[0] if descriptors else None)
                connection.sendall(bytes([code]) + output)
        except (OSError, ProtocolError) as error:
            log.warning("cni call broken error=%s", error)
        finally:
            for descriptor in descriptors:
                with contextlib.suppress(OSError):
                    os.close(descriptor)


def receive(connection: socket.socket, descriptors: list[int]) -> tuple[dict[str, str], bytes]:
    """(environment, stdin); descriptors that come along are appended to `descriptors`, for the caller to close."""
    first, control, _, _ = connection.recvmsg(65536, socket.CMSG_SPACE(4 * 4))
    for level, kind, payload in control:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds = array.array("i")
            fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
            descriptors.extend(fds)
    buffer = bytearray(first)
    block, end = _part(connection, buffer, 0)
    stdin, end = _part(connection, buffer, end)
    if end != len(buffer):
        raise ProtocolError("bytes after the request")
    return decode_environment(block), stdin


def decode_environment(block: bytes) -> dict[str, str]:
    """NUL-ended NAME=VALUE strings."""
    entries = (entry.decode(errors="replace").partition("=") for entry in block.split(b"\0") if entry)
    return {name: value for name, _, value in entries}


def decode_request(raw: bytes) -> tuple[dict[str, str], bytes]:
    """A whole request as the spool keeps it. Raises ProtocolError."""
    parts: list[bytes] = []
    offset = 0
    for _ in range(2):
        if len(raw) < offset + 4:
            raise ProtocolError("request ends early")
        (size,) = _LENGTH.unpack_from(raw, offset)
        parts.append(raw[offset + 4 : offset + 4 + size])
        offset += 4 + size
    if offset != len(raw):
        raise ProtocolError("lengths do not add up")
    return decode_environment(parts[0]), parts[1]


def _part(connection: socket.socket, buffer: bytearray, offset: int) -> tuple[bytes, int]:
    _fill(connection, buffer, offset + 4)
    (size,) = _LENGTH.unpack_from(buffer, offset)
    if size > LIMIT_BYTES:
        raise ProtocolError(f"{size} bytes announced, the limit is {LIMIT_BYTES}")
    _fill(connection, buffer, offset + 4 + size)
    return bytes(buffer[offset + 4 : offset + 4 + size]), offset + 4 + size


def _fill(connection: socket.socket, buffer: bytearray, wanted: int) -> None:
    while len(buffer) < wanted:
        part = connection.recv(65536)
        if not part:
            raise ProtocolError("request ends early")
        buffer += part
