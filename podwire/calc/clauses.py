"""Rules in the words of classes: whom a rule means by marks, and which ports by the numbers behind its names.

A *mark* stands for one thing by which rules tell peers apart; `Asked` names that thing. Of a rule's two ends one is the
peer, whom classes describe, and the other the governed pod itself, which is settled for each table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

from podwire.calc.prefixes import Marks
from podwire.calc.region import EVERYTHING, NOTHING, Region, both, either, ported, without
from podwire.calc.verdicts import WHOLE, RuleRef
from podwire.model.address import Cidr
from podwire.model.policy import (
    ICMP,
    ICMPV6,
    PORTED,
    Action,
    Direction,
    Entity,
    Icmp,
    NamedPort,
    Peers,
    Policy,
    PortRange,
    Rule,
)


class Named(NamedTuple):
    """Pods have a port of this name; each number behind it has a mark besides."""

    name: str


class Service(NamedTuple):
    """An address is in an endpoint slice of this service; each list of its ports has a mark besides."""

    namespace: str
    name: str


Nets = tuple[Cidr, ...]
Asked = Peers | Nets | Named | Service
Port = tuple[int, int | None]
"""Protocol and number behind a name; without a number all of the protocol."""
Ports = frozenset[Port]

FAMILIES: dict[int, Nets] = {4: (Cidr(0, 0, 32),), 6: (Cidr(0, 0, 128),)}


class Who(NamedTuple):
    """Has one mark at least of each set in `each`, and none of `none`."""

    each: tuple[Marks, ...] = ()
    none: Marks = frozenset()

    def fits(self, marks: Marks) -> bool:
        return self.none.isdisjoint(marks) and not any(one.isdisjoint(marks) for one in self.each)


EVERYBODY = Who()


@dataclass(frozen=True, slots=True)
class Clause:
    """A rule for one direction. `region` needs the numbers behind names if `named`: those of the peer."""

    rule: Rule
    ref: RuleRef
    direction: Direction
    peer: Who
    local: Who
    named: bool

    def names_inside(self) -> list[str]:
        """Names of ports whose numbers are the governed pod's own."""
        end = self.rule.destination if self.direction is Direction.INGRESS else self.rule.source
        return [port.name for port in (*end.ports, *end.not_ports) if isinstance(port, NamedPort)]

    def names_of_source(self) -> list[Named]:
        """Names of source ports whose numbers are the peer's."""
        end = self.rule.source
        if self.direction is Direction.EGRESS:
            return []
        return [Named(port.name) for port in (*end.ports, *end.not_ports) if isinstance(port, NamedPort)]


Numbering = Callable[[Asked], int]
Lookup = Callable[[Named | Service], Ports]


def asked(policy: Policy) -> Iterator[Asked]:
    """All by which a policy tells peers apart."""
    for direction in (Direction.INGRESS, Direction.EGRESS):
        for rule in policy.rules(direction) or ():
            if rule.impossible:
                continue
            local, peer = _ends(rule, direction)
            yield from _asked(peer)
            yield from _asked(local)
            yield from (Named(port.name) for port in (*peer.ports, *peer.not_ports) if isinstance(port, NamedPort))
            if rule.version is not None or _asked(local):
                yield from FAMILIES.values()


def clauses(policy: Policy, direction: Direction, mark: Numbering) -> list[Clause]:
    """The rules that can match anything, in order."""
    found: list[Clause] = []
    for rule in policy.rules(direction) or ():
        if rule.impossible:
            continue
        local, peer = _ends(rule, direction)
        ref = RuleRef(policy.key, rule.label)
        inside = _who(local, mark)
        for part, names in _parts(rule, peer, direction):
            who = _who(peer, mark)
            if names:
                who = Who((*who.each, frozenset(mark(each) for each in names)), who.none)
            found.append(Clause(part, ref, direction, who, inside, bool(names) or _depends(part, peer)))
    return found


def _ends(rule: Rule, direction: Direction) -> tuple[Entity, Entity]:
    """The governed pod's end and the peer's."""
    if direction is Direction.INGRESS:
        return rule.destination, rule.source
    return rule.source, rule.destination


def _asked(entity: Entity) -> list[Asked]:
    found: list[Asked] = [each for each in (entity.peers, entity.not_peers) if each is not None]
    found += [nets for nets in (entity.nets, entity.not_nets) if nets]
    return [*found, *(Service(*each) for each in entity.services)]


def _who(entity: Entity, mark: Numbering) -> Who:
    each: list[Marks] = []
    if entity.peers is not None:
        each.append(frozenset((mark(entity.peers),)))
    if entity.nets:
        each.append(frozenset((mark(entity.nets),)))
    if entity.services:
        each.append(frozenset(mark(Service(*one)) for one in entity.services))
    none: list[Asked] = [one for one in (entity.not_peers, entity.not_nets) if one]
    return Who(tuple(each), frozenset(map(mark, none)))


def _parts(rule: Rule, peer: Entity, direction: Direction) -> Iterator[tuple[Rule, tuple[Named, ...]]]:
    """A rule that lists both numbers and names of the peer's ports is two: the numbers are the same for everybody."""
    names = tuple(Named(port.name) for port in peer.ports if isinstance(port, NamedPort))
    numbers = tuple(port for port in peer.ports if isinstance(port, PortRange))
    if not names or not numbers or rule.action is Action.LOG:
        yield rule, names if not numbers else ()
        return
    for ports, kept in ((numbers, ()), (tuple(map(_port, names)), names)):
        yield _with_ports(rule, direction, ports), kept


