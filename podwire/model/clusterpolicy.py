"""Policies of the whole cluster as policies: ClusterNetworkPolicy (policy.networking.k8s.io v1alpha2), and before it
AdminNetworkPolicy and BaselineAdminNetworkPolicy (v1alpha1).

They stand in the tiers kube-admin and kube-baseline, at their priority. A rule with a peer that cannot be understood
fails closed, as the API asks: Accept then matches nothing, Deny and Pass deny everything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import msgspec

from podwire.model import kubernetesselector
from podwire.model.kubernetesselector import LabelSelector
from podwire.model.networkpolicy import PROTOCOLS
from podwire.model.policy import (
    ANYBODY,
    SCTP,
    TCP,
    UDP,
    Action,
    Direction,
    Entity,
    NamedPort,
    Peers,
    Policy,
    PolicyKey,
    PortRange,
    Rule,
)
from podwire.model.portlists import Port, named_port, port_range, prefix, tidied
from podwire.model.written import Notes, PolicyError, Written, plain, spec_of

ADMIN, BASELINE = "kube-admin", "kube-baseline"
TIERS = {"Admin": ADMIN, "Baseline": BASELINE}
LAST_PRIORITY = 1_000
BASELINE_ORDER = float(LAST_PRIORITY)
"""Of the BaselineAdminNetworkPolicy, which has no priority: with the last ClusterNetworkPolicies of its tier."""
MOST, OLD_MOST = 25, 100
"""Rules in a direction, peers in a rule and protocols in a rule; before v1alpha2 there might be more."""
_NAME, _NETWORKS = 100, 25
_ACTIONS = {"Accept": Action.ALLOW, "Allow": Action.ALLOW, "Deny": Action.DENY, "Pass": Action.PASS}


class Pods(msgspec.Struct, frozen=True):
    namespaceSelector: LabelSelector = LabelSelector()
    podSelector: LabelSelector = LabelSelector()


class Subject(msgspec.Struct, frozen=True):
    namespaces: LabelSelector | None = None
    pods: Pods | None = None


class Range(msgspec.Struct, frozen=True):
    start: int = 0
    end: int = 0


class DestinationPort(msgspec.Struct, frozen=True):
    number: int | None = None
    range: Range | None = None


class Ported(msgspec.Struct, frozen=True):
    destinationPort: DestinationPort | None = None


class Protocol(msgspec.Struct, frozen=True):
    """v1alpha2: one of them."""

    tcp: Ported | None = None
    udp: Ported | None = None
    sctp: Ported | None = None
    destinationNamedPort: str | None = None


class PortNumber(msgspec.Struct, frozen=True):
    protocol: str = "TCP"
    port: int = 0


class NumberedRange(msgspec.Struct, frozen=True):
    protocol: str = "TCP"
    start: int = 0
    end: int = 0


class OldPort(msgspec.Struct, frozen=True):
    """v1alpha1: one of them."""

    portNumber: PortNumber | None = None
    portRange: NumberedRange | None = None
    namedPort: str | None = None


class Peer(msgspec.Struct, frozen=True):
    """One of them; the last three in egress rules only."""

    namespaces: LabelSelector | None = None
    pods: Pods | None = None
    networks: list[str] | None = None
    nodes: LabelSelector | None = None
    domainNames: list[str] | None = None


class IngressRule(msgspec.Struct, frozen=True, rename={"peers": "from"}):
    action: str = ""
    name: str = ""
    peers: list[Peer] = []
    protocols: list[Protocol] | None = None


class EgressRule(msgspec.Struct, frozen=True, rename={"peers": "to"}):
    action: str = ""
    name: str = ""
    peers: list[Peer] = []
    protocols: list[Protocol] | None = None


class ClusterNetworkPolicySpec(msgspec.Struct, frozen=True):
    tier: str = ""
    priority: int = -1
    subject: Subject = Subject()
    ingress: list[IngressRule] = []
    egress: list[EgressRule] = []


class OldIngressRule(msgspec.Struct, frozen=True, rename={"peers": "from"}):
    action: str = ""
    name: str = ""
    peers: list[Peer] = []
    ports: list[OldPort] | None = None


class OldEgressRule(msgspec.Struct, frozen=True, rename={"peers": "to"}):
    action: str = ""
    name: str = ""
    peers: list[Peer] = []
    ports: list[OldPort] | None = None


class AdminNetworkPolicySpec(msgspec.Struct, frozen=True):
    priority: int = -1
    subject: Subject = Subject()
    ingress: list[OldIngressRule] = []
    egress: list[OldEgressRule] = []


class BaselineAdminNetworkPolicySpec(msgspec.Struct, frozen=True):
    subject: Subject = Subject()
    ingress: list[OldIngressRule] = []
    egress: list[OldEgressRule] = []


AnyRule = IngressRule | EgressRule | OldIngressRule | OldEgressRule
Matched = tuple[int | None, tuple[Port, ...]]
"""A protocol (None: any) and its ports (none: all)."""


def cluster_network_policy(record: Written, notes: Notes) -> Policy:
    """Raises PolicyError if tier, priority or subject cannot be read."""
    spec = spec_of(record, ClusterNetworkPolicySpec, notes)
    if spec.tier not in TIERS:
        raise PolicyError("spec.tier", f"{spec.tier[:80]!r} is neither Admin nor Baseline")
    place = (TIERS[spec.tier], float(_priority(spec.priority)))
    return _policy(record, "ClusterNetworkPolicy", spec, place, ("Accept", "Deny", "Pass"), notes)


def admin_network_policy(record: Written, notes: Notes) -> Policy:
    """Raises PolicyError if priority or subject cannot be read."""
    spec = spec_of(record, AdminNetworkPolicySpec, notes)
    place = (ADMIN, float(_priority(spec.priority)))
    return _policy(record, "AdminNetworkPolicy", spec, place, ("Allow", "Deny", "Pass"), notes)


def baseline_admin_network_policy(record: Written, notes: Notes) -> Policy:
    """Raises PolicyError if name or subject cannot be read."""
    if record.metadata.name != "default":
        raise PolicyError("metadata.name", "there is one BaselineAdminNetworkPolicy, and its name is default")
    spec = spec_of(record, BaselineAdminNetworkPolicySpec, notes)
    place = (BASELINE, BASELINE_ORDER)
    return _policy(record, "BaselineAdminNetworkPolicy", spec, place, ("Allow", "Deny"), notes)


def _priority(number: int) -> int:
    if not 0 <= number <= LAST_PRIORITY:
        raise PolicyError("spec.priority", f"must be given, from 0 to {LAST_PRIORITY}")
    return number


def _policy(
    record: Written,
    kind: str,
    spec: ClusterNetworkPolicySpec | AdminNetworkPolicySpec | BaselineAdminNetworkPolicySpec,
    place: tuple[str, float],
    actions: tuple[str, ...],
    notes: Notes,
) -> Policy:
    subject = _subject(spec.subject, notes)
    ingress = _Reader(Direction.INGRESS, actions, notes).all(spec.ingress)
    egress = _Reader(Direction.EGRESS, actions, notes).all(spec.egress)
    key = PolicyKey(kind, "", record.metadata.name)
    return Policy(key, subject, ingress or None, egress or None, *place, problems=notes.texts)


def _subject(subject: Subject, notes: Notes) -> Peers:
    notes.refuse_strange("spec.subject")
    if (subject.namespaces is None) == (subject.pods is None):
        raise PolicyError("spec.subject", "must have namespaces or pods, and not both")
    if subject.namespaces is not None:
        return kubernetesselector.pods("spec.subject", namespaces=subject.namespaces, at=("podSelector", "namespaces"))
    return _pods(subject.pods or Pods(), "spec.subject.pods")


def _pods(pods: Pods, path: str) -> Peers:
    return kubernetesselector.pods(path, own=pods.podSelector, namespaces=pods.namespaceSelector)


class _Reader:
    """Rules of one direction."""

    def __init__(self, direction: Direction, actions: tuple[str, ...], notes: Notes) -> None:
        self._direction, self._actions, self._notes = direction, actions, notes
        self._most = MOST if "Accept" in actions else OLD_MOST
        self._list = "from" if direction is Direction.INGRESS else "to"

    def all(self, rules: Sequence[AnyRule]) -> tuple[Rule, ...]:
        if len(rules) > self._most:
            words = f"may not have more than {self._most} rules: {len(rules)}"
            self._notes.wrong(PolicyError(f"spec.{self._direction}", words))
        return tuple(found for place, rule in enumerate(rules) for found in self._rules(place, rule))

    def _rules(self, place: int, rule: AnyRule) -> Iterator[Rule]:
        """One for each peer and protocol."""
        where = f"{self._direction}[{place}]"
        path, label = f"spec.{where}", plain(rule.name, _NAME) or where
        try:
            yield from list(self._read(path, label, rule))
        except PolicyError as error:
            self._notes.wrong(error)
            if rule.action in ("Accept", "Allow"):
                yield Rule(Action.ALLOW, impossible=True, label=label)
            else:
                yield Rule(Action.DENY, label=label)

    def _read(self, path: str, label: str, rule: AnyRule) -> Iterator[Rule]:
        self._notes.refuse_strange(path)
        if rule.action not in self._actions:
            raise PolicyError(f"{path}.action", f"{rule.action[:80]!r} is none of {', '.join(self._actions)}")
        if len(rule.name) > _NAME:
            self._notes.wrong(PolicyError(f"{path}.name", f"may not be longer than {_NAME} characters"))
        action = _ACTIONS[rule.action]
        if isinstance(rule, IngressRule | EgressRule):
            matched = _matched(f"{path}.protocols", rule.protocols, _protocol, self._most)
        else:
            matched = _matched(f"{path}.ports", rule.ports, _old_port, self._most)
        _count(f"{path}.{self._list}", len(rule.peers), self._most)
        named = any(isinstance(port, NamedPort) for _, ports in matched for port in ports)
        entities = [
            entity
            for place, peer in enumerate(rule.peers)
            for entity in self._peer(f"{path}.{self._list}[{place}]", peer, action, named=named)
        ]
        if not entities:
            yield Rule(action, impossible=True, label=label)
        for entity in entities:
            for protocol, ports in matched:
                if self._direction is Direction.INGRESS:
                    yield Rule(action, entity, replace(ANYBODY, ports=ports), protocol, label=label)
                else:
                    yield Rule(action, ANYBODY, replace(entity, ports=ports), protocol, label=label)

    def _peer(self, path: str, peer: Peer, action: Action, *, named: bool) -> Iterator[Entity]:
        given = [name for name in peer.__struct_fields__ if getattr(peer, name) is not None]
        if len(given) != 1:
            raise PolicyError(path, f"must have exactly one kind of peer{', not ' if given else ''}{', '.join(given)}")
        kind = given[0]
        if kind in ("networks", "nodes", "domainNames"):
            if self._direction is Direction.INGRESS:
                raise PolicyError(f"{path}.{kind}", "may stand in egress rules only")
            if named:
                raise PolicyError(f"{path}.{kind}", "has no named ports: give the port's number")
        if peer.namespaces is not None:
            yield Entity(kubernetesselector.pods(path, namespaces=peer.namespaces, at=("podSelector", "namespaces")))
        elif peer.pods is not None:
            yield Entity(_pods(peer.pods, f"{path}.pods"))
        elif peer.nodes is not None:
            yield Entity(kubernetesselector.nodes(peer.nodes, f"{path}.nodes"))
        elif peer.networks is not None:
            _count(f"{path}.networks", len(peer.networks), _NETWORKS)
            nets = (prefix(text, f"{path}.networks[{at}]") for at, text in enumerate(peer.networks))
            yield Entity(nets=tuple(dict.fromkeys(nets)))
        elif action is not Action.ALLOW:
            raise PolicyError(f"{path}.domainNames", "may stand in Accept rules only")
        else:
            self._notes.unmet(f"{path}.domainNames", "names are not followed here: this peer matches nothing")


def _count(path: str, number: int, most: int) -> None:
    if not 1 <= number <= most:
        raise PolicyError(path, f"must have 1 to {most} items, not {number}")


def _matched(path: str, written: Sequence[Any] | None, read: Callable[[str, Any], Matched], most: int) -> list[Matched]:
    """Each protocol once, with all its ports. Raises PolicyError."""
    if written is None:
        return [(None, ())]
    _count(path, len(written), most)
    found: dict[int | None, tuple[Port, ...]] = {}
    for place, each in enumerate(written):
        protocol, ports = read(f"{path}[{place}]", each)
        before = found.get(protocol)
        found[protocol] = ports if before is None else before + ports if before and ports else ()
    return [(protocol, tidied(ports)) for protocol, ports in found.items()]


def _protocol(path: str, each: Protocol) -> Matched:
    given = {"tcp": each.tcp, "udp": each.udp, "sctp": each.sctp}
    present = [(name, value) for name, value in given.items() if value is not None]
    if len(present) + (each.destinationNamedPort is not None) != 1:
        raise PolicyError(path, "must have exactly one of tcp, udp, sctp, destinationNamedPort")
    if each.destinationNamedPort is not None:
        return None, (named_port(each.destinationNamedPort, f"{path}.destinationNamedPort"),)
    name, ported = present[0]
    number, port = {"tcp": TCP, "udp": UDP, "sctp": SCTP}[name], ported.destinationPort
    if port is None:
        return number, ()
    where = f"{path}.{name}.destinationPort"
    if (port.number is None) == (port.range is None):
        raise PolicyError(where, "must have number or range, and not both")
    if port.range is not None:
        return number, (_ends(f"{where}.range", port.range),)
    return number, (port_range(port.number or 0, port.number or 0, f"{where}.number"),)


def _old_port(path: str, each: OldPort) -> Matched:
    given = (each.portNumber, each.portRange, each.namedPort)
    if sum(one is not None for one in given) != 1:
        raise PolicyError(path, "must have exactly one of portNumber, portRange, namedPort")
    if each.namedPort is not None:
        return None, (named_port(each.namedPort, f"{path}.namedPort"),)
    if each.portNumber is not None:
        found = port_range(each.portNumber.port, each.portNumber.port, f"{path}.portNumber.port")
        return _numbered(each.portNumber.protocol, f"{path}.portNumber"), (found,)
    ends = each.portRange or NumberedRange()
    return _numbered(ends.protocol, f"{path}.portRange"), (_ends(f"{path}.portRange", ends),)


def _numbered(protocol: str, path: str) -> int:
    if protocol not in PROTOCOLS:
        raise PolicyError(f"{path}.protocol", f"{protocol[:80]!r} is none of TCP, UDP, SCTP")
    return PROTOCOLS[protocol]


def _ends(path: str, ends: Range | NumberedRange) -> PortRange:
    if ends.start >= ends.end:
        raise PolicyError(path, f"start ({ends.start}) must be less than end ({ends.end})")
    return port_range(ends.start, ends.end, path)
