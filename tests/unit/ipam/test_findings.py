"""Each kind of damage is found, and a sound cluster has none."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest

from podwire.ipam import blocks, findings
from podwire.ipam.blocks import Attribute, Draft
from podwire.ipam.findings import Affinity, Stored
from podwire.model.address import Cidr
from podwire.model.ippool import IPPool
from podwire.model.pod import Pod

ONE, TWO = Cidr.parse("10.244.0.0/28"), Cidr.parse("10.244.0.16/28")
NOW = "2026-01-02T12:00:00Z"


def pod(name: str = "web", node: str = "a", address: str = "10.244.0.0", phase: str = "Running", **more: object) -> Pod:
    status = {"phase": phase, "podIP": address, "podIPs": [{"ip": address}] if address else []}
    spec = {"nodeName": node, **more}
    return msgspec.convert({"metadata": {"name": name, "namespace": "d"}, "spec": spec, "status": status}, Pod)


def holder(handle: str = "h", **facts: str) -> Attribute:
    told = {"pod": "web", "namespace": "d", "node": "a", "timestamp": "2026-01-02T11:00:00Z", **facts}
    return Attribute.of(handle, {name: value for name, value in told.items() if value})


def block(cidr: Cidr, *holders: Attribute, node: str = "a") -> blocks.Block:
    draft = Draft(blocks.fresh(cidr, f"host:{node}" if node else ""))
    for one in holders:
        draft.take(one)
    return draft.done()


def pool(cidr: str = "10.244.0.0/16") -> IPPool:
    return msgspec.convert({"metadata": {"name": "p"}, "spec": {"cidr": cidr}}, IPPool)


SOUND = Stored(
    blocks=[block(ONE, holder())],
    affinities=[Affinity("a", ONE)],
    handles={"h": {ONE: 1}},
    pods=[pod()],
    nodes=frozenset({"a", "b"}),
    pools=[pool()],
    now=NOW,
)


def test_nothing_is_wrong() -> None:
    assert findings.find(SOUND) == []


@pytest.mark.parametrize(
    "change, kinds",
    [
        ({"pods": []}, {"leak"}),
        ({"pods": [pod(phase="Failed")]}, {"leak"}),
        ({"pods": [pod(phase="Succeeded")]}, {"leak"}),
        ({"pods": [pod(node="b")]}, {"leak"}),
        ({"pods": [pod(address="10.244.0.9")]}, {"leak", "not-allocated"}),
        ({"pods": [pod(hostNetwork=True)]}, {"leak"}),
        ({"pods": [pod(address="")]}, set()),
        ({"pods": [], "grace": 7200.0}, set()),
        ({"pods": [pod(), pod("other")]}, {"double-use"}),
        ({"pools": []}, {"outside-pools"}),
        ({"pools": [pool("10.244.0.0/32")]}, {"outside-pools"}),
        ({"handles": {}}, {"handle"}),
        ({"handles": {"h": {ONE: 2}}}, {"handle"}),
        ({"handles": {"h": {ONE: 1, TWO: 1}}}, {"handle"}),
        ({"handles": {"h": {ONE: 1}, "gone": {ONE: 1}}}, {"handle"}),
        ({"affinities": []}, {"affinity"}),
        ({"affinities": [Affinity("a", ONE), Affinity("b", ONE)]}, {"affinity"}),
        ({"affinities": [Affinity("a", ONE), Affinity("b", TWO)]}, {"affinity"}),
        ({"nodes": frozenset({"b"})}, {"node-gone"}),
        ({"blocks": [block(ONE)], "handles": {}}, {"not-allocated"}),
    ],
)
def test_damage(change: dict[str, object], kinds: set[str]) -> None:
    world = replace(SOUND, **change)  # type: ignore[arg-type]
    found = findings.find(world)
    assert {finding.kind for finding in found} == kinds
    assert all(finding.text for finding in found)


def test_an_address_in_two_blocks() -> None:
    twice = Cidr.parse("10.244.0.0/29")
    world = replace(
        SOUND,
        blocks=[block(ONE, holder()), block(twice, holder("k"))],
        affinities=[Affinity("a", ONE), Affinity("a", twice)],
        handles={"h": {ONE: 1}, "k": {twice: 1}},
    )
    found = [f for f in findings.find(world) if f.kind == "double-use"]
    assert [f.address for f in found] == ["10.244.0.0", ""] and "k in block 10.244.0.0/29" in found[0].text


@pytest.mark.parametrize(
    "facts", [{"pod": ""}, {"namespace": ""}, {"node": ""}, {"type": "vmAddress"}, {"pod": "", "namespace": ""}]
)
def test_what_cannot_be_told_is_never_a_leak(facts: dict[str, str]) -> None:
    attribute = holder(**facts)
    assert findings.fault(attribute, "10.244.0.0", None, False) == ""


def test_tunnels_and_addresses_claimed_ahead_last_as_long_as_their_node() -> None:
    for kind in ("vxlanTunnelAddress", "podwireAhead"):
        attribute = holder("x", pod="", namespace="", type=kind)
        assert findings.fault(attribute, "10.244.0.0", None, True) == ""
        assert findings.fault(attribute, "10.244.0.0", None, False) == "node a does not exist"


def test_addresses_that_rest_are_nobody_s() -> None:
    draft = Draft(block(ONE, holder()))
    draft.release([0], blocks.cooling(NOW))
    world = replace(SOUND, blocks=[draft.done()], handles={}, pods=[])
    assert findings.find(world) == []
