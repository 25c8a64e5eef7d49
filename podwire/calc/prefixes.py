"""Prefixes with marks on them: what holds at an address by the prefixes around it.

Prefixes either nest or lie apart, so the narrowest one around an address knows all of them, and cutting each one's
inner ones out of it leaves disjoint ranges.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from podwire.calc.verdicts import Range
from podwire.model.address import Cidr

Marks = frozenset[int]
NONE: Marks = frozenset()


class Moved(NamedTuple):
    """What `settle` changed: marks of ranges and of single addresses (NONE: gone), and the prefixes (none within
    another) inside which the marks of addresses may be others."""

    ranges: dict[Range, Marks]
    singles: dict[Cidr, Marks]
    within: list[Cidr]


class Prefixes:
    """Marks are numbers that others give a meaning. A prefix without marks of its own is not there."""

    def __init__(self) -> None:
        self._own: dict[Cidr, Marks] = {}
        self._all: dict[Cidr, Marks] = {}
        self._ranges: dict[Range, Marks] = {}
        self._by_length: dict[int, list[tuple[int, dict[int, Marks]]]] = {32: [], 128: []}
        self._dirty = False

    def set(self, cidr: Cidr, marks: Marks) -> None:
        if self._own.get(cidr, NONE) != marks:
            self._dirty = True
            if marks:
                self._own[cidr] = marks
            else:
                del self._own[cidr]

    def around(self, number: int, width: int) -> Marks:
        """Those of all prefixes that hold the address; as of the last `settle`."""
        for below, firsts in self._by_length[width]:
            if (found := firsts.get(number >> below)) is not None:
                return found
        return NONE

    def single(self, number: int, width: int) -> bool:
        """The address is a prefix of its own; as of the last `settle`."""
        narrowest = self._by_length[width][:1]
        return bool(narrowest) and narrowest[0][0] == 0 and number in narrowest[0][1]

    def settle(self) -> Moved:
        """Bring everything up to date with what was set."""
        if not self._dirty:
            return Moved({}, {}, [])
        self._dirty = False
        before, ranges_before = self._all, self._ranges
        self._all, self._ranges = {}, {}
        for cidr, marks, inner in _nested(self._own):
            self._all[cidr] = marks
            if not cidr.single:
                self._ranges.update((each, marks) for each in _cut(cidr, inner))
        tables: dict[int, dict[int, dict[int, Marks]]] = {32: {}, 128: {}}
        for cidr, marks in self._all.items():
            below = cidr.width - cidr.length
            tables[cidr.width].setdefault(below, {})[cidr.first >> below] = marks
        self._by_length = {width: sorted(found.items()) for width, found in tables.items()}
        changed = {c for c in before.keys() | self._all.keys() if before.get(c) != self._all.get(c)}
        return Moved(
            {
                each: self._ranges.get(each, NONE)
                for each in ranges_before.keys() | self._ranges.keys()
                if ranges_before.get(each) != self._ranges.get(each)
            },
            {cidr: self._all.get(cidr, NONE) for cidr in changed if cidr.single},
            list(_outermost(changed)),
        )


def _order(cidr: Cidr) -> tuple[int, int, int]:
    return cidr.width, cidr.first, cidr.length


def _outermost(cidrs: set[Cidr]) -> Iterator[Cidr]:
    last: Cidr | None = None
    for cidr in sorted(cidrs, key=_order):
        if last is None or not last.covers(cidr):
            last = cidr
            yield cidr


def _nested(own: dict[Cidr, Marks]) -> Iterator[tuple[Cidr, Marks, list[Cidr]]]:
    """Each prefix with the marks of all around it, and the next inner ones that are no single addresses."""
    stack: list[tuple[Cidr, Marks, list[Cidr]]] = []
    for cidr in sorted(own, key=_order):
        while stack and not stack[-1][0].covers(cidr):
            yield stack.pop()
        marks = own[cidr]
        if stack:
            marks = marks | stack[-1][1]
            if not cidr.single:
                stack[-1][2].append(cidr)
        stack.append((cidr, marks, []))
    yield from reversed(stack)


def _cut(cidr: Cidr, inner: list[Cidr]) -> Iterator[Range]:
    at = cidr.first
    for each in inner:
        if each.first > at:
            yield Range(cidr.width, at, each.first - 1)
        at = each.last + 1
    if at <= cidr.last:
        yield Range(cidr.width, at, cidr.last)
