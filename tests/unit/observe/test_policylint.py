"""Each trap of policies is found, with object, field, line and way out; what is sound is not."""

# ruff: noqa: E501 (a table of policies: a line each)

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from scenes import policy, scene

from podwire.model.seen import NodeSeen
from podwire.observe.manifests import read
from podwire.observe.policylint import lint
from podwire.observe.policyscene import Scene
from podwire.observe.policytraps import unenforced

CALICO, CLUSTER, OLD = "projectcalico.org/v3", "policy.networking.k8s.io/v1alpha2", "policy.networking.k8s.io/v1alpha1"
DNS = "{to: [{namespaceSelector: {}}], ports: [{port: 53, protocol: UDP}]}"


def calico(spec: str, kind: str = "NetworkPolicy") -> str:
    return policy("p", spec, kind=kind, api=CALICO, namespace="" if "Global" in kind else "shop")


def cluster(spec: str, name: str = "p") -> str:
    return policy(name, spec, kind="ClusterNetworkPolicy", api=CLUSTER, namespace="")


SOUND = [
    policy("p", "{podSelector: {}}"),
    policy(
        "p", "{podSelector: {matchLabels: {app: api}}, ingress: [{from: [{podSelector: {matchLabels: {app: front}}}]}]}"
    ),
    policy("p", "{podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: sales}}}]}]}"),
    policy("p", "{podSelector: {matchLabels: {app: api}}, ingress: [{ports: [{port: http}, {port: 9090}]}]}"),
    policy("p", "{podSelector: {}, policyTypes: [Egress]}"),  # nobody may connect anywhere: names are not needed
    policy("p", f"{{podSelector: {{}}, policyTypes: [Egress], egress: [{{to: [{{podSelector: {{}}}}]}}, {DNS}]}}"),
    policy("p", "{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8}}]}]}"),
    calico("{selector: app == 'api', ingress: [{action: Allow, protocol: TCP, source: {selector: app == 'front'}}]}"),
    calico("{selector: all(), types: [Ingress]}", "GlobalNetworkPolicy"),
    calico("{namespaceSelector: team == 'sales', ingress: [{action: Deny}]}", "GlobalNetworkPolicy"),
    calico("{selector: app == 'api', ingress: [{action: Log}, {action: Allow}]}"),
    cluster(
        "{tier: Admin, priority: 1, subject: {namespaces: {}}, ingress: [{action: Deny, from: [{namespaces: {}}]}]}"
    ),
]

