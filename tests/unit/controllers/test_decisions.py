"""Small decisions of the other loops, as rows."""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podwire.controllers import cidrs, daemons, garbage, health, replicaset, revisions, slices
from podwire.controllers.daemons import Placement
from podwire.controllers.objects import stamp

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


def pod(name: str, *, node: str = "a", ready: bool = True, phase: str = "Running", **metadata: Any) -> dict[str, Any]:
    status: dict[str, Any] = {"phase": phase, "podIP": metadata.pop("ip", "10.0.0.1")}
    since = metadata.pop("since", 100)
    if ready:
        at = stamp(NOW - timedelta(seconds=since))
        status["conditions"] = [{"type": "Ready", "status": "True", "lastTransitionTime": at}]
    containers = [{"name": "c", "ports": [{"name": "http", "containerPort": 8080}]}]
    found = {"name": name, "namespace": "default", "uid": name, "creationTimestamp": "2026-01-01T00:00:00Z", **metadata}
    return {"metadata": found, "spec": {"nodeName": node, "containers": containers}, "status": status}


RANKS = [
    ("unscheduled", pod("x", node=""), pod("y", node="a", ready=False)),
    ("pending", pod("x", ready=False, phase="Pending"), pod("y", ready=False)),
    ("not ready", pod("x", ready=False), pod("y")),
    ("cheap", pod("x", annotations={"controller.kubernetes.io/pod-deletion-cost": "-5"}), pod("y", since=1)),
    ("crowded", pod("x", node="full"), pod("y", since=1)),
    ("ready for less long", pod("x", since=5), pod("y", since=50)),
    ("younger", pod("x", creationTimestamp="2026-01-01T01:00:00Z"), pod("y")),
]


@pytest.mark.parametrize(("what", "first", "second"), RANKS, ids=[row[0] for row in RANKS])
def test_who_goes_first(what: str, first: Any, second: Any) -> None:
    def together(one: Any) -> int:
        return 3 if one["spec"]["nodeName"] == "full" else 1

    for order in ([first, second], [second, first]):
        assert replicaset.decide(1, order, together).delete == (first,)
    assert replicaset.decide(5, [first, second], together).create == 3


def test_availability_takes_its_time() -> None:
    rs = {"metadata": {"generation": 2}, "spec": {"minReadySeconds": 30}}
    found = replicaset.new_status(rs, [pod("x", since=10), pod("y", since=40)], None, NOW)
    assert (found["readyReplicas"], found["availableReplicas"], found["observedGeneration"]) == (2, 1, 2)
    assert replicaset.next_available(rs, [pod("x", since=10)], NOW) == 20.0


@pytest.mark.parametrize(
    ("taken", "expected"),
    [
        ([], "10.244.0.0/24"),
        (["10.244.0.0/24"], "10.244.1.0/24"),
        (["10.244.1.0/24"], "10.244.0.0/24"),
        (["10.244.0.128/25", "10.244.2.0/23"], "10.244.1.0/24"),
        (["10.244.0.0/22"], None),
        (["10.0.0.0/8"], None),
        (["192.168.0.0/16", "fd00::/64"], "10.244.0.0/24"),
    ],
)
def test_lowest_free(taken: list[str], expected: str | None) -> None:
    found = cidrs.lowest_free(ipaddress.ip_network("10.244.0.0/22"), 24, map(ipaddress.ip_network, taken))
    assert (str(found) if found else None) == expected


@given(st.lists(st.tuples(st.integers(0, 63), st.integers(22, 28)), max_size=8), st.integers(22, 28))
def test_pieces_never_overlap(taken: list[tuple[int, int]], mask: int) -> None:
    subnet = ipaddress.ip_network("10.244.0.0/20")
    held = [ipaddress.ip_network((int(subnet[0]) + n * 64, size), strict=False) for n, size in taken]
    found = cidrs.lowest_free(subnet, mask, held)
    free = [one for one in subnet.subnets(new_prefix=mask) if not any(one.overlaps(other) for other in held)]
    assert found == (free[0] if free else None)


UNREACHABLE = {"key": health.UNREACHABLE, "effect": "NoExecute", "timeAdded": stamp(NOW - timedelta(seconds=60))}


