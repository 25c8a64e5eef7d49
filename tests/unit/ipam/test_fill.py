"""Nobody keeps back what others need: pools that become scarce, and blocks claimed before they are needed."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from podwire.ipam.claims import Allocator, NoAddresses
from podwire.ipam.crds import default_pool
from podwire.ipam.fill import Fill
from podwire.ipam.wish import Wish
from podwire.kube.fake import FakeApi
from podwire.kube.watch import InSync
from podwire.model.block import IPAMBlock
from podwire.model.gvr import IPAMBLOCKS, IPAMCONFIGS, IPPOOLS
from podwire.model.ippool import IPPool
from tests.unit.ipam.faulty import stored

POD = {"namespace": "default", "pod": "web"}


@asynccontextmanager
async def nodes(api: FakeApi, *names: str) -> Any:
    """Allocators that see pools and blocks as the agent does, by watches."""
    known = [msgspec.convert(obj, IPPool) for obj in api.objects(IPPOOLS)]
    watches, made = [], []

    async def feed(fill: Fill) -> None:
        async for item in api.watch(IPAMBLOCKS, decode=IPAMBlock):
            if not isinstance(item, InSync):
                fill.see(item.key[1], item.object)

    for name in names:
        fill = Fill(lambda: known)
        watches.append(asyncio.create_task(feed(fill)))
        made.append(Allocator(api, name, fill=fill))
        await made[-1].adopt({})
    try:
        yield made
    finally:
        for allocator in made:
            await allocator.close()
        for watch in watches:
            watch.cancel()
        await asyncio.gather(*watches, return_exceptions=True)


async def until(true: Any) -> None:
    async with asyncio.timeout(5):
        while not true():
            await asyncio.sleep(0.001)


async def pool(cidr: str, size: int) -> FakeApi:
    api = FakeApi()
    await api.create(IPPOOLS, default_pool(cidr, block_size=size))
    return api


def kept(api: FakeApi, node: str) -> int:
    return list(stored(api).values()).count(f"podwire-ahead-{node}")


async def test_the_last_address_of_a_pool_is_any_node_s() -> None:
    """The owner of the stock does nothing but watch; nobody calls `tend`."""
    api = await pool("10.244.0.0/27", 28)
    async with nodes(api, "a", "b") as (a, b):
        await a.assign(Wish("a", POD))
        await a.settled()
        await until(lambda: kept(api, "a"))
        got = []
        for number in range(31):
            while True:
                try:
                    got += await b.assign(Wish(f"b{number}", POD))
                    break
                except NoAddresses:
                    await asyncio.sleep(0.001)  # as long as `a` has not seen that the pool is nearly full
        assert len(set(got)) == 31
        await b.settled()
        assert kept(api, "a") == kept(api, "b") == 0 and len(stored(api)) == 32
        with pytest.raises(NoAddresses):
            await b.assign(Wish("one too many", POD))


async def test_the_stock_comes_back_when_there_is_room_again() -> None:
    api = await pool("10.244.0.0/27", 27)
    async with nodes(api, "a") as (a,):
        for number in range(28):
            await a.assign(Wish(f"h{number}", POD))
        await a.settled()
        await until(lambda: not kept(api, "a"))
        for number in range(20):
            await a.release(f"h{number}")
        await a.assign(Wish("again", POD))
        await until(lambda: kept(api, "a"))


async def test_the_next_block_is_there_before_the_present_one_is_full() -> None:
    api = await pool("10.244.0.0/16", 28)
    async with nodes(api, "a") as (a,):
        for number in range(13):
            await a.assign(Wish(f"h{number}", POD))
            await a.settled()
        await until(lambda: len(api.objects(IPAMBLOCKS)) == 2)
        creates = api.calls[("create", "blockaffinities")]
        for number in range(13, 17):
            await a.assign(Wish(f"h{number}", POD))
            await a.settled()
        assert api.calls[("create", "blockaffinities")] == creates == 2, "one ahead and no more"


@pytest.mark.parametrize("spec", [{"maxBlocksPerHost": 1}, {"autoAllocateBlocks": False}])
async def test_no_block_ahead_against_the_configuration(spec: dict[str, Any]) -> None:
    api = await pool("10.244.0.0/16", 28)
    async with nodes(api, "a") as (a,):
        await a.assign(Wish("first", POD))
        await api.create(IPAMCONFIGS, {"metadata": {"name": "default"}, "spec": spec})
        a._room._config = None  # read anew
        for number in range(15):
            await a.assign(Wish(f"h{number}", POD))
            await a.settled()
        assert len(api.objects(IPAMBLOCKS)) == 1
        with pytest.raises(NoAddresses):
            await a.assign(Wish("more", POD))


async def test_no_block_ahead_when_few_are_left() -> None:
    api = await pool("10.244.0.0/26", 28)
    async with nodes(api, "a", "b", "c", "d") as (a, *others):
        for at, other in enumerate(others[:2]):
            await other.assign(Wish(f"o{at}", POD))
        await others[2].ensure_block()
        for number in range(16):
            await a.assign(Wish(f"h{number}", POD))
            await a.settled()
        assert len(api.objects(IPAMBLOCKS)) == 4


def test_what_is_kept_ahead_counts_as_available() -> None:
    known = [msgspec.convert(default_pool("10.0.0.0/27", block_size=28) | {"status": None}, IPPool)]
    fill, calls = Fill(lambda: known), []
    fill.listeners.append(lambda: calls.append(1))

    def block(name: str, taken: int, ahead: int) -> None:
        attributes = [{"handle_id": "h"}, {"handle_id": "x", "secondary": {"type": "podwireAhead"}}]
        spec = {"cidr": name, "attributes": attributes, "allocations": [0] * taken + [1] * ahead}
        spec["allocations"] += [None] * (16 - taken - ahead)
        fill.see(name, msgspec.convert({"metadata": {"name": name}, "spec": spec}, IPAMBlock))

    block("10.0.0.0/28", 15, 0)
    assert not calls and fill.spacious(known[0].cidr)
    block("10.0.0.16/28", 4, 8)
    assert not calls and not fill.spacious(known[0].cidr)
    block("10.0.0.16/28", 9, 7)
    assert calls == [1] and fill.scarce(known[0].cidr)
    block("10.0.0.16/28", 9, 0)
    assert calls == [1] and fill.scarce(known[0].cidr), "giving it back changes nothing"
    fill.see("10.0.0.16/28", None)
    assert not fill.scarce(known[0].cidr)
