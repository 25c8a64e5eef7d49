"""Rows of pools, blocks, nodes and borrowed addresses, and one address explained."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))

from build import SINCE, block, cluster, node, obj, pod, pool, stored, who

from podwire.ipam.blocks import Attribute
from podwire.model.address import AddressError
from podwire.observe import addresses
from podwire.observe.cluster import assemble
from podwire.observe.explain import explain

TWO = cluster(
    block("10.0.0.0/28", "n1", o1=who("a", "n1"), o2=who("b", "n2")),
    block("10.0.0.16/28", "n2", o0=Attribute.of("t", {"node": "n2", "type": "vxlanTunnelAddress"})),
    pods=[pod("a", "n1", "10.0.0.1"), pod("b", "n2", "10.0.0.2")],
    nodes=[node("n1"), node("n2", "172.18.0.3", IPv4VXLANTunnelAddr="10.0.0.16")],
    reservations=[obj("r", {"reservedCIDRs": ["10.0.0.8/30", "10.0.0.10/31", "10.0.0.224/27", "192.0.2.0/24"]})],
)


def test_rows_of_a_small_cluster() -> None:
    (row,) = addresses.pool_rows(TWO)
    assert (row.total, row.used, row.free, row.reserved, row.blocks, row.state) == (256, 3, 253, 36, 2, "usable")
    assert [(one.cidr, one.node, one.used, one.lent, one.since) for one in addresses.block_rows(TWO)] == [
        ("10.0.0.0/28", "n1", 2, 1, SINCE),
        ("10.0.0.16/28", "n2", 1, 0, SINCE),
    ]
    assert [(one.node, one.blocks, one.total, one.used, one.borrowed) for one in addresses.node_rows(TWO)] == [
        ("n1", 1, 16, 2, 0),
        ("n2", 1, 16, 1, 1),
    ]
    (lent,) = addresses.borrowed_rows(TWO)
    assert (lent.address, lent.node, lent.block_node, lent.holder) == ("10.0.0.2", "n2", "n1", "default/b")


@given(st.lists(st.integers(0, 63), unique=True), st.lists(st.integers(0, 63), unique=True))
def test_figures_add_up(one: list[int], two: list[int]) -> None:
    held = [{f"o{at % 16}": who(f"p{at}", f"n{at // 16 % 2 + 1}") for at in each} for each in (one, two)]
    found = cluster(block("10.0.0.0/28", "n1", **held[0]), block("10.0.0.16/28", "n2", **held[1]))
    (whole,) = addresses.pool_rows(found)
    blocks, nodes = addresses.block_rows(found), addresses.node_rows(found)
    taken = len(addresses.holdings(found))
    assert whole.used == sum(row.used for row in blocks) == sum(row.used for row in nodes) == taken
    assert whole.used + whole.free == whole.total
    assert sum(row.borrowed for row in nodes) == sum(row.lent for row in blocks) == len(addresses.borrowed_rows(found))


@pytest.mark.parametrize(
    ("spec", "state"),
    [
        ({}, "usable"),
        ({"disabled": True}, "disabled"),
        ({"cidr": "10.0.0.1/24"}, "invalid"),
        ({"blockSize": 20}, "invalid"),
        ({"assignmentMode": "Manual"}, "manual"),
    ],
)
def test_a_pools_state(spec: dict[str, object], state: str) -> None:
    assert [row.state for row in addresses.pool_rows(cluster(pools=[pool(**spec)]))] == [state]


def test_an_object_that_contradicts_itself_is_named_and_the_rest_is_shown() -> None:
    good, bad = block("10.0.0.0/28", "n1", o0=who("a", "n1")), stored(block("10.0.0.16/28", "n1"))
    bad["spec"]["allocations"] = [7]
    found = assemble([pool()], [stored(good), bad], reservations=[obj("r", {"reservedCIDRs": ["10.0.0.0/99"]})])
    assert [row.used for row in addresses.block_rows(found)] == [1]
    assert [name for name, _ in found.broken] == ["IPAMBlock 10-0-0-16-28", "IPReservation r"]


@pytest.mark.parametrize(
    ("address", "state", "words"),
    [
        ("10.0.0.1", "in use", ""),
        ("10.0.0.2", "in use", "node n2 borrowed it from a block of node n1"),
        ("10.0.0.16", "in use", "node n2 uses it as its tunnel's address"),
        ("10.0.0.3", "free", ""),
        ("10.0.0.9", "reserved", ""),
        ("10.0.0.100", "in no block", "no node has claimed a block"),
        ("192.0.2.1", "reserved", ""),
        ("172.18.0.3", "in no pool", "an address of node n2"),
        ("8.8.8.8", "in no pool", "no IPPool and no node's podCIDR covers it"),
    ],
)
def test_one_address(address: str, state: str, words: str) -> None:
    found = explain(TWO, address)
    assert found.state == state and words in "; ".join(found.notes)


def test_what_one_address_tells() -> None:
    found = explain(TWO, "10.0.0.2")
    assert found.holder is not None and found.borrowed
    told = (found.pool, found.block, found.block_node, found.affinity, found.holder.holder, found.holder.since)
    assert told == ("pool", "10.0.0.0/28", "n1", "confirmed", "default/b", SINCE)
    assert found.pods == (("default/b", "Running"),) and found.holder.handle == "net.b"


def test_an_address_that_rests() -> None:
    resting = Attribute("h", (("pod", "a"), ("namespace", "default")), (("releasedAt", SINCE),))
    found = explain(cluster(block("10.0.0.0/28", "n1", o1=resting)), "10.0.0.1")
    assert found.state == "cooling down" and found.notes == ()


def test_an_address_claimed_ahead() -> None:
    kept = Attribute.of("podwire-ahead-n1", {"node": "n1", "type": "podwireAhead"})
    world = cluster(block("10.0.0.0/28", "n1", o1=kept, o2=who("a", "n1")))
    found = explain(world, "10.0.0.1")
    assert found.state == "claimed ahead" and found.holder and found.holder.holder == "node n1, for its next pods"
    assert [(row.node, row.used, row.ahead) for row in addresses.node_rows(world)] == [("n1", 2, 1), ("n2", 0, 0)]


def test_an_address_that_a_node_gives_itself() -> None:
    own = {**node("n1"), "spec": {"podCIDR": "10.0.0.0/26"}}
    world = cluster(pools=[pool(disabled=True)], nodes=[own], pods=[pod("a", "n1", "10.0.0.1")])
    assert explain(world, "10.0.0.1").notes == ("node n1 gives it itself, out of its podCIDR 10.0.0.0/26",)


def test_pod_cidrs_where_there_are_no_blocks() -> None:
    nodes = [node("n1"), node("n2")]
    nodes[0]["spec"] = {"podCIDR": "10.8.0.0/28", "podCIDRs": ["10.8.0.0/28", "fd00::/124"]}
    pods = [pod("a", "n1", "10.8.0.2", "fd00::2"), pod("b", "n1", "10.8.0.3"), pod("bad", "n1", "no address")]
    world = cluster(pools=[], nodes=nodes, pods=pods)
    rows = [(row.node, row.cidr, row.total, row.used, row.free) for row in addresses.cidr_rows(world)]
    assert rows == [("n1", "10.8.0.0/28", 16, 2, 14), ("n1", "fd00::/124", 16, 1, 15)]
    found = explain(world, "10.8.0.2")
    assert found.pods == (("default/a", "Running"),) and found.notes == (
        "it lies in the podCIDR 10.8.0.0/28 of node n1",
    )


@pytest.mark.parametrize(
    ("pods", "words"),
    [
        ([], "no Pod default/a says that it has this address"),
        ([pod("a", "n1", "10.0.0.1"), pod("x", "n1", "10.0.0.1")], "2 Pods say that they have it"),
    ],
)
def test_what_does_not_fit_is_said(pods: list[dict[str, object]], words: str) -> None:
    found = explain(cluster(block("10.0.0.0/28", "n1", o1=who("a", "n1")), pods=pods), "10.0.0.1")
    assert any(words in note for note in found.notes)


def test_a_pods_address_that_nobody_holds() -> None:
    found = explain(cluster(block("10.0.0.0/28", "n1"), pods=[pod("a", "n1", "10.0.0.1")]), "10.0.0.1")
    assert found.state == "free" and "nobody is noted as its holder" in found.notes[0]


def test_no_address() -> None:
    with pytest.raises(AddressError):
        explain(TWO, "10.0.0")
