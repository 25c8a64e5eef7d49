"""Random worlds as the API holds them, the same for the same seed, small enough that every clause matters at times.

A world has one node whose pods are judged (`HERE`) and another; a handful of pods, labels, ports and prefixes, and some
policies of every kind about them. `flows` (beside this page) asks about it, `steps` changes it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.unit.policy.objects import (
    CALICO,
    CLUSTER,
    Object,
    account,
    namespace,
    network_policy,
    node,
    of,
    pod,
    slices,
)

HERE, THERE = "n1", "n2"
SPACES = ("a", "b", "c")
ACCOUNTS = ("default", "app", "db")
NUMBERS = (53, 80, 443, 8080, 9090)
PORT_NAMES = ("http", "dns", "web")
RANGES = ((50, 90), (80, 81), (80, 443), (8000, 9090), (1, 65535))
PROTOCOLS = ("TCP", "UDP", "SCTP")
NETS4 = ("10.244.0.0/24", "10.244.0.0/29", "10.244.1.0/24", "10.244.0.0/16", "192.0.2.0/24", "192.0.2.128/25")
NETS4 += ("192.0.2.7/32", "203.0.113.0/26", "172.18.0.0/16", "10.0.0.0/8")
NETS6 = ("fd00:244::/64", "fd00:244::1:0/125", "2001:db8::/32", "2001:db8::7/128")
LABELS = {"app": ("web", "db", "api"), "role": ("front", "back")}
SPACE_LABELS = {"team": ("red", "blue"), "env": ("prod",)}
ACCOUNT_LABELS = {"trust": ("high", "low")}
Key = tuple[str, str, str, str]
"""apiVersion, kind, namespace, name."""


@dataclass(frozen=True)
class Places:
    """Where a world lies: addresses by node (0 or 1) and pod, and the nodes' own."""

    pod4: Callable[[int, int], str] = lambda at, number: f"10.244.{at}.{number + 1}"
    pod6: Callable[[int, int], str] = lambda at, number: f"fd00:244::{at + 1}:{number + 1:x}"
    node4: tuple[str, str] = ("172.18.0.2", "172.18.0.3")
    node6: tuple[str, str] = ("fd00:18::2", "fd00:18::3")


PLACES = Places()


@dataclass
class World:
    """The objects by key; `objects` in an order that an API might list them in."""

    by_key: dict[Key, Object] = field(default_factory=dict)

    def put(self, obj: Object) -> None:
        self.by_key[key_of(obj)] = obj

    @property
    def objects(self) -> list[Object]:
        return list(self.by_key.values())

    def of_kind(self, *kinds: str) -> list[Object]:
        return [obj for obj in self.by_key.values() if obj["kind"] in kinds]


def key_of(obj: Object) -> Key:
    meta = obj["metadata"]
    return obj["apiVersion"], obj["kind"], meta.get("namespace", ""), meta["name"]


def world(
    seed: int, *, pods: tuple[int, int] = (4, 9), policies: tuple[int, int] = (2, 6), places: Places = Places()
) -> World:
    """`pods` and `policies` say how many, at least and at most."""
    maker = Maker(random.Random(seed), places)
    made = World()
    for obj in maker.cluster(maker.random.randint(*pods)):
        made.put(obj)
    for _ in range(maker.random.randint(*policies)):
        made.put(maker.policy())
    return made


