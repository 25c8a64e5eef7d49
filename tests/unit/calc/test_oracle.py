"""What each clause of each kind of policy means, one row each: the oracle against the texts of the APIs."""

from __future__ import annotations

from typing import Any

import pytest

from podwire.calc.oracle import End, Flow, World, judge
from tests.unit.policy.objects import (
    CALICO,
    CLUSTER,
    Object,
    account,
    calico_policy,
    cluster_policy,
    flow,
    namespace,
    network_policy,
    node,
    of,
    pod,
    slices,
)

HTTP = (("http", "TCP", 8080), ("metrics", "UDP", 8080))
WEB = pod("shop/web", "10.244.0.2", "fd00::2", ports=HTTP, account="web", app="web")
WEB2 = pod("shop/web2", "10.244.1.2", node="n2", ports=(("http", "TCP", 9090),), app="web")
DB = pod("shop/db", "10.244.0.3", "fd00::3", account="db", app="db", zone="a")
CLIENT = pod("ops/client", "10.244.1.9", "fd00:1::9", node="n2", app="client")
HOSTED = pod("ops/hosted", "172.18.0.2", host=True, app="client")
GONE = pod("ops/gone", "10.244.0.99", phase="Succeeded", app="client")
OUTSIDE, OUTSIDE6 = End("203.0.113.9"), End("2001:db8::9")
HOST, OTHER_HOST = End("172.18.0.2", node="n1"), End("172.18.0.3", node="n2")
BASE: list[Object] = [
    namespace("shop", team="sales"),
    namespace("ops", team="sre"),
    node("n1", "172.18.0.2", role="edge"),
    node("n2", "172.18.0.3"),
    account("shop/web", tier="front"),
    account("shop/db", tier="back"),
    slices("shop/db", ["10.244.0.3"], [("TCP", 5432)]),
    slices("shop/manual", ["203.0.113.9"], [("TCP", 443)]),
    of(CALICO, "NetworkSet", "shop/partners", {"nets": ["203.0.113.0/28"]}, kind="partner"),
    of(CALICO, "GlobalNetworkSet", "bad", {"nets": ["203.0.113.9/24"]}, kind="bad"),
    *(WEB, WEB2, DB, CLIENT, HOSTED, GONE),
]


def ingress(*rules: Object, key: str = "shop/p", select: Object | None = None, **spec: Any) -> Object:
    return network_policy(key, podSelector=select or {}, ingress=list(rules), **spec)


def calico(*rules: Object, key: str = "p", direction: str = "ingress", **spec: Any) -> Object:
    return calico_policy(key, **{direction: list(rules), "selector": "app == 'web'"} | spec)


def cluster(*rules: Object, key: str = "p", **spec: Any) -> Object:
    return cluster_policy(key, ingress=list(rules), **spec)


ALLOW: Object = {"action": "Allow"}
DENY: Object = {"action": "Deny"}
PASS: Object = {"action": "Pass"}
ANY_POD: Object = {"namespaces": {}}
SEL_CLIENT: Object = {"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": "client"}}}
END_OF_DEFAULT = "end of tier default"
ISOLATED = network_policy("shop/closed")
NP = "NetworkPolicy shop/p ingress[0]"
GNP = "GlobalNetworkPolicy p ingress[0]"
CNP = "ClusterNetworkPolicy p ingress[0]"


def at(kind: str, text: Any) -> Object:
    """A rule of a GlobalNetworkPolicy that allows by one field of its source."""
    return calico(ALLOW | {"source": {kind: text}})


