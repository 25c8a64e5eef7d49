"""Pools and nodes that change while pods come and go."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from podwire.ipam.claims import Allocator, IpamError
from podwire.ipam.crds import default_pool
from podwire.ipam.wish import Wish
from podwire.kube.fake import FakeApi
from podwire.model.address import Cidr
from podwire.model.gvr import IPAMBLOCKS, IPPOOLS
from podwire.model.ippool import IPPool
from tests.unit.ipam.faulty import stored

POD = {"namespace": "d", "pod": "p"}
OLD, NEW = Cidr.parse("10.1.0.0/24"), Cidr.parse("10.2.0.0/24")


def pool(name: str, cidr: Cidr, **more: Any) -> IPPool:
    body = default_pool(str(cidr), block_size=28)
    return msgspec.convert({**body, "metadata": {"name": name}, "spec": {**body["spec"], **more}}, IPPool)


@pytest.mark.parametrize("change", [{"disabled": True}, {"nodeSelector": "zone == 'far'"}, None])
async def test_a_pool_goes_out_of_use_under_load(change: dict[str, Any] | None) -> None:
    """Disabled, for other nodes, deleted: what was given stays, nothing more comes of it, not from the stock either."""
    api = FakeApi()
    pools = [pool("old", OLD), pool("new", NEW, nodeSelector="all()")]
    a = Allocator(api, "a", labels={"zone": "near"}, pools=lambda: pools)
    await a.adopt({})
    told: dict[str, str] = {}

    async def one(handle: str) -> None:
        (told[handle],) = await a.assign(Wish(handle, POD, pools=() if handle.startswith("late") else ("old",)))

    await asyncio.gather(*(one(f"early{n}") for n in range(20)))
    await a.assign(Wish("stocked", POD))
    await a.settled()
    running = [asyncio.ensure_future(a.assign(Wish(f"racing{n}", POD))) for n in range(20)]
    await asyncio.sleep(0)
    pools[0:1] = [] if change is None else [pool("old", OLD, **change)]
    raced = await asyncio.gather(*running, return_exceptions=True)
    assert all(isinstance(outcome, list | IpamError) for outcome in raced)
    await asyncio.gather(*(one(f"late{n}") for n in range(20)))
    assert all(NEW.covers(Cidr.parse(told[f"late{n}"])) for n in range(20))
    assert all(OLD.covers(Cidr.parse(told[f"early{n}"])) for n in range(20))
    await a.settled()
    held = stored(api)
    assert len(set(told.values())) == 40 and all(held[address] == handle for handle, address in told.items())
    await a.close()


async def test_blocks_of_a_pool_that_is_for_other_nodes_go_back() -> None:
    api = FakeApi()
    pools = [pool("old", OLD)]
    await api.create(IPPOOLS, default_pool(str(OLD), block_size=28))
    a = Allocator(api, "a", labels={"zone": "near"}, pools=lambda: pools)
    await a.assign(Wish("h", POD))
    pools[0] = pool("old", OLD, nodeSelector="zone == 'far'")
    await a.tend()
    assert len(api.objects(IPAMBLOCKS)) == 1, "not while it is in use"
    await a.release("h")
    await a.tend()
    assert api.objects(IPAMBLOCKS) == []


async def test_nothing_from_the_stock_while_the_node_is_absent() -> None:
    """Others may free what an absent node holds, and give it away."""
    api = FakeApi()
    await api.create(IPPOOLS, default_pool("10.1.0.0/24", block_size=28))
    a = Allocator(api, "a")
    await a.adopt({})
    await a.assign(Wish("first", POD))
    await a.settled()
    before = a.stock.left(32)
    assert before
    a.absent()
    (address,) = await a.assign(Wish("h", POD))
    assert stored(api)[address] == "h" and not a.lent, "written before it was told"
    a.describe((), {})
    (address,) = await a.assign(Wish("back", POD))
    assert a.lent == {address: "back"}
    await a.settled()
    await a.close()