FRONT = "{podSelector: {matchLabels: {app: front}}}"
CASES = [
    # whom it selects
    (policy("p", "{podSelector: {matchLabels: {app: frnt}}}"), "selects nothing", "spec.podSelector", "api, exporter, front"),
    (policy("p", "{podSelector: {matchLabels: {role: x}}}"), "selects nothing", "spec.podSelector", "No pod there has a label role"),
    (policy("p", "{podSelector: {matchLabels: {app: guest}}}"), "selects nothing", "spec.podSelector", "Such pods are in namespace default"),
    (policy("p", "{podSelector: {matchLabels: {app: exporter}}}"), "selects nothing", "spec.podSelector", "hostNetwork"),
    (policy("p", "{podSelector: {}}", namespace="shp"), "no such namespace", "metadata.namespace", "default, kube-system, shop"),
    (calico("{selector: app == 'x', ingress: [{action: Allow}]}"), "selects nothing", "spec.selector", "--show-labels"),
    (calico("{selector: app == 'guest'}"), "selects nothing", "spec.selector", "Such pods are in namespace default"),
    (cluster("{tier: Admin, priority: 1, subject: {pods: {namespaceSelector: {}, podSelector: {matchLabels: {app: x}}}}, "
             "ingress: [{action: Deny, from: [{namespaces: {}}]}]}"),
     "selects nothing", "spec.subject.pods.podSelector", "is one of these meant?"),
    # peers
    (policy("p", "{podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: x}}}]}]}"),
     "no such namespace", "spec.ingress[0].from[0].namespaceSelector", "team=sales"),
    (policy("p", "{podSelector: {}, ingress: [{from: [{podSelector: {matchLabels: {app: guest}}}]}]}"),
     "no such peer", "spec.ingress[0].from[0].podSelector", "a peer without namespaceSelector means shop"),
    (calico("{ingress: [{action: Allow, source: {selector: app == 'x'}}]}"), "no such peer", "spec.ingress[0].source.selector", "labels"),
    (calico("{ingress: [{action: Allow, source: {namespaceSelector: team == 'x'}}]}"),
     "no such namespace", "spec.ingress[0].source.namespaceSelector", "team=sales"),
    (policy("p", f"{{podSelector: {{}}, ingress: [{{from: [{{namespaceSelector: {{}}}}, {FRONT}]}}]}}"),
     "either, not both", "spec.ingress[0].from[1].podSelector", "remove the `-`"),
    # ports
    (policy("p", "{podSelector: {matchLabels: {app: api}}, ingress: [{ports: [{port: htp}]}]}"),
     "no such port", "spec.ingress[0].ports[0].port", "Names there: http"),
    (policy("p", "{podSelector: {matchLabels: {app: api}}, ingress: [{ports: [{port: http, protocol: UDP}]}]}"),
     "no such port", "spec.ingress[0].ports[0].port", "protocol: TCP"),
    (policy("p", "{podSelector: {matchLabels: {app: api}}, ingress: [{ports: [{port: 80}]}]}"),
     "port of a Service", "spec.ingress[0].ports[0].port", "Write 9090"),
    (cluster("{tier: Admin, priority: 1, subject: {namespaces: {}}, "
             "ingress: [{action: Accept, from: [{namespaces: {}}], protocols: [{destinationNamedPort: htp}]}]}"),
     "no such port", "spec.ingress[0].protocols[0].destinationNamedPort", "Names there: http"),
    # what is easily forgotten
    (policy("p", "{podSelector: {}, policyTypes: [Ingress], egress: [{}]}"), "rules without effect", "spec.egress", "Add Egress"),
    (calico("{types: [Egress], ingress: [{action: Allow}], egress: [{action: Allow}]}"), "rules without effect", "spec.ingress", "Add Ingress to spec.types"),
    (policy("p", "{podSelector: {}, egress: [{}]}"), "isolates ingress as well", "spec.policyTypes", "policyTypes: [Egress]"),
    (policy("p", "{podSelector: {}, policyTypes: [Egress], egress: [{to: [{podSelector: {}}]}]}"), "no names", "spec.egress", "53/UDP"),
    (calico("{tier: mine, ingress: [{action: Allow}]}"), "no such tier", "spec.tier", "default, kube-admin, kube-baseline"),
    (calico("{selector: app == 'api'}", "StagedNetworkPolicy"), "not enforced", "kind", "Write kind NetworkPolicy"),
    (calico("{selector: app =}"), "unreadable", "spec.selector", "Correct it"),
    (policy("p", "{podSelector: {matchExpressions: [{key: a, operator: Is}]}}"), "unreadable", "spec.podSelector.matchExpressions[0].operator", "Correct it"),
    (policy("p", "{podSelector: {}, ingres: [{}]}"), "unreadable", "spec.ingres", "Correct it"),
    # rules that never decide
    (policy("p", f"{{podSelector: {{}}, ingress: [{{from: [{FRONT}], ports: [{{port: 9}}]}}, {{from: [{FRONT}]}}]}}"),
     "never decides", "spec.ingress[0]", "Remove it"),
    (policy("p", "{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8}}]}, {from: [{ipBlock: {cidr: 10.1.0.0/16}}]}]}"),
     "never decides", "spec.ingress[1]", "Remove it"),
    (policy("p", "{podSelector: {}, ingress: [{ports: [{port: 1, endPort: 9}]}, {ports: [{port: 3}]}]}"), "never decides", "spec.ingress[1]", "Remove it"),
    (calico("{ingress: [{action: Deny}, {action: Allow, protocol: TCP}]}"), "never decides", "spec.ingress[1]", "Put it first"),
    (calico("{ingress: [{action: Allow, source: {nets: [10.0.0.0/8]}}, {action: Deny, source: {nets: [10.1.0.0/16]}}]}"),
     "never decides", "spec.ingress[1]", "Put it first"),
]  # fmt: skip


@pytest.mark.parametrize("text", SOUND)
def test_what_is_sound_has_no_finding(text: str) -> None:
    assert lint(scene(text)) == []


@pytest.mark.parametrize(
    ("text", "kind", "field", "way"), CASES, ids=[f"{case[1]}-{n}" for n, case in enumerate(CASES)]
)
def test_each_trap_is_found(text: str, kind: str, field: str, way: str) -> None:
    found = lint(scene(text))
    assert [(one.kind, one.field) for one in found] == [(kind, field)]
    (one,) = found
    assert (way in one.remedy and one.problem and one.object.endswith("/p")) or one.object.endswith(" p")
    assert one.where.startswith("1.yaml:")