INGRESS: list[tuple[str, list[Object], Flow, str]] = [
    ("nothing there", [], flow(CLIENT, WEB), "no policy"),
    ("isolation without rules", [ISOLATED], flow(CLIENT, WEB), END_OF_DEFAULT),
    ("isolation is the namespace's", [ISOLATED], flow(WEB, CLIENT), "no policy"),
    ("own node is never filtered", [ISOLATED], flow(HOST, WEB), "no policy"),
    ("a pod of the host's network is its node", [ISOLATED], flow(HOSTED, WEB), "no policy"),
    ("another node is filtered", [ISOLATED], flow(OTHER_HOST, WEB), END_OF_DEFAULT),
    ("a pod reaches itself", [ISOLATED], flow(WEB, WEB), "no policy"),
    ("an egress policy isolates no ingress", [ingress(policyTypes=["Egress"])], flow(CLIENT, WEB), "no policy"),
    ("everything allowed", [ingress({})], flow(OUTSIDE, WEB), NP),
    (
        "all namespaces are pods alone",
        [ingress({"from": [{"namespaceSelector": {}}]})],
        flow(OUTSIDE, WEB),
        END_OF_DEFAULT,
    ),
    (
        "any pod selector is of the own namespace",
        [ingress({"from": [{"podSelector": {}}]})],
        flow(CLIENT, WEB),
        END_OF_DEFAULT,
    ),
    ("own namespace", [ingress({"from": [{"podSelector": {}}]})], flow(DB, WEB), NP),
    ("both selectors", [ingress({"from": [SEL_CLIENT]})], flow(CLIENT, WEB), NP),
    ("a finished pod is no peer", [ingress({"from": [SEL_CLIENT]})], flow(End("10.244.0.99"), WEB), END_OF_DEFAULT),
    ("a pod of the host's network is no peer", [ingress({"from": [SEL_CLIENT]})], flow(HOSTED, WEB2), END_OF_DEFAULT),
    (
        "the namespace's name",
        [ingress({"from": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "ops"}}}]})],
        flow(CLIENT, WEB),
        NP,
    ),
    (
        "NotIn holds without the key",
        [
            ingress(
                {
                    "from": [
                        {"podSelector": {"matchExpressions": [{"key": "zone", "operator": "NotIn", "values": ["a"]}]}}
                    ]
                }
            )
        ],
        flow(WEB2, WEB),
        NP,
    ),
    (
        "NotIn",
        [
            ingress(
                {
                    "from": [
                        {"podSelector": {"matchExpressions": [{"key": "zone", "operator": "NotIn", "values": ["a"]}]}}
                    ]
                }
            )
        ],
        flow(DB, WEB),
        END_OF_DEFAULT,
    ),
    ("block", [ingress({"from": [{"ipBlock": {"cidr": "203.0.113.0/24"}}]})], flow(OUTSIDE, WEB), NP),
    ("block of a pod", [ingress({"from": [{"ipBlock": {"cidr": "10.244.1.9/32"}}]})], flow(CLIENT, WEB), NP),
    (
        "all of IPv4 is not IPv6",
        [ingress({"from": [{"ipBlock": {"cidr": "0.0.0.0/0"}}]})],
        flow(OUTSIDE6, WEB, six=True),
        END_OF_DEFAULT,
    ),
    (
        "except",
        [ingress({"from": [{"ipBlock": {"cidr": "203.0.113.0/24", "except": ["203.0.113.8/29"]}}]})],
        flow(OUTSIDE, WEB),
        END_OF_DEFAULT,
    ),
    (
        "except is of its block alone",
        [
            ingress({"from": [{"ipBlock": {"cidr": "203.0.113.0/24", "except": ["203.0.113.8/29"]}}]}, key="shop/a"),
            ingress({"from": [{"ipBlock": {"cidr": "203.0.113.9/32"}}]}),
        ],
        flow(OUTSIDE, WEB),
        NP,
    ),
    ("a peer that says nothing", [ingress({"from": [{}]})], flow(CLIENT, WEB), END_OF_DEFAULT),
    ("missing protocol is TCP", [ingress({"ports": [{}]})], flow(CLIENT, WEB, "udp/80"), END_OF_DEFAULT),
    ("port", [ingress({"ports": [{"port": 80}]})], flow(CLIENT, WEB), NP),
    ("another port", [ingress({"ports": [{"port": 80}]})], flow(CLIENT, WEB, "tcp/81"), END_OF_DEFAULT),
    ("the end of a range", [ingress({"ports": [{"port": 80, "endPort": 90}]})], flow(CLIENT, WEB, "tcp/90"), NP),
    (
        "beyond a range",
        [ingress({"ports": [{"port": 80, "endPort": 90}]})],
        flow(CLIENT, WEB, "tcp/91"),
        END_OF_DEFAULT,
    ),
    ("named port", [ingress({"ports": [{"port": "http"}]})], flow(CLIENT, WEB, "tcp/8080"), NP),
    (
        "named port of another number",
        [ingress({"ports": [{"port": "http"}]})],
        flow(CLIENT, WEB2, "tcp/8080"),
        END_OF_DEFAULT,
    ),
    (
        "named port of another protocol",
        [ingress({"ports": [{"port": "metrics"}]})],
        flow(CLIENT, WEB, "tcp/8080"),
        END_OF_DEFAULT,
    ),
    ("a rule with ports is not for ICMP", [ingress({"ports": [{}]})], flow(CLIENT, WEB, "icmp/8/0"), END_OF_DEFAULT),
    ("a rule without ports is", [ingress({"from": [SEL_CLIENT]})], flow(CLIENT, WEB, "icmp/8/0"), NP),
    # --- Calico
    ("no policy selects", [calico(DENY, selector="app == 'none'")], flow(CLIENT, WEB), "no policy"),
    ("deny", [calico(DENY)], flow(CLIENT, WEB), GNP),
    ("end of tier", [calico(DENY | {"protocol": "UDP"})], flow(CLIENT, WEB), END_OF_DEFAULT),
    ("pass leads past the last tier", [calico(PASS)], flow(CLIENT, WEB), "no policy"),
    ("log goes on", [calico({"action": "Log"}, ALLOW)], flow(CLIENT, WEB), "GlobalNetworkPolicy p ingress[1]"),
    ("order", [calico(DENY, key="a", order=2), calico(ALLOW, order=1)], flow(CLIENT, WEB), GNP),
    ("no order is last", [calico(DENY, key="a"), calico(ALLOW, order=10**9)], flow(CLIENT, WEB), GNP),
    ("names break ties", [calico(DENY, key="q", order=1), calico(ALLOW, order=1)], flow(CLIENT, WEB), GNP),
    ("NetworkPolicies stand at 1000", [calico(DENY, order=999.5), ingress({})], flow(CLIENT, WEB), GNP),
    ("and before what is later", [calico(DENY, order=1000.5), ingress({})], flow(CLIENT, WEB), NP),
    ("a policy of an unknown tier is inert", [calico(DENY, tier="none")], flow(CLIENT, WEB), "no policy"),
    (
        "an earlier tier",
        [of(CALICO, "Tier", "early", {"order": 5}), calico(DENY, tier="early"), ingress({})],
        flow(CLIENT, WEB),
        GNP,
    ),
    (
        "its end",
        [of(CALICO, "Tier", "early", {"order": 5}), calico(DENY | {"protocol": "UDP"}, tier="early"), ingress({})],
        flow(CLIENT, WEB),
        "end of tier early",
    ),
    (
        "its end passes",
        [
            of(CALICO, "Tier", "early", {"order": 5, "defaultAction": "Pass"}),
            calico(DENY | {"protocol": "UDP"}, tier="early"),
            ingress({}),
        ],
        flow(CLIENT, WEB),
        NP,
    ),
    (
        "Pass leaves the tier",
        [of(CALICO, "Tier", "early", {"order": 5}), calico(PASS, DENY, tier="early"), ingress({})],
        flow(CLIENT, WEB),
        NP,
    ),
    ("staged", [of(CALICO, "StagedGlobalNetworkPolicy", "p", {"ingress": [DENY]})], flow(CLIENT, WEB), "no policy"),
    ("types", [calico(DENY, types=["Egress"])], flow(CLIENT, WEB), "no policy"),
    (
        "doNotTrack is of host endpoints",
        [calico(DENY, doNotTrack=True, applyOnForward=True)],
        flow(CLIENT, WEB),
        "no policy",
    ),
    (
        "service accounts selected",
        [calico(ALLOW, serviceAccountSelector="tier == 'front'", selector="")],
        flow(CLIENT, WEB),
        GNP,
    ),
    ("and not", [calico(ALLOW, serviceAccountSelector="tier == 'back'", selector="")], flow(CLIENT, WEB), "no policy"),
    ("namespaces selected", [calico(ALLOW, namespaceSelector="team == 'sales'", selector="")], flow(CLIENT, WEB), GNP),
    ("a namespaced policy selects in its namespace", [calico(ALLOW, key="ops/p")], flow(CLIENT, WEB), "no policy"),
    ("nets", [calico(ALLOW | {"source": {"nets": ["203.0.113.0/24"]}})], flow(OUTSIDE, WEB), GNP),
    ("notNets", [calico(ALLOW | {"source": {"notNets": ["203.0.113.0/24"]}})], flow(OUTSIDE, WEB), END_OF_DEFAULT),
    (
        "notNets of the other family",
        [calico(ALLOW | {"source": {"notNets": ["203.0.113.0/24"]}})],
        flow(OUTSIDE6, WEB, six=True),
        END_OF_DEFAULT,
    ),
    ("a network set", [at("selector", "kind == 'bad'")], flow(OUTSIDE, WEB), GNP),
    ("everybody known", [at("selector", "all()")], flow(End("198.51.100.1"), WEB), END_OF_DEFAULT),
    ("!has never finds who is unknown", [at("selector", "!has(x)")], flow(End("198.51.100.1"), WEB), END_OF_DEFAULT),
    ("notSelector does", [at("notSelector", "has(x)")], flow(End("198.51.100.1"), WEB), GNP),
    ("notSelector", [at("notSelector", "kind == 'bad'")], flow(OUTSIDE, WEB), END_OF_DEFAULT),
    ("all namespaces", [at("namespaceSelector", "all()")], flow(CLIENT, WEB), GNP),
    ("a set of no namespace", [at("namespaceSelector", "all()")], flow(End("203.0.113.99"), WEB), END_OF_DEFAULT),
    ("global()", [at("namespaceSelector", "global()")], flow(End("203.0.113.99"), WEB), GNP),
    ("global() is no pod", [at("namespaceSelector", "global()")], flow(CLIENT, WEB), END_OF_DEFAULT),
    ("a negative namespaceSelector", [at("namespaceSelector", "team != 'sre'")], flow(End("203.0.113.99"), WEB), GNP),
    ("the namespace by name", [at("namespaceSelector", "projectcalico.org/name == 'ops'")], flow(CLIENT, WEB), GNP),
    (
        "own namespace in a namespaced policy",
        [calico(ALLOW | {"source": {"selector": "all()"}}, key="shop/p")],
        flow(CLIENT, WEB),
        END_OF_DEFAULT,
    ),
    (
        "also for notSelector",
        [calico(ALLOW | {"source": {"notSelector": "has(x)"}}, key="shop/p")],
        flow(CLIENT, WEB),
        END_OF_DEFAULT,
    ),
    (
        "its network sets",
        [calico(ALLOW | {"source": {"selector": "all()"}}, key="shop/p")],
        flow(OUTSIDE, WEB),
        "NetworkPolicy.projectcalico.org shop/p ingress[0]",
    ),
    ("account by name", [at("serviceAccounts", {"names": ["db"]})], flow(DB, WEB), GNP),
    ("account by label", [at("serviceAccounts", {"selector": "tier == 'back'"})], flow(DB, WEB), GNP),
    ("another account", [at("serviceAccounts", {"names": ["db"]})], flow(WEB2, WEB), END_OF_DEFAULT),
    ("a service's backends", [at("services", {"name": "manual", "namespace": "shop"})], flow(OUTSIDE, WEB), GNP),
    ("notProtocol", [calico(ALLOW | {"notProtocol": "TCP"})], flow(CLIENT, WEB), END_OF_DEFAULT),
    ("a number is a protocol", [calico(ALLOW | {"protocol": 6})], flow(CLIENT, WEB), GNP),
    ("range", [calico(ALLOW | {"protocol": "TCP", "destination": {"ports": ["79:80"]}})], flow(CLIENT, WEB), GNP),
    (
        "notPorts",
        [calico(ALLOW | {"protocol": "TCP", "destination": {"notPorts": [80]}})],
        flow(CLIENT, WEB),
        END_OF_DEFAULT,
    ),
    (
        "source port",
        [calico(ALLOW | {"protocol": "TCP", "source": {"ports": [1000]}})],
        flow(CLIENT, WEB, source_port=1000),
        GNP,
    ),
    (
        "named port of any protocol",
        [calico(ALLOW | {"destination": {"ports": ["metrics"]}})],
        flow(CLIENT, WEB, "udp/8080"),
        GNP,
    ),
    ("ICMP type", [calico(ALLOW | {"protocol": "ICMP", "icmp": {"type": 8}})], flow(CLIENT, WEB, "icmp/8/0"), GNP),
    (
        "ICMP code",
        [calico(ALLOW | {"protocol": "ICMP", "icmp": {"type": 8, "code": 1}})],
        flow(CLIENT, WEB, "icmp/8/0"),
        END_OF_DEFAULT,
    ),
    (
        "notICMP",
        [calico(ALLOW | {"protocol": "ICMP", "notICMP": {"type": 8}})],
        flow(CLIENT, WEB, "icmp/8/0"),
        END_OF_DEFAULT,
    ),
    ("ipVersion", [calico(ALLOW | {"ipVersion": 6})], flow(CLIENT, WEB), END_OF_DEFAULT),
    ("HTTP is not for us", [calico(ALLOW | {"http": {"methods": ["GET"]}})], flow(CLIENT, WEB), END_OF_DEFAULT),
    # --- cluster kinds
    ("Accept", [cluster({"action": "Accept", "from": [ANY_POD]}), ISOLATED], flow(CLIENT, WEB), CNP),
    (
        "Deny by name",
        [cluster({"action": "Deny", "name": "never", "from": [ANY_POD]}), ingress({})],
        flow(CLIENT, WEB),
        "ClusterNetworkPolicy p never",
    ),
    (
        "Pass to NetworkPolicy",
        [cluster({"action": "Pass", "from": [ANY_POD]}, {"action": "Deny", "from": [ANY_POD]}), ingress({})],
        flow(CLIENT, WEB),
        NP,
    ),
    ("no rule, no isolation", [cluster({"action": "Deny", "from": [ANY_POD]})], flow(OUTSIDE, WEB), "no policy"),
    (
        "priority",
        [
            cluster({"action": "Deny", "from": [ANY_POD]}, key="a", priority=11),
            cluster({"action": "Accept", "from": [ANY_POD]}),
        ],
        flow(CLIENT, WEB),
        CNP,
    ),
    (
        "Baseline is last",
        [cluster({"action": "Deny", "from": [ANY_POD]}, tier="Baseline"), ingress({})],
        flow(CLIENT, WEB),
        NP,
    ),
    ("Baseline", [cluster({"action": "Deny", "from": [ANY_POD]}, tier="Baseline")], flow(CLIENT, WEB), CNP),
    (
        "port of a protocol",
        [
            cluster(
                {
                    "action": "Deny",
                    "from": [ANY_POD],
                    "protocols": [{"tcp": {"destinationPort": {"range": {"start": 80, "end": 90}}}}],
                }
            )
        ],
        flow(CLIENT, WEB, "tcp/90"),
        CNP,
    ),
    (
        "named port in any protocol",
        [cluster({"action": "Deny", "from": [ANY_POD], "protocols": [{"destinationNamedPort": "metrics"}]})],
        flow(CLIENT, WEB, "udp/8080"),
        CNP,
    ),
    (
        "v1alpha1",
        [
            of(
                "policy.networking.k8s.io/v1alpha1",
                "AdminNetworkPolicy",
                "p",
                {
                    "priority": 1,
                    "subject": {"pods": {"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": "web"}}}},
                    "ingress": [
                        {
                            "action": "Deny",
                            "from": [ANY_POD],
                            "ports": [{"portNumber": {"protocol": "TCP", "port": 80}}],
                        }
                    ],
                },
            )
        ],
        flow(CLIENT, WEB),
        "AdminNetworkPolicy p ingress[0]",
    ),
]


