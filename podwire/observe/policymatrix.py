"""Who may reach whom at which ports: pods, or groups of pods that no policy tells apart. Pure.

Calculated over groups (`policyreach`) and told of pods: the work grows with the groups.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from podwire.calc.verdicts import Decision
from podwire.observe.policyquestions import ECHO, NAMES, PROTOCOLS, QuestionError
from podwire.observe.policyreach import Group, Reach, Seen, groups
from podwire.observe.policyscene import Scene

SAME_POD = "a pod reaches itself"


@dataclass(frozen=True, slots=True)
class Probe:
    """A protocol and port, as asked for: `TCP/80`, `ICMP`."""

    protocol: str
    port: int

    def __str__(self) -> str:
        return f"{self.protocol}/{self.port}" if self.port else self.protocol

    @property
    def number(self) -> int:
        return PROTOCOLS[self.protocol.upper()]

    def key(self, width: int) -> tuple[int, int]:
        """As a verdict table asks: ICMP by the echo request of the family."""
        if self.protocol.upper() in ECHO:
            name = "ICMP" if width == 32 else "ICMPV6"
            return PROTOCOLS[name], ECHO[name] << 8
        return self.number, self.port


@dataclass(frozen=True, slots=True)
class Cell:
    """One pair at one port. `family` is '' where both families fare alike, or there is one only."""

    ingress: bool
    egress: bool
    rule: str
    family: str = ""

    @property
    def allowed(self) -> bool:
        return self.ingress and self.egress


@dataclass(frozen=True, slots=True)
class Crowd:
    """Pods that are in the same groups, by family."""

    pods: tuple[str, ...]
    seen: tuple[tuple[int, Seen], ...]


def parse_ports(text: str) -> tuple[Probe, ...]:
    """`TCP/80,UDP/53,ICMP`; a bare number is TCP. Raises QuestionError."""
    found = []
    for word in filter(None, (part.strip() for part in text.split(","))):
        protocol, slash, port = word.rpartition("/") if not word.isdigit() else ("TCP", "/", word)
        if not slash:
            protocol, port = word, ""
        if protocol.isdigit() and not port.isdigit():
            protocol, port = port, protocol  # 53/UDP
        upper = protocol.upper()
        if upper not in PROTOCOLS or (upper in ECHO) != (port == ""):
            raise QuestionError(f"{word!r}: write PROTOCOL/PORT, as TCP/80, UDP/53, SCTP/7, or ICMP")
        if port and (not port.isdigit() or not 0 < int(port) < 65536):
            raise QuestionError(f"{word!r}: a port is a number from 1 to 65535")
        found.append(Probe(NAMES[PROTOCOLS[upper]], int(port or 0)))
    if not found:
        raise QuestionError("no ports: write --ports TCP/80,UDP/53")
    return tuple(dict.fromkeys(found))


@dataclass(frozen=True)
class Matrix:
    """Ready to be asked cell by cell. `crowds` are in the order of their first pods."""

    scene: Scene
    probes: tuple[Probe, ...]

    @cached_property
    def reach(self) -> Reach:
        return Reach.of(self.scene)

    @cached_property
    def crowds(self) -> list[Crowd]:
        of: dict[str, list[tuple[int, Seen]]] = {}
        for group in groups(((self.scene, self.reach),)):
            for name in _pods(group):
                of.setdefault(name, []).append((group.width, group.seen[0]))
        found: dict[tuple[tuple[int, Seen], ...], list[str]] = {}
        for name, seen in sorted(of.items()):
            found.setdefault(tuple(dict(seen).items()), []).append(name)
        return [Crowd(tuple(names), seen) for seen, names in found.items()]

    def cells(self, source: Crowd, destination: Crowd, probe: Probe) -> list[Cell]:
        """One cell, or one for each family where they differ; none without a family in common."""
        theirs = dict(destination.seen)
        found = [
            (width, self._cell(one, theirs[width], *probe.key(width))) for width, one in source.seen if width in theirs
        ]
        if len({cell for _, cell in found}) < 2:
            return [cell for _, cell in found[:1]]
        return [Cell(cell.ingress, cell.egress, cell.rule, "IPv4" if width == 32 else "IPv6") for width, cell in found]

    def _cell(self, source: Seen, destination: Seen, protocol: int, port: int) -> Cell:
        if source.governed is None or destination.governed is None:
            return Cell(False, False, "not known yet")
        out = self.reach.decide(source.governed.egress, destination.number, protocol, port)
        into = self.reach.decide(destination.governed.ingress, source.number, protocol, port)
        return Cell(into.allow, out.allow, str(_decisive(out, into).rule))

    def rows(self) -> Iterator[dict[str, Any]]:
        """A row for each pair of pods and port, as programs read them."""
        place = {name: crowd for crowd in self.crowds for name in crowd.pods}
        known: dict[tuple[int, int, Probe], list[Cell]] = {}
        for source, one in sorted(place.items()):
            for destination, other in sorted(place.items()):
                for probe in self.probes:
                    if source == destination:
                        yield _row(source, destination, probe, Cell(True, True, SAME_POD))
                        continue
                    key = id(one), id(other), probe
                    if key not in known:
                        known[key] = self.cells(one, other, probe)
                    yield from (_row(source, destination, probe, cell) for cell in known[key])

    def group_rows(self, crowds: Sequence[Crowd]) -> Iterator[dict[str, Any]]:
        """The same for groups; `from` and `to` are lists of pods."""
        for source in crowds:
            for destination in crowds:
                if source is destination and len(source.pods) == 1:
                    continue
                for probe in self.probes:
                    for cell in self.cells(source, destination, probe):
                        yield _row(list(source.pods), list(destination.pods), probe, cell)


def _pods(group: Group) -> Sequence[str]:
    return [end.name for end in group.ends] if group.kind == "pod" else []


def _decisive(out: Decision, into: Decision) -> Decision:
    """The side that says no; of two that say yes the one that says why."""
    if not out.allow:
        return out
    return into if not into.allow or into.rule.policy or not out.rule.policy else out


def _row(source: Any, destination: Any, probe: Probe, cell: Cell) -> dict[str, Any]:
    row = {"from": source, "to": destination, "protocol": probe.protocol, "port": probe.port}
    row |= {"ingress": cell.ingress, "egress": cell.egress, "allowed": cell.allowed, "rule": cell.rule}
    return row | ({"family": cell.family} if cell.family else {})
