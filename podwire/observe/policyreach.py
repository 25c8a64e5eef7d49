"""Who may reach whom, over groups instead of pods: a group are all ends that no policy tells apart. Pure.

What passes from one group to another is a set of protocols and ports (`calc.region`), read off the verdict tables: the
source's egress and the destination's ingress. So the work grows with the groups, which stay few, not with the pods.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, pairwise
from typing import NamedTuple

from podwire.calc.reach import Cluster
from podwire.calc.region import EVERYTHING, NOTHING, Ranges, Region, both, either, ported, without
from podwire.calc.verdicts import (
    EVERY,
    UNKNOWN,
    WHOLE,
    Decision,
    Governed,
    Match,
    PolicyState,
    RuleRef,
    Stage,
    Table,
)
from podwire.model.address import format_ip, parse_ip
from podwire.observe.policyscene import Scene, settled


@dataclass
class Regions:
    """Equal regions as one object, so that what was calculated of two need not be again."""

    held: dict[tuple[bool, tuple[tuple[int, Ranges], ...]], Region] = field(default_factory=dict)
    done: dict[tuple[str, int, int], Region] = field(default_factory=dict)

    def one(self, region: Region) -> Region:
        usual = (WHOLE,) if region.rest else ()
        said = tuple(sorted((protocol, ranges) for protocol, ranges in region.by.items() if ranges != usual))
        key = region.rest, said
        if key not in self.held:
            self.held[key] = Region(region.rest, dict(said))
        return self.held[key]

    def both(self, one: Region, other: Region) -> Region:
        return self._cached("both", both, one, other)

    def without(self, one: Region, other: Region) -> Region:
        return self._cached("without", without, one, other)

    def _cached(self, name: str, work: Callable[[Region, Region], Region], one: Region, other: Region) -> Region:
        """Both are from `one`, which keeps them, so that their identity says what they are."""
        key = name, id(one), id(other)
        if key not in self.done:
            self.done[key] = self.one(work(one, other))
        return self.done[key]


_OPEN = Decision(True, RuleRef(None, ""))
SHOWN_OUTSIDE = ("203.0.113.1", "198.51.100.1", "192.0.2.1", "2001:db8::1", "2001:db8:ffff::1")
"""Addresses for documentation, to stand for anybody outside."""


class Verdict(NamedTuple):
    """Of one stage's rows: which region goes where. `target` is a stage's number, or None when `allow` decides."""

    about: Region
    target: int | None
    allow: bool


@dataclass
class Reach:
    """A policy state, ready to be asked often."""

    state: PolicyState
    rows: dict[tuple[int, int], dict[int, list[tuple[Match, Decision]]]] = field(default_factory=dict)
    known: dict[tuple[int, int, int | None], Region] = field(default_factory=dict)
    decided: dict[tuple[int, int, int, int], Decision] = field(default_factory=dict)
    regions: Regions = field(default_factory=lambda: Regions())

    @staticmethod
    def of(scene: Scene, regions: Regions | None = None) -> Reach:
        """Of a scene, every pod taken for one of this node. What cannot be read is left out: `policylint` says so. Two
        that are compared share their `regions`."""
        state = Cluster.of(settled(one) for one in scene.objects).state
        return Reach(state, regions=Regions() if regions is None else regions)

    def passing(self, table: int | None, peer: int, source_port: int | None = None) -> Region:
        """What a table lets pass from or to this class. The same region is the same object."""
        if table is None:
            return self.regions.one(EVERYTHING)
        key = table, peer, source_port
        if key not in self.known:
            number = self._table(table, source_port)
            found = self._from(number, self.state.tables[number], 0, peer, EVERYTHING)
            self.known[key] = self.regions.one(found)
        return self.known[key]

    def _table(self, number: int, source_port: int | None) -> int:
        if source_port is None:
            return number
        return next(
            (o for first, last, o in self.state.tables[number].by_source_port if first <= source_port <= last), number
        )

    def _from(self, number: int, table: Table, at: int, peer: int, about: Region) -> Region:
        """What of `about` passes, beginning with that stage."""
        if about.empty:
            return NOTHING
        if at >= len(table.stages):
            return about if table.default.allow else NOTHING
        allowed = NOTHING
        for verdict in _verdicts(self._rows(number, at, table.stages[at], peer)):
            part = both(about, verdict.about)
            about = without(about, verdict.about)
            if verdict.target is not None:
                part = self._from(number, table, verdict.target, peer, part)
            elif not verdict.allow:
                continue
            allowed = either(allowed, part)
        return either(allowed, self._from(number, table, at + 1, peer, about))

    def _rows(self, number: int, at: int, stage: Stage, peer: int) -> list[tuple[Match, Decision]]:
        if (number, at) not in self.rows:
            index: dict[int, list[tuple[Match, Decision]]] = {}
            for match, decision in stage.rows.items():
                index.setdefault(match.number, []).append((match, decision))
            self.rows[number, at] = index
        return self.rows[number, at].get(peer if stage.classed else UNKNOWN, [])

    def decide(self, table: int | None, peer: int, protocol: int, port: int) -> Decision:
        """As `calc.verdicts.judge`, by the index."""
        if table is None:
            return _OPEN
        key = table, peer, protocol, port
        if key not in self.decided:
            self.decided[key] = self._decide(table, self.state.tables[table], peer, protocol, port)
        return self.decided[key]

    def _decide(self, number: int, table: Table, peer: int, protocol: int, port: int) -> Decision:
        at = 0
        while at < len(table.stages):
            fitting = [
                (match.protocol == EVERY, match.last - match.first, place, decision)
                for place, (match, decision) in enumerate(self._rows(number, at, table.stages[at], peer))
                if match.protocol in (EVERY, protocol) and match.first <= port <= match.last
            ]
            found = min(fitting)[3] if fitting else None
            if found and found.onward is None:
                return found
            at = at + 1 if found is None or found.onward is None else found.onward
        return table.default

    def between(self, source: Seen, destination: Seen, source_port: int | None = None) -> Region:
        """What passes from one end to another."""
        if source.governed is None or destination.governed is None:
            return self.regions.one(NOTHING)
        out = self.passing(source.governed.egress, destination.number, source_port)
        into = self.passing(destination.governed.ingress, source.number, source_port)
        return self.regions.both(out, into)

    def source_ports(self, table: int | None) -> set[int]:
        """Source ports from which on a table may say something else."""
        ranges = self.state.tables[table].by_source_port if table is not None else ()
        return {edge for first, last, _ in ranges for edge in (first, last + 1) if edge <= WHOLE[1]}


def _verdicts(rows: Iterable[tuple[Match, Decision]]) -> Iterator[Verdict]:
    """The rows of a stage, narrowest first, those together that say the same."""
    ranks: dict[tuple[bool, int], dict[tuple[int | None, bool], dict[int, list[tuple[int, int]]]]] = {}
    for match, decision in rows:
        width = match.last - match.first
        rank = match.protocol == EVERY, 0 if width == 0 else 2 if (match.first, match.last) == WHOLE else 1
        said = decision.onward, decision.onward is None and decision.allow
        ranks.setdefault(rank, {}).setdefault(said, {}).setdefault(match.protocol, []).append(match[2:4])
    for rank in sorted(ranks):
        for (target, allow), by in ranks[rank].items():
            about = EVERYTHING if rank[0] else NOTHING
            for protocol, ranges in () if rank[0] else by.items():
                about = either(about, ported(ranges, (protocol,)))
            yield Verdict(about, target, allow)


# -- ends and groups --------------------------------------------------------------------------------------------------


class End(NamedTuple):
    """Somebody. `kind` is pod, node or outside; `node` is where it is, '' if unknown; `addresses` one for each scene.
    Outside, `name` is the stretch of addresses (a CIDR, or '' for what no policy speaks of)."""

    kind: str
    name: str
    width: int
    node: str
    pod: tuple[str, str] | None
    addresses: tuple[str, ...]


class Seen(NamedTuple):
    """What a policy state knows of an end, and all it can tell ends apart by. `governed` None: a pod that is not
    known, and closed."""

    number: int
    governed: Governed | None


@dataclass(frozen=True, slots=True)
class Group:
    """Ends that every one of the states takes for the same; `seen` has an entry for each state."""

    ends: tuple[End, ...]
    seen: tuple[Seen, ...]
    width: int

    @property
    def kind(self) -> str:
        return self.ends[0].kind


def groups(views: Sequence[tuple[Scene, Reach]]) -> list[Group]:
    """All ends that every one of these scenes has, and all there may be outside, by what their states know of them."""
    lookups = [_Classes(reach.state) for _, reach in views]
    found: dict[tuple[str, int, tuple[Seen, ...]], list[End]] = {}
    for end in _ends(views, lookups):
        seen = tuple(lookup.seen(end.pod, address) for lookup, address in zip(lookups, end.addresses, strict=True))
        found.setdefault((end.kind, end.width, seen), []).append(end)
    return [Group(tuple(ends), seen, width) for (_, width, seen), ends in found.items()]


@dataclass
class _Classes:
    """The class of any address, by search."""

    state: PolicyState
    ranges: dict[int, list[tuple[int, int, int]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for over, number in self.state.ranges.items():
            self.ranges.setdefault(over.width, []).append((over.first, over.last, number))
        for ranges in self.ranges.values():
            ranges.sort()

    def seen(self, pod: tuple[str, str] | None, address: str) -> Seen:
        return Seen(self._number(address), self.state.pods.get(pod) if pod else Governed())

    def _number(self, address: str) -> int:
        number, width = parse_ip(address)
        found = self.state.addresses.get(format_ip(number, width))
        if found is not None:
            return found
        ranges = self.ranges.get(width, [])
        at = bisect_right(ranges, (number, 1 << width, 0)) - 1
        return ranges[at][2] if at >= 0 and ranges[at][1] >= number else UNKNOWN


def _ends(views: Sequence[tuple[Scene, Reach]], lookups: list[_Classes]) -> Iterator[End]:
    taken: set[tuple[int, int]] = set()
    for scene, _ in views:
        for address in (*scene.by_address, *(address for _, address in scene.node_addresses)):
            number, width = parse_ip(address)
            taken.add((width, number))
    newest = views[-1][0]
    for pod in newest.ported:
        for width in (32, 128):
            held = [_held(scene, (pod.namespace, pod.name), width) for scene, _ in views]
            if all(held):
                key = pod.namespace, pod.name
                yield from (End("pod", str(pod), width, pod.node, key, each) for each in zip(*held, strict=False))
    for name, address in newest.node_addresses:
        if all((name, address) in scene.node_addresses for scene, _ in views):
            yield End("node", f"node/{name}", parse_ip(address)[1], name, None, (address,) * len(views))
    for width in sorted({width for width, _ in taken}):
        for first, last, number in _outside([reach.state for _, reach in views], taken, width):
            text = format_ip(number, width)
            spoken = any(lookup.seen(None, text).number != UNKNOWN for lookup in lookups)
            yield End("outside", stretch(first, last, width) if spoken else "", width, "", None, (text,) * len(views))


def _held(scene: Scene, pod: tuple[str, str], width: int) -> list[str]:
    found = scene.pods.get(pod)
    return [address for address in found.addresses if parse_ip(address)[1] == width] if found else []


def _outside(states: list[PolicyState], taken: set[tuple[int, int]], width: int) -> Iterator[tuple[int, int, int]]:
    """Every stretch (first, last) that the states may know something of, and an address in it: single ones, and what
    lies between two borders."""
    singles: set[int] = set()
    borders = {0, 1 << width}
    for state in states:
        for address in state.addresses:
            number, wide = parse_ip(address)
            if wide == width and (width, number) not in taken:
                singles.add(number)
        for over in state.ranges:
            if over.width == width:
                borders |= {over.first, over.last + 1}
    yield from ((number, number, number) for number in sorted(singles))
    edges = sorted(borders)
    shown = [number for number, wide in map(parse_ip, SHOWN_OUTSIDE) if wide == width]
    for first, after in pairwise(edges):
        if (free := _free(first, after, shown, singles, taken, width)) is not None:
            yield first, after - 1, free


def stretch(first: int, last: int, width: int) -> str:
    """A CIDR, if it is one; else `first-last`."""
    size = last - first + 1
    if size & (size - 1) == 0 and first % size == 0:
        return f"{format_ip(first, width)}/{width - size.bit_length() + 1}"
    return f"{format_ip(first, width)}-{format_ip(last, width)}"


def _free(
    first: int, after: int, shown: list[int], singles: set[int], taken: set[tuple[int, int]], width: int
) -> int | None:
    """An address within, of nobody that is known."""
    near: Iterable[int] = range(first + 1, min(after, first + 2 + len(singles) + len(taken)))
    for number in chain(shown, near, [first]):
        if first <= number < after and number not in singles and (width, number) not in taken:
            return number
    return None
