"""Mending through the API: what was found is undone, and nothing that changed meanwhile."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from build import affinity, block, handle, node, pool, stored, who

from podwire.ipam.blocks import Block
from podwire.ipam.layout import ClassicApi
from podwire.kube.fake import FakeApi
from podwire.model.address import Cidr
from podwire.model.gvr import BLOCKAFFINITIES, IPAMBLOCKS, IPAMHANDLES, IPPOOLS, NODES
from podwire.observe.cluster import NoKinds, read, stored_as
from podwire.observe.damage import api_findings
from podwire.observe.finding import Finding
from podwire.observe.mend import Changed, mend, put_affinity, recount, release

CIDR = "10.0.0.0/28"


async def world(
    *blocks: Block, affinities: list[Any] | None = None, handles: list[Any] | None = None, kind: type[FakeApi] = FakeApi
) -> FakeApi:
    """One pool, one node, and these objects; handles and affinities as the blocks need them unless given."""
    api = kind()
    await api.create(IPPOOLS, pool())
    await api.create(NODES, node("n1"))
    for one in blocks:
        await api.create(IPAMBLOCKS, stored(one))
    owned = [affinity(one.node, str(one.cidr)) for one in blocks if one.node]
    for made in owned if affinities is None else affinities:
        await api.create(BLOCKAFFINITIES, made)
    counts = [handle(name, b10_0_0_0_28=len(held)) for one in blocks for name, held in one.holdings().items()]
    for made in counts if handles is None else handles:
        await api.create(IPAMHANDLES, made)
    return api


async def findings(api: FakeApi) -> list[Finding]:
    return api_findings(await read(api))


HELD = block(CIDR, "n1", o1=who("a", "n1"), o2=who("b", "n1"))


@pytest.mark.parametrize(
    ("blocks", "given"),
    [
        ([HELD], {}),
        ([HELD], {"handles": []}),
        ([block(CIDR, "n1")], {"handles": [handle("Net.X", b10_0_0_0_28=2)]}),
        ([], {"affinities": [affinity("n1", CIDR)]}),
        ([block(CIDR, "n1")], {"affinities": []}),
        ([block(CIDR, "n1")], {"affinities": [affinity("n1", CIDR, "pending")]}),
        ([block(CIDR, "n1")], {"affinities": [affinity("n1", CIDR), affinity("n2", CIDR)]}),
        ([block(CIDR, "gone")], {}),
        ([block(CIDR, "gone", o1=who("a", "gone"))], {}),
        ([block("10.9.0.0/28", "n1")], {}),
    ],
)
async def test_what_is_found_is_mended(blocks: list[Block], given: dict[str, Any]) -> None:
    api = await world(*blocks, **given)
    for _ in range(2):  # a released address may leave a handle to mend
        for one in await findings(api):
            assert one.cure and await mend(api, one)
    assert await findings(api) == []


async def test_release_leaves_the_others_and_the_handles_right() -> None:
    api = await world(HELD)
    first = next(one for one in await findings(api) if one.address == "10.0.0.1")
    await mend(api, first)
    kept = (await read(api)).blocks[0]
    assert kept.holdings() == {"net.b": [2]} and kept.unallocated[-1] == 1 and kept.sequence == HELD.sequence + 1
    assert [each["spec"]["handleID"] for each in (await api.list(IPAMHANDLES))[0]] == ["net.b"]
    with pytest.raises(Changed, match="free already"):
        await mend(api, first)


@pytest.mark.parametrize(
    ("holder", "sequence", "words"),
    [("net.other", 0, "taken again"), ("net.a", 7, "taken again")],
)
async def test_an_address_that_was_taken_again_is_left_alone(holder: str, sequence: int, words: str) -> None:
    api = await world(HELD)
    with pytest.raises(Changed, match=words):
        await release(api, CIDR, "10.0.0.1", holder, sequence)
    assert len((await read(api)).blocks[0].holdings()) == 2


class Rivalled(FakeApi):
    """Another writer comes between, once."""

    async def update(self, gvr: Any, obj: Any, **more: Any) -> Any:
        if gvr == IPAMBLOCKS and obj["spec"]["sequenceNumber"] == 1:
            now = await self.get(IPAMBLOCKS, HELD.name)
            await super().update(IPAMBLOCKS, {**now, "spec": stored(replace(HELD, sequence=5))["spec"]})
        return await super().update(gvr, obj, **more)


async def test_a_lost_race_is_run_again() -> None:
    """The other's change stays, and ours is made on top of it."""
    api = await world(HELD, kind=Rivalled)
    await release(api, CIDR, "10.0.0.1", "net.a", 0)
    kept = (await read(api)).blocks[0]
    assert kept.sequence == 6 and list(kept.holdings()) == ["net.b"]


async def test_a_block_in_use_is_nobodys_but_stays() -> None:
    api = await world(block(CIDR, "gone", o1=who("a", "gone")))
    orphan = next(one for one in await findings(api) if one.kind == "affinity orphan")
    assert "nobody's now" in await mend(api, orphan)
    assert (await read(api)).blocks[0].affinity == "" and (await api.list(BLOCKAFFINITIES))[0] == []


async def test_a_handle_that_is_right_stays_as_it_is() -> None:
    api = await world(HELD)
    before = await api.get(IPAMHANDLES, "net.a")
    assert await recount(api, "net.a") == f"says 1 in {CIDR} now"
    assert await api.get(IPAMHANDLES, "net.a") == before
    assert await recount(api, "net.none") == "is gone already"


async def test_a_cure_that_is_none() -> None:
    with pytest.raises(ValueError, match="double use"):
        await mend(await world(), Finding("double use", "", "", "", "", ""))


async def test_the_older_layout_is_mended_where_it_lies() -> None:
    api = FakeApi()
    for gvr, made in ((IPPOOLS, pool()), (NODES, node("n1")), (IPAMBLOCKS, stored(HELD))):
        await api.create(stored_as(gvr, classic=gvr != NODES), made)
    there = ClassicApi(api)
    await put_affinity(there, "n1", Cidr.parse(CIDR))
    assert (await api.list(stored_as(BLOCKAFFINITIES, classic=True)))[0][0]["spec"]["deleted"] == "false"
    for one in api_findings(await read(there)):
        await mend(there, one)
    assert api_findings(await read(there)) == []
    (kept,) = (await api.list(stored_as(IPAMBLOCKS, classic=True)))[0]
    assert not any(index is not None for index in kept["spec"]["allocations"])
    assert (await api.list(IPAMBLOCKS))[0] == [] == (await api.list(BLOCKAFFINITIES))[0]


async def test_the_older_layout_is_read_and_a_cluster_without_pools_is_told() -> None:
    from podwire.model.api import ApiError

    class Old(FakeApi):
        async def list(self, gvr: Any, *args: Any, **more: Any) -> Any:
            if gvr.group == "projectcalico.org":
                raise ApiError(404, "NotFound", "no such kind")
            return await super().list(gvr, *args, **more)

    old = Old()
    await old.create(stored_as(IPPOOLS, classic=True), pool())
    await old.create(stored_as(IPAMBLOCKS, classic=True), stored(HELD))
    found = await read(old)
    assert found.classic and [str(one.cidr) for one in found.blocks] == [CIDR]

    class Bare(FakeApi):
        async def list(self, gvr: Any, *args: Any, **more: Any) -> Any:
            raise ApiError(404, "NotFound", "no such kind")

    with pytest.raises(NoKinds):
        await read(Bare())
