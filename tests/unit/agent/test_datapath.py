"""A node state in the fake kernel: complete, silent when repeated, repaired after refusals."""

from __future__ import annotations

import errno

from podwire.agent.datapath import NodeDatapath, desired
from podwire.calc.state import BlockRoute, NodeState, Peer, TunnelDevice, Via
from podwire.kernel.fake import FakeKernel, FakeNft
from podwire.render.routing import Names


def state(peer_tunnel: str = "10.244.2.0") -> NodeState:
    return NodeState(
        "node1",
        device=TunnelDevice("10.244.1.0", "66:00:00:00:00:01", "172.18.0.2"),
        routes={
            "10.244.1.0/26": BlockRoute("10.244.1.0/26", Via.BLACKHOLE, "", "node1"),
            "10.244.2.0/26": BlockRoute("10.244.2.0/26", Via.VXLAN, peer_tunnel, "node2"),
        },
        peers={"node2": Peer("node2", "172.18.0.3", peer_tunnel, "66:00:00:00:00:02")},
        pools=frozenset({"10.244.0.0/16"}),
        nat_pools=frozenset({"10.244.0.0/16"}),
        hosts=frozenset({"172.18.0.2", "172.18.0.3"}),
    )


class Bench:
    def __init__(self) -> None:
        self.kernel, self.nft, self.names = FakeKernel(), FakeNft(), Names()
        self.kernel.add_link("eth0", "veth")
        self.sysctls = {"net/ipv4/conf/all/rp_filter": "1"}
        self.datapath = self.fresh()

    def fresh(self) -> NodeDatapath:
        return NodeDatapath(self.kernel, self.nft, self.names, self._write, lambda name: self.sysctls.get(name, "0"))

    def _write(self, name: str, value: str) -> bool:
        changed = self.sysctls.get(name) != value
        self.sysctls[name] = value
        return changed


EXPECTED = """\
fdb 66:00:00:00:00:02 dev vxlan.calico dst 172.18.0.3
neigh 10.244.2.0 dev vxlan.calico lladdr 66:00:00:00:00:02
route 10.244.1.0/26 via - dev -
route 10.244.2.0/26 via 10.244.2.0 dev vxlan.calico"""


def test_everything_is_there_and_the_second_time_is_silent() -> None:
    bench = Bench()
    for datapath in (bench.datapath, bench.datapath, bench.fresh()):
        assert datapath.apply(desired(state(), bench.names)) == []
        assert bench.kernel.dump() == EXPECTED
        assert ("ip", "podwire") in bench.nft.tables
        bench_calls = (dict(bench.kernel.calls), bench.nft.calls["run"])
    bench.kernel.calls.clear()
    assert bench.fresh().apply(desired(state(), bench.names)) == []
    assert not bench.kernel.calls
    assert bench_calls[1] == bench.nft.calls["run"] == 1
    assert bench.sysctls["net/ipv4/conf/eth0/rp_filter"] == "2"


def test_a_peers_new_tunnel_address() -> None:
    bench = Bench()
    bench.datapath.apply(desired(state(), bench.names))
    assert bench.datapath.apply(desired(state("10.244.2.9"), bench.names)) == []
    assert bench.kernel.dump() == EXPECTED.replace("10.244.2.0 dev", "10.244.2.9 dev").replace(
        "via 10.244.2.0", "via 10.244.2.9"
    )


def test_a_refused_route_is_retried_and_the_rest_stands() -> None:
    bench = Bench()
    bench.kernel.refuse["10.244.2.0/26"] = errno.ENOMEM
    assert [error.errno for error in bench.datapath.apply(desired(state(), bench.names))] == [errno.ENOMEM]
    assert "10.244.1.0/26" in bench.kernel.dump()
    bench.kernel.refuse.clear()
    assert bench.datapath.apply(desired(state(), bench.names)) == []
    assert bench.kernel.dump() == EXPECTED


def test_device_made_anew_gets_its_rows_back() -> None:
    bench = Bench()
    bench.datapath.apply(desired(state(), bench.names))
    link = bench.kernel.link("vxlan.calico")
    assert link is not None
    bench.kernel.delete_link(link.index)
    bench.datapath.doubt()
    assert bench.datapath.apply(desired(state(), bench.names)) == []
    assert bench.kernel.dump() == EXPECTED


def test_without_a_tunnel_nothing_of_it_is_left() -> None:
    bench = Bench()
    bench.datapath.apply(desired(state(), bench.names))
    plain = NodeState("node1", routes={"10.244.1.0/26": BlockRoute("10.244.1.0/26", Via.BLACKHOLE, "", "node1")})
    assert bench.datapath.apply(desired(plain, bench.names)) == []
    assert bench.kernel.dump() == "route 10.244.1.0/26 via - dev -"
    assert bench.kernel.link("vxlan.calico") is None