@pytest.mark.parametrize(
    ("tolerations", "taints", "expected"),
    [
        ([], [], None),
        ([], [{"key": "a", "effect": "NoSchedule"}], None),
        ([], [UNREACHABLE], 0.0),
        ([{"operator": "Exists"}], [UNREACHABLE], None),
        ([{"key": health.UNREACHABLE, "operator": "Exists", "tolerationSeconds": 300}], [UNREACHABLE], 240.0),
        ([{"key": health.UNREACHABLE, "operator": "Exists", "tolerationSeconds": 30}], [UNREACHABLE], 0.0),
        ([{"key": health.NOT_READY, "operator": "Exists"}], [UNREACHABLE], 0.0),
    ],
)
def test_who_must_leave(tolerations: Any, taints: Any, expected: float | None) -> None:
    assert health.leaves_in(tolerations, taints, NOW) == expected


@pytest.mark.parametrize(
    ("ready", "evict", "cordoned", "expected"),
    [
        ("True", True, False, {("mine", "NoSchedule")}),
        ("True", True, True, {("mine", "NoSchedule"), (health.UNSCHEDULABLE, "NoSchedule")}),
        ("False", False, False, {("mine", "NoSchedule"), (health.NOT_READY, "NoSchedule")}),
        (
            "Unknown",
            True,
            False,
            {("mine", "NoSchedule"), (health.UNREACHABLE, "NoSchedule"), (health.UNREACHABLE, "NoExecute")},
        ),
    ],
)
def test_taints(ready: str, evict: bool, cordoned: bool, expected: set[tuple[str, str]]) -> None:
    present = [{"key": "mine", "effect": "NoSchedule"}, {"key": health.NOT_READY, "effect": "NoExecute"}]
    node = {
        "spec": {"taints": present, "unschedulable": cordoned},
        "status": {"conditions": [{"type": "Ready", "status": ready}]},
    }
    found = health.taints(node, NOW, evict=evict)
    assert {(one["key"], one["effect"]) for one in found} == expected
    assert health.taints({**node, "spec": {**node["spec"], "taints": found}}, NOW, evict=evict) == found


def test_judgement() -> None:
    def owned(*uids: str, **metadata: Any) -> Any:
        return {"metadata": {"ownerReferences": [{"uid": uid} for uid in uids], **metadata}}

    def judge(obj: Any, solid: set[str], waiting: set[str], blocking: bool = False) -> tuple[str, str]:
        found = garbage.judge(obj, solid, waiting, has_blocking_dependents=blocking)
        return found.action, found.propagation or ",".join(found.uids)

    assert judge(owned(), set(), set()) == ("keep", "")
    assert judge(owned("a"), {"a"}, set()) == ("keep", "")
    assert judge(owned("a", "b"), {"a"}, set()) == ("drop", "b")
    assert judge(owned("a"), set(), set()) == ("delete", "Background")
    assert judge(owned("a"), set(), {"a"}, True) == ("delete", "Foreground")
    assert judge(owned("a", finalizers=["orphan"]), set(), set()) == ("delete", "Orphan")


def service(**spec: Any) -> dict[str, Any]:
    metadata = {"name": "web", "namespace": "default", "uid": "s", "labels": {"tier": "front"}}
    ports = [{"name": "http", "port": 80, "targetPort": "http"}, {"name": "raw", "port": 81}]
    return {
        "metadata": metadata,
        "spec": {"clusterIP": "10.96.0.7", "selector": {"app": "web"}, "ports": ports, **spec},
    }


def test_slices_tell_of_pods() -> None:
    nodes = {"a": {"metadata": {"name": "a", "labels": {slices.ZONE: "z1"}}}}
    chosen = [
        pod("ready"),
        pod("late", ready=False, ip="10.0.0.2"),
        pod("going", ip="10.0.0.3", deletionTimestamp="x"),
        pod("done", phase="Succeeded"),
        pod("none", ip=""),
    ]
    plan = slices.plan(service(), chosen, nodes, [])
    assert len(plan.write) == 1 and not plan.delete
    body = plan.write[0].body
    assert [(one["name"], one["port"]) for one in body["ports"]] == [("http", 8080), ("raw", 81)]
    told = {one["targetRef"]["name"]: tuple(one["conditions"].values()) for one in body["endpoints"]}
    # ready, serving, terminating
    assert told == {"ready": (True, True, False), "late": (False, False, False), "going": (False, True, True)}
    assert {one["zone"] for one in body["endpoints"]} == {"z1"}
    assert body["metadata"]["labels"]["tier"] == "front"


