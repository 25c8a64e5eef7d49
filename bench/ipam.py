"""`podwire bench ipam`: the allocator alone, on the fake API: the pure core, a large cluster, a storm of conflicts.

There is no peer that could be run in the same way; where the issue names a figure, that figure is `peer` and stands
under the name "wanted".
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import msgspec

from bench.record import record
from podwire.ipam import blocks
from podwire.ipam.blocks import Attribute
from podwire.ipam.claims import Allocator
from podwire.ipam.crds import default_pool
from podwire.ipam.wish import Wish
from podwire.kube.fake import FakeApi
from podwire.model.address import Cidr
from podwire.model.gvr import IPAMBLOCKS, IPPOOLS
from podwire.model.ippool import IPPool

POD = {"namespace": "default", "pod": "web"}
WANTED = 20_000.0  # assignments a second


def core() -> float:
    """Assignments per second from a claimed block, each for itself: the block as a value before and after."""
    fresh = blocks.fresh(Cidr.parse("10.244.0.0/26"), "host:a")
    who = [Attribute.of(f"h{number}", {**POD, "node": "a"}) for number in range(fresh.cidr.size)]
    began, done = time.perf_counter(), 0
    while time.perf_counter() - began < 0.5:
        block = fresh
        for one in who:
            block, served = blocks.assign(block, [one])
            done += len(served)
    return done / (time.perf_counter() - began)


async def _cluster(nodes: int, each: int) -> float:
    """Seconds until so many nodes have claimed so many blocks each from a /12."""
    api = FakeApi()
    pool = default_pool("10.0.0.0/12")
    await api.create(IPPOOLS, pool)
    pools = [msgspec.convert(pool, IPPool)]
    allocators = [Allocator(api, f"node-{number}", pools=lambda: pools) for number in range(nodes)]
    began = time.perf_counter()

    async def life(allocator: Allocator, name: str) -> list[str]:
        got = []
        for part in range(each):
            wishes = (Wish(f"{name}.{part}.{number}", POD) for number in range(64))
            got += [address for told in await asyncio.gather(*map(allocator.assign, wishes)) for address in told]
        return got

    told = await asyncio.gather(*(life(one, f"n{at}") for at, one in enumerate(allocators)))
    seconds = time.perf_counter() - began
    stored = [blocks.from_spec(obj["spec"]) for obj in api.objects(IPAMBLOCKS)]
    held = sum(len(ordinals) for block in stored for ordinals in block.holdings().values())
    addresses = {address for mine in told for address in mine}
    if not len(addresses) == held == nodes * each * 64 or len(stored) != nodes * each:
        raise SystemExit(f"lost updates: {len(addresses)} told, {held} held, {len(stored)} blocks")
    return seconds


async def _storm(nodes: int, assignments: int) -> float:
    """Assignments per second of nodes that share one nearly full pool, half of them borrowing."""
    api = FakeApi()
    await api.create(IPPOOLS, default_pool("10.244.0.0/23", block_size=28))
    share = assignments // nodes

    async def life(name: str) -> None:
        allocator = Allocator(api, name)
        for wave in range(share // 50):
            handles = [f"{name}.{wave}.{number}" for number in range(50)]
            await asyncio.gather(*(allocator.assign(Wish(handle, POD)) for handle in handles))
            await asyncio.gather(*(allocator.release(handle) for handle in handles))

    began = time.perf_counter()
    await asyncio.gather(*(life(f"n{number}") for number in range(nodes)))
    return assignments / (time.perf_counter() - began)


def measure(runs: int = 10) -> list[dict[str, Any]]:
    """The records of all measurements."""
    wanted = "figure wanted"
    cores = [core() for _ in range(runs)]
    large = [asyncio.run(_cluster(1000, 2)) for _ in range(1)]
    storm = [asyncio.run(_storm(8, 4000)) for _ in range(min(runs, 3))]
    return [
        record("ipam_core", "assignments/s", cores, n=64, peer=[WANTED] * runs, peer_name=wanted, better="higher"),
        record("ipam_1000_nodes_2000_blocks", "s", large, n=128_000),
        record("ipam_storm_8_nodes", "assignments/s", storm, n=4000, better="higher"),
    ]
