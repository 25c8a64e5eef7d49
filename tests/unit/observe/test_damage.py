"""Each kind of damage is found, and what is sound is not."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))

from build import affinity, block, cluster, facts, handle, node, pod, pool, stored, who

from podwire.ipam.blocks import Attribute
from podwire.model.seen import UNCOMPARED, NodeSeen, SeenAttachment, SeenFile, SeenRoute
from podwire.observe import kernel
from podwire.observe.cluster import Cluster, assemble
from podwire.observe.damage import api_findings
from podwire.observe.finding import Finding, persistent
from podwire.observe.living import why_live

HELD = block("10.0.0.0/28", "n1", o1=who("a", "n1"))
RUNNING = pod("a", "n1", "10.0.0.1")


def kinds(found: list[Finding]) -> list[tuple[str, str]]:
    return [(one.kind, one.address) for one in found]


def attribute(name: str, kind: str = "", on: str = "n1") -> Attribute:
    facts = {"node": on, "type": kind} if kind else {"node": on}
    return Attribute.of(name, facts)


def attachment(name: str, *addresses: str, state: str = "ready", **more: Any) -> SeenAttachment:
    return SeenAttachment(
        name, "eth0", "routed", state, f"cali-{name}", f"net.{name}", "default", name, addresses, **more
    )


def seen(*attachments: SeenAttachment, **more: Any) -> NodeSeen:
    """A node that has in its kernel what it has on record."""
    routes = [SeenRoute(a, one.host_name) for one in attachments for a in one.addresses]
    links = {one.host_name: True for one in attachments}
    present = tuple(route.address for route in routes)
    return NodeSeen(
        "n1", **{"attachments": attachments, "routes": tuple(routes), "links": links, "present": present} | more
    )


@pytest.mark.parametrize(
    "found",
    [
        cluster(),
        cluster(HELD, pods=[RUNNING]),
        cluster(HELD, pods=[pod("a", "n1", phase="Pending")]),  # being made
        cluster(block("10.0.0.0/28", "n1", o0=attribute("vxlan-tunnel-addr-n1", "vxlanTunnelAddress"))),
        cluster(block("10.0.0.0/28", "n1", o0=attribute("podwire-ahead-n1"))),
        cluster(block("10.0.0.0/28", "n1", o0=attribute("unknown"))),
        cluster(block("10.0.0.0/28", "n1", o1=Attribute("h", who("a", "n1").secondary, (("releasedAt", "x"),)))),
        cluster(  # a further interface of the pod, which its status does not tell
            block(
                "10.0.0.0/28",
                "n1",
                o1=who("a", "n1"),
                o2=Attribute.of("net." + "a" * 64 + ".net1", dict(who("a", "n1").secondary)),
            ),
            pods=[RUNNING],
        ),
        cluster(pools=[], pods=[pod("a", "n1", "192.0.2.1")]),  # addresses come from elsewhere
        cluster(HELD, pods=[{**pod("a", "n1"), "status": {"podIPs": "odd"}}]),
        cluster(pods=[pod("h", "n1", "172.18.0.2", hostNetwork=True), pod("e", "n1", "10.0.0.9", phase="Failed")]),
    ],
)
def test_what_is_sound(found: Cluster) -> None:
    assert api_findings(found) == []


@pytest.mark.parametrize(
    ("found", "expected", "words"),
    [
        (cluster(HELD), [("leaked address", "10.0.0.1")], "pod default/a does not exist"),
        (cluster(HELD, pods=[pod("a", "n1", phase="Succeeded")]), [("leaked address", "10.0.0.1")], "has ended"),
        (
            cluster(block("10.0.0.0/28", "n1", o1=who("a", "n1"), o2=who("a", "n1")), pods=[RUNNING]),
            [("leaked address", "10.0.0.2")],
            "pod default/a has 10.0.0.1",
        ),
        (
            cluster(block("10.0.0.0/28", "n1", o0=attribute("vxlan-tunnel-addr-x", "vxlanTunnelAddress", "x"))),
            [("leaked address", "10.0.0.0")],
            "node x does not exist",
        ),
        (
            cluster(
                block("10.0.0.0/28", "n1", o0=attribute("vxlan-tunnel-addr-n1", "vxlanTunnelAddress")),
                nodes=[node("n1", IPv4VXLANTunnelAddr="10.0.0.7")],
            ),
            [("leaked address", "10.0.0.0")],
            "uses 10.0.0.7",
        ),
        (
            cluster(block("10.0.0.0/28", "n1", o0=attribute("podwire-ahead-x", on="x"))),
            [("leaked address", "10.0.0.0")],
            "node x, which does not exist",
        ),
        (
            cluster(HELD, pods=[RUNNING, pod("b", "n2", "10.0.0.1")]),
            [("double use", "10.0.0.1")],
            "IPAM says default/a",
        ),
        (
            cluster(
                HELD, block("10.0.0.0/29", "n2", o1=who("b", "n2")), pods=[RUNNING, pod("b", "n2", phase="Pending")]
            ),
            [("double use", "10.0.0.1")],
            "overlapping blocks",
        ),
        (cluster(pods=[pod("a", "n1", "192.0.2.1")]), [("outside pools", "192.0.2.1")], "no IPPool covers the Pod"),
        (cluster(block("10.9.0.0/28", "n1")), [("outside pools", "")], "0 addresses"),
        (cluster(block("10.0.0.0/28", "n1"), pods=[RUNNING]), [("not allocated", "10.0.0.1")], "no block says so"),
        (
            cluster(HELD, pods=[pod("a", "n1", phase="Pending"), pod("b", "n1", "10.0.0.1")]),
            [("wrong holder", "10.0.0.1")],
            "default/a does",
        ),
        (cluster(HELD, pods=[RUNNING], handles=[]), [("handle mismatch", "10.0.0.1")], "is missing"),
        (
            cluster(HELD, pods=[RUNNING], handles=[handle("net.a", b10_0_0_0_28=2)]),
            [("handle mismatch", "10.0.0.1")],
            "says 2 in 10.0.0.0/28, but the blocks say 1 in",
        ),
        (cluster(handles=[handle("net.x", b10_0_0_0_28=1)]), [("handle mismatch", "")], "but the blocks say nothing"),
        (cluster(affinities=[affinity("n1", "10.0.0.0/28")]), [("affinity orphan", "")], "there is no block"),
        (cluster(block("10.0.0.0/28", "n1"), affinities=[]), [("affinity orphan", "")], "no BlockAffinity says so"),
        (
            cluster(block("10.0.0.0/28", "n1"), affinities=[affinity("n1", "10.0.0.0/28", "pending")]),
            [("affinity orphan", "")],
            "begun (pending)",
        ),
        (
            cluster(
                block("10.0.0.0/28", "n1"), affinities=[affinity("n1", "10.0.0.0/28"), affinity("n2", "10.0.0.0/28")]
            ),
            [("affinity orphan", "")],
            "node n1's, not node n2's",
        ),
        (cluster(block("10.0.0.0/28", "x")), [("affinity orphan", "")], "node x is gone"),
        (
            cluster(block("10.0.0.0/28", "n1", o1=Attribute.of("net." + "a" * 64 + ".net1", facts("a", "n1")))),
            [("leaked address", "10.0.0.1")],
            "pod default/a does not exist",
        ),
        (assemble([pool()], [{**stored(HELD), "spec": {"cidr": "no"}}]), [("broken object", "")], "'no'"),
    ],
)
def test_what_is_damaged(found: Cluster, expected: list[tuple[str, str]], words: str) -> None:
    told = api_findings(found)
    assert kinds(told) == expected
    assert words in told[0].problem and told[0].remedy and told[0].object


def test_nodes_that_give_addresses_themselves() -> None:
    """Host-local: a disabled pool and podCIDRs, or files seen on the node."""
    own = {**node("n1"), "spec": {"podCIDR": "10.0.0.0/26"}}
    off = pool(disabled=True)
    assert api_findings(cluster(pools=[off], nodes=[own], pods=[RUNNING])) == []
    assert kinds(api_findings(cluster(nodes=[own], pods=[RUNNING]))) == [("not allocated", "10.0.0.1")]
    away = cluster(pools=[off], nodes=[own], pods=[pod("a", "n1", "10.0.0.99")])
    assert kinds(api_findings(away)) == [("not allocated", "10.0.0.99")]
    files = (SeenFile("/d", "n", "10.0.0.1", "c", "eth0", 0.0),)
    assert api_findings(cluster(nodes=[own], pods=[RUNNING]), {"n1": NodeSeen("n1", files=files)}) == []


def test_what_the_node_still_has_is_not_leaked() -> None:
    held, gone = cluster(HELD), {"n1": NodeSeen("n1")}
    assert kinds(api_findings(held, gone)) == [("leaked address", "10.0.0.1")]
    for still in (
        NodeSeen("n1", present=("10.0.0.1",)),
        NodeSeen("n1", routes=(SeenRoute("10.0.0.1", "cali-a"),)),
        seen(attachment("a", state="wiring")),
    ):
        assert api_findings(held, {"n1": still}) == []
    assert kinds(api_findings(held, {"n1": seen(attachment("a", state="deleted"))})) == [("leaked address", "10.0.0.1")]


def test_a_holder_without_a_pod_is_judged_by_its_node_alone() -> None:
    held = cluster(block("10.0.0.0/28", "n1", o1=attribute("net.cnitool")))
    assert api_findings(held) == [] and why_live(held, *held_of(held), {}) != ""
    assert kinds(api_findings(held, {"n1": NodeSeen("n1")})) == [("leaked address", "10.0.0.1")]
    assert why_live(held, *held_of(held), {"n1": NodeSeen("n1")}) == ""


def held_of(one: Cluster) -> list[Any]:
    from podwire.observe.addresses import holdings

    return holdings(one)


@pytest.mark.parametrize(
    ("found", "looked", "words"),
    [
        (cluster(HELD, pods=[RUNNING]), {}, "Pod default/a on node n1 has it"),
        (cluster(HELD, pods=[pod("b", "n2", "10.0.0.1")]), {}, "Pod default/b on node n2 has it"),
        (cluster(HELD, pods=[pod("a", "n1", phase="Pending")]), {}, "being made"),
        (cluster(HELD, pods=[pod("a", "n1", phase="Failed")]), {}, ""),
        (cluster(HELD), {}, ""),
        (cluster(HELD), {"n1": NodeSeen("n1", present=("10.0.0.1",))}, "node n1 still has it"),
        (cluster(block("10.0.0.0/28", "n1", o0=attribute("podwire-ahead-n1"))), {}, "claimed it ahead"),
        (cluster(block("10.0.0.0/28", "n1", o0=attribute("t", "vxlanTunnelAddress"))), {}, "the tunnel's address"),
        (cluster(block("10.0.0.0/28", "n1", o0=attribute("t", "vxlanTunnelAddress", "x"))), {}, ""),
    ],
)
def test_who_uses_an_address(found: Cluster, looked: dict[str, NodeSeen], words: str) -> None:
    told = why_live(found, held_of(found)[0], looked)
    assert words in told and bool(words) == bool(told)


def test_what_a_node_has_in_order() -> None:
    assert kernel.node_findings(cluster(HELD, pods=[RUNNING]), seen(attachment("a", "10.0.0.1"))) == []
    files = (SeenFile("/d", "n", "10.0.0.1", "a", "eth0", 0.0),)  # host-local gave it
    assert kernel.node_findings(cluster(pods=[RUNNING]), seen(attachment("a", "10.0.0.1"), files=files)) == []


def test_what_cannot_be_compared_is_no_reason_to_delete_a_pod() -> None:
    """An agent of another version has other tables: once it is of this one, all is well."""
    for fault, way_out in (("link is down", "delete pod -n default a"), (f"{UNCOMPARED}: no set", "of this version")):
        looked = seen(attachment("a", "10.0.0.1", faults=(fault,)))
        (found,) = kernel.node_findings(cluster(HELD, pods=[RUNNING]), looked)
        assert way_out in found.remedy


FAULTY = attachment("a", "10.0.0.1", faults=("link is down",))


@pytest.mark.parametrize(
    ("found", "looked", "expected"),
    [
        (cluster(pods=[RUNNING]), seen(attachment("a", "10.0.0.1")), [("kernel without allocation", "10.0.0.1")]),
        (
            cluster(block("10.0.0.0/28", "n1", o1=who("a", "n2")), pods=[RUNNING]),
            seen(attachment("a", "10.0.0.1")),
            [("kernel without allocation", "10.0.0.1")],
        ),
        (cluster(), NodeSeen("n1", links={"cali-x": True}), [("stray interface", "")]),
        (
            cluster(pods=[RUNNING]),
            seen(attachment("a", "10.0.0.1"), routes=()),
            [("record without allocation", "10.0.0.1")],
        ),
        (cluster(HELD, pods=[RUNNING]), NodeSeen("n1"), [("allocation without kernel", "10.0.0.1")]),
        (cluster(HELD, pods=[RUNNING]), NodeSeen("n1", blind=("routes: denied",)), []),
        (cluster(HELD, pods=[pod("a", "n1", "10.0.0.1", phase="Pending")]), NodeSeen("n1"), []),
        (cluster(HELD), seen(attachment("a", "10.0.0.1")), [("left-over endpoint", "10.0.0.1")]),
        (cluster(HELD, pods=[RUNNING]), seen(FAULTY), [("damaged endpoint", "10.0.0.1")]),
        (
            cluster(HELD, pods=[RUNNING]),
            NodeSeen("n1", attachments=(FAULTY,), links={"cali-a": True}),
            [("allocation without kernel", "10.0.0.1")],
        ),
    ],
)
def test_what_a_node_has_amiss(found: Cluster, looked: NodeSeen, expected: list[tuple[str, str]]) -> None:
    assert kinds(kernel.node_findings(found, looked)) == expected


@pytest.mark.parametrize(
    ("looked", "now", "leaked"),
    [
        ({}, 100.0, True),
        ({}, 59.0, False),  # it may be on its way into a pod
        ({"present": ("10.0.0.1",)}, 100.0, False),
        ({"attachments": (attachment("c"),)}, 100.0, False),
        ({"attachments": (attachment("c", state="deleted"),)}, 100.0, True),
        ({"blind": ("network namespaces: denied",)}, 100.0, False),
    ],
)
def test_leaked_files(looked: dict[str, Any], now: float, leaked: bool) -> None:
    node_seen = NodeSeen("n1", files=(SeenFile("/d", "n", "10.0.0.1", "c", "eth0", 0.0),), **looked)
    found = list(kernel.file_findings(node_seen, now, 60.0))
    assert kinds(found) == ([("leaked file", "10.0.0.1")] if leaked else [])
    assert all((one.directory, one.network, one.handle) == ("/d", "n", "c/eth0") for one in found)


def test_only_what_both_looks_found_persists() -> None:
    one, two = api_findings(cluster(HELD)), api_findings(cluster(block("10.0.0.0/28", "n1", o2=who("a", "n1"))))
    assert persistent(one, one) == one and persistent(one, two) == [] == persistent([], one)
    taken_again = [Finding(**{**fields(one[0]), "sequence": 99})]
    assert persistent(one, taken_again) == []
    reworded = [Finding(**{**fields(one[0]), "problem": "other words"})]
    assert persistent(one, reworded) == reworded


def fields(one: Finding) -> dict[str, Any]:
    return {name: getattr(one, name) for name in one.__dataclass_fields__}


@given(st.sets(st.integers(0, 15)), st.sets(st.integers(0, 15)))
def test_what_pods_have_is_never_called_leaked(held: set[int], lost: set[int]) -> None:
    one = block("10.0.0.0/28", "n1", **{f"o{at}": who(f"p{at}", "n1") for at in held})
    pods = [pod(f"p{at}", "n1", f"10.0.0.{at}") for at in held - lost]
    found = api_findings(cluster(one, pods=pods))
    assert {one.address for one in found} == {f"10.0.0.{at}" for at in held & lost}
    assert {one.kind for one in found} <= {"leaked address"}
