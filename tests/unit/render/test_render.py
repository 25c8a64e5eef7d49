"""A node state as the commands an operator would type, against golden text. PODWIRE_GOLDEN=1 rewrites it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from podwire.calc.state import BlockRoute, LocalEndpoint, NodeState, Peer, TunnelDevice, Via
from podwire.render import nft_nat
from podwire.render.routing import Names, render

STATE = NodeState(
    node="lab-worker",
    device=TunnelDevice("10.244.1.0", "66:aa:bb:cc:dd:01", "172.18.0.3"),
    routes={
        route.destination: route
        for route in (
            BlockRoute("10.244.1.0/26", Via.BLACKHOLE, "", "lab-worker"),
            BlockRoute("10.244.2.0/26", Via.VXLAN, "10.244.2.0", "lab-worker2"),
            BlockRoute("10.244.3.0/26", Via.DIRECT, "172.18.0.5", "lab-worker3"),
            BlockRoute("10.244.9.7/32", Via.TUNNEL, "", "lab-worker4"),
        )
    },
    peers={"lab-worker2": Peer("lab-worker2", "172.18.0.4", "10.244.2.0", "66:aa:bb:cc:dd:02")},
    endpoints={"c1": LocalEndpoint("cali6d09fa47963", "10.244.1.5")},
    pools=frozenset({"10.244.0.0/16", "10.244.0.0/18", "10.99.0.0/24"}),
    nat_pools=frozenset({"10.244.0.0/16"}),
    hosts=frozenset({"172.18.0.2", "172.18.0.3", "172.18.0.10"}),
)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("routing.txt", str(render(STATE, Names()))),
        ("routing-no-tunnel.txt", str(render(NodeState("a", routes=STATE.routes, peers=STATE.peers), Names()))),
        ("nat.nft", nft_nat.script(STATE)),
        ("nat-empty.nft", nft_nat.script(NodeState("a"))),
    ],
)
def test_golden(name: str, text: str) -> None:
    golden = Path(__file__).with_name(name)
    if os.environ.get("PODWIRE_GOLDEN"):
        golden.write_text(text)
    assert text == golden.read_text()


def test_churn_changes_elements_only() -> None:
    more = NodeState("a", hosts=STATE.hosts | {"172.18.0.99"}, pools=STATE.pools, nat_pools=STATE.nat_pools)
    before, after = nft_nat.body(STATE).splitlines(), nft_nat.body(more).splitlines()
    changed = [line for line in after if line not in before]
    assert len(changed) == 1 and "172.18.0.99" in changed[0] and len(before) == len(after)
    assert nft_nat.elements(STATE)["pools"] == ("10.99.0.0/24", "10.244.0.0/16"), "the inner range is left out"
