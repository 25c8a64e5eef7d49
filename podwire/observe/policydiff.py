"""Which connections a change allows or denies: exactly these, with an example of each. Pure.

Both states are compared group by group (`policyreach`): for every pair of groups, what passes before and after are sets
of protocols and ports, and their difference is the answer. No pair of ends, no protocol and no port is left out. The
oracle, which knows nothing of groups, is asked about each example.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from podwire.calc.oracle import End as OracleEnd
from podwire.calc.oracle import Flow
from podwire.calc.region import Region
from podwire.calc.verdicts import WHOLE
from podwire.model.policy import PORTED
from podwire.observe.policyquestions import NAMES, Asked, Said, said, verdict
from podwire.observe.policyreach import End, Group, Reach, Regions, groups
from podwire.observe.policyscene import Scene

ALLOWED, DENIED = "allowed", "denied"
_OTHERS = (6, 17, 132, 1, 58, 47, 50, 4)
_USUAL = (80, 443, 53, 8080, 22)
_EPHEMERAL = 40_000
OUTSIDE = "anybody else outside"


@dataclass(frozen=True, slots=True)
class Example:
    """One connection of a change; `port` is a port, or ICMP's type << 8 | code. `confirmed`: the oracle says the same
    of both states."""

    source: str
    destination: str
    source_address: str
    destination_address: str
    protocol: str
    port: int
    source_port: int
    old: Said
    new: Said
    confirmed: bool


@dataclass(frozen=True, slots=True)
class Change:
    """From each of `sources` to each of `destinations` (but a pod to itself): `ports` of `protocol` became `change`.
    `protocol` '' is every one but those in `but`. `source_ports` is () for all, else first and last. `families` are
    IPv4, IPv6 or both."""

    change: str
    sources: tuple[str, ...]
    destinations: tuple[str, ...]
    protocol: str
    but: tuple[str, ...]
    ports: tuple[tuple[int, int], ...]
    source_ports: tuple[int, ...]
    families: tuple[str, ...]
    example: Example


@dataclass(frozen=True, slots=True)
class Difference:
    """`gone` and `come` are pods that only one of the scenes has: they are not compared. `groups` says among how many
    groups, of how many ends, it was looked, `families` which there are."""

    changes: tuple[Change, ...]
    gone: tuple[str, ...]
    come: tuple[str, ...]
    groups: int
    ends: int
    families: tuple[str, ...] = ()


def difference(old: Scene, new: Scene) -> Difference:
    """Every connection between ends of both scenes whose verdict differs. Raises QuestionError where a policy cannot be
    read."""
    regions = Regions()
    before, after = (Reach.of(scene, regions) for scene in (old, new))
    found = groups(((old, before), (new, after)))
    asked = Asked.of(old), Asked.of(new)
    merged: dict[_Kind, dict[int, list[int]]] = {}
    for kind, source, destination in _pairs(found, before, after, regions):
        merged.setdefault(kind, {}).setdefault(destination, []).append(source)
    changes = list(_joined(change for kind, into in merged.items() for change in _changes(kind, into, found, asked)))
    changes.sort(key=lambda one: (one.change, one.destinations, one.sources, one.protocol, one.ports))
    old_pods, new_pods = ({str(pod) for pod in scene.ported} for scene in (old, new))
    return Difference(
        changes=tuple(changes),
        gone=tuple(sorted(old_pods - new_pods)),
        come=tuple(sorted(new_pods - old_pods)),
        groups=len(found),
        ends=sum(len(group.ends) for group in found),
        families=tuple(family(width) for width in sorted({group.width for group in found})),
    )


@dataclass(frozen=True, slots=True)
class _Kind:
    """What became of a pair of groups; `number` is the region's identity, so that equal ones meet."""

    change: str
    number: int
    region: Region
    source_ports: tuple[int, ...]

    def __hash__(self) -> int:
        return hash((self.change, self.number, self.source_ports))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Kind) and (self.change, self.number, self.source_ports) == (
            other.change,
            other.number,
            other.source_ports,
        )


def _pairs(found: list[Group], before: Reach, after: Reach, regions: Regions) -> Iterator[tuple[_Kind, int, int]]:
    """The pairs of groups that fare differently, by their places."""
    for at, source in enumerate(found):
        for to, destination in enumerate(found):
            if source.width != destination.width or "pod" not in (source.kind, destination.kind):
                continue
            if _example(source, destination) is None:
                continue
            for port, ports in _source_ports(source, destination, before, after):
                was = before.between(source.seen[0], destination.seen[0], port)
                will = after.between(source.seen[1], destination.seen[1], port)
                if was is will:
                    continue
                for change, region in ((ALLOWED, regions.without(will, was)), (DENIED, regions.without(was, will))):
                    if not region.empty:
                        yield _Kind(change, id(region), region, ports), at, to


def _source_ports(
    source: Group, destination: Group, before: Reach, after: Reach
) -> Iterator[tuple[int | None, tuple[int, ...]]]:
    """A port of each stretch of source ports that may fare differently, and the stretch (first, last)."""
    edges: set[int] = set()
    for at, reach in enumerate((before, after)):
        out, into = source.seen[at].governed, destination.seen[at].governed
        edges |= reach.source_ports(out.egress if out else None) | reach.source_ports(into.ingress if into else None)
    if not edges:
        yield None, ()
        return
    borders = sorted({0, *edges})
    for first, after_ in zip(borders, [*borders[1:], WHOLE[1] + 1], strict=True):
        yield first, (first, after_ - 1)


