"""Elements of nftables sets and maps as rows: what the kernel takes by netlink, and the same as nft's language has it.

Parts of a concatenated key are each padded to four bytes, addresses and ports are in network order.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132}
_NAME_BYTES = 16


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a key or of data: its bytes and its text."""

    raw: bytes
    text: str


@dataclass(frozen=True, slots=True)
class Row:
    """One element of the set or map `set`; a set's has no `data`. `end` is the last key of a range."""

    set: str
    key: bytes
    data: bytes
    text: str
    end: bytes = b""


@lru_cache(512)  # in several rows of each attachment, as is its interface
def address(text: str) -> Part:
    return Part(ipaddress.ip_address(text).packed, text)


def protocol(name: str) -> Part:
    return Part(struct.pack("=Bxxx", PROTOCOLS[name]), name)


def port(number: int) -> Part:
    return Part(struct.pack(">Hxx", number), str(number))


@lru_cache(512)
def interface(name: str) -> Part:
    return Part(name.encode().ljust(_NAME_BYTES, b"\0"), f'"{name}"')


def row(target: str, *key: Part, data: Iterable[Part] = ()) -> Row:
    values = tuple(data)
    text = " . ".join(part.text for part in key)
    if values:
        text += " : " + " . ".join(part.text for part in values)
    return Row(target, _joined(key), _joined(values), text)


def _joined(parts: Iterable[Part]) -> bytes:
    return b"".join(part.raw for part in parts)


def declaration(kind: str, name: str, type_text: str, rows: Iterable[Row]) -> str:
    """A set or map as it stands in a table, filled."""
    lines = [f"\t{kind} {name} {{", f"\t\ttype {type_text}"]
    members = ", ".join(sorted(row.text for row in rows if row.set == name))
    lines += [f"\t\telements = {{ {members} }}"] if members else []
    return "\n".join([*lines, "\t}"]) + "\n"
