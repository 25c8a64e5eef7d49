"""Claims through the API, with rivals and with faults, on the fake API."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from podwire.ipam.claims import Allocator, IpamError, NoAddresses
from podwire.ipam.crds import default_pool
from podwire.ipam.wish import Wish
from podwire.kube.client import ApiError
from podwire.kube.fake import FakeApi
from podwire.model.address import Cidr
from podwire.model.block import affinity_name, block_name
from podwire.model.gvr import BLOCKAFFINITIES, IPAMBLOCKS, IPAMCONFIGS, IPAMHANDLES, IPPOOLS, NODES

POD = {"namespace": "default", "pod": "web"}


async def cluster(pool: str = "10.244.0.0/16", *, block_size: int = 26, nodes: dict[str, str] | None = None) -> FakeApi:
    api = FakeApi()
    await api.create(IPPOOLS, default_pool(pool, block_size=block_size))
    for name, cidr in (nodes or {}).items():
        await api.create(NODES, {"metadata": {"name": name}, "spec": {"podCIDR": cidr}})
    return api


def allocations(api: FakeApi) -> dict[str, str]:
    """Address → handle, as stored; also holds the blocks to their own consistency."""
    from podwire.ipam import blocks

    found: dict[str, str] = {}
    cidrs = []
    for obj in api.objects(IPAMBLOCKS):
        block = blocks.from_spec(obj["spec"])
        assert not any(block.cidr.overlaps(other) for other in cidrs), "blocks overlap"
        cidrs.append(block.cidr)
        for handle, ordinals in block.holdings().items():
            for ordinal in ordinals:
                found[block.cidr.address(ordinal)] = handle
    return found


def handles(api: FakeApi) -> set[str]:
    return {obj["spec"]["handleID"] for obj in api.objects(IPAMHANDLES)}


async def assign(allocator: Allocator, handle: str, facts: dict[str, str]) -> str:
    (address,) = await allocator.assign(Wish(handle, facts))
    return address


async def fill(allocator: Allocator, count: int, prefix: str = "h") -> list[str]:
    return list(await asyncio.gather(*(assign(allocator, f"{prefix}{n}", POD) for n in range(count))))


async def test_first_address_of_a_node_comes_from_its_podcidr() -> None:
    api = await cluster(nodes={"a": "10.244.3.0/24"})
    a = Allocator(api, "a", pod_cidr="10.244.3.0/24", now=lambda: "2026-01-02T03:04:05Z")
    assert await assign(a, a.handle_of("c1"), POD) == "10.244.3.0"
    block = await api.get(IPAMBLOCKS, "10-244-3-0-26")
    assert block["spec"]["affinity"] == "host:a"
    assert block["spec"]["attributes"] == [
        {"handle_id": "k8s-pod-network.c1", "secondary": {**POD, "node": "a", "timestamp": "2026-01-02T03:04:05Z"}}
    ]
    affinity = await api.get(BLOCKAFFINITIES, affinity_name("a", "10.244.3.0/26"))
    assert (affinity["spec"]["state"], affinity["spec"]["type"]) == ("confirmed", "host")
    handle = await api.get(IPAMHANDLES, "k8s-pod-network.c1")
    assert handle["spec"]["block"] == {"10.244.3.0/26": 1}


async def test_the_same_handle_gets_the_same_address() -> None:
    api = await cluster()
    a = Allocator(api, "a", pod_cidr="10.244.0.0/24")
    same = await asyncio.gather(*(assign(a, "h", POD) for _ in range(5)))
    assert len(set(same)) == 1 and await assign(a, "h", POD) == same[0]
    assert await assign(Allocator(api, "a"), "h", POD) == same[0], "also after a restart"
    assert len(allocations(api)) == 1


async def test_release_is_harmless_twice_and_rests_the_address() -> None:
    api = await cluster()
    a = Allocator(api, "a", pod_cidr="10.244.0.0/24")
    first = await assign(a, "h", POD)
    assert await a.release("h") == [first]
    assert await a.release("h") == [] == await a.release("never heard of")
    assert allocations(api) == {} and handles(api) == set()
    assert await assign(a, "h", POD) != first


async def test_tunnel_address_is_kept_and_survives_the_sweep() -> None:
    api = await cluster()
    a = Allocator(api, "a", pod_cidr="10.244.0.0/24")
    tunnel = await a.assign_tunnel()
    assert tunnel == await a.assign_tunnel() == "10.244.0.0"
    await fill(a, 3)
    restarted = Allocator(api, "a", pod_cidr="10.244.0.0/24")
    assert await restarted.release_all_but({"h1"}) == ["h0", "h2"]
    assert set(allocations(api).values()) == {"vxlan-tunnel-addr-a", "h1"} == handles(api)


async def test_what_asks_together_shares_a_write() -> None:
    api = await cluster()
    a = Allocator(api, "a", pod_cidr="10.244.0.0/24")
    await a.ensure_block()
    api.calls.clear()
    addresses = await fill(a, 40)
    assert len(set(addresses)) == 40
    assert api.calls[("update", "ipamblocks")] == 1
    api.calls.clear()
    await asyncio.gather(*(a.release(f"h{n}") for n in range(40)))
    assert api.calls[("update", "ipamblocks")] == 1
    assert allocations(api) == {} and handles(api) == set()


async def test_blocks_are_added_as_they_fill() -> None:
    api = await cluster(nodes={"a": "10.244.1.0/25", "b": "10.244.0.0/24"})
    a = Allocator(api, "a", pod_cidr="10.244.1.0/25")
    addresses = await fill(a, 200)
    assert len(set(addresses)) == 200 and len(allocations(api)) == 200
    assert sum(address.startswith("10.244.1.") for address in addresses) >= 128
    assert not any(address.startswith("10.244.0.") for address in addresses), "b's podCIDR is left to b"


async def test_a_podcidr_smaller_than_a_block() -> None:
    api = await cluster(nodes={"a": "10.244.0.16/28"})
    a = Allocator(api, "a", pod_cidr="10.244.0.16/28")
    assert str(await a.ensure_block()) == "10.244.0.16/28"
    assert await assign(a, "h", POD) == "10.244.0.16"


async def test_exhaustion_says_what_and_where_and_ends_when_something_is_freed() -> None:
    api = await cluster("10.244.0.0/28", block_size=28)
    a = Allocator(api, "a", pod_cidr="10.244.0.0/28")
    await fill(a, 16)
    with pytest.raises(NoAddresses) as caught:
        await assign(a, "one too many", POD)
    text = str(caught.value)
    for words in ("no IP addresses available", "node a", "default-ipv4-ippool (10.244.0.0/28)", "10.244.0.0/28"):
        assert words in text
    assert "one too many" not in handles(api)
    await a.release("h3")
    assert await assign(a, "one too many", POD) == "10.244.0.3"


async def test_exhaustion_sees_what_others_released() -> None:
    api = await cluster("10.244.0.0/28", block_size=28)
    a = Allocator(api, "a", pod_cidr="10.244.0.0/28")
    await fill(a, 16)
    await Allocator(api, "a").release("h5")
    assert await assign(a, "late", POD) == "10.244.0.5"


async def test_no_pool() -> None:
    api = FakeApi()
    with pytest.raises(NoAddresses, match="no enabled IPPool serves it for Workload"):
        await assign(Allocator(api, "a"), "h", POD)
    await api.create(IPPOOLS, default_pool("10.244.0.0/16"))
    await api.patch(IPPOOLS, "default-ipv4-ippool", {"spec": {"nodeSelector": "zone == 'x'"}})
    with pytest.raises(NoAddresses):
        await assign(Allocator(api, "a", labels={"zone": "y"}), "h", POD)
    assert await assign(Allocator(api, "a", labels={"zone": "x"}), "h", POD)
    await api.patch(IPPOOLS, "default-ipv4-ippool", {"spec": {"disabled": True}})
    with pytest.raises(NoAddresses):
        await assign(Allocator(api, "b", labels={"zone": "x"}), "h2", POD)


async def test_borrowing_and_strict_affinity() -> None:
    api = await cluster("10.244.0.0/27", block_size=28)
    a, b = Allocator(api, "a"), Allocator(api, "b")
    await fill(a, 20)  # both blocks are a's
    borrowed = await assign(b, "mine", POD)
    blocks = {obj["spec"]["cidr"]: obj["spec"]["affinity"] for obj in api.objects(IPAMBLOCKS)}
    assert set(blocks.values()) == {"host:a"} and allocations(api)[borrowed] == "mine"
    assert await assign(b, "mine", POD) == borrowed
    assert await Allocator(api, "b").release("mine") == [borrowed]
    await api.create(IPAMCONFIGS, {"metadata": {"name": "default"}, "spec": {"strictAffinity": True}})
    with pytest.raises(NoAddresses, match="strictAffinity"):
        await assign(b, "other", POD)


async def test_the_limit_of_blocks_is_an_error_not_a_loan() -> None:
    api = await cluster("10.244.0.0/24", block_size=30)
    await api.create(IPAMCONFIGS, {"metadata": {"name": "default"}, "spec": {"maxBlocksPerHost": 2}})
    a = Allocator(api, "a")
    await fill(a, 8)
    with pytest.raises(NoAddresses, match="limit of 2 blocks"):
        await assign(a, "ninth", POD)


async def test_reserved_addresses_are_not_assigned() -> None:
    api = await cluster()
    a = Allocator(api, "a", pod_cidr="10.244.0.0/24", reservations=lambda: [Cidr.parse("10.244.0.0/30")])
    assert await assign(a, "h", POD) == "10.244.0.4"


async def test_a_claim_that_was_cut_off_is_finished() -> None:
    api = await cluster()
    a = Allocator(api, "a", pod_cidr="10.244.0.0/24")
    api.fail_next(verb="update", plural="blockaffinities")
    with pytest.raises(ApiError):
        await assign(a, "h", POD)
    affinity = await api.get(BLOCKAFFINITIES, affinity_name("a", "10.244.0.0/26"))
    assert affinity["spec"]["state"] == "pending"
    for again in (a, Allocator(api, "a", pod_cidr="10.244.0.0/24")):
        assert (await assign(again, "h", POD)) == "10.244.0.0"
        affinity = await api.get(BLOCKAFFINITIES, affinity_name("a", "10.244.0.0/26"))
        assert affinity["spec"]["state"] == "confirmed"


async def test_a_foreign_block_behind_our_affinity_is_left_alone() -> None:
    api = await cluster()
    await Allocator(api, "b", pod_cidr="10.244.0.0/24").ensure_block()
    name = affinity_name("a", "10.244.0.0/26")
    spec = {"cidr": "10.244.0.0/26", "node": "a", "state": "pending", "type": "host", "deleted": False}
    await api.create(BLOCKAFFINITIES, {"metadata": {"name": name}, "spec": spec})
    a = Allocator(api, "a", pod_cidr="10.244.0.0/24")
    assert str(await a.ensure_block()) == "10.244.0.64/26"
    assert name not in {obj["metadata"]["name"] for obj in api.objects(BLOCKAFFINITIES)}


async def test_a_block_that_vanished_is_replaced() -> None:
    api = await cluster()
    a = Allocator(api, "a", pod_cidr="10.244.0.0/24")
    await assign(a, "h", POD)
    await api.delete(IPAMBLOCKS, block_name("10.244.0.0/26"))
    assert await assign(a, "other", POD) in allocations(api)


class Unsure(FakeApi):
    """Writes happen, but sometimes the answer is lost."""

    chance = 0.0
    dice: Any = None

    async def _maybe(self, result: Any) -> Any:
        if self.dice is not None and self.dice.random() < self.chance:
            raise ApiError(0, "ConnectionError", "the connection was lost")
        return result

    async def create(self, *args: Any, **kwargs: Any) -> Any:
        return await self._maybe(await FakeApi.create(self, *args, **kwargs))

    async def update(self, *args: Any, **kwargs: Any) -> Any:
        return await self._maybe(await FakeApi.update(self, *args, **kwargs))

    async def delete(self, *args: Any, **kwargs: Any) -> Any:
        return await self._maybe(await FakeApi.delete(self, *args, **kwargs))


@pytest.mark.parametrize("seed", range(10))
async def test_rivals_and_lost_answers_never_share_or_leak_an_address(seed: int) -> None:
    """Nodes take and give back in a small pool; answers get lost, agents restart, callers retry as runtimes do."""
    dice = random.Random(seed)
    api = Unsure()
    await api.create(IPPOOLS, default_pool("10.244.0.0/25", block_size=28))
    api.dice, api.chance, api.latency = dice, (0.0 if seed == 0 else 0.1), 0.0
    nodes = {name: Allocator(api, name, pod_cidr=cidr) for name, cidr in POD_CIDRS.items()}
    live: dict[str, str] = {}  # address → handle, of those who were told

    async def pod(node: str, number: int) -> None:
        handle = f"{node}.{number}"
        address = await retry(lambda: assign(nodes[node], handle, POD))
        if address is None:
            return
        assert address not in live, f"{address} belongs to {live.get(address)}"
        assert allocations(api)[address] == handle
        live[address] = handle
        await asyncio.sleep(dice.random() / 200)
        if dice.random() < 0.1:
            nodes[node] = Allocator(api, node, pod_cidr=POD_CIDRS[node])
        if dice.random() < 0.7:
            del live[address]
            await retry(lambda: nodes[node].release(handle))

    async def retry(call: Any) -> Any:
        while True:
            try:
                return await call()
            except NoAddresses:
                return None
            except (ApiError, IpamError):
                await asyncio.sleep(0)

    for wave in range(4):
        await asyncio.gather(*(pod(node, wave * 100 + n) for node in POD_CIDRS for n in range(15)))
    api.chance = 0.0
    for node in POD_CIDRS:
        restarted = Allocator(api, node, pod_cidr=POD_CIDRS[node])
        await restarted.release_all_but({handle for handle in live.values() if handle.startswith(f"{node}.")})
    assert allocations(api) == live
    assert handles(api) >= set(live.values())


POD_CIDRS = {"a": "10.244.0.0/27", "b": "10.244.0.32/27", "c": "10.244.0.64/28", "d": ""}


async def test_many_nodes_claim_from_one_pool_without_a_lost_update() -> None:
    api = await cluster("10.0.0.0/16", block_size=28)
    nodes = [Allocator(api, f"node-{n}") for n in range(60)]
    got = await asyncio.gather(*(assign(node, f"{at}.{n}", POD) for at, node in enumerate(nodes) for n in range(20)))
    assert len(set(got)) == 1200 == len(allocations(api))
    owners = [obj["spec"]["affinity"] for obj in api.objects(IPAMBLOCKS)]
    assert len(owners) == 120 and len(set(owners)) == 60
    assert all(obj["spec"]["state"] == "confirmed" for obj in api.objects(BLOCKAFFINITIES))
