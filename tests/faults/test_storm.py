"""Eight nodes claim from one pool at once, through an API that makes them lose: no address is given twice."""

from __future__ import annotations

import asyncio
import random
from collections import Counter

from podwire.ipam.claims import Allocator
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
    given: Counter[str] = Counter()

    async def node(name: str) -> None:
        allocator = Allocator(api, name)

        async def one(number: int) -> None:
            wish = Wish(handle=f"k8s-pod-network.{name}-{number}")
            while True:
                try:
                    given.update(await allocator.assign(wish))
                    return
                except ApiError:
                    await asyncio.sleep(0)  # as the runtime asks again

        for start in range(0, EACH, 50):
            if chance.random() < 0.3:
                api.fail_next(ApiError(409, "Conflict", "somebody was faster"), verb="update", times=2)
            await asyncio.gather(*(one(number) for number in range(start, start + 50)))

    await asyncio.gather(*(node(f"n{number}") for number in range(NODE_COUNT)))
    assert sum(given.values()) == NODE_COUNT * EACH
    assert [address for address, times in given.items() if times > 1] == []
    held = sum(index is not None for block in api.objects(IPAMBLOCKS) for index in block["spec"]["allocations"])
    assert held >= NODE_COUNT * EACH
