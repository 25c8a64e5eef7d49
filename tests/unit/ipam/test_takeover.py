"""State that Calico left, in both of its layouts, is read and continued."""

from __future__ import annotations

from contextlib import aclosing
from typing import Any

import pytest

from podwire.ipam import layout
from podwire.ipam.claims import Allocator
from podwire.ipam.layout import ClassicApi, FoundApi, stored_gvr
from podwire.ipam.wish import Wish
from podwire.kube.fake import FakeApi
from podwire.model.api import Api, ApiError, InSync
from podwire.model.block import IPAMBlock, affinity_name
from podwire.model.gvr import BLOCKAFFINITIES, CRDS, GVR, IPAMBLOCKS, IPAMHANDLES, IPPOOLS
from podwire.model.ippool import IPPool

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


@pytest.mark.parametrize("classic", [False, True])
async def test_the_layout_is_found(classic: bool) -> None:
    fake, _ = await left_by_calico(classic)
    b = Allocator(FoundApi(fake), "b")
    where = {gvr: stored_gvr(gvr) if classic else gvr for gvr in (IPAMBLOCKS, BLOCKAFFINITIES, IPAMHANDLES)}
    before = [obj for gvr in where.values() for obj in fake.objects(gvr)]
    (address,) = await b.assign(Wish("h"))
    assert address.startswith("192.168.20.") and address not in ("192.168.20.0", "192.168.20.1")
    await b.release("h")
    after = [obj for gvr in where.values() for obj in fake.objects(gvr)]
    assert [obj for obj in before if obj not in after] == [], "what is another node's was not touched"
    if classic:
        assert fake.objects(IPAMBLOCKS) == [], "nothing appears in the other layout"


async def test_watches_tell_of_the_older_layout_as_of_the_newer() -> None:
    fake, _ = await left_by_calico(True)
    fake.fail_next(verb="get", plural="customresourcedefinitions")
    api = FoundApi(fake, pause=0.0)
    seen: dict[str, Any] = {}
    for gvr, kind in ((IPPOOLS, IPPool), (IPAMBLOCKS, IPAMBlock), (BLOCKAFFINITIES, None)):
        async with aclosing(api.watch(gvr, decode=kind)) as items:
            async for item in items:
                if isinstance(item, InSync):
                    break
                seen[item.key[1]] = item.object
    assert seen["default-ipv4-ippool"].spec.cidr == "192.168.20.0/28"
    assert seen["192-168-20-0-30"].node == "a"
    deleted = {seen[affinity_name("a", cidr)]["spec"]["deleted"] for cidr in (CIDR, "192.168.20.4/30")}
    assert deleted == {False, True} and seen[affinity_name("a", CIDR)]["kind"] == "BlockAffinity"


async def test_who_may_not_read_definitions_asks_for_the_objects() -> None:
    fake, _ = await left_by_calico(True)
    denied = ApiError(403, "Forbidden", "not you")
    fake.fail_next(denied, verb="get", plural="customresourcedefinitions", times=2)
    fake.fail_next(ApiError(404, "NotFound", "no such kind"), verb="list", plural="ipamblocks")
    assert await layout.is_classic(fake)