def _example(source: Group, destination: Group) -> tuple[End, End] | None:
    """Two ends between which policies decide: not one and the same pod, nor a node and its own pod."""
    for one in source.ends:
        for other in destination.ends:
            if one.pod is not None and one.pod == other.pod:
                continue
            if one.kind == "node" and one.node == other.node:
                continue
            return one, other
    return None


def _changes(
    kind: _Kind, into: dict[int, list[int]], found: list[Group], asked: tuple[Asked, Asked]
) -> Iterator[Change]:
    """One for each set of sources, with all destinations that have just these; and for each protocol."""
    alike: dict[tuple[int, ...], list[int]] = {}
    for destination, places in into.items():
        width = found[destination].width
        alike.setdefault((width, *sorted(set(places))), []).append(destination)
    for (_, *sources), destinations in alike.items():
        pair = _example(found[sources[0]], found[destinations[0]])
        assert pair is not None
        for protocol, ports in _parts(kind.region, found[sources[0]].width):
            yield Change(
                change=kind.change,
                sources=_names(found[at] for at in sources),
                destinations=_names(found[at] for at in destinations),
                protocol=protocol_name(protocol),
                but=() if protocol else _but(kind.region, found[sources[0]].width),
                ports=ports,
                source_ports=kind.source_ports,
                families=(family(found[sources[0]].width),),
                example=_told(pair, kind, protocol, ports, asked),
            )


def _names(chosen: Iterable[Group]) -> tuple[str, ...]:
    """Ends as people call them; who is outside, by the stretch of addresses."""
    found = {end.name or OUTSIDE for group in chosen for end in group.ends}
    return tuple(sorted(found, key=lambda name: (name == OUTSIDE, name)))


def _joined(changes: Iterable[Change]) -> Iterator[Change]:
    """What is the same in both families once."""
    found: dict[tuple[object, ...], Change] = {}
    for one in changes:
        key = one.change, one.sources, one.destinations, one.protocol, one.but, one.ports, one.source_ports
        if (other := found.get(key)) is not None:
            one = replace(other, families=tuple(sorted({*other.families, *one.families})))
        found[key] = one
    yield from found.values()


def family(width: int) -> str:
    return "IPv4" if width == 32 else "IPv6"


def protocol_name(number: int) -> str:
    """'' for 0, which stands for every other."""
    return NAMES.get(number, str(number)) if number else ""


def _but(region: Region, width: int) -> tuple[str, ...]:
    return tuple(protocol_name(number) for number in sorted(region.by) if number != _STRANGE[width])


_STRANGE = {32: 58, 128: 1}
"""The other family's ICMP."""


def _parts(region: Region, width: int) -> Iterator[tuple[int, tuple[tuple[int, int], ...]]]:
    """Protocol 0 stands for all that are not named."""
    for protocol, ranges in sorted(region.by.items()):
        if ranges and protocol != _STRANGE[width]:
            yield protocol, ranges
    if region.rest:
        yield 0, (WHOLE,)


def _told(
    pair: tuple[End, End], kind: _Kind, protocol: int, ports: tuple[tuple[int, int], ...], asked: tuple[Asked, Asked]
) -> Example:
    one, other = pair
    number = protocol or next(each for each in _OTHERS if each not in kind.region.by)
    port = _port(number, ports)
    source_port = 0
    if number in PORTED:
        source_port = kind.source_ports[0] if kind.source_ports else _EPHEMERAL
    icmp = (port >> 8, port & 255) if number in (1, 58) else (0, 0)
    sides = []
    for at, each in enumerate(asked):
        ends = [OracleEnd(end.addresses[at], end.pod, end.node if end.kind == "node" else None) for end in pair]
        flow = Flow(ends[0], ends[1], number, port if number in PORTED else 0, source_port, *icmp)
        judged = verdict(each, flow)
        decisive = judged.ingress if judged.egress.allowed and not judged.ingress.allowed else judged.egress
        if judged.allowed and judged.ingress.policy:
            decisive = judged.ingress
        sides.append((judged.allowed, said(each, decisive)))
    wanted = kind.change == ALLOWED
    return Example(
        source=one.name or OUTSIDE,
        destination=other.name or OUTSIDE,
        source_address=one.addresses[-1],
        destination_address=other.addresses[-1],
        protocol=NAMES.get(number, str(number)),
        port=port if number in PORTED or number in (1, 58) else 0,
        source_port=source_port,
        old=sides[0][1],
        new=sides[1][1],
        confirmed=[allowed for allowed, _ in sides] == [not wanted, wanted],
    )


def _port(protocol: int, ports: tuple[tuple[int, int], ...]) -> int:
    """One that people know, if there is one."""
    usual = (8 << 8, 128 << 8) if protocol in (1, 58) else _USUAL
    for port in usual:
        if any(first <= port <= last for first, last in ports):
            return port
    first, last = ports[0]
    return max(first, min(1, last)) if protocol in PORTED else first
