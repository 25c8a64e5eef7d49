"""Worlds in which oracle and tables once differed, shrunk, and what both say of them now."""

from __future__ import annotations

import pytest

from podwire.calc.oracle import Flow, World, judge
from tests.unit.policy.compiled import Compiled, differences
from tests.unit.policy.objects import (
    CALICO,
    Object,
    calico_policy,
    cluster_policy,
    flow,
    namespace,
    network_policy,
    of,
    pod,
)
from tests.unit.policy.worlds import World as Objects
from tests.unit.policy.worlds import key_of

SIX = pod("a/p0", "10.244.0.1", "fd00:244::0:1", ports=[("http", "TCP", 80)], app="web")
WEB = pod("a/p1", "10.244.0.2", ports=[("web", "TCP", 443)], app="web")
LATE = pod("a/p2", "10.244.0.2", ports=[("web", "TCP", 80)], app="db")
BASE = [namespace("a"), SIX, WEB]
ANYBODY: Object = {"action": "Allow"}

FOUND: list[tuple[str, list[Object], Flow, str, str]] = [
    (
        "an IPv6 address in another spelling",
        [*BASE, network_policy("a/np", podSelector={}, ingress=[{"from": [{"podSelector": {}}]}])],
        flow(SIX, pod("a/p1", "10.244.0.2", "fd00:244:0::2"), "tcp/80"),
        "no policy",
        "NetworkPolicy a/np ingress[0]",
    ),
    (
        "an IPv6 address in another spelling, by name of the port",
        [*BASE, network_policy("a/np", podSelector={}, egress=[{"ports": [{"port": "http"}]}], policyTypes=["Egress"])],
        flow(pod("a/p1", "fd00:244::2"), SIX, "tcp/80", six=True),
        "NetworkPolicy a/np egress[0]",
        "no policy",
    ),
    (
        "a name of a port is the governed pod's own, whoever else has its address",
        [*BASE, LATE, network_policy("a/np", podSelector={}, ingress=[{"ports": [{"port": "web"}]}])],
        flow(SIX, WEB, "tcp/80"),
        "no policy",
        "end of tier default",
    ),
    (
        "a name of a port is any's who has the peer's address",
        [
            *BASE,
            LATE,
            network_policy("a/np", podSelector={}, egress=[{"ports": [{"port": "web"}]}], policyTypes=["Egress"]),
        ],
        flow(SIX, WEB, "tcp/80"),
        "NetworkPolicy a/np egress[0]",
        "no policy",
    ),
    (
        "two tiers allow",
        [
            *BASE,
            calico_policy("first", tier="kube-admin", egress=[ANYBODY], types=["Egress"]),
            cluster_policy("last", tier="Baseline", egress=[{"action": "Accept", "to": [{"namespaces": {}}]}]),
        ],
        flow(SIX, WEB),
        "GlobalNetworkPolicy first egress[0]",
        "no policy",
    ),
    (
        "notProtocol within one version",
        [
            *BASE,
            of(
                CALICO,
                "GlobalNetworkPolicy",
                "p",
                {"ingress": [{"action": "Allow", "notProtocol": "ICMPv6", "ipVersion": 6}]},
            ),
        ],
        flow(SIX, WEB),
        "no policy",
        "end of tier default",
    ),
]


@pytest.mark.parametrize(
    ("objects", "given", "egress", "ingress"), [row[1:] for row in FOUND], ids=[row[0] for row in FOUND]
)
def test_both_say_so(objects: list[Object], given: Flow, egress: str, ingress: str) -> None:
    verdict = judge(World.of(objects), given)
    assert (str(verdict.egress), str(verdict.ingress)) == (egress, ingress)
    compiled = Compiled.of(Objects({key_of(obj): obj for obj in objects}), everywhere=True)
    assert not differences(compiled, given, verdict)
