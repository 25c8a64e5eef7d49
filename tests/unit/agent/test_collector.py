"""The collector frees what nobody uses, and in no random world anything that is live."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest

from podwire.agent.collector import Collector
from podwire.agent.duties import NOBODY
from podwire.ipam import blocks, stored
from podwire.ipam.claims import Allocator
from podwire.ipam.crds import default_pool
from podwire.ipam.wish import Wish
from podwire.kube.fake import FakeApi
from podwire.model.api import ApiError
from podwire.model.gvr import BLOCKAFFINITIES, IPAMBLOCKS, IPAMHANDLES, IPPOOLS, NODES, PODS

GRACE = 900.0


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class World:
    """Nodes with allocators and collectors on one API and one clock."""

    def __init__(self) -> None:
        self.api, self.clock = FakeApi(), Clock()
        self.allocators: dict[str, Allocator] = {}
        self.live: dict[str, set[str]] = {}
        self.collectors: dict[str, Collector] = {}

    async def node(self, name: str) -> Allocator:
        await self.api.create(NODES, {"metadata": {"name": name}})
        allocator = self.allocators[name] = Allocator(self.api, name, clock=self.clock)
        live = self.live[name] = set()
        self.collectors[name] = Collector(
            self.api, name, allocator, lambda: live, grace=GRACE, clock=self.clock, leads=lambda: self.leads(name)
        )
        return allocator

    def leads(self, name: str) -> bool:
        """Whoever is alive and first in order of names."""
        return name == min(obj["metadata"]["name"] for obj in self.api.objects(NODES))

    async def pod(self, node: str, name: str, *, record: bool = True, phase: str = "Running", told: bool = True) -> str:
        """A pod with an address; `record`: the node knows it, `told`: the API knows the address."""
        handle = f"k8s-pod-network.{node}-{name}"
        (address,) = await self.allocators[node].assign(Wish(handle, {"namespace": "d", "pod": name}))
        status: dict[str, Any] = {"phase": phase}
        if told:
            status |= {"podIP": address, "podIPs": [{"ip": address}]}
        body = {"metadata": {"name": name, "namespace": "d"}, "spec": {"nodeName": node}}
        await self.api.create(PODS, body)
        await self.api.update(PODS, {**await self.api.get(PODS, name, "d"), "status": status}, subresource="status")
        if record:
            self.live[node].add(handle)
        return address

    async def passes(self, seconds: float) -> list[str]:
        freed = []
        for _ in range(2):
            for name, collector in list(self.collectors.items()):
                if any(obj["metadata"]["name"] == name for obj in self.api.objects(NODES)):
                    freed += await collector.once()
            self.clock.now += seconds / 2
        for name, collector in list(self.collectors.items()):
            if any(obj["metadata"]["name"] == name for obj in self.api.objects(NODES)):
                freed += await collector.once()
        return freed

    def held(self) -> dict[str, str]:
        found = {}
        for obj in self.api.objects(IPAMBLOCKS):
            block = blocks.from_spec(obj["spec"])
            found |= {block.cidr.address(o): h for h, os in block.holdings().items() for o in os}
        return found


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    await made.api.create(IPPOOLS, default_pool("10.244.0.0/22", block_size=28))
    await made.node("a")
    await made.node("b")
    yield made
    for allocator in made.allocators.values():
        await allocator.close()


async def test_a_pod_that_vanished_is_freed_after_the_grace_period(world: World) -> None:
    address = await world.pod("b", "web", record=False)
    await world.api.delete(PODS, "web", "d", grace=0)
    assert await world.passes(GRACE / 2) == [] and address in world.held()
    assert await world.passes(GRACE) == ["k8s-pod-network.b-web"]
    assert address not in world.held() and world.api.objects(IPAMHANDLES) == []


async def test_what_the_node_has_on_record_is_never_freed(world: World) -> None:
    address = await world.pod("b", "web")
    await world.api.delete(PODS, "web", "d", grace=0)
    assert await world.passes(10 * GRACE) == [] and address in world.held()


async def test_a_pod_that_terminates_for_long_keeps_its_address(world: World) -> None:
    address = await world.pod("b", "web", record=False)
    await world.api.delete(PODS, "web", "d")
    assert (await world.api.get(PODS, "web", "d"))["metadata"]["deletionTimestamp"]
    assert await world.passes(10 * GRACE) == [] and address in world.held()
    await world.api.delete(PODS, "web", "d", grace=0)
    assert await world.passes(2 * GRACE) == ["k8s-pod-network.b-web"]


async def test_a_suspicion_that_ends_begins_anew(world: World) -> None:
    address = await world.pod("b", "web", record=False)
    pod = await world.api.get(PODS, "web", "d")
    await world.api.delete(PODS, "web", "d", grace=0)
    assert await world.passes(GRACE * 0.8) == []
    pod["metadata"] = {"name": "web", "namespace": "d"}
    await world.api.create(PODS, pod)
    assert await world.passes(GRACE * 0.2) == []
    await world.api.delete(PODS, "web", "d", grace=0)
    assert await world.passes(GRACE * 0.8) == [] and address in world.held()


async def test_a_pod_that_appears_between_scan_and_release_is_spared(world: World) -> None:
    address = await world.pod("b", "web", record=False)
    pod = await world.api.get(PODS, "web", "d")
    await world.api.delete(PODS, "web", "d", grace=0)
    await world.passes(GRACE * 0.9)
    real = world.api.get
    asked = 0

    async def get(gvr: Any, name: str, namespace: str = "", subresource: str = "") -> Any:
        nonlocal asked
        if gvr == PODS:
            asked += 1
            if asked == 2:  # the look just before the release
                pod["metadata"] = {"name": "web", "namespace": "d"}
                await FakeApi.create(world.api, PODS, pod)
        return await real(gvr, name, namespace, subresource)

    world.clock.now += GRACE
    collector = world.collectors["b"]
    collector._api = type(
        "Late", (), {"__getattr__": lambda _, name: get if name == "get" else getattr(world.api, name)}
    )()
    assert await collector.once() == [] and asked == 2 and address in world.held()


async def test_a_process_that_is_no_node_collects_what_vanished_nodes_held(world: World) -> None:
    stays, goes = await world.pod("a", "stays", record=False), await world.pod("b", "goes")
    await world.api.delete(NODES, "b")
    await world.api.delete(PODS, "goes", "d", grace=0)
    elected = False
    allocator = Allocator(world.api, NOBODY, clock=world.clock)
    alone = Collector(world.api, NOBODY, allocator, set, clock=world.clock, leads=lambda: elected, tends=False)
    assert await alone.once() == [] and {stays, goes} <= world.held().keys()
    elected = True
    assert await alone.once() == ["k8s-pod-network.b-goes"]
    await alone.once()
    assert stays in world.held() and goes not in world.held()
    assert {obj["spec"]["node"] for obj in world.api.objects(BLOCKAFFINITIES)} == {"a"}
    await allocator.close()


async def test_a_node_that_vanished(world: World) -> None:
    await world.allocators["b"].assign_tunnel()
    await world.pod("b", "web")
    await world.allocators["b"].adopt({})
    await world.allocators["b"].settled()
    await world.api.delete(NODES, "b")
    freed = await world.passes(1.0)
    assert "vxlan-tunnel-addr-b" in freed, "of the node itself: at once"
    assert "k8s-pod-network.b-web" not in freed, "its pod is still there"
    await world.api.delete(PODS, "web", "d", grace=0)
    assert "k8s-pod-network.b-web" in await world.passes(1.0)
    await world.passes(2 * GRACE)
    await world.passes(1.0)
    assert world.held() == {}
    assert [o for o in world.api.objects(BLOCKAFFINITIES) if o["spec"]["node"] == "b"] == []
    assert [o for o in world.api.objects(IPAMBLOCKS) if o["spec"].get("affinity") == "host:b"] == []


async def test_left_over_handles_and_blocks_go(world: World) -> None:
    spec = {"handleID": "Lost.One", "block": {"10.244.0.0/28": 1}, "deleted": False}
    await world.api.create(IPAMHANDLES, {"metadata": {"name": "lost.one"}, "spec": spec})
    await world.pod("a", "web")
    await world.passes(GRACE * 1.1)
    assert [o["metadata"]["name"] for o in world.api.objects(IPAMHANDLES)] == ["k8s-pod-network.a-web"]


async def test_a_handle_that_says_too_much_is_put_right(world: World) -> None:
    await world.pod("a", "web")
    (handle,) = world.api.objects(IPAMHANDLES)
    right = dict(handle["spec"]["block"])
    handle["spec"]["block"]["10.244.3.0/28"] = 1  # a race that was lost just before a crash
    await world.api.update(IPAMHANDLES, handle)
    await world.passes(GRACE / 2)
    assert world.api.objects(IPAMHANDLES)[0]["spec"]["block"] != right, "not before the grace period is over"
    await world.passes(GRACE)
    assert world.api.objects(IPAMHANDLES)[0]["spec"]["block"] == right


async def late(world: World, node: str, count: int = 2) -> set[str]:
    """What a former life of the node claimed ahead by a write that lands only now; the addresses."""
    stock = world.allocators[node].stock.attribute
    former = blocks.Attribute.of(stock.handle, {**dict(stock.secondary), "instance": "a former life"})
    obj = next(o for o in world.api.objects(IPAMBLOCKS) if o["spec"].get("affinity") == f"host:{node}")
    draft = blocks.Draft(blocks.from_spec(obj["spec"]))
    ordinals = [draft.take(former) for _ in range(count)]
    await world.api.update(IPAMBLOCKS, {**obj, "spec": blocks.to_spec(draft.done())})
    (handle,) = [o for o in world.api.objects(IPAMHANDLES) if o["spec"]["handleID"] == stock.handle]
    handle["spec"]["block"][str(draft.done().cidr)] += count
    await world.api.update(IPAMHANDLES, handle)
    return {draft.done().cidr.address(ordinal) for ordinal in ordinals if ordinal is not None}


async def stocked(world: World) -> set[str]:
    """Node b claims ahead; the addresses that it has so."""
    await world.allocators["b"].adopt({})
    await world.pod("b", "first")
    while not world.allocators["b"].stock.left(32):
        await asyncio.sleep(0)
    return {address for address, handle in world.held().items() if handle == "podwire-ahead-b"}


def counts(world: World) -> dict[str, int]:
    return {o["spec"]["handleID"]: sum(o["spec"]["block"].values()) for o in world.api.objects(IPAMHANDLES)}


async def test_what_a_former_life_claims_too_late_is_freed_after_the_grace_period(world: World) -> None:
    mine = await stocked(world)
    strays = await late(world, "b")
    assert len(strays) == 2 and not strays & mine
    await world.passes(GRACE * 0.9)
    assert strays | mine <= world.held().keys(), "not before the grace period is over"
    later = await late(world, "b", 1)
    await world.passes(GRACE * 0.2)
    assert not (strays | later) & world.held().keys(), "no life of this node will ask for the later one either"
    assert mine <= world.held().keys()
    address = await world.pod("b", "next")
    assert address in mine, "what this life has claimed ahead is as good as before"
    await world.allocators["b"].settled()
    await world.allocators["b"].tend()
    held = list(world.held().values())
    assert counts(world) == {handle: held.count(handle) for handle in set(held)}, "and it is put right what handles say"


async def test_what_pods_use_of_a_former_lifes_stock_is_no_stray(world: World) -> None:
    """Lent, and not yet written under the pods' own handles, since the API fails."""
    mine = await stocked(world)
    address = await world.pod("b", "web")
    assert address in mine and world.held()[address] == "podwire-ahead-b"
    await world.allocators["b"].close()
    allocator = world.allocators["b"] = Allocator(world.api, "b", clock=world.clock)
    world.collectors["b"] = Collector(
        world.api, "b", allocator, lambda: world.live["b"], grace=GRACE, clock=world.clock
    )
    world.api.fail_next(plural="ipamblocks", verb="update", times=1 << 40)
    adopting = asyncio.ensure_future(allocator.adopt({"k8s-pod-network.b-web": (address,)}))
    while "k8s-pod-network.b-web" not in allocator.stock.lent:
        await asyncio.sleep(0)
    await asyncio.gather(adopting, return_exceptions=True)
    for _ in range(3):
        world.clock.now += GRACE
        with contextlib.suppress(ApiError):
            await world.collectors["b"].once()
        assert world.held()[address] == "podwire-ahead-b"
    world.api.recover()
    assert await allocator.adopt({"k8s-pod-network.b-web": (address,)}) == {}
    await world.passes(3 * GRACE)
    assert world.held()[address] == "k8s-pod-network.b-web"


