"""Random worlds in the neutral form of policies, and their verdicts rule by rule: what tables are held against.

This asks every rule in order about two addresses. It knows neither classes nor tables.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, field

from podwire.calc.policy import PolicyCalc
from podwire.model.address import Cidr, parse_ip
from podwire.model.endpointslice import Endpoint, EndpointPort, EndpointSlice
from podwire.model.expression import parse_selector
from podwire.model.member import Namespace, ServiceAccount, effective_labels, node_addresses, set_labels
from podwire.model.meta import Meta
from podwire.model.networkset import NetworkSet
from podwire.model.node import Node, NodeAddress, NodeStatus
from podwire.model.pod import Container, ContainerPort, Pod, PodIP, PodSpec, PodStatus
from podwire.model.policy import (
    ICMP,
    ICMPV6,
    PORTED,
    SCTP,
    TCP,
    TIERS,
    UDP,
    Action,
    Direction,
    Entity,
    Icmp,
    NamedPort,
    Over,
    Peers,
    Policy,
    PolicyKey,
    PortRange,
    Rule,
    Tier,
)

NAMES = {"TCP": TCP, "UDP": UDP, "SCTP": SCTP}
SPACES = ("a", "b", "c")
NETS = ("10.0.0.0/24", "10.0.0.0/28", "10.0.0.1/32", "10.0.0.4/30", "0.0.0.0/0", "172.16.0.0/12", "fd00::/64", "::/0")
NETS += ("fd00::4/126", "fd00::1/128", "10.0.0.0/8", "192.168.1.0/24", "192.168.1.7/32")
SELECTORS = (
    "all()",
    'app == "x"',
    'app in {"x", "y"}',
    'app != "x"',
    "has(role)",
    "!has(role)",
    'projectcalico.org/namespace == "a"',
    '(app == "y" && projectcalico.org/namespace == "b")',
    'pcns.team == "red"',
    'pcns.team != "red"',
    'pcsa.trust == "high"',
    'net == "office"',
    '(has(role) || pcns.team == "blue")',
)
PORT_NAMES = ("http", "dns")


@dataclass
class World:
    namespaces: dict[str, Namespace] = field(default_factory=dict)
    accounts: dict[tuple[str, str], ServiceAccount] = field(default_factory=dict)
    pods: dict[tuple[str, str], Pod] = field(default_factory=dict)
    nodes: dict[str, Node] = field(default_factory=dict)
    sets: dict[str, NetworkSet] = field(default_factory=dict)
    slices: dict[tuple[str, str], EndpointSlice] = field(default_factory=dict)
    policies: dict[PolicyKey, Policy] = field(default_factory=dict)
    tiers: dict[str, Tier] = field(default_factory=dict)
    local: set[tuple[str, str]] = field(default_factory=set)

    def calc(self) -> PolicyCalc:
        """From nothing, not yet flushed."""
        calc = PolicyCalc()
        for name, namespace in self.namespaces.items():
            calc.on_namespace(name, namespace)
        for account in self.accounts.items():
            calc.on_service_account(*account)
        for tier in self.tiers.items():
            calc.on_tier(*tier)
        for policy in self.policies.items():
            calc.on_policy(*policy)
        for key in self.local:
            calc.on_local(key, True)
        for pod in self.pods.items():
            calc.on_pod(*pod)
        for node in self.nodes.items():
            calc.on_node(*node)
        for one in self.sets.items():
            calc.on_network_set(*one)
        for found in self.slices.items():
            calc.on_slice(*found)
        return calc

    # -- verdicts -----------------------------------------------------------------------------------------------------

    def labels(self, key: tuple[str, str]) -> dict[str, str]:
        pod = self.pods[key]
        account = self.accounts.get((key[0], pod.spec.serviceAccountName or "default"))
        return effective_labels(
            pod,
            self.namespaces[key[0]].metadata.labels if key[0] in self.namespaces else {},
            account.metadata.labels if account else {},
        )

    def holders(self, address: str) -> list[tuple[str, str]]:
        return [key for key, pod in self.pods.items() if address in pod.addresses]

    def allowed(self, pod: tuple[str, str], direction: Direction, flow: Flow, *, staged: bool = False) -> bool | None:
        """None: no policy has a say."""
        said = False
        tiers = {tier.name: tier for tier in TIERS} | self.tiers
        for tier in sorted(tiers.values(), key=lambda each: (each.order, each.name)):
            governing = [
                policy
                for policy in self.policies.values()
                if policy.tier == tier.name
                and (staged or not policy.staged)
                and policy.rules(direction) is not None
                and parse_selector(policy.subject.selector).matches(self.labels(pod))
            ]
            if not governing:
                continue
            said, passed = True, False
            for policy in sorted(governing, key=lambda each: each.rank):
                for rule in policy.rules(direction) or ():
                    if passed or not self._matches(rule, flow) or rule.action is Action.LOG:
                        continue
                    if rule.action is not Action.PASS:
                        return rule.action is Action.ALLOW
                    passed = True
            if not passed and tier.default is Action.DENY:
                return False
        return True if said else None

    def _matches(self, rule: Rule, flow: Flow) -> bool:
        if rule.impossible or ((rule.version == 4) != (":" not in flow.source) and rule.version is not None):
            return False
        if rule.protocol not in (None, flow.protocol) or rule.not_protocol == flow.protocol:
            return False
        kind = Icmp(flow.port >> 8, flow.port & 255)
        if rule.icmp is not None and not _is_icmp(rule.icmp, flow.protocol, kind):
            return False
        if rule.not_icmp is not None and _is_icmp(rule.not_icmp, flow.protocol, kind):
            return False
        return self._is(rule.source, flow.source, flow.protocol, flow.source_port, rule.protocol) and self._is(
            rule.destination, flow.destination, flow.protocol, flow.port, rule.protocol, service_ports=True
        )

    def _is(
        self, entity: Entity, address: str, protocol: int, port: int, of: int | None, *, service_ports: bool = False
    ) -> bool:
        number, width = parse_ip(address)

        def inside(cidr: Cidr) -> bool:
            return cidr.width == width and cidr.holds(number)

        def among(peers: Peers) -> bool:
            matches = parse_selector(peers.selector).matches
            if peers.over is Over.NODES:
                return any(
                    address in node_addresses(node) and matches(node.metadata.labels) for node in self.nodes.values()
                )
            return any(matches(self.labels(key)) for key in self.holders(address)) or any(
                matches(set_labels(one, self._space_labels(one.namespace))) and any(map(inside, one.nets))
                for one in self.sets.values()
            )

        def listed(ports: Iterable[PortRange | NamedPort]) -> bool:
            for each in ports:
                if isinstance(each, PortRange):
                    if protocol in PORTED and each.first <= port <= each.last:
                        return True
                elif any(
                    (each.name, protocol, port) in self.pods[key].named_ports and of in (None, protocol)
                    for key in self.holders(address)
                ):
                    return True
            return False

        def serves(service: tuple[str, str]) -> bool:
            return any(
                found.service == service
                and address in found.addresses
                and (
                    not service_ports
                    or any(NAMES[p.protocol] == protocol and p.port in (None, port) for p in found.ports or ())
                )
                for found in self.slices.values()
            )

        return (
            (entity.peers is None or among(entity.peers))
            and (entity.not_peers is None or not among(entity.not_peers))
            and (not entity.nets or any(map(inside, entity.nets)))
            and not any(map(inside, entity.not_nets))
            and (not entity.services or any(map(serves, entity.services)))
            and (not entity.ports or listed(entity.ports))
            and not listed(entity.not_ports)
        )

    def _space_labels(self, name: str) -> dict[str, str]:
        return dict(self.namespaces[name].metadata.labels) if name in self.namespaces else {}


def _is_icmp(wanted: Icmp, protocol: int, have: Icmp) -> bool:
    return protocol in (ICMP, ICMPV6) and wanted.type == have.type and wanted.code in (None, have.code)


@dataclass(frozen=True)
class Flow:
    source: str
    destination: str
    protocol: int
    port: int
    source_port: int


def flow(rng: random.Random, world: World) -> Flow:
    width = rng.choice((4, 4, 6))
    known = [a for pod in world.pods.values() for a in pod.addresses]
    known += [a for node in world.nodes.values() for a in node_addresses(node)]
    strange = ["10.0.0.9", "10.9.9.9", "192.168.1.7", "8.8.8.8", "172.16.3.3"] if width == 4 else ["fd00::9", "2001::1"]
    ends = [a for a in known if (":" in a) == (width == 6)] + strange
    protocol = rng.choice((TCP, TCP, TCP, UDP, SCTP, 47, ICMP if width == 4 else ICMPV6))
    port = rng.choice((80, 81, 443, 53, 8080, 90, 1)) if protocol in PORTED else 0
    if protocol in (ICMP, ICMPV6):
        port = rng.choice((8, 0, 128)) << 8 | rng.choice((0, 3))
    source_port = rng.choice((80, 53, 1024, 5000, 8080)) if protocol in PORTED else 0
    return Flow(rng.choice(ends), rng.choice(ends), protocol, port, source_port)


# -- random parts -----------------------------------------------------------------------------------------------------


def namespace(rng: random.Random, name: str) -> Namespace:
    labels = {"team": rng.choice(("red", "blue"))} if rng.random() < 0.8 else {}
    return Namespace(Meta(name, labels=labels))


def account(rng: random.Random, key: tuple[str, str]) -> ServiceAccount:
    return ServiceAccount(Meta(key[1], key[0], labels=rng.choice(({}, {"trust": "high"}, {"trust": "low"}))))


def pod(rng: random.Random, key: tuple[str, str]) -> Pod:
    number = rng.randrange(1, 8)
    ips = [f"10.0.0.{number}", f"fd00::{number}"]
    ips = ips[: rng.choice((0, 1, 1, 2, 2, 2))] if rng.random() < 0.9 else ips[1:]
    labels = {k: v for k, v in (("app", rng.choice("xyz")), ("role", "db")) if rng.random() < 0.7}
    ports = tuple(
        ContainerPort(name, rng.choice((80, 8080, 53)), rng.choice(("TCP", "TCP", "UDP")))
        for name in PORT_NAMES
        if rng.random() < 0.4
    )
    phase = rng.choice(("Running",) * 8 + ("Succeeded",))
    return Pod(
        Meta(key[1], key[0], labels=labels),
        PodSpec("n", rng.random() < 0.05, rng.choice(("", "robot")), (Container(ports),)),
        PodStatus(phase, podIPs=tuple(map(PodIP, ips))),
    )


def node(rng: random.Random, name: str) -> Node:
    ip = rng.choice(("192.168.1.7", "192.168.1.8", "10.0.0.9"))
    return Node(
        Meta(name, labels=rng.choice(({}, {"app": "x"}, {"role": "db"}))),
        status=NodeStatus([NodeAddress("InternalIP", ip), NodeAddress("InternalIP", "fd00::9")]),
    )


def network_set(rng: random.Random, name: str) -> NetworkSet:
    nets = tuple(map(Cidr.parse, rng.sample(NETS, rng.randrange(3))))
    return NetworkSet(rng.choice(("", "a")), name, nets, rng.choice(({}, {"net": "office"}, {"app": "x"})))


def endpoint_slice(rng: random.Random, key: tuple[str, str]) -> EndpointSlice:
    ips = tuple(rng.sample([f"10.0.0.{n}" for n in range(1, 10)], rng.randrange(1, 4)))
    ports = tuple(EndpointPort(rng.choice(("TCP", "UDP")), rng.choice((80, 53, None))) for _ in range(rng.randrange(3)))
    labels = {"kubernetes.io/service-name": "web"} if rng.random() < 0.9 else {}
    return EndpointSlice(Meta(key[1], key[0], labels=labels), "IPv4", (Endpoint(ips),), ports)


def _peers(rng: random.Random, over: Over = Over.ENDPOINTS) -> Peers:
    return Peers(rng.choice(SELECTORS), over)


def _ports(rng: random.Random) -> tuple[PortRange | NamedPort, ...]:
    found: list[PortRange | NamedPort] = []
    for _ in range(rng.randrange(1, 3)):
        if rng.random() < 0.3:
            found.append(NamedPort(rng.choice(PORT_NAMES)))
        else:
            first = rng.choice((80, 81, 53, 443, 1))
            found.append(PortRange(first, rng.choice((first, first, 8080 if first < 8080 else first))))
    return tuple(found)


def _entity(rng: random.Random, likely: float, *, services: bool) -> Entity:
    def maybe(chance: float) -> bool:
        return rng.random() < chance * likely

    return Entity(
        _peers(rng, Over.NODES if rng.random() < 0.1 else Over.ENDPOINTS) if maybe(0.4) else None,
        _peers(rng) if maybe(0.1) else None,
        tuple(map(Cidr.parse, rng.sample(NETS, rng.randrange(1, 3)))) if maybe(0.25) else (),
        tuple(map(Cidr.parse, rng.sample(NETS, 1))) if maybe(0.15) else (),
        services=(("a", "web"),) if services and maybe(0.12) else (),
    )


def rule(rng: random.Random, direction: Direction, number: int, *, plain: bool) -> Rule:
    from dataclasses import replace

    peer, own = _entity(rng, 1, services=True), Entity() if plain else _entity(rng, 0.15, services=False)
    source, destination = (peer, own) if direction is Direction.INGRESS else (own, peer)
    protocol = rng.choice((None, None, TCP, TCP, TCP, UDP, SCTP, ICMP, 47))
    found = Rule(Action.ALLOW, source, destination, protocol, label=f"{direction}[{number}]")
    if protocol in PORTED or (protocol is None and rng.random() < 0.2):
        ports = _ports(rng)
        if rng.random() < 0.7:
            found = replace(found, destination=replace(destination, ports=ports))
        elif rng.random() < 0.3:
            found = replace(found, destination=replace(destination, not_ports=ports))
    if plain:
        return found
    if protocol in PORTED and rng.random() < 0.15:
        kept = replace(found.source, **{rng.choice(("ports", "not_ports")): _ports(rng)})  # type: ignore[arg-type]
        found = replace(found, source=kept)
    if protocol == ICMP:
        kind = Icmp(rng.choice((8, 0)), rng.choice((None, 0, 3)))
        found = replace(found, icmp=kind) if rng.random() < 0.5 else replace(found, not_icmp=kind)
    if protocol is None and rng.random() < 0.2:
        found = replace(found, not_protocol=rng.choice((TCP, UDP, ICMP)))
    action = rng.choice((Action.ALLOW,) * 4 + (Action.DENY,) * 3 + (Action.PASS, Action.LOG))
    version = rng.choice((None,) * 8 + (4, 6))
    return replace(found, action=action, version=version, impossible=rng.random() < 0.03)


def policy(rng: random.Random, key: PolicyKey) -> Policy:
    plain = rng.random() < 0.4
    rules = {
        direction: tuple(rule(rng, direction, n, plain=plain) for n in range(rng.randrange(5)))
        if rng.random() < 0.75
        else None
        for direction in Direction
    }
    return Policy(
        key,
        Peers(rng.choice(SELECTORS)),
        rules[Direction.INGRESS],
        rules[Direction.EGRESS],
        "default" if plain else rng.choice(("kube-admin", "default", "first", "kube-baseline", "nowhere")),
        1000.0 if plain else rng.choice((1.0, 2.0, 1000.0)),
        rng.random() < 0.1,
    )


def tier(rng: random.Random, name: str) -> Tier:
    return Tier(name, rng.choice((1.0, 5_000.0)), rng.choice((Action.DENY, Action.PASS)))


def world(rng: random.Random) -> World:
    found = World()
    for name in SPACES:
        found.namespaces[name] = namespace(rng, name)
        found.accounts[name, "robot"] = account(rng, (name, "robot"))
        for number in range(3):
            found.pods[name, f"p{number}"] = pod(rng, (name, f"p{number}"))
    for name in ("n", "m"):
        found.nodes[name] = node(rng, name)
    for number in range(rng.randrange(3)):
        found.sets[f"s{number}"] = network_set(rng, f"s{number}")
    for number in range(rng.randrange(3)):
        found.slices["a", f"e{number}"] = endpoint_slice(rng, ("a", f"e{number}"))
    for number in range(rng.randrange(1, 7)):
        key = PolicyKey("NetworkPolicy", rng.choice(SPACES), f"p{number}")
        found.policies[key] = policy(rng, key)
    if rng.random() < 0.7:
        found.tiers["first"] = tier(rng, "first")
    found.local = {key for key in found.pods if rng.random() < 0.6}
    return found
