"""An agent on a cluster whose addresses Calico keeps in its older layout: it goes on from there."""

from __future__ import annotations

from typing import Any

from podwire.ipam.layout import stored_gvr
from podwire.model.block import affinity_name
from podwire.model.gvr import BLOCKAFFINITIES, CRDS, IPAMBLOCKS, IPAMHANDLES, IPPOOLS


def test_an_agent_takes_over_where_calico_left(world: Any) -> None:
    one, two = world.nodes
    one.stop()
    two.stop()
    fake = world.api.fake

    def put(gvr: Any, name: str, spec: Any = None) -> None:
        world.api.do(fake.create(gvr, {"metadata": {"name": name}, **({} if spec is None else {"spec": spec})}))

    def block(node: str, cidr: str, handle: str) -> None:
        facts = {"namespace": "default", "node": node, "pod": "old", "timestamp": "2025-01-01 00:00:00 +0000 UTC"}
        spec = {
            "cidr": cidr,
            "affinity": f"host:{node}",
            "allocations": [None] * 5 + [0] + [None] * 58,
            "unallocated": [9, *range(5), *range(6, 9), *range(10, 64)],
            "attributes": [{"handle_id": handle, "secondary": facts}],
            "sequenceNumber": 7,
            "sequenceNumberForAllocation": {"5": 6},
            "deleted": False,
            "strictAffinity": False,
        }
        put(stored_gvr(IPAMBLOCKS), cidr.replace(".", "-").replace("/", "-"), spec)
        whose = {"cidr": cidr, "node": node, "state": "confirmed", "type": "host", "deleted": "false"}
        put(stored_gvr(BLOCKAFFINITIES), affinity_name(node, cidr), whose)
        put(stored_gvr(IPAMHANDLES), handle, {"handleID": handle, "block": {cidr: 1}, "deleted": False})

    native = fake.objects(IPAMBLOCKS)
    put(CRDS, "ipamblocks.crd.projectcalico.org")
    pool = {"cidr": "10.244.0.0/16", "blockSize": 26, "vxlanMode": "Always", "ipipMode": "Never", "natOutgoing": True}
    put(stored_gvr(IPPOOLS), "default-ipv4-ippool", {**pool, "nodeSelector": "all()"})
    block(one.name, "10.244.1.0/26", "k8s-pod-network.0123abc")
    block(two.name, "10.244.2.0/26", "k8s-pod-network.4567def")

    def foreign() -> list[Any]:
        kinds = (IPAMBLOCKS, BLOCKAFFINITIES, IPAMHANDLES)
        found = [o for gvr in kinds for o in fake.objects(stored_gvr(gvr))]
        return [o for o in found if two.name in str(o["spec"]) or "4567def" in str(o["spec"])]

    before = foreign()
    one.start()
    pod = one.pod("new").add()
    assert pod.address.startswith("10.244.1."), "in the block that Calico claimed for the node"
    old = one.pod("old", "0123abc")
    old.delete()
    pod.delete()
    left = [o["spec"]["handleID"] for o in fake.objects(stored_gvr(IPAMHANDLES))]
    assert "k8s-pod-network.0123abc" not in left and "k8s-pod-network.4567def" in left
    assert foreign() == before and len(before) == 3, "what is another node's was not touched"
    assert fake.objects(IPAMBLOCKS) == native, "nothing was written in the other layout"