@pytest.mark.parametrize(
    ("policies", "given", "expected"), [row[1:] for row in INGRESS], ids=[row[0] for row in INGRESS]
)
def test_ingress(policies: list[Object], given: Flow, expected: str) -> None:
    world = World.of([*BASE, *policies])
    assert not world.problems
    assert str(judge(world, given).ingress) == expected


def out(*rules: Object, **spec: Any) -> Object:
    return calico(*rules, direction="egress", **spec)


def to_network(*networks: str) -> Object:
    return cluster_policy("p", egress=[{"action": "Deny", "to": [{"networks": list(networks)}]}])


EGRESS: list[tuple[str, list[Object], Flow, str]] = [
    (
        "rules without types isolate both ways",
        [network_policy("shop/p", egress=[{"to": [SEL_CLIENT]}])],
        flow(WEB, DB),
        END_OF_DEFAULT,
    ),
    ("to own node", [network_policy("shop/p", policyTypes=["Egress"])], flow(WEB, HOST), END_OF_DEFAULT),
    ("from a host", [network_policy("shop/p", policyTypes=["Egress"])], flow(HOST, DB), "no policy"),
    (
        "named port of each peer",
        [network_policy("shop/p", egress=[{"ports": [{"port": "http"}]}])],
        flow(DB, WEB2, "tcp/9090"),
        "NetworkPolicy shop/p egress[0]",
    ),
    (
        "service and port",
        [out(ALLOW | {"destination": {"services": {"name": "db", "namespace": "shop"}}})],
        flow(WEB, DB, "tcp/5432"),
        "GlobalNetworkPolicy p egress[0]",
    ),
    (
        "service and another port",
        [out(ALLOW | {"destination": {"services": {"name": "db", "namespace": "shop"}}})],
        flow(WEB, DB, "tcp/5433"),
        END_OF_DEFAULT,
    ),
    ("types from rules", [out(ALLOW)], flow(CLIENT, WEB), "no policy"),
    ("networks", [to_network("10.244.0.0/16")], flow(WEB, DB, "icmp/8/0"), "ClusterNetworkPolicy p egress[0]"),
    (
        "networks of IPv6",
        [to_network("::/0")],
        flow(WEB, DB, "icmpv6/128/0", six=True),
        "ClusterNetworkPolicy p egress[0]",
    ),
    (
        "nodes",
        [cluster_policy("p", egress=[{"action": "Deny", "to": [{"nodes": {"matchLabels": {"role": "edge"}}}]}])],
        flow(WEB, HOST),
        "ClusterNetworkPolicy p egress[0]",
    ),
    (
        "other nodes",
        [cluster_policy("p", egress=[{"action": "Deny", "to": [{"nodes": {"matchLabels": {"role": "edge"}}}]}])],
        flow(WEB, OTHER_HOST),
        "no policy",
    ),
]