def test_slices_that_are_right_are_left_alone() -> None:
    body = {**slices.plan(service(), [pod("x")], {}, []).write[0].body}
    body["metadata"] = {**body["metadata"], "name": "web-1"}
    assert slices.plan(service(), [pod("x")], {}, [body]) == slices.Plan([], [])
    empty = slices.plan(service(), [], {}, [body])
    assert [one.name for one in empty.write] == ["web-1"] and empty.write[0].body["endpoints"] == []


def test_many_endpoints_fill_several_slices_and_stay_where_they_are() -> None:
    many = [pod(f"p{n:03}", ip=f"10.0.{n // 250}.{n % 250 + 1}") for n in range(230)]
    bodies = []
    for number, wanted in enumerate(slices.plan(service(), many, {}, []).write):
        wanted.body["metadata"]["name"] = f"web-{number}"
        bodies.append(wanted.body)
    assert [len(one["endpoints"]) for one in bodies] == [100, 100, 30]
    again = slices.plan(service(), many[1:], {}, bodies)
    assert len(again.write) + len(again.delete) <= 2
    assert slices.plan(service(), many, {}, bodies) == slices.Plan([], [])


def test_publishing_those_that_are_not_ready() -> None:
    wanted = service(publishNotReadyAddresses=True, clusterIP="None")
    body = slices.plan(wanted, [pod("x", ready=False)], {}, []).write[0].body
    assert body["endpoints"][0]["conditions"] == {"ready": True, "serving": True, "terminating": False}
    assert body["metadata"]["labels"][slices.HEADLESS] == ""
    assert slices.endpoints_subsets(wanted, [pod("x", ready=False)])[0]["addresses"][0]["ip"] == "10.0.0.1"


def test_daemons_one_a_node() -> None:
    here, never = Placement(True, True), Placement(False, False)
    stay = Placement(False, True)
    by_node = {"b": [pod("b1", node="b")], "c": [pod("c1", node="c")], "d": [pod("d1", node="d"), pod("d2", node="d")]}
    by_node["e"] = [pod("e1", node="e", deletionTimestamp="x")]
    places = {"a": here, "b": stay, "c": never, "d": here, "e": here, "f": stay}
    work = daemons.missing_and_surplus(places, by_node, surge=False)
    assert work.create == ("a",)
    assert [one["metadata"]["name"] for one in work.delete] == ["c1", "d2"]


def test_daemon_update_goes_node_by_node() -> None:
    places = {name: Placement(True, True) for name in "abc"}
    old, new = {"labels": {daemons.HASH: "1"}}, {"labels": {daemons.HASH: "2"}}
    ds: dict[str, Any] = {"metadata": {}, "spec": {}}

    def deleted(by_node: Any) -> list[str]:
        return [one["metadata"]["name"] for one in daemons.rolling(ds, places, by_node, "2", NOW).delete]

    assert deleted({name: [pod(name, node=name, **old)] for name in "abc"}) == ["a"]
    assert deleted({"a": [], "b": [pod("b", node="b", **old)], "c": [pod("c", node="c", **old)]}) == []
    busy = {"a": [pod("a", **new)], "b": [pod("b", ready=False, **old)], "c": [pod("c", **old)]}
    assert deleted(busy) == ["b"]


def test_the_hash_tells_templates_apart() -> None:
    left = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"image": "x"}]}}
    right = {"metadata": {"labels": {"a": "b"}, "creationTimestamp": None}, "spec": {"containers": [{"image": "x"}]}}
    assert revisions.bare(left) == revisions.bare(right)
    assert revisions.template_hash(left) != revisions.template_hash(left, 1)
    assert revisions.fnv32a(b"foobar") == 0xBF9CF968
