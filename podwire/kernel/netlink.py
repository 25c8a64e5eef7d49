"""Netlink codec and socket: messages and attributes in, acknowledgements and dumps out (RFC 3549, linux/netlink.h).

The codec half is pure bytes work. `NetlinkSocket` sends several messages in one system call and checks the
acknowledgement of each; a refusal becomes a `KernelError` that carries errno and the kernel's extended text.
"""

from __future__ import annotations

import errno as errno_names
import os
import socket
import struct
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import NamedTuple, Self

NETLINK_ROUTE = 0
NETLINK_NETFILTER = 12

NLM_F_REQUEST = 0x1
NLM_F_ACK = 0x4
NLM_F_DUMP = 0x300
NLM_F_REPLACE = 0x100
NLM_F_EXCL = 0x200
NLM_F_CREATE = 0x400
NLM_F_APPEND = 0x800

NLMSG_NOOP = 1
NLMSG_ERROR = 2
NLMSG_DONE = 3

_NLM_F_DUMP_INTR = 0x10
_NLM_F_CAPPED = 0x100
_NLM_F_ACK_TLVS = 0x200
_NLMSGERR_ATTR_MSG = 1
_NLMSGERR_ATTR_OFFS = 2
_NLA_TYPE_MASK = 0x3FFF
NLA_F_NESTED = 0x8000

_SOL_NETLINK = 270
_NETLINK_CAP_ACK = 10
_NETLINK_EXT_ACK = 11
_NETLINK_GET_STRICT_CHK = 12
_SO_SNDBUFFORCE = 32
_SO_RCVBUFFORCE = 33

_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_ATTRIBUTE = struct.Struct("=HH")  # length, type
_ATTRIBUTE32 = struct.Struct("=HHI")
_PADDING = (b"", bytes(3), bytes(2), bytes(1))  # by what the length leaves over
_RECEIVE_BYTES = 1 << 17
_ANSWER_BYTES = 1 << 14
"""Room for an acknowledgement, which repeats the refused message where the kernel does not cap it, or one object."""
_MESSAGES_PER_SEND = 128
_DUMP_ATTEMPTS = 10

writes: Counter[str] = Counter()
"""Changes this process sent to the kernel, by kind ("rtnetlink", "nf_tables", "nft"); for metrics and tests."""


class KernelError(Exception):
    """The kernel refused something: what was tried, errno, and the kernel's own words where it gave any."""

    def __init__(self, what: str, errno: int, text: str = "") -> None:
        self.what = what
        self.errno = errno
        self.text = text
        words = f" ({text})" if text else ""
        super().__init__(f"{what}: {os.strerror(errno)} [{errno_names.errorcode.get(errno, errno)}]{words}")


class Message(NamedTuple):
    """One request. `what` names it for error texts; `flags` are those beside REQUEST and ACK."""

    what: str
    type: int
    flags: int
    body: bytes


def attribute(kind: int, payload: bytes) -> bytes:
    """One attribute, padded to four bytes."""
    size = len(payload)
    return _ATTRIBUTE.pack(size + 4, kind) + payload + _PADDING[size & 3]


def nested(kind: int, *attributes: bytes) -> bytes:
    """An attribute that holds attributes, with the NESTED flag set."""
    return attribute(kind | NLA_F_NESTED, b"".join(attributes))


def u8(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack("=B", value))


def be16(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack(">H", value))


def u32(kind: int, value: int) -> bytes:
    return _ATTRIBUTE32.pack(8, kind, value)


def u64(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack("=Q", value))


def text(kind: int, value: str) -> bytes:
    return attribute(kind, value.encode() + b"\0")


def attributes(buffer: bytes, offset: int = 0) -> dict[int, bytes]:
    """Attributes of `buffer` from `offset` on, flags stripped from the types; the last of a repeated type wins."""
    return dict(iterate_attributes(buffer, offset))


def iterate_attributes(buffer: bytes, offset: int = 0) -> Iterator[tuple[int, bytes]]:
    """Every attribute in order; stops at a length that cannot be."""
    end = len(buffer)
    while offset + 4 <= end:
        length, kind = _ATTRIBUTE.unpack_from(buffer, offset)
        if length < 4 or offset + length > end:
            return
        yield kind & _NLA_TYPE_MASK, buffer[offset + 4 : offset + length]
        offset += (length + 3) & ~3


def encode(message: Message, sequence: int, flags: int) -> bytes:
    """Wire form of one message."""
    return _HEADER.pack(len(message.body) + 16, message.type, message.flags | flags, sequence, 0) + message.body


