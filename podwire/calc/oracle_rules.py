"""The oracle's reading of policies of Kubernetes: whom each governs, and its rules as questions about a flow.

Written from each kind's own text; `oracle_calico` reads Calico's. A rule that cannot be
read fails closed: it allows nothing, or denies everything.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from podwire.calc.oracle_world import (
    End,
    Object,
    Objects,
    PodEnd,
    Unreadable,
    check_nets,
    check_selector,
    cidr,
    label_selector,
    name_of,
    number_of,
    protocol_number,
    space_of,
)
from podwire.model.address import AddressError

PORTED = (6, 17, 132)
"""TCP, UDP, SCTP."""
_CLUSTER_PORTS = frozenset(("tcp", "udp", "sctp", "destinationNamedPort", "portNumber", "portRange", "namedPort"))
"""What an entry of a cluster policy's ports can be, in either version."""


@dataclass(frozen=True)
class Flow:
    """The first packet of a connection. `protocol` is IP's number; ports are 0 for protocols that have none, type and
    code count for ICMP and ICMPv6 only."""

    source: End
    destination: End
    protocol: int
    port: int = 0
    source_port: int = 0
    icmp_type: int = 0
    icmp_code: int = 0

    @property
    def version(self) -> int:
        return 4 if number_of(self.destination.address)[1] == 32 else 6


@dataclass(frozen=True)
class Clause:
    """A rule: `action` is Allow, Deny, Pass or Log. `problem` says why it could not be read."""

    label: str
    action: str
    matches: Callable[[Flow], bool]
    problem: str = ""


@dataclass(frozen=True)
class Governing:
    """A policy; a direction that it does not govern is None. `rank` is its place within the tier."""

    title: str
    tier: str
    rank: tuple[float, str]
    governs: Callable[[PodEnd], bool]
    ingress: tuple[Clause, ...] | None
    egress: tuple[Clause, ...] | None
    staged: bool = False

    def rules(self, direction: str) -> tuple[Clause, ...] | None:
        return self.ingress if direction == "ingress" else self.egress


def read(label: str, action: str, rule: Callable[[], Callable[[Flow], bool]]) -> Clause:
    """A rule; one that cannot be read allows nothing, or denies everything."""
    try:
        return Clause(label, action, rule())
    except (Unreadable, AddressError, KeyError, TypeError, ValueError, AttributeError) as error:
        return closed(label, action, f"{label}: {error}")


def closed(label: str, action: str, problem: str) -> Clause:
    if action in ("Deny", "Pass"):
        return Clause(label, "Deny", lambda _: True, problem)
    return Clause(label, action, lambda _: False, problem)


def title(kind: str, obj: Object, namespaced: bool) -> str:
    return f"{kind} {space_of(obj)}/{name_of(obj)}" if namespaced else f"{kind} {name_of(obj)}"


def tie(obj: Object, kind: str, namespaced: bool) -> str:
    return f"{name_of(obj)}/{space_of(obj) if namespaced else ''}/{kind}"


# --- networking.k8s.io/v1 NetworkPolicy ------------------------------------------------------------


def network_policy(obj: Object, known: Objects, kind: str = "NetworkPolicy") -> Governing:
    spec, namespace = obj.get("spec") or {}, space_of(obj)
    types = spec.get("policyTypes") or (["Ingress", "Egress"] if spec.get("egress") else ["Ingress"])
    check_selector(spec.get("podSelector"))

    def governs(pod: PodEnd) -> bool:
        return pod.key[0] == namespace and label_selector(spec.get("podSelector"), pod.own)

    def clauses(direction: str, peers: str) -> tuple[Clause, ...]:
        return tuple(
            read(
                f"{direction}[{at}]",
                "Allow",
                partial(_network_policy_rule, rule or {}, peers, namespace, known),
            )
            for at, rule in enumerate(spec.get(direction) or ())
        )

    return Governing(
        title(kind, obj, True),
        "default",
        (1000.0, tie(obj, kind, True)),
        governs,
        clauses("ingress", "from") if "Ingress" in types else None,
        clauses("egress", "to") if "Egress" in types else None,
    )


