"""Addresses claimed ahead: answered without the API, never without it having them, never to two."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from typing import Any

import pytest

from podwire.ipam import ahead, blocks
from podwire.ipam.claims import Allocator, NoAddresses
from podwire.ipam.crds import default_pool
from podwire.ipam.wish import Wish
from podwire.kube.fake import FakeApi
from podwire.model.address import Cidr
from podwire.model.api import ApiError
from podwire.model.gvr import GVR, IPAMBLOCKS, IPAMHANDLES, IPPOOLS
from tests.unit.ipam import faulty

POD = {"namespace": "default", "pod": "web"}
CIDR = Cidr.parse("10.244.0.0/29")


async def cluster(pool: str = "10.244.0.0/16", block_size: int = 26) -> FakeApi:
    api = FakeApi()
    await api.create(IPPOOLS, default_pool(pool, block_size=block_size))
    return api


def node(api: FakeApi, name: str = "a", **more: Any) -> Allocator:
    return Allocator(api, name, **more)


def stored(api: FakeApi) -> dict[str, str]:
    """Address → handle; also: handles and blocks agree."""
    found: dict[str, str] = {}
    counts: dict[str, dict[str, int]] = {}
    for obj in api.objects(IPAMBLOCKS):
        block = blocks.from_spec(obj["spec"])
        for handle, ordinals in block.holdings().items():
            counts.setdefault(handle, {})[str(block.cidr)] = len(ordinals)
            found |= {block.cidr.address(ordinal): handle for ordinal in ordinals}
    assert {o["spec"]["handleID"]: o["spec"]["block"] for o in api.objects(IPAMHANDLES)} == counts
    return found


async def ready(api: FakeApi, name: str = "a") -> Allocator:
    allocator = node(api, name)
    await allocator.adopt({})
    await allocator.assign(Wish("first", POD))
    await allocator.settled()
    return allocator


async def test_an_add_is_answered_from_the_stock_and_rewritten_behind() -> None:
    api = await cluster()
    a = await ready(api)
    assert list(stored(api).values()).count("podwire-ahead-a") == ahead.FIRST
    before = sum(api.calls.values())
    (address,) = await a.assign(Wish("h", POD))
    assert sum(api.calls.values()) == before, "no call between wish and answer"
    assert stored(api)[address] == "podwire-ahead-a" and a.lent == {address: "h"}
    assert await a.assign(Wish("h", POD)) == [address], "asked again, the same"
    await a.settled()
    assert stored(api)[address] == "h" and a.lent == {}
    assert list(stored(api).values()).count("podwire-ahead-a") >= ahead.FIRST
    assert await a.release("h") == [address] and "h" not in stored(api).values()


async def test_the_attribute_tells_what_it_is() -> None:
    api = await cluster()
    await ready(api)
    (block,) = api.objects(IPAMBLOCKS)
    kinds = {a["handle_id"]: a["secondary"].get("type") for a in block["spec"]["attributes"]}
    assert kinds == {"first": None, "podwire-ahead-a": "podwireAhead"}


async def test_release_before_the_rewrite() -> None:
    api = await cluster()
    a = await ready(api)
    (address,) = await a.assign(Wish("h", POD))
    assert await a.release("h") == [address]
    await a.settled()
    assert a.lent == {} and address not in stored(api)
    assert (await a.assign(Wish("h", POD))) != [address]


async def test_a_pod_that_ends_at_once_costs_one_write_of_its_block() -> None:
    api = await cluster()
    a = await ready(api)
    await a.assign(Wish("h", POD))
    before = dict(api.calls)
    await a.release("h")
    made = {call: number - before.get(call, 0) for call, number in api.calls.items() if number != before.get(call, 0)}
    await a.settled()
    assert sum(made.values()) <= 2 and "h" not in {o["spec"]["handleID"] for o in api.objects(IPAMHANDLES)}, made


async def test_all_who_wait_share_one_write_and_no_handle_is_written_before_them() -> None:
    api = await cluster("10.244.0.0/20", 24)
    a = await ready(api)
    got = await asyncio.gather(*(a.assign(Wish(f"h{n}", POD)) for n in range(40)))
    assert len({address for (address,) in got}) == 40
    assert [o["spec"]["handleID"] for o in api.objects(IPAMHANDLES)] == ["first", "podwire-ahead-a"]
    held = {a for obj in api.objects(IPAMBLOCKS) for a in stored_in(obj)}
    assert {address for (address,) in got} <= held, "what was told is on the API"
    await a.settled()
    assert {stored(api)[address]: address for (address,) in got} == {f"h{n}": got[n][0] for n in range(40)}


def stored_in(obj: Any) -> set[str]:
    block = blocks.from_spec(obj["spec"])
    return {block.cidr.address(ordinal) for ordinals in block.holdings().values() for ordinal in ordinals}


@pytest.mark.parametrize("families", [(4,), (4, 6)], ids=["pinned", "the other family too"])
@pytest.mark.parametrize("fails", [0, 1, 3])
async def test_a_second_claim_of_what_was_lent_has_no_second_address(families: tuple[int, ...], fails: int) -> None:
    """The handle of the first is not written yet when the second comes, which the stock cannot serve."""
    api = await cluster()
    spec = {"cidr": "fd00:244::/112", "blockSize": 122, "nodeSelector": "all()"}
    await api.create(IPPOOLS, {"metadata": {"name": "six"}, "spec": spec})
    a = await ready(api)
    (address,) = await a.assign(Wish("h", POD))
    assert a.lent == {address: "h"}
    api.fail_next(times=fails)
    exact = (address,) if families == (4,) else ()
    for _ in range(fails):
        with contextlib.suppress(ApiError):
            assert (await a.assign(Wish("h", POD, families=families, exact=exact)))[0] == address
    assert (await a.assign(Wish("h", POD, families=families, exact=exact)))[0] == address
    await a.settled()
    assert [own for own, handle in stored(api).items() if handle == "h" and "." in own] == [address]


async def test_the_api_is_down_and_pods_still_start() -> None:
    api = await cluster()
    a = await ready(api)
    api.fail_next(times=10**6)
    got = [(await a.assign(Wish(f"h{n}", POD)))[0] for n in range(ahead.FIRST)]
    assert len(set(got)) == ahead.FIRST and set(got) <= stored(api).keys()
    api._faults.clear()
    await a.settled()
    assert {stored(api)[address] for address in got} == {f"h{n}" for n in range(ahead.FIRST)}


@pytest.mark.parametrize("landed", [False, True], ids=["lost", "landed"])
async def test_the_api_goes_in_the_middle_of_a_write(landed: bool) -> None:
    """Everything in the stock can still be given, then the error is the API's."""

    class Cut(FakeApi):
        down = False

        async def update(self, gvr: GVR, obj: Any, *, subresource: str = "") -> Any:
            if not (self.down and gvr == IPAMBLOCKS):
                return await FakeApi.update(self, gvr, obj, subresource=subresource)
            if landed:
                await FakeApi.update(self, gvr, obj)
            self.fail_next(times=1 << 40)
            raise ApiError(0, "ConnectionError", "the answer was lost")

    api = Cut()
    await api.create(IPPOOLS, default_pool("10.244.0.0/16", block_size=26))
    a = await ready(api)
    api.down = True
    stocked = a.stock.left(32)
    told = {"h0": (await a.assign(Wish("h0", POD)))[0]}
    with pytest.raises(ApiError):
        await a.settled()
    for number in range(1, stocked):
        told[f"h{number}"] = (await a.assign(Wish(f"h{number}", POD)))[0]
    with pytest.raises(ApiError, match="refused"):
        await a.assign(Wish("one more", POD))
    assert len(set(told.values())) == stocked and set(told.values()) <= faulty.stored(api).keys()
    api.down = False
    api.recover()
    await a.settled()
    assert {handle: address for address, handle in stored(api).items() if handle in told} == told