@pytest.mark.parametrize(("policies", "given", "expected"), [row[1:] for row in EGRESS], ids=[row[0] for row in EGRESS])
def test_egress(policies: list[Object], given: Flow, expected: str) -> None:
    world = World.of([*BASE, *policies])
    assert not world.problems
    assert str(judge(world, given).egress) == expected


def test_both_sides_must_agree() -> None:
    world = World.of([*BASE, network_policy("ops/p", policyTypes=["Egress"]), ingress({})])
    verdict = judge(world, flow(CLIENT, WEB))
    assert (verdict.egress.allowed, verdict.ingress.allowed, verdict.allowed) == (False, True, False)


def test_staged_policies_count_when_asked_for() -> None:
    body: Object = {"podSelector": {}, "policyTypes": ["Ingress"]}
    staged = of(CALICO, "StagedKubernetesNetworkPolicy", "shop/p", body)
    world = World.of([*BASE, staged])
    assert judge(world, flow(CLIENT, WEB)).allowed
    assert not judge(world, flow(CLIENT, WEB), staged=True).allowed


def test_the_way_is_told() -> None:
    early = of(CALICO, "Tier", "early", {"order": 5})
    world = World.of(
        [*BASE, early, calico({"action": "Log"}, PASS, tier="early"), ingress({}), ingress({}, key="shop/q")]
    )
    side = judge(world, flow(CLIENT, WEB)).ingress
    assert [(step.tier, step.rule, step.action) for step in side.trail] == [
        ("early", "ingress[0]", "Log"),
        ("early", "ingress[1]", "Pass"),
        ("default", "ingress[0]", "Allow"),
    ]
    assert side.also == (("NetworkPolicy shop/q", "ingress[0]"),)


