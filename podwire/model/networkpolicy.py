"""NetworkPolicies of Kubernetes as policies. Source: networking.k8s.io/v1, its defaults and validation.

Only Allow rules; a part that cannot be read matches nothing, and the rest stands.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import msgspec

from podwire.model import kubernetesselector
from podwire.model.address import Cidr
from podwire.model.kubernetesselector import LabelSelector
from podwire.model.policy import (
    ANYBODY,
    KUBERNETES_ORDER,
    SCTP,
    TCP,
    UDP,
    Action,
    Direction,
    Entity,
    Peers,
    Policy,
    PolicyKey,
    Rule,
)
from podwire.model.portlists import Port, named_port, port_range, prefix, tidied
from podwire.model.written import Notes, PolicyError, Written, spec_of

PROTOCOLS = {"TCP": TCP, "UDP": UDP, "SCTP": SCTP}


class IPBlock(msgspec.Struct, frozen=True, rename={"excluded": "except"}):
    cidr: str = ""
    excluded: list[str] = []


class Peer(msgspec.Struct, frozen=True):
    podSelector: LabelSelector | None = None
    namespaceSelector: LabelSelector | None = None
    ipBlock: IPBlock | None = None


class PolicyPort(msgspec.Struct, frozen=True):
    protocol: str = "TCP"
    port: int | str | None = None
    endPort: int | None = None


class IngressRule(msgspec.Struct, frozen=True, rename={"peers": "from"}):
    peers: list[Peer] = []
    ports: list[PolicyPort] = []


class EgressRule(msgspec.Struct, frozen=True, rename={"peers": "to"}):
    peers: list[Peer] = []
    ports: list[PolicyPort] = []


class NetworkPolicySpec(msgspec.Struct, frozen=True):
    podSelector: LabelSelector = LabelSelector()
    ingress: list[IngressRule] = []
    egress: list[EgressRule] = []
    policyTypes: list[str] = []


class StagedSpec(NetworkPolicySpec, frozen=True):
    stagedAction: str = "Set"


def policy(record: Written, notes: Notes) -> Policy:
    """Raises PolicyError if it cannot be told which pods it is for."""
    return convert(record, NetworkPolicySpec, PolicyKey("NetworkPolicy", *record.key), notes)


def convert(
    record: Written, kind: type[NetworkPolicySpec], key: PolicyKey, notes: Notes, *, staged: bool = False
) -> Policy:
    """A record with a spec of that kind. Raises PolicyError if it cannot be told which pods it is for."""
    spec = spec_of(record, kind, notes)
    namespace = record.metadata.namespace
    notes.refuse_strange("spec.podSelector")
    types = _types(spec)
    subject = kubernetesselector.pods("spec", own=spec.podSelector, namespace=namespace)
    rules: dict[str, tuple[Rule, ...] | None] = {"Ingress": None, "Egress": None}
    sides: tuple[tuple[str, Direction, Sequence[IngressRule | EgressRule]], ...] = (
        ("Ingress", Direction.INGRESS, spec.ingress),
        ("Egress", Direction.EGRESS, spec.egress),
    )
    for name, direction, written in sides:
        if name in types:
            reader = _Reader(direction, namespace, notes)
            rules[name] = tuple(found for at, rule in enumerate(written) for found in reader.rules(at, rule))
    return Policy(key, subject, rules["Ingress"], rules["Egress"], "default", KUBERNETES_ORDER, staged, notes.texts)


def _types(spec: NetworkPolicySpec) -> set[str]:
    """As the API server writes them when they are left out."""
    if len(spec.policyTypes) > 2:
        raise PolicyError("spec.policyTypes", "may not have more than two")
    for place, each in enumerate(spec.policyTypes):
        if each not in ("Ingress", "Egress"):
            raise PolicyError(f"spec.policyTypes[{place}]", f"{each[:80]!r} is neither Ingress nor Egress")
    return set(spec.policyTypes) or {"Ingress", *(("Egress",) if spec.egress else ())}


class _Reader:
    """Rules of one direction."""

    def __init__(self, direction: Direction, namespace: str, notes: Notes) -> None:
        self._direction, self._namespace, self._notes = direction, namespace, notes
        self._list = "from" if direction is Direction.INGRESS else "to"

    def rules(self, place: int, rule: IngressRule | EgressRule) -> Iterator[Rule]:
        """One for each peer and protocol; prefixes without exceptions are one peer."""
        label = f"{self._direction}[{place}]"
        path = f"spec.{label}"
        lists = (f"{path}.{self._list}[", f"{path}.ports[")
        peers = self._peers(f"{path}.{self._list}", rule.peers)
        ports = self._ports(f"{path}.ports", rule.ports)
        if not peers or not ports or any(not each.startswith(lists) for each in self._notes.within(path)):
            yield Rule(Action.ALLOW, impossible=True, label=label)
            return
        for peer in peers:
            for protocol, numbers in ports.items():
                if self._direction is Direction.INGRESS:
                    source, destination = peer, replace(ANYBODY, ports=numbers)
                else:
                    source, destination = ANYBODY, replace(peer, ports=numbers)
                yield Rule(Action.ALLOW, source, destination, protocol, label=label)

    def _peers(self, path: str, peers: list[Peer]) -> list[Entity]:
        """Those that can be read; nobody is asked for: anybody."""
        if not peers:
            return [ANYBODY]
        found: list[Entity] = []
        plain: list[Cidr] = []
        for place, peer in enumerate(peers):
            where = f"{path}[{place}]"
            try:
                self._notes.refuse_strange(where)
                entity = self._peer(where, peer)
            except PolicyError as error:
                self._notes.wrong(error)
                continue
            if entity.nets and not entity.not_nets:
                plain.extend(entity.nets)
            else:
                found.append(entity)
        return [*found, Entity(nets=tuple(dict.fromkeys(plain)))] if plain else found

    def _peer(self, path: str, peer: Peer) -> Entity:
        by_labels = peer.podSelector is not None or peer.namespaceSelector is not None
        if peer.ipBlock is None:
            if not by_labels:
                raise PolicyError(path, "must specify a peer")
            return Entity(self._pods(path, peer))
        if by_labels:
            raise PolicyError(path, "may not specify both ipBlock and another peer")
        return _block(f"{path}.ipBlock", peer.ipBlock)

    def _pods(self, path: str, peer: Peer) -> Peers:
        return kubernetesselector.pods(
            path, own=peer.podSelector, namespaces=peer.namespaceSelector, namespace=self._namespace
        )

    def _ports(self, path: str, ports: list[PolicyPort]) -> dict[int | None, tuple[Port, ...]]:
        """Protocol → its ports, () for all of them; {} if none of them can be read."""
        if not ports:
            return {None: ()}
        found: dict[int | None, list[Port] | None] = {}
        for place, each in enumerate(ports):
            where = f"{path}[{place}]"
            try:
                self._notes.refuse_strange(where)
                protocol, port = _port(where, each)
            except PolicyError as error:
                self._notes.wrong(error)
                continue
            numbers = found.setdefault(protocol, [])
            if port is None:
                found[protocol] = None
            elif numbers is not None:
                numbers.append(port)
        return {protocol: tidied(numbers or ()) for protocol, numbers in found.items()}


def _port(path: str, each: PolicyPort) -> tuple[int, Port | None]:
    if each.protocol not in PROTOCOLS:
        raise PolicyError(f"{path}.protocol", f"{each.protocol[:80]!r} is none of TCP, UDP, SCTP")
    if each.endPort is not None and not isinstance(each.port, int):
        why = "is not specified" if each.port is None else "is non-numeric"
        raise PolicyError(f"{path}.endPort", f"may not be specified when `port` {why}")
    if each.port is None:
        return PROTOCOLS[each.protocol], None
    if isinstance(each.port, str):
        return PROTOCOLS[each.protocol], named_port(each.port, f"{path}.port")
    if each.endPort is not None and each.endPort < each.port:
        raise PolicyError(f"{path}.endPort", f"{each.endPort} must be greater than or equal to `port` ({each.port})")
    last = each.port if each.endPort is None else each.endPort
    return PROTOCOLS[each.protocol], port_range(each.port, last, f"{path}.port")


def _block(path: str, block: IPBlock) -> Entity:
    if not block.cidr:
        raise PolicyError(f"{path}.cidr", "must be given")
    whole = prefix(block.cidr, f"{path}.cidr")
    parts = []
    for place, text in enumerate(block.excluded):
        part = prefix(text, f"{path}.except[{place}]")
        if not whole.covers(part) or part.length == whole.length:
            raise PolicyError(f"{path}.except[{place}]", f"{text} must be a strict subset of `cidr` ({whole})")
        parts.append(part)
    return Entity(nets=(whole,), not_nets=tuple(dict.fromkeys(parts)))