def _network_policy_rule(rule: Object, peers: str, namespace: str, known: Objects) -> Callable[[Flow], bool]:
    for peer in rule.get(peers) or ():
        check_selector(peer.get("podSelector"))
        check_selector(peer.get("namespaceSelector"))
        if block := peer.get("ipBlock"):
            check_nets([block["cidr"], *(block.get("except") or ())])
    for port in rule.get("ports") or ():
        protocol_number(port.get("protocol") or "TCP")

    def matches(flow: Flow) -> bool:
        other = flow.source if peers == "from" else flow.destination
        by_peer = not rule.get(peers) or any(_peer(peer, other, namespace, known) for peer in rule[peers])
        return by_peer and (not rule.get("ports") or any(_policy_port(port, flow, known) for port in rule["ports"]))

    return matches


def _peer(peer: Object, end: End, namespace: str, known: Objects) -> bool:
    block = peer.get("ipBlock")
    if block is not None:
        if "podSelector" in peer or "namespaceSelector" in peer:
            return False
        return in_nets(end, [block["cidr"]]) and not in_nets(end, block.get("except") or [])
    if peer.get("podSelector") is None and peer.get("namespaceSelector") is None:
        return False
    return any(
        label_selector(peer.get("podSelector"), pod.own)
        and (
            pod.key[0] == namespace
            if peer.get("namespaceSelector") is None
            else label_selector(peer["namespaceSelector"], known.namespace_labels(pod.key[0]))
        )
        for pod in pods_at(end, known)
    )


def _policy_port(port: Object, flow: Flow, known: Objects) -> bool:
    if flow.protocol != protocol_number(port.get("protocol") or "TCP"):
        return False
    wanted = port.get("port")
    if wanted is None:
        return True
    if isinstance(wanted, str):
        return has_named_port(flow.destination, wanted, flow.protocol, flow.port, known)
    return bool(wanted <= flow.port <= (port.get("endPort") or wanted))


# --- policy.networking.k8s.io ----------------------------------------------------------------------


def cluster_policy(obj: Object, known: Objects) -> Governing:
    """ClusterNetworkPolicy, AdminNetworkPolicy and BaselineAdminNetworkPolicy: they differ in names."""
    spec, kind = obj["spec"], str(obj["kind"])
    baseline = kind == "BaselineAdminNetworkPolicy" or spec.get("tier") == "Baseline"
    order = 1000.0 if kind == "BaselineAdminNetworkPolicy" else float(spec["priority"])
    subject = spec["subject"]
    if len(subject) != 1 or not subject.keys() & {"namespaces", "pods"}:
        raise Unreadable("spec.subject: give one of namespaces and pods")
    pods = subject.get("pods") or {}
    for selector in (subject.get("namespaces"), pods.get("namespaceSelector"), pods.get("podSelector")):
        check_selector(selector)

    def governs(pod: PodEnd) -> bool:
        return _namespaced_pods(subject, known.namespace_labels(pod.key[0]), pod.own)

    def clauses(direction: str, peers: str) -> tuple[Clause, ...] | None:
        rules = tuple(
            _cluster_clause(rule, rule.get("name") or f"{direction}[{at}]", peers, known)
            for at, rule in enumerate(spec.get(direction) or ())
        )
        return rules or None  # to select a pod without a rule for it isolates nothing

    return Governing(
        title(kind, obj, False),
        "kube-baseline" if baseline else "kube-admin",
        (order, tie(obj, kind, False)),
        governs,
        clauses("ingress", "from"),
        clauses("egress", "to"),
    )


