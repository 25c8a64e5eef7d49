"""Set elements of nf_tables by netlink: add, delete and read without starting a process (linux/netfilter/nf_tables.h).

A change is one transaction: all its elements or none. Keys are raw bytes; `interface_key` and others in this file
make them (concatenated parts are each padded to four bytes, addresses are in network order).
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterable
from dataclasses import dataclass

from podwire.kernel.netlink import (
    NETLINK_NETFILTER,
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_REQUEST,
    NLMSG_ERROR,
    KernelError,
    Message,
    NetlinkSocket,
    attribute,
    attributes,
    decode,
    decode_error,
    encode,
    iterate_attributes,
    nested,
    text,
    writes,
)
from podwire.kernel.routes import pack_address

_BATCH_BEGIN, _BATCH_END = 16, 17
_SUBSYSTEM = 10
_NEWSETELEM, _GETSETELEM, _DELSETELEM = (_SUBSYSTEM << 8 | number for number in (12, 13, 14))
_LIST_TABLE, _LIST_SET, _LIST_ELEMENTS, _LIST_ELEM = 1, 2, 3, 1
_ELEM_KEY, _DATA_VALUE = 1, 1
_NFGENMSG = struct.Struct(">BBH")
_FAMILIES = {"inet": 1, "ip": 2, "ip6": 10, "arp": 3, "bridge": 7, "netdev": 5}
_NAME_BYTES = 16
_PER_MESSAGE = 1000


@dataclass(frozen=True, slots=True)
class SetName:
    """Which set: ("inet", "podwire", "endpoints")."""

    family: str
    table: str
    name: str


def interface_key(name: str) -> bytes:
    """Key part of type ifname. Raises KernelError EINVAL."""
    raw = name.encode()
    if not 0 < len(raw) < _NAME_BYTES:
        raise KernelError(f"not an interface name: {name!r}", errno.EINVAL)
    return raw.ljust(_NAME_BYTES, b"\0")


def address_key(address: str) -> bytes:
    """Key part of type ipv4_addr or ipv6_addr."""
    return pack_address(address)[1]


class ElementSocket(NetlinkSocket):
    """nf_tables of the calling thread's namespace, as far as set elements go."""

    def __init__(self) -> None:
        super().__init__(NETLINK_NETFILTER)

    def add(self, target: SetName, keys: Iterable[bytes]) -> None:
        """Add elements; those that exist already are fine. Raises KernelError."""
        self._commit(f"add to set {target.name}", _NEWSETELEM, NLM_F_CREATE, target, keys)

    def delete(self, target: SetName, keys: Iterable[bytes]) -> None:
        """Delete elements. Raises KernelError ENOENT when one of them (or the set) is missing; then none is deleted."""
        self._commit(f"delete from set {target.name}", _DELSETELEM, 0, target, keys)

    def read(self, target: SetName) -> set[bytes]:
        """Keys in the set. Raises KernelError ENOENT when there is no such set."""
        body = _head(target)
        bodies = self.dump(Message(f"read set {target.name}", _GETSETELEM, 0, body))
        return {key for one in bodies for key in _decode_keys(one)}

    def _commit(self, what: str, kind: int, flags: int, target: SetName, keys: Iterable[bytes]) -> None:
        elements = [nested(_LIST_ELEM, nested(_ELEM_KEY, attribute(_DATA_VALUE, key))) for key in keys]
        if not elements:
            return
        writes["nf_tables"] += 1
        # an attribute's length has 16 bits: many elements take several messages, in one transaction still
        parts = [elements[start : start + _PER_MESSAGE] for start in range(0, len(elements), _PER_MESSAGE)]
        bodies = [_head(target) + nested(_LIST_ELEMENTS, *part) for part in parts]
        begin = self._sequence + 1
        end = begin + len(bodies) + 1
        self._sequence = end
        frame = _NFGENMSG.pack(0, 0, _SUBSYSTEM)
        wire = [encode(Message("begin", _BATCH_BEGIN, 0, frame), begin, NLM_F_REQUEST)]
        for number, body in enumerate(bodies, begin + 1):
            wire.append(encode(Message(what, kind, flags, body), number, NLM_F_REQUEST | NLM_F_ACK))
        wire.append(encode(Message("end", _BATCH_END, 0, frame), end, NLM_F_REQUEST))
        self._socket.send(b"".join(wire))
        self._settle(what, begin, end)

    def _settle(self, what: str, begin: int, end: int) -> None:
        """Wait for every acknowledgement between; raises the first refusal once all are in."""
        pending = set(range(begin + 1, end))
        refusal: KernelError | None = None
        while pending:
            for reply, flags, sequence, answer in decode(self._socket.recv(1 << 16)):
                if reply != NLMSG_ERROR or not begin <= sequence <= end:
                    continue
                code, words = decode_error(flags, answer)
                if code:
                    refusal = refusal or KernelError(what, code, words)
                if sequence in (begin, end):  # the batch as a whole was refused: nothing else will be answered
                    pending.clear()
                pending.discard(sequence)
        if refusal is not None:
            raise refusal


def _head(target: SetName) -> bytes:
    names = text(_LIST_TABLE, target.table) + text(_LIST_SET, target.name)
    return _NFGENMSG.pack(_FAMILIES[target.family], 0, 0) + names


def _decode_keys(body: bytes) -> Iterable[bytes]:
    elements = attributes(body, _NFGENMSG.size).get(_LIST_ELEMENTS, b"")
    for _, element in iterate_attributes(elements):
        key = attributes(element).get(_ELEM_KEY)
        if key is not None:
            yield attributes(key)[_DATA_VALUE]
