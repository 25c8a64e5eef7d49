"""Which routes the lab's router holds for kubenet: decisions only."""

from __future__ import annotations

import pytest

from podwire.lab.cloudroutes import wanted
from podwire.model.meta import Meta
from podwire.model.node import IPV4_ADDRESS, Node, NodeSpec


def node(name: str, address: str, *cidrs: str) -> Node:
    return Node(Meta(name=name, annotations={IPV4_ADDRESS: f"{address}/16"}), NodeSpec(podCIDRs=list(cidrs)))


@pytest.mark.parametrize(
    ("nodes", "routes"),
    [
        ([node("a", "172.18.0.2", "10.244.0.0/24")], {"10.244.0.0/24": "172.18.0.2"}),
        ([node("a", "172.18.0.2")], {}),
        ([node("a", "172.18.0.2", "10.99.0.0/24")], {}),
        ([node("a", "172.18.0.2", "x", "fd00::/64")], {}),
        ([node("a", "8.8.8.8", "10.244.0.0/24")], {}),
        ([node("a", "", "10.244.0.0/24")], {}),
        (
            [node("b", "172.18.0.3", "10.244.0.0/16"), node("a", "172.18.0.2", "10.244.7.0/24")],
            {"10.244.7.0/24": "172.18.0.2"},
        ),
    ],
)
def test_wanted(nodes: list[Node], routes: dict[str, str]) -> None:
    assert wanted({one.name: one for one in nodes}, "10.244.0.0/16") == routes
