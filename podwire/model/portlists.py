"""What policies of several kinds say in the same words: ports, protocols, prefixes."""

from __future__ import annotations

import re
from collections.abc import Iterable

from podwire.model.address import AddressError, Cidr
from podwire.model.policy import NamedPort, PortRange
from podwire.model.written import PolicyError

Port = PortRange | NamedPort
LAST = 65_535
_SERVICE = re.compile(r"(?=.*[a-z])[a-z0-9](?!.*--)([-a-z0-9]{0,13}[a-z0-9])?")


def port_range(first: int, last: int, path: str) -> PortRange:
    """Raises PolicyError for numbers that are no ports, and for ends in the wrong order."""
    for number in (first, last):
        if not 1 <= number <= LAST:
            raise PolicyError(path, f"{number} is no port: they go from 1 to {LAST}")
    if first > last:
        raise PolicyError(path, f"the range ends ({last}) before it begins ({first})")
    return PortRange(first, last)


def named_port(name: str, path: str) -> NamedPort:
    """A port's name as containers have them (IANA service name). Raises PolicyError."""
    if not _SERVICE.fullmatch(name):
        raise PolicyError(
            path, f"{name[:80]!r} is no port's name: up to 15 small letters, digits and single hyphens between them"
        )
    return NamedPort(name)


def tidied(ports: Iterable[Port]) -> tuple[Port, ...]:
    """The same ports, ranges in order and merged, names after them."""
    ranges: list[PortRange] = []
    names: dict[NamedPort, None] = {}
    for port in ports:
        if isinstance(port, NamedPort):
            names[port] = None
        else:
            ranges.append(port)
    merged: list[PortRange] = []
    for each in sorted(ranges):
        if merged and each.first <= merged[-1].last + 1:
            merged[-1] = PortRange(merged[-1].first, max(merged[-1].last, each.last))
        else:
            merged.append(each)
    return (*merged, *sorted(names, key=lambda named: named.name))


def prefix(text: str, path: str, *, host_bits: bool = True, bare: bool = False) -> Cidr:
    """A CIDR; a bare address only if it may be one. Raises PolicyError."""
    if "/" not in text and not bare:
        raise PolicyError(path, f"{text[:80]!r} is not a CIDR: it has no length (an address alone is /32 or /128)")
    try:
        return mapped(Cidr.parse(text[:80], host_bits=host_bits))
    except AddressError as error:
        words = str(error) if "CIDR" in str(error) else f"{text[:80]!r} is not a CIDR: {error}"
        raise PolicyError(path, words) from None


def mapped(cidr: Cidr) -> Cidr:
    """IPv4 addresses written as IPv6 (::ffff:10.0.0.0/104) count as IPv4."""
    if cidr.width == 128 and cidr.length >= 96 and cidr.first >> 32 == 0xFFFF:
        return Cidr(cidr.first & 0xFFFF_FFFF, cidr.length - 96, 32)
    return cidr