def test_what_an_unanswered_write_may_take_is_not_given() -> None:
    stock = ahead.Stock(blocks.Attribute.of("podwire-ahead-a", {"instance": "1"}))
    draft = blocks.Draft(blocks.fresh(CIDR, "host:a"))
    assert [draft.take(stock.attribute) for _ in range(3)] == [0, 1, 2]
    base = draft.done()
    stock.saw(CIDR, base)
    (draft := blocks.Draft(base)).release([1])
    stock.unanswered(base, draft.done())
    (other := blocks.Draft(base)).release([2])
    stock.unanswered(base, other.done())
    stock.saw(CIDR, base)
    assert [stock.safe(CIDR, o) for o in range(3)] == [True, False, False], "read again: it may still land"
    stock.saw(CIDR, replace(base, sequence=base.sequence + 1))
    assert all(stock.safe(CIDR, o) for o in range(3)), "too late for it"


async def test_crash_between_answer_and_rewrite() -> None:
    api = await cluster()
    a = await ready(api)
    kept, lost = (await a.assign(Wish("kept", POD)))[0], (await a.assign(Wish("lost", POD)))[0]
    await a.close()
    again = node(api)
    assert await again.adopt({"kept": (kept,)}, {"kept": POD}) == {}
    assert stored(api)[kept] == "kept"
    assert await again.release_all_but({"kept"}) == ["first"]
    assert lost not in stored(api) or stored(api)[lost] == "podwire-ahead-a"
    mine = {a.fact("instance") for b in again.blocks() for a in b.attributes if a.fact("type")}
    assert mine <= {again.stock.attribute.fact("instance")}, "nothing is left of the former life"
    block = again.blocks()[0]
    holder = next(a for a in block.attributes if a.handle == "kept")
    assert holder.fact("pod") == "web"