def _namespaced_pods(selector: Object, namespace: Object, pod: Object) -> bool:
    if "namespaces" in selector:
        return label_selector(selector["namespaces"], namespace)
    pods = selector["pods"]
    return label_selector(pods.get("namespaceSelector"), namespace) and label_selector(pods.get("podSelector"), pod)


def _cluster_clause(rule: Object, label: str, peers: str, known: Objects) -> Clause:
    action = {"Accept": "Allow"}.get(rule["action"], rule["action"])
    if action not in ("Allow", "Deny", "Pass"):
        raise Unreadable(f"{label}: action {action!r} is not known")
    return read(label, action, lambda: _cluster_rule(rule, peers, known))


def _cluster_rule(rule: Object, peers: str, known: Objects) -> Callable[[Flow], bool]:
    kinds = {"namespaces", "pods"} if peers == "from" else {"namespaces", "pods", "nodes", "networks", "domainNames"}
    for peer in rule[peers]:
        if len(peer.keys() & kinds) != 1:
            raise Unreadable("a peer of no kind that is known")
        check_nets(peer.get("networks") or ())
        pods = peer.get("pods") or {}
        for selector in (
            peer.get("namespaces"),
            peer.get("nodes"),
            pods.get("namespaceSelector"),
            pods.get("podSelector"),
        ):
            check_selector(selector)
    ports = rule.get("protocols") or rule.get("ports") or ()
    if any(not port.keys() & _CLUSTER_PORTS for port in ports):
        raise Unreadable("a port of no kind that is known")

    def matches(flow: Flow) -> bool:
        other = flow.source if peers == "from" else flow.destination
        return any(_cluster_peer(peer, other, known) for peer in rule[peers]) and (
            not ports or any(_cluster_port(port, flow, known) for port in ports)
        )

    return matches


def _cluster_peer(peer: Object, end: End, known: Objects) -> bool:
    if "networks" in peer:
        return in_nets(end, peer["networks"])
    if "nodes" in peer:
        return any(
            end.address in addresses and label_selector(peer["nodes"], labels)
            for labels, addresses in known.nodes.values()
        )
    if "domainNames" in peer:
        return False
    return any(_namespaced_pods(peer, known.namespace_labels(pod.key[0]), pod.own) for pod in pods_at(end, known))


def _cluster_port(port: Object, flow: Flow, known: Objects) -> bool:
    name = port.get("destinationNamedPort") or port.get("namedPort")
    if name:
        return has_named_port(flow.destination, name, flow.protocol, flow.port, known)
    for protocol in ("tcp", "udp", "sctp"):
        if protocol in port:
            wanted = (port[protocol] or {}).get("destinationPort")
            return flow.protocol == protocol_number(protocol) and (wanted is None or _in_port(wanted, flow.port))
    wanted = port.get("portNumber") or port["portRange"]
    return flow.protocol == protocol_number(wanted.get("protocol") or "TCP") and _in_port(
        {"number": wanted["port"]} if "port" in wanted else {"range": wanted}, flow.port
    )


def _in_port(wanted: Object, port: int) -> bool:
    if "number" in wanted:
        return bool(wanted["number"] == port)
    return bool(wanted["range"]["start"] <= port <= wanted["range"]["end"])


# --- what the kinds share --------------------------------------------------------------------------


def pods_at(end: End, known: Objects) -> list[PodEnd]:
    return [each for each in known.at(end.address) if isinstance(each, PodEnd)]


def in_nets(end: End, nets: list[str]) -> bool:
    number, width = number_of(end.address)
    return any(net.width == width and net.holds(number) for net in map(cidr, nets))


def has_named_port(end: End, name: str, protocol: int, port: int, known: Objects) -> bool:
    """The pod at this end gives this name to this port of this protocol: of the governed pod's own end (whose `pod` is
    given) that pod itself, whoever else had the address before."""
    pods = [known.pods[end.pod]] if end.pod is not None else pods_at(end, known)
    return any((name, protocol, port) in pod.ports for pod in pods)
