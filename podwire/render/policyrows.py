"""Elements of the maps of `render.nft_policy`: what a class, a row of a verdict table and a pod are in them.

Keys are those of the kernel's registers: parts of four bytes each. Classes and codes are numbers of the machine, but in
ranges, which the kernel compares byte by byte.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Iterator
from typing import NamedTuple

from podwire.calc.verdicts import EVERY, WHOLE, Match, Range
from podwire.model.policy import ICMP, ICMPV6, PORTED
from podwire.render.nft_policy import Slot, slot_of

Value = bytes | str
"""Data, or a verdict in words ("goto out3_c")."""


class Place(NamedTuple):
    """Where an element is in its map: its key; the last key of a range, or whether it is what follows after one."""

    key: bytes
    end: bytes = b""
    closing: bool = False


class Cell(NamedTuple):
    """An element: map, place, value (b"" in sets, and at the end of a range)."""

    map: str
    place: Place
    value: Value


_NUMBER = struct.Struct("=I")
_RANKED = struct.Struct(">I")
_PROTOCOL = struct.Struct("=Bxxx")
_PORT = struct.Struct(">Hxx")
_FAMILIES = (b"\x08\x00", b"\x86\xdd")
"""`meta protocol` of IPv4 and IPv6."""
_NAME_BYTES = 16


def number(value: int) -> bytes:
    """A class or a code as data."""
    return _NUMBER.pack(value)


def address(text: str, peer: int) -> Cell:
    packed = ipaddress.ip_address(text).packed
    return Cell("pod4" if len(packed) == 4 else "pod6", Place(packed), number(peer))


def address_place(text: str) -> tuple[str, Place]:
    packed = ipaddress.ip_address(text).packed
    return "pod4" if len(packed) == 4 else "pod6", Place(packed)


def range_cells(over: Range, peer: int) -> Iterator[Cell]:
    """Its start, and what follows after it."""
    size = over.width // 8
    target = "net4" if size == 4 else "net6"
    yield Cell(target, Place(over.first.to_bytes(size)), number(peer))
    if over.last + 1 < 1 << over.width:
        yield Cell(target, Place((over.last + 1).to_bytes(size), b"", closing=True), b"")


def kind(match: Match) -> str:
    """Which of a stage's maps a row is in. Raises ValueError for one that cannot be asked for."""
    if match.protocol == EVERY:
        return "every"
    if (match.first, match.last) == WHOLE:
        return "protocol"
    several = "s" if match.first != match.last else ""
    if match.protocol in PORTED:
        return f"port{several}"
    if match.protocol in (ICMP, ICMPV6):
        return f"icmp{several}"
    raise ValueError(f"protocol {match.protocol} has no ports: {match}")


def row_cells(slot: Slot, stage: int, match: Match, peer: int, value: bytes) -> Iterator[Cell]:
    """`peer` is the class as the kernel knows it; a stage without classes has none. Raises ValueError."""
    what = kind(match)
    target = slot.map(stage, what)
    classed = slot.stages[stage] == "c"
    if what == "every":
        for key in (_NUMBER.pack(peer),) if classed else _FAMILIES:
            yield Cell(target, Place(key), value)
        return
    if what == "protocol" and not classed:
        yield Cell(target, Place(bytes([match.protocol])), value)
        return
    several = what in ("ports", "icmps")
    head = ((_RANKED if several else _NUMBER).pack(peer) if classed else b"") + _PROTOCOL.pack(match.protocol)
    if what == "protocol":
        yield Cell(target, Place(head), value)
    elif several:
        yield Cell(target, Place(head + _PORT.pack(match.first), head + _PORT.pack(match.last)), value)
    else:
        yield Cell(target, Place(head + _PORT.pack(match.first)), value)


def end_cells(slot: Slot, value: bytes) -> Iterator[Cell]:
    """What no stage decides."""
    for key in _FAMILIES:
        yield Cell(f"{slot.name}_end", Place(key), value)


def source_cells(slot: Slot, first: int, last: int, other: Slot) -> Iterator[Cell]:
    """Source ports that another slot judges."""
    for protocol in sorted(PORTED):
        head = _PROTOCOL.pack(protocol)
        place = Place(head + _PORT.pack(first), head + _PORT.pack(last))
        yield Cell(f"{slot.name}_source", place, f"goto {other.name}")


def interface_place(name: str) -> Place:
    return Place(name.encode().ljust(_NAME_BYTES, b"\0"))


def interface_of(place: Place) -> str:
    return place.key.rstrip(b"\0").decode(errors="replace")


def log_cell(number_of: int, chain: str) -> Cell:
    return Cell("logs", Place(_NUMBER.pack(number_of)), f"jump {chain}")


def number_of(data: bytes) -> int:
    """The class or code that data is."""
    return int(_NUMBER.unpack(data)[0])


def address_of(place: Place) -> str:
    """The address that a place in a map by addresses is for."""
    return str(ipaddress.ip_address(place.key))


def peer_of(target: str, place: Place) -> int | None:
    """The class in a place of a slot's map; None in maps that have none."""
    name, _, rest = target.partition("_")
    shape, _, rest = rest.partition("_")
    stage, _, what = rest.partition("_")
    slot = slot_of(f"{name}_{shape}")
    if slot is None or not stage.isdigit() or slot.stages[int(stage)] != "c":
        return None
    return int((_RANKED if what in ("ports", "icmps") else _NUMBER).unpack_from(place.key)[0])