async def test_what_is_another_s_is_not_adopted() -> None:
    api = await cluster()
    a, b = await ready(api), node(api, "b")
    (address,) = await a.assign(Wish("h", POD))
    await a.settled()
    assert await b.adopt({"mine": (address, "10.9.9.9")}) == {address: "h", "10.9.9.9": "nobody, and no block holds it"}
    assert stored(api)[address] == "h"


async def test_nothing_is_kept_back_when_addresses_run_out() -> None:
    api = await cluster("10.244.0.0/28", 28)
    a = node(api)
    await a.adopt({})
    got = [(await a.assign(Wish(f"h{n}", POD)))[0] for n in range(16)]
    assert len(set(got)) == 16
    with pytest.raises(NoAddresses):
        await a.assign(Wish("h16", POD))
    await a.settled()
    assert sorted(stored(api)) == sorted(got)


async def test_what_others_borrow_is_given_back_by_us() -> None:
    api = await cluster("10.244.0.0/27", 27)
    a, b = await ready(api), node(api, "b")
    assert "podwire-ahead-a" in stored(api).values()
    await b.assign(Wish("b", POD))
    await a.tend()
    assert "podwire-ahead-a" not in stored(api).values()


async def test_the_stock_grows_with_a_burst_and_shrinks_when_idle() -> None:
    api = await cluster("10.244.0.0/20", 24)
    a = await ready(api)
    for wave in range(4):
        await asyncio.gather(*(a.assign(Wish(f"{wave}.{n}", POD)) for n in range(40)))
        await a.settled()
    many = a.stock.left(32)
    assert many > 2 * ahead.FIRST
    for _ in range(5):
        await a.tend()
    assert a.stock.left(32) == ahead.FIRST < many
    assert len(stored(api)) == 161 + ahead.FIRST


async def test_both_families_from_the_stock() -> None:
    api = await cluster()
    spec = {"cidr": "fd00:244::/112", "blockSize": 122, "nodeSelector": "all()"}
    await api.create(IPPOOLS, {"metadata": {"name": "six"}, "spec": spec})
    a = node(api)
    await a.adopt({})
    await a.assign(Wish("first", POD, families=(4, 6)))
    await a.settled()
    before = sum(api.calls.values())
    six, four = await a.assign(Wish("h", POD, families=(6, 4)))
    assert sum(api.calls.values()) == before and ":" in six and "." in four
    await a.settled()
    assert stored(api)[six] == stored(api)[four] == "h"


def test_allowance() -> None:
    assert [ahead.allowance(4, room) for room in (0, 7, 8, 16, 64)] == [0, 0, 2, 4, 4]
    assert ahead.allowance(32, 64) == 16
