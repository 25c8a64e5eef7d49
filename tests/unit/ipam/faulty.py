"""A fake API that loses calls and answers, delays them at will, and an index of what it holds."""

from __future__ import annotations

import asyncio
import random
from itertools import pairwise
from typing import Any

from podwire.ipam import blocks
from podwire.kube.fake import FakeApi
from podwire.model.api import ApiError
from podwire.model.gvr import IPAMBLOCKS, IPAMHANDLES


class FaultyApi(FakeApi):
    """`chance` is that of each call to fail, half of the time before it takes effect. `dice` decides, also in
    which order calls take turns."""

    chance = 0.0
    dice = random.Random(0)

    async def _around(self, call: Any, *args: Any, **kwargs: Any) -> Any:
        for _ in range(self.dice.randrange(4)):
            await asyncio.sleep(0)
        if self.dice.random() < self.chance / 2:
            raise ApiError(0, "ConnectionError", "the request was lost")
        result = await call(self, *args, **kwargs)
        for _ in range(self.dice.randrange(4)):
            await asyncio.sleep(0)
        if self.dice.random() < self.chance / 2:
            raise ApiError(0, "ConnectionError", "the answer was lost")
        return result

    async def get(self, *args: Any, **kwargs: Any) -> Any:
        return await self._around(FakeApi.get, *args, **kwargs)

    async def create(self, *args: Any, **kwargs: Any) -> Any:
        return await self._around(FakeApi.create, *args, **kwargs)

    async def update(self, *args: Any, **kwargs: Any) -> Any:
        return await self._around(FakeApi.update, *args, **kwargs)

    async def delete(self, *args: Any, **kwargs: Any) -> Any:
        return await self._around(FakeApi.delete, *args, **kwargs)


def stored(api: FakeApi) -> dict[str, str]:
    """Address → handle; no block overlaps another, no address is there twice."""
    found: dict[str, str] = {}
    cidrs: list[Any] = []
    for obj in api.objects(IPAMBLOCKS):
        if obj["spec"].get("deleted"):
            continue
        block = blocks.from_spec(obj["spec"])
        cidrs.append(block.cidr)
        free = set(block.unallocated)
        assert len(free) == len(block.unallocated) and not any(block.allocations[o] is not None for o in free)
        for handle, ordinals in block.holdings().items():
            found |= {block.cidr.address(ordinal): handle for ordinal in ordinals}
    cidrs.sort()
    assert not any(one.overlaps(other) for one, other in pairwise(cidrs))
    return found


def handle_counts(api: FakeApi) -> dict[str, int]:
    return {obj["spec"]["handleID"]: sum(obj["spec"]["block"].values()) for obj in api.objects(IPAMHANDLES)}
