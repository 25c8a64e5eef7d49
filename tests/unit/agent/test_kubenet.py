"""A node's podCIDR: kept while the Node object lives, and what is installed for it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from podwire.agent import kubenet
from podwire.agent.config import AgentConfig
from podwire.agent.kubenet import Kept, PodCidr, PodCidrRoutes
from podwire.calc.state import Via
from podwire.cni import listing
from podwire.model.ippool import IPPool, IPPoolSpec
from podwire.model.meta import Meta
from podwire.model.node import IPV4_ADDRESS, VXLAN_TUNNEL, Node, NodeSpec


def node(uid: str, *cidrs: str, name: str = "n", **annotations: str) -> Node:
    return Node(Meta(name=name, uid=uid, annotations=annotations), NodeSpec(podCIDRs=list(cidrs)))


ONE = Kept("u1", ("10.244.1.0/24",))

TWO_THEN = Kept("u2", ("10.244.2.0/24",), ("10.244.1.0/24",))


@pytest.mark.parametrize(
    ("kept", "seen", "after", "refused"),
    [
        (None, node("u1"), None, False),
        (None, node("u1", "10.244.1.0/24"), ONE, False),
        (ONE, node("u1", "10.244.1.0/24"), ONE, False),
        (ONE, node("u1"), ONE, False),
        (ONE, node("u1", "10.244.2.0/24"), ONE, True),
        (ONE, node("u2", "10.244.2.0/24"), TWO_THEN, False),
        (TWO_THEN, node("u3", "10.244.1.0/24"), Kept("u3", ("10.244.1.0/24",), ("10.244.2.0/24",)), False),
    ],
)
def test_settle(kept: Kept | None, seen: Node, after: Kept | None, refused: bool) -> None:
    found, text = kubenet.settle(kept, seen)
    assert found == after
    assert bool(text) == refused
    if refused:
        assert "podCIDR 10.244.2.0/24 refused" in text and "10.244.1.0/24" in text and "register anew" in text


def test_it_outlives_the_agent_and_is_told_once(tmp_path: Path) -> None:
    first = PodCidr(tmp_path / "podcidr.json")
    assert (first.see(node("u1", "10.244.1.0/24")), first.cidrs) == ("", ("10.244.1.0/24",))
    again = PodCidr(tmp_path / "podcidr.json")
    assert again.see(node("u1", "10.244.2.0/24")) != ""
    assert again.see(node("u1", "10.244.2.0/24")) == ""
    assert again.refused and again.cidrs == ("10.244.1.0/24",)
    assert again.see(node("u2", "10.244.2.0/24")) == ""
    assert (again.refused, again.cidrs) == ("", ("10.244.2.0/24",))
    (tmp_path / "podcidr.json").write_text("{")
    assert PodCidr(tmp_path / "podcidr.json").kept is None


def test_what_is_installed() -> None:
    cidrs = ("10.244.1.0/24",)
    routed = kubenet.entry(AgentConfig("n"), 1450, ())
    assert routed is not None and routed.wiring == "routed" and routed.ipam == listing.BLOCKS
    assert kubenet.entry(AgentConfig("n", network="kubenet", ipam="host-local"), 1500, ()) is None
    bridge = kubenet.entry(AgentConfig("n", network="kubenet", ipam="host-local"), 1500, cidrs)
    assert bridge is not None
    plugin = json.loads(listing.conflist(bridge))["plugins"][0]
    assert (plugin["wiring"], plugin["bridge"], plugin["mtu"]) == ("bridge", "cbr0", 1500)
    assert plugin["ipam"]["ranges"] == [[{"subnet": "10.244.1.0/24"}]]
    files = kubenet.entry(AgentConfig("n", ipam="host-local"), 1450, cidrs)
    assert files is not None and files.wiring == "routed" and files.ipam["type"] == "host-local"


def test_routes_to_whole_pod_cidrs() -> None:
    calc = PodCidrRoutes("me")
    told = {IPV4_ADDRESS: "172.18.0.2/16", VXLAN_TUNNEL: "10.244.1.0"}
    calc.on_node("me", node("a", "10.244.1.0/24", name="me", **told))
    far = {IPV4_ADDRESS: "172.18.0.3/16", VXLAN_TUNNEL: "10.244.2.0"}
    calc.on_node("you", node("b", "10.244.2.0/24", name="you", **far))
    calc.on_pool("p", IPPool(Meta(name="p"), IPPoolSpec(cidr="10.244.0.0/16", vxlanMode="Always")))
    calc.flush()
    assert calc.state.routes["10.244.1.0/24"].via == Via.BLACKHOLE
    assert (calc.state.routes["10.244.2.0/24"].via, calc.state.routes["10.244.2.0/24"].gateway) == (
        Via.VXLAN,
        "10.244.2.0",
    )
    calc.on_node("you", None)
    calc.flush()
    assert "10.244.2.0/24" not in calc.state.routes
