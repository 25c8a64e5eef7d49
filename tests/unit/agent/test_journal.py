"""Whatever the agent was told, in whatever order: the journal, replayed, gives the state that the agent had."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from podwire.agent import replay as page
from podwire.agent.journal import SLIM, TYPES, Journal
from podwire.agent.replay import CALCULATORS, ReplayError, replay
from podwire.model.block import AllocationAttribute, IPAMBlock, IPAMBlockSpec
from podwire.model.ippool import IPPool, IPPoolSpec
from podwire.model.meta import Meta
from podwire.model.node import IPV4_ADDRESS, VXLAN_TUNNEL, VXLAN_TUNNEL6, Node, NodeAddress, NodeSpec, NodeStatus
from podwire.render.routing import Names

NAMES = ("n0", "n1", "n2", "n3")
ME = "n0"


@st.composite
def nodes(draw: Any, name: str) -> Node:
    number = NAMES.index(name)
    annotations = {"example.org/noise": draw(st.sampled_from(["a", "b"]))}
    if draw(st.booleans()):
        annotations[IPV4_ADDRESS] = draw(
            st.sampled_from([f"172.18.0.{number + 2}/16", f"172.19.0.{number}", "nonsense"])
        )
    if draw(st.booleans()):
        annotations[VXLAN_TUNNEL] = draw(st.sampled_from([f"10.244.{number}.0", f"10.245.{number}.1", ""]))
    if draw(st.booleans()):
        annotations[VXLAN_TUNNEL6] = draw(st.sampled_from([f"fd01::{number}:0", ""]))
    addresses = draw(st.lists(st.sampled_from([f"172.18.0.{number + 2}", "fd00::1", "198.51.100.7"]), max_size=2))
    return Node(
        Meta(name=name, annotations=annotations, labels={"x": "y"}),
        NodeSpec(
            podCIDRs=draw(st.sampled_from([[], [f"10.244.{number}.0/24"], [f"10.244.{number}.0/24", "fd01::/80"]]))
        ),
        NodeStatus([NodeAddress("InternalIP", one) for one in addresses]),
    )


@st.composite
def pools(draw: Any, name: str) -> IPPool:
    cidr = draw(st.sampled_from(["10.244.0.0/16", "10.244.1.0/24", "10.245.0.0/16", "fd01::/64", "nonsense"]))
    modes = ["", "Always", "CrossSubnet", "Never"]
    return IPPool(
        Meta(name=name),
        IPPoolSpec(
            cidr=cidr,
            vxlanMode=draw(st.sampled_from(modes)),
            ipipMode=draw(st.sampled_from(["", "Always"])),
            natOutgoing=draw(st.booleans()),
            allowedUses=draw(st.sampled_from([[], ["Workload"], ["LoadBalancer"]])),
        ),
    )


@st.composite
def blocks(draw: Any, name: str) -> IPAMBlock:
    owner = draw(st.sampled_from([None, "virtual:x", *(f"host:{node}" for node in NAMES)]))
    nodes = draw(st.lists(st.sampled_from([*NAMES, ""]), max_size=3))
    attributes = [AllocationAttribute("h", {"node": node} if node else None) for node in nodes]
    allocations = draw(st.lists(st.one_of(st.none(), st.integers(-1, 3)), max_size=10))
    cidr = draw(st.sampled_from([f"10.244.{name[1:]}.0/30", f"10.244.{name[1:]}.4/32", "fd01::1:0/122", "nonsense"]))
    spec = IPAMBlockSpec(cidr, owner, allocations, attributes, deleted=draw(st.booleans()))
    return IPAMBlock(Meta(name=name), spec)


@st.composite
def told(draw: Any) -> tuple[str, str, Any]:
    kind = draw(st.sampled_from(sorted(TYPES)))
    name = draw(st.sampled_from(NAMES if kind == "nodes" else ("b0", "b1", "b2", "b3")))
    make = {"nodes": nodes, "ippools": pools, "ipamblocks": blocks}[kind]
    return kind, name, draw(st.one_of(st.none(), make(name)))


@given(
    st.lists(st.lists(told(), max_size=6), max_size=8),
    st.integers(1, 12),
    st.sampled_from(sorted(CALCULATORS)),
    st.integers(0, 8),
)
@settings(max_examples=150)
def test_replay_is_the_state(batches: list[list[Any]], limit: int, kind: str, synced_after: int) -> None:
    """In batches, as the loop calculates; with rings so short that most of it has become the snapshot."""
    calculator, journal = CALCULATORS[kind](ME), Journal(lambda: 0.0, limit)
    sinks = {"nodes": calculator.on_node, "ippools": calculator.on_pool, "ipamblocks": calculator.on_block}
    for number, batch in enumerate(batches, 1):
        for what, name, value in batch:
            journal.told(what, name, value)
            sinks[what](name, value)
        if number >= synced_after:
            for what in sinks:
                journal.synced(what)
            calculator.flush()
    document = page.calculation(calculator, ME, Names(), journal.document())
    assert len(document["journal"]["updates"]) <= limit
    assert replay(msgspec.json.encode({"calculation": document})) == []


@given(told())
def test_what_is_left_out_changes_nothing(item: tuple[str, str, Any]) -> None:
    kind, _, value = item
    if value is not None:
        slim = SLIM[kind](value)
        again = msgspec.convert(slim, TYPES[kind])
        assert SLIM[kind](again) == slim


def sample(limit: int = 1000) -> dict[str, Any]:
    calculator, journal = CALCULATORS["routes"](ME), Journal(lambda: 1.5, limit)
    status = NodeStatus([NodeAddress("InternalIP", "172.18.0.3")])
    peer = Node(Meta(name="n1", annotations={VXLAN_TUNNEL: "10.244.1.0"}), NodeSpec(), status)
    pool = IPPool(Meta(name="p"), IPPoolSpec(cidr="10.244.0.0/16", vxlanMode="Always", natOutgoing=True))
    block = IPAMBlock(Meta(name="b"), IPAMBlockSpec("10.244.1.0/26", "host:n1", [0] * 64, [AllocationAttribute("h")]))
    for kind, name, value in (("nodes", "n1", peer), ("ippools", "p", pool), ("ipamblocks", "b", block)):
        journal.told(kind, name, value)
        journal.told(kind, name, value)
        journal.synced(kind)
    calculator.on_node("n1", peer)
    calculator.on_pool("p", pool)
    calculator.on_block("b", block)
    calculator.flush()
    found = page.calculation(calculator, ME, Names(), journal.document())
    decoded: dict[str, Any] = msgspec.json.decode(msgspec.json.encode({"calculation": found}))
    return decoded


def test_a_difference_is_named() -> None:
    dump = sample()
    assert replay(msgspec.json.encode(dump)) == []
    del dump["calculation"]["state"]["routes"]["10.244.1.0/26"]
    dump["calculation"]["state"]["nat_pools"] = []
    found = replay(msgspec.json.encode(dump))
    assert [line.partition(":")[0] for line in found] == ["state.nat_pools", "state.routes.10.244.1.0/26"]


def test_repeated_updates_are_not_kept_and_old_ones_fold() -> None:
    journal = sample(limit=2)["calculation"]["journal"]
    assert journal["updates_without_effect"] == 3
    assert journal["folded_updates"] == 4
    assert [one["name"] for one in journal["snapshot"]["objects"]] == ["n1", "p"]
    assert journal["snapshot"]["in_sync"] == ["nodes", "ippools"]


def test_a_snapshot_does_not_grow_with_the_number_of_updates() -> None:
    journal = Journal(lambda: 0.0, 10)
    sizes = []
    for turn in range(400):
        spec = IPPoolSpec(cidr=f"10.{turn % 200}.0.0/16")
        journal.told("ippools", f"p{turn % 7}", IPPool(Meta(name="p"), spec))
        journal.told("nodes", f"n{turn}", Node(Meta(name=f"n{turn}")))
        journal.told("nodes", f"n{turn}", None)
        sizes.append(journal.size())
    assert max(sizes[200:]) <= max(sizes[:200]) + 64


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c.pop("journal"), "journal"),
        (lambda c: c.update(calculator="magic"), "'magic' is none of routes"),
        (lambda c: c["names"].update(colour=1), "colour"),
        (lambda c: c["journal"]["updates"][0].update(kind="secrets"), "journal entry 1: kind 'secrets'"),
        (lambda c: c["journal"]["updates"][0].update(object=[1]), "journal entry 1, nodes n1"),
    ],
)
def test_a_file_that_is_no_dump_is_refused_in_words(change: Any, words: str) -> None:
    dump = sample()
    change(dump["calculation"])
    with pytest.raises(ReplayError, match=words):
        replay(msgspec.json.encode(dump))
    with pytest.raises(ReplayError):
        replay(b"\xff not JSON")
