"""Connection tracking by netlink: find and delete UDP entries that a change of NAT has made wrong.

UDP has no end: an entry made before a port led to a pod (or while it led to another one) would send a busy client's
packets astray for as long as it keeps talking. Source: linux/netfilter/nfnetlink_conntrack.h.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from podwire.kernel.netlink import (
    NETLINK_NETFILTER,
    KernelError,
    Message,
    NetlinkSocket,
    attribute,
    attributes,
    be16,
    nested,
    u8,
    u32,
    writes,
)

_SUBSYSTEM = 1
_GET, _DELETE = _SUBSYSTEM << 8 | 1, _SUBSYSTEM << 8 | 2
_TUPLE_ORIG, _TUPLE_REPLY, _ID, _ZONE, _FILTER = 1, 2, 12, 18, 25
_TUPLE_IP, _TUPLE_PROTO = 1, 2
_IP = {1: socket.AF_INET, 2: socket.AF_INET, 3: socket.AF_INET6, 4: socket.AF_INET6}
_SOURCES, _TARGETS = (1, 3), (2, 4)
_PROTO_NUM, _PROTO_SRC_PORT, _PROTO_DST_PORT = 1, 2, 3
_FILTER_ORIG_FLAGS = 1
_BY_PROTO, _BY_TARGET_PORT = 1 << 3, 1 << 5
_NFGENMSG = struct.Struct(">BBH")


@dataclass(frozen=True, slots=True)
class Flow:
    """One entry: where its first packet was sent to, and who answers it. `handle` names it to the kernel."""

    target: str
    port: int
    answerer: str
    handle: bytes


class ConntrackSocket(NetlinkSocket):
    """Connection tracking of the calling thread's namespace."""

    def __init__(self) -> None:
        super().__init__(NETLINK_NETFILTER)

    def udp_flows(self, family: int, ports: Collection[int]) -> list[Flow]:
        """Entries of UDP whose first packet was sent to one of `ports`. Raises KernelError."""
        head = _NFGENMSG.pack(family, 0, 0)
        what, udp = "list connections", u8(_PROTO_NUM, socket.IPPROTO_UDP)
        one = be16(_PROTO_DST_PORT, next(iter(ports))) if len(ports) == 1 else b""
        flags = _BY_PROTO | _BY_TARGET_PORT if one else _BY_PROTO
        narrow = nested(_TUPLE_ORIG, nested(_TUPLE_PROTO, udp, one)) + nested(_FILTER, u32(_FILTER_ORIG_FLAGS, flags))
        try:
            bodies = self.dump(Message(what, _GET, 0, head + narrow))
        except KernelError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                raise
            bodies = self.dump(Message(what, _GET, 0, head))  # before Linux 5.8 there is no filter
        return [flow for body in bodies for flow in _decode(family, body) if flow.port in ports]

    def forget(self, flows: Iterable[Flow]) -> int:
        """Delete entries; those that are gone are fine. How many were deleted. Raises KernelError."""
        messages = [Message(f"forget connection to {f.target}:{f.port}", _DELETE, 0, f.handle) for f in flows]
        if not messages:
            return 0
        writes["conntrack"] += len(messages)
        before = writes["rtnetlink"]
        results = self.try_batch(messages)
        writes["rtnetlink"] = before  # counted above, under its own name
        for error in results:
            if error is not None and error.errno != errno.ENOENT:
                raise error
        return sum(error is None for error in results)


def _decode(family: int, body: bytes) -> Iterator[Flow]:
    found = attributes(body, _NFGENMSG.size)
    if _TUPLE_ORIG not in found or _TUPLE_REPLY not in found:
        return
    protocol, _, target, port = _tuple(found[_TUPLE_ORIG])
    _, answerer, _, _ = _tuple(found[_TUPLE_REPLY])
    if protocol != socket.IPPROTO_UDP:
        return
    # the tuple must be there: a deletion without one would flush the whole table
    handle = _NFGENMSG.pack(family, 0, 0) + attribute(_TUPLE_ORIG | 0x8000, found[_TUPLE_ORIG])
    for kind in (_ID, _ZONE):
        if kind in found:
            handle += attribute(kind, found[kind])
    yield Flow(target, port, answerer, handle)


def _tuple(raw: bytes) -> tuple[int, str, str, int]:
    """(protocol, source, destination, destination port)."""
    parts = attributes(raw)
    ends = attributes(parts.get(_TUPLE_IP, b""))
    ports = attributes(parts.get(_TUPLE_PROTO, b""))

    def end(kinds: tuple[int, int]) -> str:
        return next((socket.inet_ntop(_IP[kind], ends[kind]) for kind in kinds if kind in ends), "")

    port = struct.unpack(">H", ports[_PROTO_DST_PORT])[0] if _PROTO_DST_PORT in ports else 0
    return ports.get(_PROTO_NUM, b"\0")[0], end(_SOURCES), end(_TARGETS), port