class Maker:
    """Makes objects, one after the other, out of one source of chance."""

    def __init__(self, chance: random.Random, places: Places = PLACES) -> None:
        self.random = chance
        self.places = places
        self.named = 0

    # -- choices -------------------------------------------------------------------------------------------------------

    def maybe(self, chance: float) -> bool:
        return self.random.random() < chance

    def one(self, among: Sequence[Any]) -> Any:
        return self.random.choice(among)

    def some(self, among: Sequence[Any], least: int = 1, most: int = 2) -> list[Any]:
        return self.random.sample(list(among), min(len(among), self.random.randint(least, most)))

    def several(self, make: Callable[[], Any], least: int = 1, most: int = 2) -> list[Any]:
        return [make() for _ in range(self.random.randint(least, most))]

    def labels(self, of: dict[str, tuple[str, ...]], chance: float = 0.75) -> dict[str, str]:
        return {key: self.one(values) for key, values in of.items() if self.maybe(chance)}

    def name(self, start: str) -> str:
        self.named += 1
        return f"{start}{self.named}"

    # -- who is there --------------------------------------------------------------------------------------------------

    def cluster(self, pods: int) -> Iterator[Object]:
        for space in SPACES:
            yield namespace(space, **self.labels(SPACE_LABELS))
            for each in ACCOUNTS:
                yield account(f"{space}/{each}", **self.labels(ACCOUNT_LABELS))
        for at, name in enumerate((HERE, THERE)):
            yield node(name, self.places.node4[at], self.places.node6[at], **self.labels({"role": ("edge", "core")}))
        for number in range(pods):
            yield self.pod(f"{self.one(SPACES)}/p{number}", number)
        for _ in range(self.random.randint(0, 4)):
            yield self.network_set()
        for service in self.some(("svc", "api"), 0, 2):
            yield self.slices(f"{self.one(SPACES)}/{service}", pods)
        for name in self.some(("early", "mid", "late"), 0, 2):
            yield self.tier(name)

    def pod(self, key: str, number: int) -> Object:
        """The `number` gives it its addresses."""
        at = 0 if number == 0 or self.maybe(0.65) else 1
        host, ended = self.maybe(0.06), self.maybe(0.06)
        own = [self.places.pod4(at, number), self.places.pod6(at, number)]
        if ended:  # its address may be another's again
            own = [self.places.pod4(at, 0), self.places.pod6(at, 0)]
        addresses = [self.places.node4[at]] if host else own[: 2 if self.maybe(0.7) else 1]
        ports = [(name, self.one(PROTOCOLS[:2]), self.one(NUMBERS)) for name in self.some(PORT_NAMES, 1, 3)]
        return pod(
            key,
            *addresses,
            node=(HERE, THERE)[at],
            ports=ports,
            account=self.one(ACCOUNTS),
            host=host and number > 0,
            phase="Succeeded" if ended and number > 0 else "Running",
            **self.labels(LABELS),
        )

    def network_set(self) -> Object:
        nets = {"nets": self.some(NETS4 + NETS6, 1, 3)}
        labels = {"net": self.one(("office", "bad"))} | self.labels(LABELS, 0.3)
        if self.maybe(0.5):
            return of(CALICO, "NetworkSet", f"{self.one(SPACES)}/{self.name('set')}", nets, **labels)
        return of(CALICO, "GlobalNetworkSet", self.name("set"), nets, **labels)

    def slices(self, service: str, pods: int) -> Object:
        addresses = [self.places.pod4(self.one((0, 0, 1)), self.random.randrange(pods)) for _ in range(2)]
        if self.maybe(0.3):
            addresses = [self.places.pod6(0, self.random.randrange(pods))]
        elif self.maybe(0.3):
            addresses.append("192.0.2.7")
        return slices(
            service, sorted(set(addresses)), [(self.one(PROTOCOLS[:2]), number) for number in self.some(NUMBERS)]
        )

    def tier(self, name: str) -> Object:
        order = {"early": 100, "mid": 500_000, "late": 2_000_000}[name]
        return of(CALICO, "Tier", name, {"order": order, "defaultAction": self.one(("Deny", "Deny", "Pass"))})

    # -- policies ------------------------------------------------------------------------------------------------------

    def policy(self) -> Object:
        kinds = (self.kubernetes, self.cluster_policy, self.calico, self.admin)
        return self.random.choices(kinds, (5, 4, 7, 1))[0]()

    def selector(self, labels: dict[str, tuple[str, ...]] = LABELS) -> Object:
        """A meta/v1 LabelSelector."""
        if self.maybe(0.3):
            return {}
        key = self.one(list(labels))
        values = list(labels[key])
        if self.maybe(0.5):
            return {"matchLabels": {key: self.one(values)}}
        operator = self.one(("In", "NotIn", "Exists", "DoesNotExist"))
        term: Object = {"key": key, "operator": operator}
        if operator in ("In", "NotIn"):
            term["values"] = self.some(values)
        return {"matchExpressions": [term]}

    def space_selector(self) -> Object:
        if self.maybe(0.2):
            return {"matchLabels": {"kubernetes.io/metadata.name": self.one(SPACES)}}
        return self.selector(SPACE_LABELS)

    def kubernetes(self) -> Object:
        spec: Object = {"podSelector": self.selector()}
        directions = self.some(("ingress", "egress"))
        for direction in directions:
            rules = self.several(
                lambda peers="from" if direction == "ingress" else "to": self.kubernetes_rule(peers), 0, 3
            )
            spec[direction] = rules
        if self.maybe(0.8):
            spec["policyTypes"] = [direction.capitalize() for direction in directions]
        made = network_policy(f"{self.one(SPACES)}/{self.name('np')}", **spec)
        if self.maybe(0.06):
            made |= {"apiVersion": CALICO, "kind": "StagedKubernetesNetworkPolicy"}
        return made

    def kubernetes_rule(self, peers: str) -> Object:
        rule: Object = {}
        if self.maybe(0.8):
            rule[peers] = self.several(self.kubernetes_peer)
        if self.maybe(0.6):
            rule["ports"] = self.several(self.kubernetes_port)
        return rule

    def kubernetes_peer(self) -> Object:
        match self.random.randrange(5):
            case 0:
                return {"podSelector": self.selector()}
            case 1:
                return {"namespaceSelector": self.space_selector()}
            case 2:
                return {"namespaceSelector": self.space_selector(), "podSelector": self.selector()}
            case _:
                return {"ipBlock": self.block()}

    def block(self) -> Object:
        cidr, inside = self.one(
            (
                ("10.244.0.0/16", ("10.244.0.0/29", "10.244.1.0/24", "10.244.0.2/32")),
                ("0.0.0.0/0", ("10.244.0.0/29", "192.0.2.0/24", "172.18.0.0/16")),
                ("192.0.2.0/24", ("192.0.2.128/25", "192.0.2.7/32")),
                ("::/0", ("fd00:244::1:0/125", "2001:db8::/32")),
                ("fd00:244::/64", ("fd00:244::1:0/125",)),
            )
        )
        return {"cidr": cidr} | ({"except": self.some(inside)} if self.maybe(0.6) else {})

    def kubernetes_port(self) -> Object:
        port: Object = {"protocol": self.one(PROTOCOLS)} if self.maybe(0.6) else {}
        match self.random.randrange(6):
            case 0:
                return port
            case 1 | 2:
                return port | {"port": self.one(PORT_NAMES)}
            case 3 | 4:
                first, last = self.one(RANGES)
                return port | {"port": first, "endPort": last}
            case _:
                return port | {"port": self.one(NUMBERS)}

    def subject(self) -> Object:
        if self.maybe(0.5):
            return {"namespaces": self.space_selector()}
        return {"pods": {"namespaceSelector": self.space_selector(), "podSelector": self.selector()}}

    def cluster_policy(self) -> Object:
        spec: Object = {
            "tier": self.one(("Admin", "Baseline")),
            "priority": self.random.randint(0, 5),
            "subject": self.subject(),
        }
        for direction in self.some(("ingress", "egress")):
            spec[direction] = self.several(
                lambda direction=direction: self.cluster_rule(direction, "Accept", "protocols"), 1, 3
            )
        return of(CLUSTER, "ClusterNetworkPolicy", self.name("cnp"), spec)

    def admin(self) -> Object:
        """Of the older version."""
        base = self.maybe(0.3)
        spec: Object = {"subject": self.subject()} | ({} if base else {"priority": self.random.randint(0, 5)})
        for direction in self.some(("ingress", "egress")):
            spec[direction] = self.several(
                lambda direction=direction: self.cluster_rule(direction, "Allow", "ports", not base), 1, 3
            )
        kind, name = ("BaselineAdminNetworkPolicy", "default") if base else ("AdminNetworkPolicy", self.name("anp"))
        return of("policy.networking.k8s.io/v1alpha1", kind, name, spec)

    def cluster_rule(self, direction: str, allow: str, ports: str, passes: bool = True) -> Object:
        rule: Object = {"action": self.one((allow, "Deny", *(["Pass", "Pass"] if passes else [])))}
        if self.maybe(0.3):
            rule["name"] = self.name("rule-")
        rule["from" if direction == "ingress" else "to"] = self.several(lambda: self.cluster_peer(direction))
        if self.maybe(0.5):
            rule[ports] = self.several(self.cluster_port if ports == "protocols" else self.admin_port)
            if any("amedPort" in key for port in rule[ports] for key in port):
                rule["from" if direction == "ingress" else "to"] = [self.subject()]  # no networks nor nodes with names
        return rule

    def cluster_peer(self, direction: str) -> Object:
        if direction == "egress" and self.maybe(0.55):
            if self.maybe(0.6):
                return {"nodes": self.selector({"role": ("edge", "core")})}
            return {"networks": self.some(NETS4 + NETS6 + ("0.0.0.0/0", "::/0"))}
        return self.subject()

    def cluster_port(self) -> Object:
        match self.random.randrange(4):
            case 0:
                return {"destinationNamedPort": self.one(PORT_NAMES)}
            case 1:
                first, last = self.one(RANGES)
                where: Object = {"range": {"start": first, "end": last}}
            case _:
                where = {"number": self.one(NUMBERS)}
        return {self.one(("tcp", "tcp", "udp", "sctp")): {"destinationPort": where}}

    def admin_port(self) -> Object:
        match self.random.randrange(4):
            case 0:
                return {"namedPort": self.one(PORT_NAMES)}
            case 1:
                first, last = self.one(RANGES)
                return {"portRange": {"protocol": self.one(PROTOCOLS), "start": first, "end": last}}
            case _:
                return {"portNumber": {"protocol": self.one(PROTOCOLS), "port": self.one(NUMBERS)}}

    # -- Calico --------------------------------------------------------------------------------------------------------

    def expression(self, labels: dict[str, tuple[str, ...]] = LABELS, depth: int = 1) -> str:
        """A selector in Calico's language."""
        key = self.one(list(labels))
        value = self.one(labels[key])
        match self.random.randrange(9 if depth else 7):
            case 0 | 1:
                return f"{key} == '{value}'"
            case 2:
                return f"{key} != '{value}'"
            case 3:
                return f"has({key})"
            case 4:
                return f"!has({key})"
            case 5:
                return f"{key} in {{'{value}', 'none'}}"
            case 6:
                return self.one(
                    (f"{key} not in {{'{value}'}}", f"{key} starts with '{value[0]}'", f"{key} contains '{value[1]}'")
                )
            case _:
                both = self.one(("&&", "||"))
                return f"({self.expression(labels, 0)} {both} {self.expression(labels, 0)})"

    def calico(self) -> Object:
        namespaced, staged = self.maybe(0.5), self.maybe(0.08)
        spec: Object = {"tier": self.one(("default", "default", "early", "mid", "late", "kube-admin"))}
        if self.maybe(0.7):
            spec["order"] = self.one((1, 10, 999.5, 1000, 2000))
        if self.maybe(0.7):
            spec["selector"] = self.expression()
        if self.maybe(0.2):
            spec["serviceAccountSelector"] = self.expression(ACCOUNT_LABELS)
        if not namespaced and self.maybe(0.3):
            spec["namespaceSelector"] = self.space_expression(False)
        directions = self.some(("ingress", "egress"))
        for direction in directions:
            spec[direction] = self.several(lambda direction=direction: self.calico_rule(direction, namespaced), 0, 4)
        if self.maybe(0.6):
            spec["types"] = [direction.capitalize() for direction in directions]
        kind = ("Staged" if staged else "") + ("" if namespaced else "Global") + "NetworkPolicy"
        return of(CALICO, kind, (f"{self.one(SPACES)}/" if namespaced else "") + self.name("calico"), spec)

    def space_expression(self, rule: bool = True) -> str:
        return str(
            self.one(
                (
                    "all()",
                    self.expression(SPACE_LABELS),
                    f"projectcalico.org/name == '{self.one(SPACES)}'",
                    *(["global()"] if rule else []),
                )
            )
        )

    def calico_rule(self, direction: str, namespaced: bool) -> Object:
        rule: Object = {"action": self.one(("Allow", "Allow", "Allow", "Deny", "Deny", "Pass", "Log"))}
        protocol = self.random.choices(("", "ported", "icmp", "not", "other"), (2, 5, 4, 2, 1))[0]
        ports = False
        if protocol == "ported":
            rule["protocol"], ports = self.one((*PROTOCOLS[:2], "TCP", "SCTP", 6)), True
        elif protocol == "icmp":
            six = self.maybe(0.4)
            rule["protocol"] = "ICMPv6" if six else "ICMP"
            if self.maybe(0.8):
                kind: Object = {"type": self.one((128, 128, 129) if six else (8, 8, 0, 3))} | (
                    {"code": self.one((0, 1))} if self.maybe(0.4) else {}
                )
                rule[self.one(("icmp", "icmp", "notICMP"))] = kind
        elif protocol == "not":
            rule["notProtocol"] = self.one((*PROTOCOLS, "ICMP"))
        elif protocol == "other":
            rule["protocol"] = self.one(("UDPLite", 47))
        if "protocol" not in rule and rule.get("notProtocol") != "ICMP" and self.maybe(0.15):
            rule["ipVersion"] = self.one((4, 6))
        peer, own = ("source", "destination") if direction == "ingress" else ("destination", "source")
        if self.maybe(0.5):
            rule[peer] = self.entity(namespaced, direction)
        if self.maybe(0.12):
            rule[own] = self.entity(namespaced, "")
        if ports or not protocol:
            self.add_ports(rule, ports)
        if direction == "egress" and "services" in rule.get("destination", {}):
            rule["destination"] = {"services": rule["destination"]["services"]}
        return {key: value for key, value in rule.items() if value != {}}

    def add_ports(self, rule: Object, numbers: bool) -> None:
        """Port names want no protocol, numbers do."""

        def port() -> Any:
            if not numbers or self.maybe(0.25):
                return self.one(PORT_NAMES)
            return "{}:{}".format(*self.one(RANGES)) if self.maybe(0.4) else self.one(NUMBERS)

        if self.maybe(0.7 if numbers else 0.2):
            for field_name in self.one((("ports",), ("ports",), ("notPorts",), ("notPorts",), ("ports", "notPorts"))):
                rule.setdefault("destination", {})[field_name] = self.several(port)
        if numbers and self.maybe(0.55):
            ranges = [self.one((30000, "30000:40000", "1:1023"))]
            rule.setdefault("source", {})[self.one(("ports", "notPorts"))] = ranges

    def entity(self, namespaced: bool, direction: str) -> Object:
        """`direction` '' is the policed pod's own end, of which services say nothing."""
        made: Object = {}
        if direction and self.maybe(0.1):
            service: Object = {"name": self.one(("svc", "api"))}
            if not namespaced or self.maybe(0.5):
                service["namespace"] = self.one(SPACES)
            return {"services": service}
        if self.maybe(0.45):
            made["selector"] = self.expression({"net": ("office", "bad")} if self.maybe(0.35) else LABELS)
        if self.maybe(0.2):
            made["notSelector"] = self.expression()
        if self.maybe(0.3):
            made["namespaceSelector"] = self.space_expression()
        if self.maybe(0.25):
            made["serviceAccounts"] = self.one(
                (
                    {"names": self.some(ACCOUNTS)},
                    {"selector": self.expression(ACCOUNT_LABELS)},
                    {"names": self.some(ACCOUNTS), "selector": self.expression(ACCOUNT_LABELS)},
                )
            )
        nets = NETS6 if self.maybe(0.25) else NETS4
        if self.maybe(0.25):
            made["nets"] = self.some(nets)
        if self.maybe(0.35):
            made["notNets"] = self.some(nets)
        return made
