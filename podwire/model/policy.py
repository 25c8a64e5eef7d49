"""Policies of every kind in one form: what is left of a NetworkPolicy, a ClusterNetworkPolicy or a Calico policy when
its spelling is gone. Calculation reads nothing else; `calc.oracle` alone reads the kinds themselves.

Peers are named by selector expressions (`model.expression`) over *effective labels*: a pod's own, and under the
prefixes `pcns.` and `pcsa.` those of its namespace and service account, as in Calico's model. A Kubernetes selector is
rewritten into one. Rules that list several peers stand here as several rules, in order.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

from podwire.model.address import Cidr

TCP, UDP, SCTP, ICMP, ICMPV6, UDPLITE = 6, 17, 132, 1, 58, 136
PORTED = frozenset({TCP, UDP, SCTP})
"""Protocols whose ports rules may name."""


class Action(StrEnum):
    ALLOW = "Allow"
    DENY = "Deny"
    PASS = "Pass"
    LOG = "Log"


class Direction(StrEnum):
    INGRESS = "ingress"
    EGRESS = "egress"


class Over(StrEnum):
    """What a selector ranges over: pods and network sets, or nodes (by their addresses, `nodes` peers)."""

    ENDPOINTS = "endpoints"
    NODES = "nodes"


@dataclass(frozen=True, slots=True, order=True)
class PolicyKey:
    """`kind` is the API's; `namespace` is '' for kinds of the whole cluster."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}" if self.namespace else f"{self.kind} {self.name}"


@dataclass(frozen=True, slots=True, order=True)
class PortRange:
    """Both ends belong to it."""

    first: int
    last: int


@dataclass(frozen=True, slots=True)
class NamedPort:
    """The number that the destination pod gives this name, for the rule's protocol (any, if the rule has none)."""

    name: str


@dataclass(frozen=True, slots=True)
class Icmp:
    """`code` None: every code."""

    type: int
    code: int | None = None


@dataclass(frozen=True, slots=True)
class Peers:
    """Everybody whose effective labels match: `selector` is the canonical text of an expression."""

    selector: str
    over: Over = Over.ENDPOINTS


@dataclass(frozen=True, slots=True)
class Entity:
    """What one end of a connection must be. All that is given must hold; lists are alternatives; nothing given is
    anybody, whether known to the cluster or not. `services` are (namespace, name): the pods and ports of their
    endpoint slices."""

    peers: Peers | None = None
    not_peers: Peers | None = None
    nets: tuple[Cidr, ...] = ()
    not_nets: tuple[Cidr, ...] = ()
    ports: tuple[PortRange | NamedPort, ...] = ()
    not_ports: tuple[PortRange | NamedPort, ...] = ()
    services: tuple[tuple[str, str], ...] = ()

    @property
    def anybody(self) -> bool:
        """Says nothing about who it is (it may say by which port)."""
        return not (self.peers or self.not_peers or self.nets or self.not_nets or self.services)


ANYBODY = Entity()


@dataclass(frozen=True, slots=True)
class Rule:
    """First match decides, but for LOG, which goes on. Protocols are IP protocol numbers; None: any. `version` is 4, 6
    or None. `impossible`: can match nothing (a port name of the wrong protocol, say), but still isolates. `label` is
    what people call it: the rule's name if it has one, else its place ("ingress[2]")."""

    action: Action
    source: Entity = ANYBODY
    destination: Entity = ANYBODY
    protocol: int | None = None
    not_protocol: int | None = None
    icmp: Icmp | None = None
    not_icmp: Icmp | None = None
    version: int | None = None
    impossible: bool = False
    label: str = ""


@dataclass(frozen=True, slots=True)
class Policy:
    """`subject` are the pods it governs. A direction that it does not govern is None, one in which it has no rule is
    (). Within a tier policies go by (order, name/namespace/kind). `staged` ones are calculated, never
    enforced. `problems` say in words what of it is not honoured."""

    key: PolicyKey
    subject: Peers
    ingress: tuple[Rule, ...] | None
    egress: tuple[Rule, ...] | None
    tier: str = "default"
    order: float = math.inf
    staged: bool = False
    problems: tuple[str, ...] = ()

    def rules(self, direction: Direction) -> tuple[Rule, ...] | None:
        return self.ingress if direction is Direction.INGRESS else self.egress

    @property
    def rank(self) -> tuple[float, str]:
        """Its place within the tier."""
        return self.order, f"{self.key.name}/{self.key.namespace}/{self.key.kind}"


@dataclass(frozen=True, slots=True)
class Tier:
    """Tiers go by (order, name). `default` is what happens at its end to a pod that one of its enforced policies
    governs: DENY or PASS."""

    name: str
    order: float
    default: Action = Action.DENY


TIERS = (
    Tier("kube-admin", 1_000, Action.PASS),
    Tier("default", 1_000_000, Action.DENY),
    Tier("kube-baseline", 10_000_000, Action.PASS),
)
"""Always there, whatever the API holds. NetworkPolicies of Kubernetes stand in `default` at order KUBERNETES_ORDER;
ClusterNetworkPolicies in the other two, at their priority."""

KUBERNETES_ORDER = 1_000.0
