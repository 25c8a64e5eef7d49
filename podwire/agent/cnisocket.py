"""The unix socket that the shim calls: one call a connection, served by threads.

Request: u32 length, environment as NUL-ended strings, u32 length, stdin (host byte order); the pod's namespace comes as
a descriptor with the first byte. Reply: one byte exit code, u32 length, stdout.

Only a whole request is served; until then one thread watches all connections, so that callers who are slow, silent or
many hold up nobody. ADDs that wait for addresses do so in threads of their own: a DEL never waits behind them.
"""

from __future__ import annotations

import array
import contextlib
import errno
import logging
import os
import selectors
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from podwire.agent import listening
from podwire.cni.errors import DECODE_FAILURE, INTERNAL, CniError

log = logging.getLogger(__name__)

Serve = Callable[[dict[str, str], bytes, int | None], tuple[int, bytes]]

THREADS = 32
TOGETHER = 2
"""Calls that are served at a time while more of them wait: one is in the kernel while the other computes."""
LIMIT_BYTES = 1 << 20
_PART_BYTES = 1 << 14
CALLER_SECONDS = 10.0
"""How long a caller may take to send its request, and then to read its reply."""
MAX_WAITING = 256
"""Connections with unfinished requests; the one that waits longest goes first."""
_SHORT = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_LENGTH = struct.Struct("=I")
_VARIABLES = 256


class ProtocolError(Exception):
    """The caller sent something else than a request."""


@dataclass(eq=False, slots=True)
class Call:
    """A connection whose request is on its way. `deadline` is on the monotonic clock."""

    connection: socket.socket
    deadline: float
    buffer: bytearray = field(default_factory=bytearray)
    descriptors: list[int] = field(default_factory=list)

    def receive(self) -> bool:
        """Take what is there; whether the request is whole. Raises ProtocolError, OSError, BlockingIOError."""
        room = socket.CMSG_SPACE(4)
        part, control, flags, _ = self.connection.recvmsg(_PART_BYTES, room, socket.MSG_CMSG_CLOEXEC)
        for level, kind, payload in control:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds = array.array("i")
                fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
                self.descriptors.extend(fds)
        if len(self.descriptors) > 1 or flags & socket.MSG_CTRUNC:
            raise ProtocolError("more than one descriptor")
        if not part:
            raise ProtocolError(f"request ends after {len(self.buffer)} bytes")
        self.buffer += part
        return _whole(self.buffer)

    def close(self) -> None:
        for descriptor in self.descriptors:
            with contextlib.suppress(OSError):
                os.close(descriptor)
        self.connection.close()


def _whole(buffer: bytearray) -> bool:
    """Whether both parts are there. Raises ProtocolError for impossible lengths and for bytes behind the request."""
    end = 0
    for _ in range(2):
        if len(buffer) < end + 4:
            return False
        (size,) = _LENGTH.unpack_from(buffer, end)
        if size > LIMIT_BYTES:
            raise ProtocolError(f"{size} bytes announced, the limit is {LIMIT_BYTES}")
        end += 4 + size
    if len(buffer) > end:
        raise ProtocolError("bytes after the request")
    return len(buffer) == end


