"""Packets that rules log to a group, by netlink: what the statement `log group N` sends.

Source: linux/netfilter/nfnetlink_log.h.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from podwire.kernel.netlink import (
    NETLINK_NETFILTER,
    Message,
    NetlinkSocket,
    attribute,
    attributes,
)

_SUBSYSTEM = 4
_PACKET, _CONFIG = _SUBSYSTEM << 8, _SUBSYSTEM << 8 | 1
_CFG_CMD, _CFG_MODE = 1, 2
_BIND, _COPY_PACKET = 1, 2
_PAYLOAD, _PREFIX = 9, 10
_NFGENMSG = struct.Struct(">BBH")


@dataclass(frozen=True, slots=True)
class Logged:
    """One packet: the statement's prefix, and the packet's beginning, from its IP header on."""

    prefix: str
    payload: bytes


class LogSocket(NetlinkSocket):
    """Everything that is logged to `group` in the calling thread's namespace, `size` bytes of each packet. One socket
    alone can have a group. Raises KernelError EBUSY when somebody else has it."""

    def __init__(self, group: int, size: int = 128) -> None:
        super().__init__(NETLINK_NETFILTER)
        head = _NFGENMSG.pack(0, 0, group)
        mode = struct.pack(">IBB", size, _COPY_PACKET, 0)
        bodies = attribute(_CFG_CMD, struct.pack("B", _BIND)), attribute(_CFG_MODE, mode)
        # nothing of the node is changed by that: it does not count as a write
        for error in self._exchange(
            [Message(f"listen to log group {group}", _CONFIG, 0, head + body) for body in bodies]
        ):
            if error is not None:
                raise error

    def packets(self) -> Iterator[Logged]:
        """Those of the next datagram; waits for it. Raises OSError ENOBUFS when the kernel dropped some."""
        for kind, _, _, body in self.receive():
            if kind != _PACKET:
                continue
            found = attributes(body, _NFGENMSG.size)
            prefix = found.get(_PREFIX, b"").rstrip(b"\0").decode(errors="replace")
            yield Logged(prefix, found.get(_PAYLOAD, b""))
