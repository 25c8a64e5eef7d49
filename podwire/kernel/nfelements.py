"""Set and map elements of nf_tables by netlink: add, delete and read without starting a process.

A change is one transaction: all its elements or none, over several sets too. Keys and data are raw bytes;
`interface_key` and others in this file make them (concatenated parts are each padded to four bytes, addresses are in
network order). Source: linux/netfilter/nf_tables.h.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import NamedTuple

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
_ELEM_KEY, _ELEM_DATA, _ELEM_FLAGS, _ELEM_EXPR, _ELEM_KEY_END, _ELEM_EXPRESSIONS = 1, 2, 3, 7, 10, 11
_DATA_VALUE, _DATA_VERDICT = 1, 2
_VERDICT_CODE, _VERDICT_CHAIN = 1, 2
_INTERVAL_END = 1
_EXPR_DATA, _COUNTER_BYTES, _COUNTER_PACKETS = 2, 1, 2
_CODES = {"drop": 0, "accept": 1, "jump": -3, "goto": -4, "return": -5}
_WORDS = {code: word for word, code in _CODES.items()}
NFGENMSG = struct.Struct(">BBH")
FAMILIES = {"inet": 1, "ip": 2, "ip6": 10, "arp": 3, "bridge": 7, "netdev": 5}
_NAME_BYTES = 16
_PER_MESSAGE = 500


class SetName(NamedTuple):
    """Which set: ("inet", "podwire", "endpoints")."""

    family: str
    table: str
    name: str


class Element(NamedTuple):
    """`data` is a map's value; a set's element has none. `end` is the last key of a range, in sets of intervals over
    concatenated keys (where it has the key's length, too). `verdict` is what a verdict map has instead of data:
    "return", "drop", "goto CHAIN". In sets of intervals over one key a range is two elements, its first key and, as
    `closing`, the one after its last (none, where there is no such key)."""

    key: bytes
    data: bytes = b""
    end: bytes = b""
    verdict: str = ""
    closing: bool = False


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
        self.update(puts={target: [Element(key) for key in keys]})

    def delete(self, target: SetName, keys: Iterable[bytes]) -> None:
        """Delete elements. Raises KernelError ENOENT when one of them (or the set) is missing; then none is deleted."""
        self.update(drops={target: [Element(key) for key in keys]})

    def read(self, target: SetName) -> set[bytes]:
        """Keys in the set. Raises KernelError ENOENT when there is no such set."""
        return {element.key for element in self.elements(target)}

    def elements(self, target: SetName) -> set[Element]:
        """The set's or map's elements. Raises KernelError ENOENT when there is no such set."""
        bodies = self.dump(Message(f"read set {target.name}", _GETSETELEM, 0, _head(target)))
        return {element for body in bodies for element in _decode_elements(body)}

    def counters(self, target: SetName) -> dict[bytes, tuple[int, int]]:
        """(packets, bytes) that each element has counted, by key and end of range joined. Raises KernelError ENOENT."""
        bodies = self.dump(Message(f"count set {target.name}", _GETSETELEM, 0, _head(target)))
        return {key: count for body in bodies for key, count in _decode_counters(body)}

    def flush(self, targets: Iterable[SetName]) -> None:
        """Delete all elements of these sets, in one transaction. Raises KernelError ENOENT when one is missing."""
        if requests := [Message(f"flush set {target.name}", _DELSETELEM, 0, _head(target)) for target in targets]:
            self._transact(requests)

    def update(
        self,
        *,
        drops: Mapping[SetName, Iterable[Element]] | None = None,
        puts: Mapping[SetName, Iterable[Element]] | None = None,
    ) -> None:
        """Delete, then add, in one transaction.

        Raises KernelError: ENOENT when an element to delete (or a set) is missing, EBUSY or EEXIST when an element to
        add stands there with other data, or overlaps one (one that is there as wanted is fine), EMSGSIZE when there is
        more of it than one transaction can be. Then nothing has changed.
        """
        requests = [
            *_requests("delete from", _DELSETELEM, 0, drops or {}),
            *_requests("add to", _NEWSETELEM, NLM_F_CREATE, puts or {}),
        ]
        if requests:
            self._transact(requests)

    def _transact(self, requests: list[Message]) -> None:
        writes["nf_tables"] += 1
        begin = self._sequence + 1
        end = begin + len(requests) + 1
        self._sequence = end
        frame = NFGENMSG.pack(0, 0, _SUBSYSTEM)
        wire = [encode(Message("begin", _BATCH_BEGIN, 0, frame), begin, NLM_F_REQUEST)]
        for number, request in enumerate(requests[:-1], begin + 1):
            wire.append(encode(request, number, NLM_F_REQUEST))
        wire.append(encode(requests[-1], end - 1, NLM_F_REQUEST | NLM_F_ACK))
        wire.append(encode(Message("end", _BATCH_END, 0, frame), end, NLM_F_REQUEST))
        try:
            self._socket.send(b"".join(wire))
        except OSError as error:  # EMSGSIZE: more than the socket's buffer takes at once
            raise KernelError(requests[0].what, error.errno or 0, f"{len(wire)} messages at once") from error
        self._settle([request.what for request in requests], begin, end)

    def _settle(self, what: list[str], begin: int, end: int) -> None:
        """Wait for the last request's acknowledgement; raises the first refusal. (Refusals are told without being asked
        for, all requests are tried, and what is told of them comes in their order once the last was.)"""
        refusal: KernelError | None = None
        settled = False
        while not settled:
            for reply, flags, sequence, answer in decode(self._socket.recv(1 << 16)):
                if reply != NLMSG_ERROR or not begin <= sequence <= end:
                    continue
                code, words = decode_error(flags, answer)
                if code:
                    step = what[min(max(sequence - begin - 1, 0), len(what) - 1)]
                    refusal = refusal or KernelError(step, code, words)
                # begin, end: the batch as a whole was refused, and nothing else will be answered
                settled |= sequence in (begin, end - 1, end)
        if refusal is not None:
            raise refusal


def _requests(what: str, kind: int, flags: int, elements: Mapping[SetName, Iterable[Element]]) -> Iterable[Message]:
    for target, members in elements.items():
        encoded = [_encode_element(member) for member in members]
        # an attribute's length has 16 bits: many elements take several messages, in one transaction still
        for start in range(0, len(encoded), _PER_MESSAGE):
            part = encoded[start : start + _PER_MESSAGE]
            body = _head(target) + nested(_LIST_ELEMENTS, *part)
            yield Message(f"{what} set {target.name}", kind, flags, body)


@lru_cache(1024)
def _head(target: SetName) -> bytes:
    names = text(_LIST_TABLE, target.table) + text(_LIST_SET, target.name)
    return NFGENMSG.pack(FAMILIES[target.family], 0, 0) + names


def _encode_element(element: Element) -> bytes:
    parts = [nested(_ELEM_KEY, attribute(_DATA_VALUE, element.key))]
    if element.closing:
        parts.append(attribute(_ELEM_FLAGS, struct.pack(">I", _INTERVAL_END)))
    if element.data:
        parts.append(nested(_ELEM_DATA, attribute(_DATA_VALUE, element.data)))
    if element.verdict:
        parts.append(nested(_ELEM_DATA, _encode_verdict(element.verdict)))
    if element.end:
        parts.append(nested(_ELEM_KEY_END, attribute(_DATA_VALUE, element.end)))
    return nested(_LIST_ELEM, *parts)


@lru_cache(4096)
def _encode_verdict(words: str) -> bytes:
    word, _, chain = words.partition(" ")
    parts = [attribute(_VERDICT_CODE, struct.pack(">i", _CODES[word]))]
    if chain:
        parts.append(text(_VERDICT_CHAIN, chain))
    return nested(_DATA_VERDICT, *parts)


def _decode_verdict(raw: bytes) -> str:
    found = attributes(raw)
    (code,) = struct.unpack(">i", found.get(_VERDICT_CODE, bytes(4)))
    chain = found.get(_VERDICT_CHAIN, b"").rstrip(b"\0").decode(errors="replace")
    return f"{_WORDS.get(code, code)} {chain}".rstrip()


def _each(body: bytes) -> Iterator[dict[int, bytes]]:
    elements = attributes(body, NFGENMSG.size).get(_LIST_ELEMENTS, b"")
    for _, raw in iterate_attributes(elements):
        found = attributes(raw)
        if _ELEM_KEY in found:
            yield found


def _decode_elements(body: bytes) -> Iterator[Element]:
    for found in _each(body):
        data = attributes(found.get(_ELEM_DATA, b""))
        flags = int.from_bytes(found.get(_ELEM_FLAGS, b""))
        yield Element(
            _value(found, _ELEM_KEY),
            data.get(_DATA_VALUE, b""),
            _value(found, _ELEM_KEY_END),
            _decode_verdict(data[_DATA_VERDICT]) if _DATA_VERDICT in data else "",
            bool(flags & _INTERVAL_END),
        )


def _decode_counters(body: bytes) -> Iterator[tuple[bytes, tuple[int, int]]]:
    for found in _each(body):
        expressions = found.get(_ELEM_EXPRESSIONS)
        raw = attributes(expressions).get(_LIST_ELEM, b"") if expressions else found.get(_ELEM_EXPR, b"")
        counter = attributes(attributes(raw).get(_EXPR_DATA, b""))
        if _COUNTER_PACKETS in counter:
            packets, size = (int.from_bytes(counter.get(kind, b"")) for kind in (_COUNTER_PACKETS, _COUNTER_BYTES))
            yield _value(found, _ELEM_KEY) + _value(found, _ELEM_KEY_END), (packets, size)


def _value(found: Mapping[int, bytes], kind: int) -> bytes:
    return attributes(found.get(kind, b"")).get(_DATA_VALUE, b"")