@pytest.mark.parametrize(
    "rules",
    [
        "{action: Allow, protocol: TCP}, {action: Deny}",
        "{action: Log}, {action: Deny}",
        "{action: Allow, source: {nets: [10.1.0.0/16]}}, {action: Deny, source: {nets: [10.0.0.0/8]}}",
        "{action: Allow, source: {selector: app == 'api'}}, {action: Deny, source: {selector: app == 'front'}}",
        "{action: Allow, protocol: TCP, source: {ports: [7]}}, {action: Deny, protocol: TCP}",
        "{action: Allow, icmp: {type: 8}, protocol: ICMP}, {action: Deny, protocol: ICMP}",
        "{action: Allow, source: {selector: app == 'api', nets: [10.0.0.0/8]}}, {action: Deny, source: {selector: app == 'api'}}",
    ],
)
def test_rules_that_do_decide(rules: str) -> None:
    assert lint(scene(calico(f"{{ingress: [{rules}]}}"))) == []


def test_equal_rules_are_named_once() -> None:
    found = lint(scene(policy("p", f"{{podSelector: {{}}, ingress: [{{from: [{FRONT}]}}, {{from: [{FRONT}]}}]}}")))
    assert [one.field for one in found] == ["spec.ingress[1]"]


def test_same_priority() -> None:
    rule = "ingress: [{action: Deny, from: [{namespaces: {}}]}]"
    spec = f"{{tier: Admin, priority: 7, subject: {{namespaces: {{}}}}, {rule}}}"
    (one,) = lint(scene(cluster(spec, "a"), cluster(spec, "b")))
    assert (one.kind, one.object, one.field) == ("same priority", "ClusterNetworkPolicy b", "spec.priority")
    assert "ClusterNetworkPolicy a has priority 7" in one.problem
    other = spec.replace("namespaces: {}},", "namespaces: {matchLabels: {kubernetes.io/metadata.name: default}}},", 1)
    apart = spec.replace("namespaces: {}},", "namespaces: {matchLabels: {team: sales}}},", 1)
    assert lint(scene(cluster(other, "a"), cluster(apart, "b"))) == []


def test_names_are_asked_of_the_servers_that_are_there() -> None:
    server = """
apiVersion: v1
kind: Pod
metadata: {name: dns, namespace: kube-system, labels: {k8s-app: kube-dns}}
spec: {nodeName: n2, containers: [{name: c, ports: [{name: dns, containerPort: 5353, protocol: UDP}]}]}
status: {podIPs: [{ip: 10.244.2.53}]}
"""
    rules = "[{to: [{podSelector: {}}]}, {to: [{ipBlock: {cidr: 10.244.2.53/32}}]}]"
    text = policy("p", f"{{podSelector: {{}}, policyTypes: [Egress], egress: {rules}}}")
    assert lint(scene(text, server)) == []
    assert [one.kind for one in lint(scene(text.replace("2.53", "2.54"), server))] == ["no names"]


def test_without_pods_nothing_is_said_of_pods() -> None:
    text = policy(
        "p", "{podSelector: {matchLabels: {app: x}}, ingress: [{from: [{podSelector: {matchLabels: {a: b}}}]}]}"
    )
    assert lint(Scene(tuple(read(text, "p.yaml")))) == []


def test_what_is_asked_for_and_not_done_here() -> None:
    text = calico("{applyOnForward: true, preDNAT: true, ingress: [{action: Deny}]}", "GlobalNetworkPolicy")
    found = {(one.level, one.kind, one.field) for one in lint(scene(text))}
    assert found == {("warning", "not enforced", f"spec.{field}") for field in ("applyOnForward", "preDNAT")}


def test_old_kinds() -> None:
    spec = (
        "{priority: 5, subject: {namespaces: {}}, ingress: [{action: Allow, from: [{namespaces: {}}], "
        "ports: [{namedPort: htp}, {portNumber: {port: 80, protocol: TCP}}]}]}"
    )
    text = policy("p", spec, kind="AdminNetworkPolicy", api=OLD, namespace="")
    assert {one.kind for one in lint(scene(text))} == {"no such port", "port of a Service"}


def test_nodes_that_do_not_enforce() -> None:
    nodes = [
        NodeSeen("good", policy="enforced"),
        NodeSeen("silent"),
        NodeSeen("off", policy="off: policy.enforce = off"),
        NodeSeen("old", policy="stale: the agent is not running"),
    ]
    off, stale = unenforced(nodes)
    assert (off.level, off.object, off.kind) == ("error", "Node off", "policy is not enforced")
    assert (stale.level, stale.object, stale.kind) == ("error", "Node old", "policy is stale")
    assert "policy.enforce = off: no policy has any effect" in off.problem and "policy.enforce" in off.remedy