def test_a_pod_is_found_by_its_address() -> None:
    world = World.of([*BASE, ISOLATED])
    assert not judge(world, Flow(End("10.244.1.9"), End("10.244.0.2"), 6, 80)).allowed


@pytest.mark.parametrize(
    ("policy", "says"),
    [
        (calico(ALLOW, selector="app = 'web'"), "no policy"),
        (of(CLUSTER, "ClusterNetworkPolicy", "p", {"tier": "Admin", "priority": 1, "subject": {}}), "no policy"),
        (calico(ALLOW | {"protocol": "ICMP4"}), END_OF_DEFAULT),
        (calico(ALLOW | {"source": {"nets": ["10.0.0.0/33"]}}), END_OF_DEFAULT),
        (calico(DENY | {"source": {"nets": ["10.0.0.0/33"]}}, ALLOW), GNP),
        (cluster({"action": "Accept", "from": [{"new": {}}]}), "no policy"),
        (cluster({"action": "Pass", "from": [{"new": {}}]}), CNP),
        (ingress({"from": [{"podSelector": {"matchExpressions": [{"key": "a", "operator": "Is"}]}}]}), END_OF_DEFAULT),
    ],
)
def test_what_cannot_be_read_is_named_and_fails_closed(policy: Object, says: str) -> None:
    """A policy is left out; of a readable one, a rule allows nothing or denies everything."""
    world = World.of([*BASE, policy])
    assert len(world.problems) == 1
    assert str(judge(world, flow(CLIENT, WEB)).ingress) == says
