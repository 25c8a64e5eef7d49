"""Packets between two pods, each one numbered and echoed, and what became of every one of them.

    probe.py echo NETNS                        answers UDP and TCP on port 7007 of that network namespace
    probe.py ask NETNS ADDRESS RATE PATIENCE   asks it until SIGTERM, then tells what it saw
    probe.py knock NETNS ADDRESS RATE          where nobody may open: RATE datagrams and ten connections a second

Each is one process in a pod's network namespace. Asked are RATE datagrams and as many messages on one established TCP
connection a second, and ten new TCP connections. A datagram is lost when no echo came by PATIENCE seconds after the
last was sent; a late one is not. What a busy machine did not let us send in time is counted as unsent, never as lost.
Prints one JSON object.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import selectors
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path

from podwire.lab import syscalls

PORT = 7007
CONNECT_PATIENCE = 20.0
KNOCKING_PATIENCE = 3.0
CONNECTIONS = 10.0
"""New connections a second."""
_BURST = 20
"""Most datagrams sent at once by a sender that woke up late: more would overflow queues that no pod's traffic fills."""
_BUFFER = 64 << 20
_SO_RCVBUFFORCE, _SO_SNDBUFFORCE, _SO_MEMINFO = 33, 32, 55
_MESSAGE = struct.Struct("!Qd")
_TOTAL_RETRANS = 100
"""Offset of tcpi_total_retrans in struct tcp_info (linux/tcp.h)."""

stopped = False


def main(words: list[str]) -> None:
    verb, space, *rest = words
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop)
    with contextlib.suppress(PermissionError):
        os.nice(-5)  # it measures others' delays, not its own
    with Path(space).open("rb") as found:
        syscalls.setns(found.fileno(), syscalls.CLONE_NEWNET)
    if verb == "echo":
        Echo().run()
    elif verb == "knock":
        print(json.dumps(knock(rest[0], float(rest[1]))), flush=True)
    else:
        address, rate, patience = rest
        print(json.dumps(Asker(address, float(rate), float(patience)).run()), flush=True)


def _stop(*_: object) -> None:
    global stopped
    stopped = True


def _roomy(sock: socket.socket) -> socket.socket:
    """With buffers that hold what comes while this process waits for a CPU."""
    for option in (_SO_RCVBUFFORCE, _SO_SNDBUFFORCE):
        sock.setsockopt(socket.SOL_SOCKET, option, _BUFFER)
    sock.setblocking(False)
    return sock


class Echo:
    """Both servers of a pod, in every family that it has."""

    def __init__(self) -> None:
        self.selector = selectors.DefaultSelector()
        self.udp = _roomy(socket.socket(socket.AF_INET6, socket.SOCK_DGRAM))
        listener = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        for sock in (self.udp, listener):
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            sock.bind(("::", PORT))
        listener.listen(512)
        listener.setblocking(False)
        self.listener = listener
        self.selector.register(self.udp, selectors.EVENT_READ, self.datagrams)
        self.selector.register(listener, selectors.EVENT_READ, self.accept)

    def run(self) -> None:
        print("ready", flush=True)
        while not stopped:
            for key, _ in self.selector.select(0.2):
                key.data()

    def datagrams(self) -> None:
        with contextlib.suppress(BlockingIOError):
            for _ in range(64):
                message, sender = self.udp.recvfrom(64)
                with contextlib.suppress(OSError):  # then it is lost, and counted by who asked
                    self.udp.sendto(message, sender)

    def accept(self) -> None:
        """All that wait: one for each turn would be fewer than come, when datagrams take the rest of every turn."""
        with contextlib.suppress(OSError):
            while True:
                self.serve(self.listener.accept()[0])

    def serve(self, sock: socket.socket) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.settimeout(30)
        self.selector.register(sock, selectors.EVENT_READ, lambda: self.stream(sock))

    def stream(self, sock: socket.socket) -> None:
        try:
            message = sock.recv(65536)
            if message:
                sock.sendall(message)
                return
        except OSError:
            pass
        self.selector.unregister(sock)
        sock.close()