class CniSocket:
    """Listens from `start` to `close`; calls in flight are let finish. `serve` should not raise; `arrive` is told of
    each call's environment in the order of their coming.

    Calls that are `brief` are served by the thread that reads them: to hand each over to another thread wakes it, and
    the two then fight for the interpreter. While more calls wait, a second thread reads and serves, too. Such a call
    must `step_aside` before it waits; another thread reads then.
    """

    def __init__(
        self,
        path: Path,
        serve: Serve,
        arrive: Callable[[dict[str, str]], None] = lambda env: None,
        brief: Callable[[dict[str, str]], bool] = lambda env: False,
    ) -> None:
        self._path = path
        self._serve = serve
        self._arrive = arrive
        self._brief = brief
        self._listener: socket.socket | None = None
        self._wake: tuple[socket.socket, socket.socket] | None = None
        self._selector = selectors.DefaultSelector()
        self._waiting: dict[Call, None] = {}  # in order of their deadlines; used by who reads, like the next
        self._whole: deque[tuple[Call, dict[str, str], bytes]] = deque()
        self._reading = threading.Lock()  # held by who reads
        self._mine = threading.local()
        self._guard = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._spare = 0  # threads that wait to read
        self._serving = 0  # calls in threads that read
        self._closed = False
        self._adds = ThreadPoolExecutor(THREADS, thread_name_prefix="cni-add")
        self._others = ThreadPoolExecutor(THREADS, thread_name_prefix="cni")

    def start(self) -> None:
        """Bind and listen; a socket left by a former agent is replaced in one step. Raises OSError."""
        listener = listening.listen(self._path, 512)
        listener.setblocking(False)
        self._listener = listener
        self._wake = socket.socketpair()
        self._selector.register(listener, selectors.EVENT_READ, None)
        self._selector.register(self._wake[1], selectors.EVENT_READ, None)
        with self._guard:
            self._more()

    def close(self) -> None:
        if self._wake is not None and self._listener is not None:
            self._wake[0].close()
            self._end_threads()
            self._selector.close()
            self._wake[1].close()
            self._listener.close()
            self._path.unlink(missing_ok=True)
        for pool in (self._adds, self._others):
            pool.shutdown(wait=True, cancel_futures=False)

    def _end_threads(self) -> None:
        while True:
            with self._guard:
                if not self._threads:
                    return
                thread = self._threads.pop()
            thread.join()

    def _more(self) -> None:
        """One more thread, with the guard held."""
        self._spare += 1
        thread = threading.Thread(target=self._run, name=f"cni-read-{len(self._threads)}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def step_aside(self) -> None:
        """The calling thread is about to wait: if it is the one that reads, another shall."""
        if not getattr(self._mine, "reads", False):
            return
        self._mine.reads = False
        with self._guard:
            if not self._spare and not self._closed:
                self._more()
        self._reading.release()

    def _run(self) -> None:
        while True:
            self._reading.acquire()
            self._mine.reads = True
            with self._guard:
                self._spare -= 1
            while self._mine.reads:
                found = self._next()
                if found is None:
                    self._closed = True
                    self._reading.release()
                    return
                self._share()
                self._answer(*found)
                with self._guard:
                    self._serving -= 1
            with self._guard:
                self._spare += 1

    def _share(self) -> None:
        """The calling thread is about to serve a call. If more of them wait, another thread reads meanwhile."""
        with self._guard:
            self._serving += 1
            alone = self._serving < TOGETHER
        if alone and (self._whole or self._selector.select(0)):
            self.step_aside()

    def _next(self) -> tuple[Call, dict[str, str], bytes] | None:
        """The next call to be served here; None at the end."""
        assert self._listener is not None and self._wake is not None
        while not self._whole:
            first = next(iter(self._waiting), None)
            pause = None if first is None else max(0.0, first.deadline - time.monotonic())
            for key, _ in [] if self._closed else self._selector.select(pause):
                if key.fileobj is self._wake[1]:
                    self._closed = True
                elif key.fileobj is self._listener:
                    self._accept(self._listener)
                elif key.data in self._waiting:
                    self._advance(key.data)
            if self._closed:
                for call in self._waiting:
                    call.close()
                self._waiting.clear()
                break
            self._expire()
        return self._whole.popleft() if self._whole else None

    def _accept(self, listener: socket.socket) -> None:
        try:
            connection, _ = listener.accept()
        except OSError as error:
            if error.errno in _SHORT:
                log.error("cni call not accepted error=%s", error)
                if self._waiting:
                    self._drop(next(iter(self._waiting)), "the agent is short of descriptors")
                else:
                    time.sleep(0.05)  # whoever has them all gives them back: calls in flight end
            return
        connection.setblocking(False)
        call = Call(connection, time.monotonic() + CALLER_SECONDS)
        if (found := _read(call)) is not None:  # the shim sends at once: mostly all of it is there
            self._settle(call, found)
            return
        self._waiting[call] = None
        self._selector.register(connection, selectors.EVENT_READ, call)
        if len(self._waiting) > MAX_WAITING:
            self._drop(next(iter(self._waiting)), "too many calls at once")

    def _advance(self, call: Call) -> None:
        if (found := _read(call)) is not None:
            self._selector.unregister(call.connection)
            del self._waiting[call]
            self._settle(call, found)

    def _settle(self, call: Call, found: tuple[dict[str, str], bytes] | ProtocolError | OSError) -> None:
        if isinstance(found, Exception):
            _refuse(call, str(found))
            return
        env, stdin = found
        call.buffer.clear()
        self._arrive(env)
        if self._brief(env) and (self._spare or len(self._threads) <= THREADS):  # else nobody would be left to read
            self._whole.append((call, env, stdin))
            return
        pool = self._adds if env.get("CNI_COMMAND") == "ADD" else self._others
        pool.submit(self._answer, call, env, stdin)

    def _drop(self, call: Call, why: str) -> None:
        self._selector.unregister(call.connection)
        del self._waiting[call]
        _refuse(call, why)

    def _expire(self) -> None:
        if not self._waiting:
            return
        now = time.monotonic()
        while (first := next(iter(self._waiting), None)) is not None and first.deadline <= now:
            self._drop(first, f"no whole request within {CALLER_SECONDS:.0f} s")

    def _answer(self, call: Call, env: dict[str, str], stdin: bytes) -> None:
        try:
            try:
                code, output = self._serve(env, stdin, call.descriptors[0] if call.descriptors else None)
            except Exception as error:
                log.exception("cni call failed")
                code, output = 1, CniError(INTERNAL, "internal error", repr(error)).encode("")
            if len(output) > LIMIT_BYTES:
                code, output = 1, CniError(INTERNAL, "the answer is too large", f"{len(output)} bytes").encode("")
            self._send(call.connection, _reply(code, output))
        except OSError as error:
            log.warning("cni caller gone error=%s", error)
        finally:
            call.close()

    def _send(self, connection: socket.socket, reply: bytes) -> None:
        """All of it; a caller that reads slowly is waited for. Raises OSError."""
        try:
            sent = connection.send(reply, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except BlockingIOError:
            sent = 0
        if sent < len(reply):
            self.step_aside()
            connection.settimeout(CALLER_SECONDS)
            connection.sendall(reply[sent:])


def _read(call: Call) -> tuple[dict[str, str], bytes] | ProtocolError | OSError | None:
    """The request when it is whole, or why it never will be; None as long as more is to come."""
    try:
        return decode_request(bytes(call.buffer)) if call.receive() else None
    except (BlockingIOError, InterruptedError):
        return None
    except (OSError, ProtocolError) as error:
        return error


def _refuse(call: Call, why: str) -> None:
    """A call whose request is not whole: whoever still listens is told."""
    log.warning("cni call broken error=%s", why)
    refusal = CniError(DECODE_FAILURE, "the call to the agent is broken", why).encode("")
    with contextlib.suppress(OSError):
        call.connection.send(_reply(1, refusal), socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
    call.close()


def _reply(code: int, output: bytes) -> bytes:
    return bytes([code]) + _LENGTH.pack(len(output)) + output


def decode_environment(block: bytes) -> dict[str, str]:
    """NUL-ended NAME=VALUE strings. Raises ProtocolError for more than a caller can have."""
    entries = block.split(b"\0", _VARIABLES)
    if len(entries) > _VARIABLES:
        raise ProtocolError(f"more than {_VARIABLES} variables")
    pairs = (entry.decode(errors="replace").partition("=") for entry in entries if entry)
    return {name: value for name, _, value in pairs}


def decode_request(raw: bytes) -> tuple[dict[str, str], bytes]:
    """A whole request, as the spool keeps it. Raises ProtocolError."""
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
