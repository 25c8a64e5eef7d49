"""Sets of (protocol, port), and what is left of a row of them when the first that fits decides.

A *port* is what a verdict table asks by: a destination port of TCP, UDP and SCTP, `type << 8 | code` of ICMP and
ICMPv6; other protocols have none and are in a set wholly or not at all.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from podwire.calc.verdicts import EVERY, WHOLE, Decision, RuleRef

Ranges = tuple[tuple[int, int], ...]


class Region(NamedTuple):
    """`by` names protocols and their ranges, disjoint and in order; `rest` says whether all other protocols belong."""

    rest: bool
    by: Mapping[int, Ranges] = {}

    def of(self, protocol: int) -> Ranges:
        return self.by.get(protocol, (WHOLE,) if self.rest else ())

    @property
    def empty(self) -> bool:
        return not self.rest and not any(self.by.values())


EVERYTHING, NOTHING = Region(True), Region(False)


def ported(ranges: Iterable[tuple[int, int]], protocols: Iterable[int]) -> Region:
    """These ports of these protocols."""
    found = _tidy(ranges)
    return Region(False, dict.fromkeys(protocols, found))


def both(one: Region, other: Region) -> Region:
    if one == EVERYTHING:
        return other
    by = {p: _overlap(one.of(p), other.of(p)) for p in one.by.keys() | other.by.keys()}
    return Region(one.rest and other.rest, by)


def either(one: Region, other: Region) -> Region:
    by = {p: _tidy(one.of(p) + other.of(p)) for p in one.by.keys() | other.by.keys()}
    return Region(one.rest or other.rest, by)


def without(one: Region, other: Region) -> Region:
    by = {p: _overlap(one.of(p), _complement(other.of(p))) for p in one.by.keys() | other.by.keys()}
    return Region(one.rest and not other.rest, by)


def disjoint(one: Region, other: Region) -> bool:
    if one.rest and other.rest:
        return False
    return not any(_overlap(one.of(p), other.of(p)) for p in one.by.keys() | other.by.keys())


def _tidy(ranges: Iterable[tuple[int, int]]) -> Ranges:
    """In order, none overlapping. Neighbours stay apart: single ports are cheaper for the engines than ranges."""
    found: list[tuple[int, int]] = []
    for first, last in sorted(set(ranges)):
        if found and first <= found[-1][1]:
            found[-1] = (found[-1][0], max(last, found[-1][1]))
        else:
            found.append((first, last))
    return tuple(found)


def _complement(ranges: Ranges) -> Ranges:
    found, at = [], WHOLE[0]
    for first, last in ranges:
        if first > at:
            found.append((at, first - 1))
        at = last + 1
    if at <= WHOLE[1]:
        found.append((at, WHOLE[1]))
    return tuple(found)


def _overlap(one: Ranges, other: Ranges) -> Ranges:
    if one == (WHOLE,):
        return other
    if other == (WHOLE,):
        return one
    found, i, j = [], 0, 0
    while i < len(one) and j < len(other):
        first, last = max(one[i][0], other[j][0]), min(one[i][1], other[j][1])
        if first <= last:
            found.append((first, last))
        if one[i][1] < other[j][1]:
            i += 1
        else:
            j += 1
    return tuple(found)


class _Cell(NamedTuple):
    """What holds for one stretch of ports so far."""

    decision: Decision | None = None
    logs: tuple[RuleRef, ...] = ()

    def decide(self, decision: Decision) -> _Cell:
        if self.decision is not None:
            return self
        return _Cell(decision if not self.logs else decision.after(self.logs))

    def log(self, ref: RuleRef) -> _Cell:
        return self if self.decision is not None else _Cell(None, (*self.logs, ref))


Paint = Decision | RuleRef
"""What a rule does to the packets of its region: decide, or log and leave them to the next rule."""


class _Track:
    """One protocol's ports: `cells[i]` holds from `starts[i]` to before `starts[i + 1]`."""

    def __init__(self, cell: _Cell) -> None:
        self.starts, self.cells = [WHOLE[0]], [cell]

    def paint(self, first: int, last: int, paint: Paint) -> None:
        low = self._cut(first)
        high = self._cut(last + 1) if last < WHOLE[1] else len(self.cells)
        for at in range(low, high):
            self.cells[at] = _painted(self.cells[at], paint)

    def _cut(self, port: int) -> int:
        at = bisect_left(self.starts, port)
        if at == len(self.starts) or self.starts[at] != port:
            self.starts.insert(at, port)
            self.cells.insert(at, self.cells[at - 1])
        return at

    def stretches(self) -> list[tuple[int, int, _Cell]]:
        """Neighbours of wide stretches that hold the same are one."""
        ends = [*(start - 1 for start in self.starts[1:]), WHOLE[1]]
        found: list[tuple[int, int, _Cell]] = []
        for first, last, cell in zip(self.starts, ends, self.cells, strict=True):
            if found and found[-1][2] == cell and (cell == _Cell() or last > first or found[-1][1] > found[-1][0]):
                found[-1] = (found[-1][0], last, cell)
            else:
                found.append((first, last, cell))
        return found


def _painted(cell: _Cell, paint: Paint) -> _Cell:
    return cell.decide(paint) if isinstance(paint, Decision) else cell.log(paint)


Row = tuple[int, int, int, Decision]
"""Protocol (EVERY: any), first and last port, and what happens."""


class Painting:
    """Rules are painted in order; what is painted decisively stays."""

    def __init__(self) -> None:
        self._rest = _Cell()
        self._tracks: dict[int, _Track] = {}

    def paint(self, region: Region, paint: Paint) -> None:
        for protocol in region.by.keys() - self._tracks.keys():
            self._tracks[protocol] = _Track(self._rest)
        if region.rest:
            self._rest = _painted(self._rest, paint)
            for protocol in self._tracks.keys() - region.by.keys():
                self._tracks[protocol].paint(*WHOLE, paint)
        for protocol, ranges in region.by.items():
            for first, last in ranges:
                self._tracks[protocol].paint(first, last, paint)

    def rows(self, onward: int) -> list[Row]:
        """Few rows that say it, the narrowest deciding; what no rule decided is for stage `onward`."""
        hole = Decision(False, RuleRef(None, ""), (), onward)

        def final(cell: _Cell) -> Decision | None:
            if cell.decision is None and cell.logs:
                return Decision(False, cell.logs[-1], cell.logs, onward)
            return cell.decision

        rest = final(self._rest)
        found: list[Row] = [] if rest is None else [(EVERY, *WHOLE, rest)]
        for protocol, track in self._tracks.items():
            stretches = [(first, last, final(cell)) for first, last, cell in track.stretches()]
            ground = _ground(rest, Counter(decision for _, _, decision in stretches))
            if ground != rest:
                found.append((protocol, *WHOLE, ground or hole))
            found += [(protocol, first, last, said or hole) for first, last, said in stretches if said != ground]
        return found


def _ground(rest: Decision | None, said: Counter[Decision | None]) -> Decision | None:
    """What the row of the whole protocol says so that fewest rows are needed above it."""
    return max([rest, *said], key=lambda one: said[one] - (one != rest))