class Asker:
    """Who sends, and knows what came back. `run` gives the counts."""

    def __init__(self, address: str, rate: float, patience: float) -> None:
        self.peer = (address, PORT)
        self.family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self.rate, self.patience = rate, patience
        self.selector = selectors.DefaultSelector()
        self.udp = _roomy(socket.socket(self.family, socket.SOCK_DGRAM))
        self.udp.connect(self.peer)
        self.selector.register(self.udp, selectors.EVENT_READ, self.echoes)
        self.sent = self.unsent = self.twice = self.refused = 0
        self.waiting: dict[int, float] = {}
        self.slowest = self.gap = 0.0
        self.last = 0.0
        self.messages = self.answered = self.resets = self.disordered = self.retransmitted = 0
        self.stream_gap = self.stream_last = 0.0
        self.heard = b""
        self.opened = self.served = self.failed = 0
        self.slowest_opening = 0.0
        self.asked_again = 0
        self.opening: dict[socket.socket, float] = {}
        self.reasons: dict[str, int] = {}
        self.broken = 0.0
        self.stream = self._first()

    def run(self) -> dict[str, object]:
        start = time.monotonic()
        ticks = openings = 0
        while not stopped:
            now = time.monotonic()
            due = int((now - start) * self.rate) - ticks
            ticks += due
            self.unsent += max(0, due - _BURST)
            for _ in range(min(due, _BURST)):
                self.send(time.monotonic())
            if int((now - start) * CONNECTIONS) > openings:
                openings = int((now - start) * CONNECTIONS)
                self.open(now)
            self.expire(now)
            self.again(now)
            self.hear(max(0.0, start + (ticks + 1) / self.rate - time.monotonic()))
        seconds = time.monotonic() - start
        end = time.monotonic() + self.patience
        while time.monotonic() < end and (self.waiting or self.answered < self.messages):
            self.hear(0.05)
        self.hear(0)  # all that is there: who waited for a CPU did not wait for an echo
        end = time.monotonic() + CONNECT_PATIENCE
        while self.opening and time.monotonic() < end:
            self.hear(0.05)
        self.expire(time.monotonic() + CONNECT_PATIENCE)
        self._count_retransmitted()
        dropped = struct.unpack("9I", self.udp.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, 36))[8]
        return {
            "seconds": round(seconds, 1),
            "datagrams": self.sent,
            "rate": self.rate,
            "lost": len(self.waiting),
            "lost at s": [round(then - start, 1) for then in self.waiting.values()][:: len(self.waiting) // 20 + 1],
            "twice": self.twice,
            "refused": self.refused,
            "unsent": self.unsent,
            "dropped by the probe's own socket": dropped,
            "slowest echo ms": round(self.slowest * 1000, 1),
            "longest gap ms": round(self.gap * 1000, 1),
            "stream messages": self.messages,
            "stream unanswered": self.messages - self.answered,
            "stream disordered": self.disordered,
            "stream longest gap ms": round(self.stream_gap * 1000, 1),
            "stream retransmitted": self.retransmitted,
            "reset": self.resets,
            "connections": self.opened,
            "connections failed": self.failed,
            "slowest connection ms": round(self.slowest_opening * 1000, 1),
            "connections retransmitted": self.asked_again,
            "reasons": self.reasons,
        }

    def send(self, now: float) -> None:
        self.sent += 1
        self.waiting[self.sent] = now
        message = _MESSAGE.pack(self.sent, now)
        for _ in range(3):  # the error of an earlier one is told once, and keeps this one from being sent
            try:
                self.udp.send(message)
                break
            except BlockingIOError:
                del self.waiting[self.sent]
                self.sent -= 1
                self.unsent += 1
                break
            except OSError as error:
                self.refused += 1
                self._reason("datagram", error)
        if self.broken:
            return
        self.messages += 1
        try:
            self.stream.send(_MESSAGE.pack(self.messages, now))
        except BlockingIOError:
            self.messages -= 1  # megabytes are under way: the echoes' gap says why
        except OSError as error:
            self._broken(error)

    def hear(self, seconds: float) -> None:
        for key, _ in self.selector.select(seconds):
            key.data()

    def echoes(self) -> None:
        while True:
            try:
                message = self.udp.recv(64)
            except BlockingIOError:
                return
            except OSError as error:
                self.refused += 1
                self._reason("datagram", error)
                return
            now = time.monotonic()
            number, _ = _MESSAGE.unpack(message)
            then = self.waiting.pop(number, None)
            if then is None:
                self.twice += 1
                continue
            self.slowest = max(self.slowest, now - then)
            if self.last:
                self.gap = max(self.gap, now - self.last)
            self.last = now

    def _first(self) -> socket.socket:
        """The connection that must last. A Service's rules may not be there yet: then it is tried again."""
        end = time.monotonic() + CONNECT_PATIENCE
        while True:
            try:
                return self._connect()
            except ConnectionRefusedError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.1)

    def _connect(self, seconds: float = CONNECT_PATIENCE) -> socket.socket:
        sock = socket.create_connection(self.peer, seconds)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setblocking(False)
        self.selector.register(sock, selectors.EVENT_READ, self.replies)
        self.heard = b""
        return sock

    def replies(self) -> None:
        try:
            message = self.stream.recv(1 << 20)
        except BlockingIOError:
            return
        except OSError as error:
            self._broken(error)
            return
        if not message:
            self._broken(ConnectionResetError("closed by the other end"))
            return
        now = time.monotonic()
        if self.stream_last:
            self.stream_gap = max(self.stream_gap, now - self.stream_last)
        self.stream_last = now
        self.heard += message
        whole = len(self.heard) - len(self.heard) % _MESSAGE.size
        for number, _ in _MESSAGE.iter_unpack(self.heard[:whole]):
            self.answered += 1
            self.disordered += number != self.answered
        self.heard = self.heard[whole:]

    def _broken(self, error: OSError) -> None:
        """A connection that was established has ended: that is what must not happen. Another one goes on."""
        self.resets += 1
        self._reason("stream", error)
        self._count_retransmitted()
        self.selector.unregister(self.stream)
        self.stream.close()
        self.answered = self.messages
        self.broken = time.monotonic()

    def again(self, now: float) -> None:
        """Another connection for the one that broke; the datagrams go on meanwhile."""
        if not self.broken or now - self.broken < 0.1:
            return
        self.broken = now
        try:
            self.stream = self._connect(0.2)
            self.broken = 0.0
        except OSError as error:
            self._reason("stream again", error)

    def _count_retransmitted(self) -> None:
        with contextlib.suppress(OSError):
            self.retransmitted += _retransmitted(self.stream)

    def open(self, now: float) -> None:
        """One more connection."""
        sock = socket.socket(self.family, socket.SOCK_STREAM)
        sock.setblocking(False)
        self.opened += 1
        self.opening[sock] = now
        error = sock.connect_ex(self.peer)
        self.selector.register(sock, selectors.EVENT_WRITE, lambda: self.connected(sock))
        if error not in (0, 115):  # EINPROGRESS
            self._end(sock, OSError(error, os.strerror(error)))

    def connected(self, sock: socket.socket) -> None:
        try:
            if error := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                raise OSError(error, os.strerror(error))
            sock.send(b"hello")
        except OSError as failure:
            self._end(sock, failure)
            return
        self.selector.modify(sock, selectors.EVENT_READ, lambda: self.greeted(sock))

    def greeted(self, sock: socket.socket) -> None:
        try:
            if not sock.recv(64):
                raise ConnectionResetError("closed by the other end")
        except OSError as failure:
            self._end(sock, failure)
            return
        self.served += 1
        self.slowest_opening = max(self.slowest_opening, time.monotonic() - self.opening[sock])
        self.asked_again += _retransmitted(sock)
        self._end(sock, None)

    def expire(self, now: float) -> None:
        """Connections that nothing is heard of."""
        late = [sock for sock, since in self.opening.items() if now - since > CONNECT_PATIENCE]
        for sock in late:
            self._end(sock, TimeoutError("nothing was heard"))

    def _end(self, sock: socket.socket, failure: OSError | None) -> None:
        if failure is not None:
            self.failed += 1
            self._reason("connection", failure)
        del self.opening[sock]
        self.selector.unregister(sock)
        sock.close()

    def _reason(self, what: str, error: OSError) -> None:
        words = f"{what}: {error}"
        self.reasons[words] = self.reasons.get(words, 0) + 1