async def test_an_address_that_changes_hands_between_scan_and_release_stays(world: World) -> None:
    """The pod's late DEL frees it, and the next pod gets it, before the collector comes to it."""
    address = await world.pod("b", "web", record=False)
    await world.api.delete(PODS, "web", "d", grace=0)
    await world.passes(GRACE * 0.9)
    world.clock.now += GRACE
    real, reads = stored.read, 0

    async def read(api: Any, cidr: Any) -> Any:
        nonlocal reads
        reads += 1
        if reads == 1:
            await world.allocators["b"].release("k8s-pod-network.b-web")
            await world.allocators["b"].assign(Wish("next", {"namespace": "d", "pod": "next"}, exact=(address,)))
        return await real(api, cidr)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stored, "read", read)
        assert await world.collectors["b"].once() == [] and reads
    assert world.held()[address] == "next"


@pytest.mark.parametrize("seed", range(12))
async def test_nothing_live_is_ever_freed(world: World, seed: int) -> None:
    """Random pods live, end, vanish and move; nodes vanish; at the end exactly what is in use is held."""
    dice = random.Random(seed)
    await world.node("c")
    in_use: dict[str, str] = {}  # address → why it must not be freed
    for number in range(30):
        node, name = dice.choice("abc"), f"p{number}"
        record, told = dice.random() < 0.7, dice.random() < 0.8
        phase = dice.choice(["Running", "Running", "Succeeded"])
        address = await world.pod(node, name, record=record, phase=phase, told=told)
        gone = dice.random() < 0.4
        if gone:
            await world.api.delete(PODS, name, "d", grace=0)
        if record or (not gone and phase == "Running"):
            in_use[address] = f"{node}/{name}"
    for _ in range(3):
        await world.passes(GRACE * dice.choice([0.3, 0.7, 1.2]))
        assert in_use.keys() <= world.held().keys(), "something live was freed"
    await world.passes(GRACE * 1.2)
    assert world.held().keys() == in_use.keys()