def decode(buffer: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """(type, flags, sequence, body) of each message in a datagram."""
    offset = 0
    while offset + 16 <= len(buffer):
        length, kind, flags, sequence, _ = _HEADER.unpack_from(buffer, offset)
        if length < 16:
            return
        yield kind, flags, sequence, buffer[offset + 16 : offset + length]
        offset += (length + 3) & ~3


def decode_error(flags: int, body: bytes) -> tuple[int, str]:
    """errno (0 = acknowledged) and extended text of an NLMSG_ERROR body."""
    (negative,) = struct.unpack_from("=i", body)
    if not flags & _NLM_F_ACK_TLVS:
        return -negative, ""
    (inner,) = struct.unpack_from("=I", body, 4)
    offset = 20 if flags & _NLM_F_CAPPED else 4 + ((inner + 3) & ~3)
    found = attributes(body, offset)
    words = found.get(_NLMSGERR_ATTR_MSG, b"").rstrip(b"\0").decode(errors="replace")
    if words and negative and _NLMSGERR_ATTR_OFFS in found:
        words += f", attribute at byte {struct.unpack('=I', found[_NLMSGERR_ATTR_OFFS])[0]}"
    return -negative, words


class NetlinkSocket:
    """A netlink socket of the network namespace that the calling thread is in. Not for use by two threads at once."""

    def __init__(self, protocol: int = NETLINK_ROUTE, *, brief: bool = False) -> None:
        """`brief`: for a few messages; spares what only larger exchanges need (buffers, strictly checked dumps)."""
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        self._sequence = 0
        self._socket.setsockopt(_SOL_NETLINK, _NETLINK_EXT_ACK, 1)
        if brief:
            return  # the kernel gives it a port with the first message
        for option in (_NETLINK_CAP_ACK, _NETLINK_GET_STRICT_CHK):
            self._socket.setsockopt(_SOL_NETLINK, option, 1)
        for forced in (_SO_RCVBUFFORCE, _SO_SNDBUFFORCE):
            try:
                self._socket.setsockopt(socket.SOL_SOCKET, forced, 1 << 21)
            except PermissionError:  # needs CAP_NET_ADMIN in the initial user namespace; the default size does
                break
        self._socket.bind((0, 0))

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def join(self, group: int) -> None:
        """Subscribe to a multicast group (RTNLGRP_…)."""
        self._socket.setsockopt(_SOL_NETLINK, 1, group)

    def option(self, level: int, name: int, value: bytes) -> None:
        """setsockopt. Raises OSError."""
        self._socket.setsockopt(level, name, value)

    def receive(self, flags: int = 0) -> list[tuple[int, int, int, bytes]]:
        """The next datagram's messages (for subscribers). Raises OSError ENOBUFS when the kernel dropped some."""
        return list(decode(self._socket.recv(_RECEIVE_BYTES, flags)))

    def try_batch(self, messages: Sequence[Message]) -> list[KernelError | None]:
        """Send all; a refused message does not stop later ones. One entry a message, in order."""
        writes["rtnetlink"] += len(messages)
        results: list[KernelError | None] = []
        for start in range(0, len(messages), _MESSAGES_PER_SEND):
            results += self._exchange(messages[start : start + _MESSAGES_PER_SEND])
        return results

    def batch(self, messages: Sequence[Message]) -> None:
        """Send all; raises the first refusal (later messages have been executed nevertheless)."""
        for error in self.try_batch(messages):
            if error is not None:
                raise error

    def change(self, message: Message) -> None:
        """Send one and check its acknowledgement."""
        self.batch([message])

    def _exchange(self, messages: Sequence[Message]) -> list[KernelError | None]:
        """Messages are done in order and refusals are always told: only the last one asks for its acknowledgement."""
        first = self._sequence + 1
        last = self._sequence = self._sequence + len(messages)
        wire = [encode(m, first + i, NLM_F_REQUEST) for i, m in enumerate(messages[:-1])]
        wire.append(encode(messages[-1], last, NLM_F_REQUEST | NLM_F_ACK))
        self._socket.send(b"".join(wire))
        results: list[KernelError | None] = [None] * len(messages)
        while True:
            for kind, flags, sequence, body in decode(self._socket.recv(_ANSWER_BYTES)):
                if kind != NLMSG_ERROR or not first <= sequence <= last:
                    continue
                code, words = decode_error(flags, body)
                if code:
                    results[sequence - first] = KernelError(messages[sequence - first].what, code, words)
                if sequence == last:
                    return results

    def get(self, message: Message) -> tuple[int, bytes]:
        """Ask for one object; its (type, body)."""
        self._sequence += 1
        self._socket.send(encode(message, self._sequence, NLM_F_REQUEST))
        while True:
            for kind, flags, sequence, body in decode(self._socket.recv(_ANSWER_BYTES)):
                if sequence != self._sequence:
                    continue
                if kind == NLMSG_ERROR:
                    raise KernelError(message.what, *decode_error(flags, body))
                return kind, body

    def dump(self, message: Message) -> list[bytes]:
        """All objects of a kind; repeated while the kernel says that the table changed underneath."""
        for _ in range(_DUMP_ATTEMPTS):
            complete, bodies = self._dump_once(message)
            if complete:
                return bodies
        raise KernelError(message.what, errno_names.EAGAIN, "the table kept changing while it was read")

    def _dump_once(self, message: Message) -> tuple[bool, list[bytes]]:
        self._sequence += 1
        self._socket.send(encode(message, self._sequence, NLM_F_REQUEST | NLM_F_DUMP))
        bodies: list[bytes] = []
        complete = True
        while True:
            for kind, flags, sequence, body in decode(self._socket.recv(_RECEIVE_BYTES)):
                if sequence != self._sequence:
                    continue
                complete &= not flags & _NLM_F_DUMP_INTR
                if kind == NLMSG_ERROR:
                    raise KernelError(message.what, *decode_error(flags, body))
                if kind == NLMSG_DONE:
                    (negative,) = struct.unpack_from("=i", body) if len(body) >= 4 else (0,)
                    if negative < 0:
                        raise KernelError(message.what, -negative)
                    return complete, bodies
                bodies.append(body)


def joined(parts: Iterable[bytes]) -> bytes:
    """Attributes after each other."""
    return b"".join(parts)
