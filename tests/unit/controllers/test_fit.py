"""Scheduling decisions, as rows: what is asked of which nodes, and where it goes or why not."""

from __future__ import annotations

from typing import Any

import pytest

from podwire.controllers.fit import Cluster, choose
from podwire.controllers.needs import NodeRoom, PodNeeds, node_room, pod_needs, toleration_matches

PREEMPTION = "preemption: 0/1 nodes are available: 1 "
FINAL, MAYBE = (
    PREEMPTION + "Preemption is not helpful for scheduling.",
    (PREEMPTION + "No preemption victims found for incoming pod."),
)


def room(name: str = "a", *, pods: list[PodNeeds] | None = None, labels: Any = None, **spec: Any) -> NodeRoom:
    found = node_room(
        {
            "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, **(labels or {})}},
            "spec": spec,
            "status": {
                "allocatable": {"cpu": "2", "memory": "4Gi", "pods": "5"},
                "conditions": [{"type": "Ready", "status": "True"}],
            },
        }
    )
    found.pods = pods or []
    return found


def needs(name: str = "p", cpu: str = "", owner: str = "", labels: Any = None, port: int = 0, **spec: Any) -> PodNeeds:
    container: dict[str, Any] = {"name": "c"}
    if cpu:
        container["resources"] = {"requests": {"cpu": cpu}}
    if port:
        container["ports"] = [{"containerPort": port, "hostPort": port}]
    metadata: dict[str, Any] = {"name": name, "namespace": "default", "uid": name, "labels": labels or {}}
    if owner:
        metadata["ownerReferences"] = [{"uid": owner, "controller": True}]
    return pod_needs({"metadata": metadata, "spec": {"containers": [container], **spec}})


def affinity(kind: str, *expressions: Any, **more: Any) -> Any:
    return {"affinity": {kind: {"requiredDuringSchedulingIgnoredDuringExecution": list(expressions), **more}}}


def near(app: str, key: str = "kubernetes.io/hostname") -> Any:
    return {"labelSelector": {"matchLabels": {"app": app}}, "topologyKey": key}


REFUSALS: list[tuple[str, PodNeeds, NodeRoom, str, str]] = [
    ("cordoned", needs(), room(unschedulable=True), "1 node(s) were unschedulable", FINAL),
    (
        "tainted",
        needs(),
        room(taints=[{"key": "k", "value": "v", "effect": "NoExecute"}]),
        "1 node(s) had untolerated taint {k: v}",
        FINAL,
    ),
    (
        "selector",
        needs(nodeSelector={"disk": "ssd"}),
        room(),
        "1 node(s) didn't match Pod's node affinity/selector",
        FINAL,
    ),
    ("cpu, for now", needs(cpu="1"), room(pods=[needs("q", cpu="1500m")]), "1 Insufficient cpu", MAYBE),
    ("cpu, ever", needs(cpu="3"), room(), "1 Insufficient cpu", FINAL),
    ("many", needs(), room(pods=[needs(str(n)) for n in range(5)]), "1 Too many pods", MAYBE),
    (
        "port",
        needs(port=80),
        room(pods=[needs("q", port=80)]),
        "1 node(s) didn't have free ports for the requested pod ports",
        MAYBE,
    ),
    (
        "apart",
        needs(**affinity("podAntiAffinity", near("web"))),
        room(pods=[needs("q", labels={"app": "web"})]),
        "1 node(s) didn't match pod anti-affinity rules",
        MAYBE,
    ),
    (
        "shunned",
        needs(labels={"app": "web"}),
        room(pods=[needs("q", **affinity("podAntiAffinity", near("web")))]),
        "1 node(s) didn't satisfy existing pods anti-affinity rules",
        MAYBE,
    ),
    (
        "lonely",
        needs(**affinity("podAffinity", near("db"))),
        room(),
        "1 node(s) didn't match pod affinity rules",
        FINAL,
    ),
]


@pytest.mark.parametrize(("what", "pod", "node", "reason", "hope"), REFUSALS, ids=[row[0] for row in REFUSALS])
def test_refusals(what: str, pod: PodNeeds, node: NodeRoom, reason: str, hope: str) -> None:
    choice = choose(pod, Cluster([node]))
    assert choice.node == ""
    assert choice.message == f"0/1 nodes are available: {reason}. {hope}"