def knock(address: str, rate: float) -> dict[str, int]:
    """What was tried until SIGTERM, and how often anything came back of it: an echo, a connection, a refusal."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    counts = dict.fromkeys(("datagrams", "connections", "answered"), 0)
    opening: list[tuple[float, socket.socket]] = []
    with _roomy(socket.socket(family, socket.SOCK_DGRAM)) as udp:
        udp.connect((address, PORT))
        while not stopped:
            now = time.monotonic()
            counts["answered"] += _answered(lambda: udp.send(b"knock") and udp.recv(64))
            counts["datagrams"] += 1
            if not opening or now - opening[-1][0] > 1 / CONNECTIONS:
                opening.append((now, _roomy(socket.socket(family, socket.SOCK_STREAM))))
                opening[-1][1].connect_ex((address, PORT))
                counts["connections"] += 1
            while now - opening[0][0] > KNOCKING_PATIENCE:
                counts["answered"] += _opened(opening.pop(0)[1])
            time.sleep(1 / rate)
        counts["answered"] += sum(_opened(sock) for _, sock in opening)
    return counts


def _answered(ask: Callable[[], object]) -> bool:
    try:
        return bool(ask())
    except ConnectionRefusedError:
        return True
    except OSError:  # nothing there to read, or no way to send
        return False


def _opened(sock: socket.socket) -> bool:
    """Whether the other end said yes or no."""
    with sock:
        _, writable, _ = select.select([], [sock], [], 0)
        return bool(writable) and sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) in (0, errno.ECONNREFUSED)


def _retransmitted(sock: socket.socket) -> int:
    """Segments that the kernel sent again on this connection, SYN included. Raises OSError."""
    told = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
    return int(struct.unpack_from("I", told, _TOTAL_RETRANS)[0])


if __name__ == "__main__":
    main(sys.argv[1:])
