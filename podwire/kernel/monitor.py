"""Notices of what is taken away: links, routes, addresses, nft tables. All else is dropped by the kernel, unread.

A process that makes a hundred links a second must not wake a thread for each of them: a classic BPF filter on the
socket lets only deletions through. Source: linux/rtnetlink.h, linux/netfilter/nfnetlink.h, linux/filter.h.
"""

from __future__ import annotations

import ctypes
import errno
import select
import socket
import struct
from collections.abc import Sequence

from podwire.kernel.links import RTM_DELLINK
from podwire.kernel.netlink import NETLINK_NETFILTER, NETLINK_ROUTE, NetlinkSocket
from podwire.kernel.routes import RTM_DELADDR, RTM_DELROUTE

# NFNL_SUBSYS_NFTABLES; NFT_MSG_DELTABLE, …CHAIN, …RULE, …SET. A transaction's notices come in one datagram, and the
# filter sees the first of them only: a table goes after what is in it.
_NFT_DELETIONS = tuple(10 << 8 | number for number in (2, 5, 8, 11))
_GROUPS = {NETLINK_ROUTE: (1, 5, 7, 9, 11), NETLINK_NETFILTER: (7,)}  # RTNLGRP_LINK, …_IFADDR, …_ROUTE; NFTABLES
_TYPES = {NETLINK_ROUTE: (RTM_DELLINK, RTM_DELROUTE, RTM_DELADDR), NETLINK_NETFILTER: _NFT_DELETIONS}

_SO_ATTACH_FILTER = 26
_LOAD_HALF, _JUMP_EQUAL, _RETURN = 0x28, 0x15, 0x06  # BPF_LD|H|ABS, BPF_JMP|JEQ|K, BPF_RET|K
_INSTRUCTION = struct.Struct("=HBBI")
_TYPE_OFFSET = 4  # of nlmsg_type in the header


def program(types: Sequence[int]) -> bytes:
    """The filter: pass messages of these types, drop the others. (BPF loads in network order, netlink is in the
    host's.)"""
    code = [_INSTRUCTION.pack(_LOAD_HALF, 0, 0, _TYPE_OFFSET)]
    for position, kind in enumerate(types):
        code.append(_INSTRUCTION.pack(_JUMP_EQUAL, len(types) - position, 0, socket.ntohs(kind)))
    code.append(_INSTRUCTION.pack(_RETURN, 0, 0, 0))
    code.append(_INSTRUCTION.pack(_RETURN, 0, 0, 0xFFFFFFFF))
    return b"".join(code)


class Monitor:
    """Sockets of the calling thread's network namespace."""

    def __init__(self) -> None:
        self._sockets = []
        for protocol, groups in _GROUPS.items():
            listening = NetlinkSocket(protocol)
            code = ctypes.create_string_buffer(program(_TYPES[protocol]))
            head = struct.pack("@HP", len(code.raw) // _INSTRUCTION.size, ctypes.addressof(code))
            listening.option(socket.SOL_SOCKET, _SO_ATTACH_FILTER, head)
            for group in groups:
                listening.join(group)
            self._sockets.append(listening)

    def wait(self, seconds: float, stop: int) -> list[tuple[int, bytes]]:
        """(type, body) of what was deleted; at the latest after so many seconds (then none), or when the descriptor
        `stop` is readable. A lost notice is reported as type 0."""
        ready, _, _ = select.select([*(listening.fileno() for listening in self._sockets), stop], [], [], seconds)
        found: list[tuple[int, bytes]] = []
        for listening in self._sockets:
            if listening.fileno() not in ready:
                continue
            found += _all(listening)
        return found

    def close(self) -> None:
        for listening in self._sockets:
            listening.close()


def _all(listening: NetlinkSocket) -> list[tuple[int, bytes]]:
    """What waits on the socket, which has been found readable."""
    found: list[tuple[int, bytes]] = []
    while True:
        try:
            found += [(kind, body) for kind, _, _, body in listening.receive(socket.MSG_DONTWAIT)]
        except BlockingIOError:
            return found
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
            found.append((0, b""))
