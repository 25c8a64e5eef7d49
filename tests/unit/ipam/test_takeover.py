"""State that Calico left, in both of its layouts, is read and continued."""

from __future__ import annotations

import pytest

from podwire.ipam import layout
from podwire.ipam.claims import Allocator
from podwire.ipam.layout import ClassicApi, stored_gvr
from podwire.ipam.wish import Wish
from podwire.kube.fake import FakeApi
from podwire.model.api import Api
from podwire.model.block import affinity_name
from podwire.model.gvr import BLOCKAFFINITIES, CRDS, GVR, IPAMBLOCKS, IPAMHANDLES, IPPOOLS

CIDR = "192.168.20.0/30"


async def left_by_calico(classic: bool) -> tuple[FakeApi, Api]:
    """One node with a pod and a tunnel address; one affinity is marked as deleted."""
    fake = FakeApi()

    def where(gvr: GVR) -> GVR:
        return stored_gvr(gvr) if classic else gvr

    group = layout.CLASSIC if classic else layout.NATIVE
    await fake.create(CRDS, {"metadata": {"name": f"ipamblocks.{group}"}})
    pool = {"cidr": "192.168.20.0/28", "blockSize": 30, "ipipMode": "Never", "vxlanMode": "Always", "natOutgoing": True}
    await fake.create(where(IPPOOLS), {"metadata": {"name": "default-ipv4-ippool"}, "spec": pool})
    tunnel = {"handle_id": "vxlan-tunnel-addr-a", "secondary": {"node": "a", "type": "vxlanTunnelAddress"}}
    facts = {"namespace": "d", "node": "a", "pod": "web", "timestamp": "2025-01-01 00:00:00 +0000 UTC"}
    pod = {"handle_id": "k8s-pod-network.c0ffee", "secondary": facts}
    block = {
        "cidr": CIDR,
        "affinity": "host:a",
        "allocations": [0, 1, None, None],
        "unallocated": [3, 2],
        "attributes": [tunnel, pod],
        "sequenceNumber": 41,
        "sequenceNumberForAllocation": {"0": 3, "1": 40},
        "deleted": False,
        "strictAffinity": False,
    }
    await fake.create(where(IPAMBLOCKS), {"metadata": {"name": "192-168-20-0-30"}, "spec": block})
    for cidr, gone in ((CIDR, False), ("192.168.20.4/30", True)):
        deleted = str(gone).lower() if classic else gone
        spec = {"cidr": cidr, "node": "a", "state": "confirmed", "type": "host", "deleted": deleted}
        await fake.create(where(BLOCKAFFINITIES), {"metadata": {"name": affinity_name("a", cidr)}, "spec": spec})
    for handle in ("vxlan-tunnel-addr-a", "k8s-pod-network.c0ffee"):
        spec = {"handleID": handle, "block": {CIDR: 1}, "deleted": False}
        await fake.create(where(IPAMHANDLES), {"metadata": {"name": handle}, "spec": spec})
    assert await layout.is_classic(fake) == classic
    return fake, ClassicApi(fake) if classic else fake


@pytest.mark.parametrize("classic", [False, True])
async def test_continued(classic: bool) -> None:
    fake, api = await left_by_calico(classic)
    a = Allocator(api, "a")
    assert await a.assign_tunnel() == "192.168.20.0"
    assert await a.assign(Wish("new")) == ["192.168.20.3"], "the head of the queue"
    assert await a.release("k8s-pod-network.c0ffee") == ["192.168.20.1"]
    held = stored_gvr(IPAMBLOCKS) if classic else IPAMBLOCKS
    (block,) = fake.objects(held)
    assert block["spec"]["unallocated"] == [2, 1] and block["spec"]["sequenceNumber"] == 43
    got = [(await a.assign(Wish(f"h{n}")))[0] for n in range(3)]
    assert got[:2] == ["192.168.20.2", "192.168.20.1"], "then a new block"
    flags = {o["spec"]["deleted"] for o in fake.objects(stored_gvr(BLOCKAFFINITIES) if classic else BLOCKAFFINITIES)}
    assert flags <= ({"false", "true"} if classic else {False, True})
    if classic:
        assert fake.objects(IPAMBLOCKS) == [], "nothing appears in the other layout"