def field_affinity(name: str) -> Any:
    term = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [name]}]}
    required = {"nodeSelectorTerms": [term]}
    return {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}}


def prefers(key: str, operator: str, *values: str) -> Any:
    expression = {"key": key, "operator": operator, "values": list(values)}
    term = {"weight": 10, "preference": {"matchExpressions": [expression]}}
    return {"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [term]}}}


SPREAD = {
    "topologySpreadConstraints": [
        {
            "maxSkew": 1,
            "topologyKey": "kubernetes.io/hostname",
            "whenUnsatisfiable": "DoNotSchedule",
            "labelSelector": {"matchLabels": {"app": "web"}},
        }
    ]
}
CHOICES: list[tuple[str, PodNeeds, list[NodeRoom], str]] = [
    ("the name breaks a tie", needs(), [room("b"), room("a")], "a"),
    ("replicas spread", needs(owner="rs"), [room("a", pods=[needs("q", owner="rs")]), room("b")], "b"),
    ("the emptier one", needs(), [room("a", pods=[needs("q", cpu="1")]), room("b")], "b"),
    ("named by a field", needs(**field_affinity("b")), [room("a"), room("b")], "b"),
    (
        "preferred",
        needs(**prefers("gen", "Gt", "3")),
        [room("a", labels={"gen": "2"}), room("b", labels={"gen": "4"})],
        "b",
    ),
    (
        "rather not tainted",
        needs(),
        [room("a", taints=[{"key": "k", "effect": "PreferNoSchedule"}]), room("b")],
        "b",
    ),
    (
        "tolerated",
        needs(tolerations=[{"key": "k", "operator": "Exists"}]),
        [room("a", taints=[{"key": "k", "value": "x", "effect": "NoSchedule"}])],
        "a",
    ),
    (
        "together",
        needs(**affinity("podAffinity", near("db"))),
        [room("a"), room("b", pods=[needs("q", labels={"app": "db"})])],
        "b",
    ),
    ("first of a group", needs(labels={"app": "db"}, **affinity("podAffinity", near("db"))), [room("a")], "a"),
    (
        "skew",
        needs(labels={"app": "web"}, **SPREAD),
        [room("a", pods=[needs("q", labels={"app": "web"})]), room("b", pods=[needs("x", cpu="1900m")])],
        "b",
    ),
]


@pytest.mark.parametrize(("what", "pod", "nodes", "expected"), CHOICES, ids=[row[0] for row in CHOICES])
def test_choices(what: str, pod: PodNeeds, nodes: list[NodeRoom], expected: str) -> None:
    assert choose(pod, Cluster(nodes)).node == expected


def test_nobody_there() -> None:
    assert choose(needs(), Cluster([])).message == "no nodes available to schedule pods"


def test_a_node_that_is_not_ready_counts_as_tainted() -> None:
    node = node_room({"metadata": {"name": "a"}, "status": {"allocatable": {"pods": "9"}}})
    assert "node.kubernetes.io/not-ready" in choose(needs(), Cluster([node])).message


def test_requests_add_up_with_sidecars_and_init_containers() -> None:
    def container(cpu: str, **more: Any) -> Any:
        return {"name": cpu, "resources": {"requests": {"cpu": cpu}}, **more}

    spec = {
        "initContainers": [container("100m", restartPolicy="Always"), container("2")],
        "containers": [container("300m"), container("1")],
        "overhead": {"cpu": "50m"},
    }
    found = pod_needs({"metadata": {"name": "p"}, "spec": spec})
    assert found.asked == {"cpu": 2150}  # the sidecar and the second init container, against 1.4 running


@pytest.mark.parametrize(
    ("toleration", "expected"),
    [
        ({"operator": "Exists"}, True),
        ({"key": "k", "operator": "Exists", "effect": "NoSchedule"}, True),
        ({"key": "k", "operator": "Exists", "effect": "NoExecute"}, False),
        ({"key": "k", "value": "v"}, True),
        ({"key": "k", "value": "w"}, False),
        ({"key": "j", "operator": "Exists"}, False),
        ({}, False),
    ],
)
def test_tolerations(toleration: Any, expected: bool) -> None:
    assert toleration_matches(toleration, {"key": "k", "value": "v", "effect": "NoSchedule"}) is expected
