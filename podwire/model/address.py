"""IP addresses and prefixes as integers: parsed once, compared cheaply (`ipaddress` costs microseconds each).

IPv4 by hand; IPv6 through the standard library, as it is rare on hot paths.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache


class AddressError(ValueError):
    """The text is not an address or prefix; the message quotes it."""


def parse_ip(text: str) -> tuple[int, int]:
    """An address as (number, width in bits). Raises AddressError."""
    parts = text.split(".")
    if len(parts) == 4 and all(part.isascii() and part.isdigit() and (part == "0" or part[0] != "0") for part in parts):
        a, b, c, d = (int(part) for part in parts)
        if max(a, b, c, d) < 256:
            return a << 24 | b << 16 | c << 8 | d, 32
    elif ":" in text and "%" not in text:
        try:
            return int(ipaddress.IPv6Address(text)), 128
        except ipaddress.AddressValueError:
            pass
    raise AddressError(f"{text!r} is not an IP address")


def format_ip(number: int, width: int = 32) -> str:
    """The usual text of an address."""
    if width == 32:
        return f"{number >> 24}.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
    return str(ipaddress.IPv6Address(number))


@dataclass(frozen=True, slots=True, order=True)
class Cidr:
    """A prefix: its first address, its length, and the family's width (32 or 128). No host bits are set."""

    first: int
    length: int
    width: int = 32

    @staticmethod
    def parse(text: str, *, host_bits: bool = False) -> Cidr:
        """`10.0.0.0/8`, or a bare address as a /32 or /128. Host bits are an error unless allowed, then cut off.
        Raises AddressError."""
        return _parse_cidr(text, host_bits)

    @staticmethod
    def around(number: int, length: int, width: int = 32) -> Cidr:
        """The prefix of that length which holds the address."""
        below = width - length
        return Cidr(number >> below << below, length, width)

    def __str__(self) -> str:
        return f"{format_ip(self.first, self.width)}/{self.length}"

    @property
    def size(self) -> int:
        return int(1 << (self.width - self.length))

    @property
    def last(self) -> int:
        return self.first + self.size - 1

    @property
    def single(self) -> bool:
        return self.length == self.width

    def holds(self, number: int) -> bool:
        """An address of the same family lies inside."""
        below = self.width - self.length
        return number >> below == self.first >> below

    def covers(self, other: Cidr) -> bool:
        return self.width == other.width and self.length <= other.length and self.holds(other.first)

    def overlaps(self, other: Cidr) -> bool:
        return self.covers(other) or other.covers(self)

    def parts(self, length: int) -> Iterator[Cidr]:
        """The prefixes of a length (not shorter than this one's) that make this one up, in order."""
        step = 1 << (self.width - length)
        for first in range(self.first, self.first + self.size, step):
            yield Cidr(first, length, self.width)

    def address(self, ordinal: int) -> str:
        """The text of the address at an offset."""
        return format_ip(self.first + ordinal, self.width)


@lru_cache(1024)  # pools are looked at in every claim
def _parse_cidr(text: str, host_bits: bool) -> Cidr:
    address, slash, tail = text.partition("/")
    number, width = parse_ip(address)
    length = width
    if slash:
        if not (tail.isascii() and tail.isdigit()) or int(tail) > width:
            raise AddressError(f"{text!r} is not a CIDR: the length is a number from 0 to {width}")
        length = int(tail)
    found = Cidr.around(number, length, width)
    if found.first != number and not host_bits:
        raise AddressError(f"{text!r} is not a CIDR: it has host bits set (did you mean {found}?)")
    return found