def _port(name: Named) -> NamedPort:
    return NamedPort(name.name)


def _with_ports(rule: Rule, direction: Direction, ports: tuple[PortRange | NamedPort, ...]) -> Rule:
    if direction is Direction.INGRESS:
        return replace(rule, source=replace(rule.source, ports=ports))
    return replace(rule, destination=replace(rule.destination, ports=ports))


def _depends(rule: Rule, peer: Entity) -> bool:
    return any(isinstance(port, NamedPort) for port in (*peer.ports, *peer.not_ports)) or bool(peer.services)


# -- ports ------------------------------------------------------------------------------------------------------------


def region(clause: Clause, local: Lookup, peer: Lookup, source_port: int | None) -> Region:
    """What a clause is about, for a governed pod and a peer with these numbers behind names, and for packets from one
    source port (None: protocols that have none)."""
    rule = clause.rule
    ingress = clause.direction is Direction.INGRESS
    at_source, at_destination = (peer, local) if ingress else (local, peer)
    found = both(_protocols(rule), _destination(rule, at_destination))
    if not ingress and rule.destination.services:
        ports = frozenset[Port]().union(*(peer(Service(*each)) for each in rule.destination.services))
        found = both(found, _region(ports, None))
    return both(found, _source(rule, at_source, source_port))


def outline(rule: Rule) -> Region:
    """At least what any clause of the rule is about, whoever the ends are."""
    ports = rule.destination.ports
    if not ports or any(isinstance(port, NamedPort) for port in ports):
        return _protocols(rule)
    return both(_protocols(rule), ported(_numbers(ports), PORTED))


def _protocols(rule: Rule) -> Region:
    found = EVERYTHING if rule.protocol is None else Region(False, {rule.protocol: (WHOLE,)})
    if rule.not_protocol is not None:
        found = without(found, Region(False, {rule.not_protocol: (WHOLE,)}))
    if rule.icmp is not None:
        found = both(found, _icmp(rule.icmp))
    if rule.not_icmp is not None:
        found = without(found, _icmp(rule.not_icmp))
    return found


def _icmp(icmp: Icmp) -> Region:
    codes = (0, 255) if icmp.code is None else (icmp.code, icmp.code)
    return ported([(icmp.type << 8 | codes[0], icmp.type << 8 | codes[1])], (ICMP, ICMPV6))


def _destination(rule: Rule, named: Lookup) -> Region:
    end, found = rule.destination, EVERYTHING
    if end.ports:
        found = _listed(end.ports, rule.protocol, named)
    return without(found, _listed(end.not_ports, rule.protocol, named)) if end.not_ports else found


def _listed(ports: Iterable[PortRange | NamedPort], protocol: int | None, named: Lookup) -> Region:
    ports = tuple(ports)
    behind = frozenset[Port]().union(*(named(Named(port.name)) for port in ports if isinstance(port, NamedPort)))
    return either(ported(_numbers(ports), PORTED), _region(behind, protocol))


def _numbers(ports: Iterable[PortRange | NamedPort]) -> list[tuple[int, int]]:
    return [(port.first, port.last) for port in ports if isinstance(port, PortRange)]


def _region(ports: Ports, protocol: int | None) -> Region:
    found = NOTHING
    for of, number in ports:
        if protocol in (None, of):
            found = either(found, ported([WHOLE if number is None else (number, number)], (of,)))
    return found


def _source(rule: Rule, named: Lookup, source_port: int | None) -> Region:
    """The protocols of which the source port fits."""
    end, found = rule.source, EVERYTHING
    if end.ports:
        found = _fitting(end.ports, rule.protocol, named, source_port)
    return without(found, _fitting(end.not_ports, rule.protocol, named, source_port)) if end.not_ports else found


def _fitting(
    ports: Iterable[PortRange | NamedPort], protocol: int | None, named: Lookup, source_port: int | None
) -> Region:
    if source_port is None:
        return NOTHING
    listed = _listed(ports, protocol, named)
    return Region(False, {p: (WHOLE,) for p in PORTED if any(low <= source_port <= high for low, high in listed.of(p))})


def source_edges(clause: Clause, local: Lookup, peers: Iterable[Lookup]) -> set[int]:
    """The source ports from which on a clause may say something else."""
    end = clause.rule.source
    found = set[int]()
    for named in _of_source(clause, local, peers):
        for ranges in _listed((*end.ports, *end.not_ports), clause.rule.protocol, named).by.values():
            found.update(edge for first, last in ranges for edge in (first, last + 1))
    return {edge for edge in found if edge <= WHOLE[1]}


def source_protocols(clause: Clause, local: Lookup, peers: Iterable[Lookup], port: int | None) -> tuple[object, ...]:
    """Two source ports of which this is equal are the same to a clause."""
    found = (_source(clause.rule, named, port) for named in _of_source(clause, local, peers))
    return tuple((each.rest, frozenset(each.by.items())) for each in found)


def _of_source(clause: Clause, local: Lookup, peers: Iterable[Lookup]) -> list[Lookup]:
    return [local] if clause.direction is Direction.EGRESS else [_nobody, *peers]


def _nobody(what: Named | Service) -> Ports:
    return frozenset()
