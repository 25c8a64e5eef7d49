"""Eight nodes claim from one pool at once, through an API that makes them lose: no address is given twice, and in the
end each is on record under the very handle that it was given to.
"""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import Iterator

from podwire.ipam import ahead, blocks
from podwire.ipam.claims import Allocator
from podwire.ipam.findings import allocations
from podwire.ipam.wish import Wish
from podwire.kube.fake import FakeApi
from podwire.model.api import ApiError
from podwire.model.gvr import IPAMBLOCKS, IPPOOLS, NODES

NODE_COUNT, EACH = 8, 1250


async def test_ten_thousand_assignments() -> None:
    api = FakeApi()
    pool = {"cidr": "10.0.0.0/16", "blockSize": 26, "nodeSelector": "all()"}
    await api.create(IPPOOLS, {"metadata": {"name": "pool"}, "spec": pool})
    for number in range(NODE_COUNT):
        await api.create(NODES, {"metadata": {"name": f"n{number}"}, "spec": {}})
    chance = random.Random(4)
    allocators: dict[str, Allocator] = {}
    given: dict[str, list[str]] = defaultdict(list)  # address → the handles that it was given to

    async def node(name: str) -> None:
        allocator = allocators[name] = Allocator(api, name)

        async def one(number: int) -> None:
            wish = Wish(handle=f"k8s-pod-network.{name}-{number}")
            while True:
                try:
                    for address in await allocator.assign(wish):
                        given[address].append(wish.handle)
                    return
                except ApiError:
                    await asyncio.sleep(0)  # as the runtime asks again

        for start in range(0, EACH, 50):
            if chance.random() < 0.3:
                api.fail_next(ApiError(409, "Conflict", "somebody was faster"), verb="update", times=2)
            await asyncio.gather(*(one(number) for number in range(start, start + 50)))

    await asyncio.gather(*(node(f"n{number}") for number in range(NODE_COUNT)))
    assert {address: handles for address, handles in given.items() if len(handles) > 1} == {}
    assert len(given) == NODE_COUNT * EACH
    for allocator in allocators.values():
        await allocator.settled()
    held = {address: handle for name in allocators for address, handle in _held(api, name) if handle}
    assert held == {address: handle for address, (handle,) in given.items()}


def _held(api: FakeApi, node: str) -> Iterator[tuple[str, str]]:
    """Every address of the node on the API with the handle that has it; "" for one that the node claimed ahead."""
    for stored in api.objects(IPAMBLOCKS):
        block = blocks.from_spec(stored["spec"])
        for address, holder in allocations(block):
            if holder.fact("node") == node:
                yield address, "" if holder.handle == ahead.handle_of(node) else holder.handle
