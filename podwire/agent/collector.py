"""Frees addresses that nobody uses any more: of this node's pods that vanished, and of nodes that vanished.

What is found once is only suspected. It is freed when it was found for the whole grace period (at once when its node is
gone and its pod too), and only after pod, node and block were read again from the API. What this node's own records
know as attached is never suspected. Nodes that vanished are the task of the one that is elected (`duties`).
Source: Calico's IPAM garbage collection (rules and times).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec

from podwire.ipam import ahead, handles, stored
from podwire.ipam.blocks import Attribute
from podwire.ipam.claims import Allocator, IpamError
from podwire.ipam.findings import allocations, fault
from podwire.ipam.handles import name_of
from podwire.ipam.stored import Held, Lost
from podwire.model.address import Cidr
from podwire.model.api import Api, ApiError
from podwire.model.gvr import BLOCKAFFINITIES, GVR, IPAMHANDLES, NODES, PODS
from podwire.model.pod import Pod

log = logging.getLogger(__name__)

TEND_SECONDS = 10.0

Holding = tuple[Cidr, str, Attribute]  # block, address, who holds it


class Collector:
    """For one node. `live` gives the handles that the node's records know, whatever their state; `grace` is in seconds,
    0 switches the collection for live nodes off. `leads` says whether nodes that vanished are its task now; `tends`
    that the allocator is a live node's."""

    def __init__(
        self,
        api: Api,
        node: str,
        allocator: Allocator,
        live: Callable[[], set[str]],
        *,
        grace: float = 900.0,
        clock: Callable[[], float] = time.monotonic,
        leads: Callable[[], bool] = lambda: False,
        tends: bool = True,
    ) -> None:
        self._api = api
        self._node = node
        self._allocator = allocator
        self._live = live
        self._grace = grace
        self._clock = clock
        self._leads = leads
        self._tends = tends
        self._since: dict[tuple[str, str], float] = {}  # (what, name) → since when it is suspected

    async def run(self) -> None:
        """Runs until cancelled."""
        period = self._grace / 2 or 300.0
        due = self._clock() + period
        while True:
            await asyncio.sleep(TEND_SECONDS)
            try:
                if self._tends:
                    await self._allocator.tend()
                if self._clock() >= due:
                    due = self._clock() + period
                    for handle in await self.once():
                        log.info("address collected handle=%s", handle)
            except (ApiError, IpamError, Lost) as error:
                log.warning("address collection failed error=%s", error)

    async def once(self) -> list[str]:
        """One pass; the handles freed. Raises ApiError, IpamError, Lost."""
        blocks = await stored.read_all(self._api)
        nodes = {item["metadata"]["name"] for item in (await self._api.list(NODES))[0]}
        first = self._leads()
        seen: set[tuple[str, str]] = set()
        freed = []
        for handle, held in _by_handle(blocks).items():
            owners = {attribute.fact("node") for *_, attribute in held}
            gone = not owners & nodes
            if not (self._node in owners or (first and gone and owners != {""})):
                continue
            if handle in self._live() or handle in self._allocator.stock.lent or not await self._unused(held, nodes):
                continue
            if self._ripe(("handle", handle), seen, at_once=gone and not _ahead(held)) and await self._free(
                handle, held
            ):
                freed.append(handle)
        if first:
            await self._release_affinities(blocks, nodes)
            await self._forget_handles(blocks, seen)
        if self._strays(blocks, seen):
            await self._allocator.drop_strays()
        self._since = {key: since for key, since in self._since.items() if key in seen}
        return freed

    def _ripe(self, key: tuple[str, str], seen: set[tuple[str, str]], *, at_once: bool = False) -> bool:
        """It was suspected in every pass of the grace period."""
        seen.add(key)
        since = self._since.setdefault(key, self._clock())
        return at_once or (self._grace > 0 and self._clock() - since >= self._grace)

    async def _unused(self, held: list[Holding], nodes: set[str]) -> bool:
        """Nothing of what a handle holds is in order."""
        for _, address, attribute in held:
            pod = await self._pod(attribute)
            if not fault(attribute, address, pod, attribute.fact("node") in nodes):
                return False
        return True

    async def _pod(self, attribute: Attribute) -> Pod | None:
        name, namespace = attribute.fact("pod"), attribute.fact("namespace")
        if not (name and namespace):
            return None
        found = await self._get(PODS, name, namespace)
        return None if found is None else msgspec.convert(found, Pod)

    async def _get(self, gvr: GVR, name: str, namespace: str = "") -> Mapping[str, Any] | None:
        try:
            return await self._api.get(gvr, name, namespace)
        except ApiError as error:
            if error.not_found:
                return None
            raise

    async def _free(self, handle: str, before: list[Holding]) -> bool:
        """Look once more, live, then release all that the handle holds."""
        named = set(handles.counts_of(await handles.read(self._api, handle)))
        fresh = [await stored.read(self._api, cidr) for cidr in sorted(named | {cidr for cidr, *_ in before})]
        held = _by_handle([block for block in fresh if block is not None]).get(handle, [])
        nodes = set()
        for name in {attribute.fact("node") for *_, attribute in held}:
            if name and await self._get(NODES, name) is not None:
                nodes.add(name)
        if not held or handle in self._live() or not await self._unused(held, nodes):
            return False
        await self._allocator.release(handle)
        return True

    async def _release_affinities(self, blocks: list[Held], nodes: set[str]) -> None:
        """Blocks of nodes that vanished, once nothing that names the node is left."""
        named = {attribute.fact("node") for block in blocks for _, attribute in allocations(block.block)}
        unknown = {b.block.node for b in blocks if any(not a.fact("node") for _, a in allocations(b.block))}
        claims: dict[str, list[dict[str, Any]]] = {}
        for obj in (await self._api.list(BLOCKAFFINITIES))[0]:
            claims.setdefault(obj["spec"].get("node", ""), []).append(obj)
        owners = {held.block.node for held in blocks} | claims.keys()
        for node in sorted(owners - nodes - named - unknown - {""}):
            if await self._get(NODES, node) is not None:
                continue
            for held in blocks:
                if held.block.node == node:
                    await stored.give_up(self._api, node, held, only_empty=False)
            there = {str(held.block.cidr) for held in blocks if held.block.node == node}
            for obj in claims.get(node, []):
                if obj["spec"].get("type", "host") == "host" and obj["spec"]["cidr"] not in there:
                    await stored.drop_affinity(self._api, obj)
            log.info("blocks of a vanished node released name=%s", node)

    async def _forget_handles(self, blocks: list[Held], seen: set[tuple[str, str]]) -> None:
        """Handles that hold nothing, or less than they say: what a cut-off assignment or release left. Blocks that are
        nobody's and empty."""
        holding: dict[str, set[Cidr]] = {}
        for held in blocks:
            for handle in held.block.holdings():
                holding.setdefault(name_of(handle), set()).add(held.block.cidr)
        for obj in (await self._api.list(IPAMHANDLES))[0]:
            name = obj["metadata"]["name"]
            too_much = handles.counts_of(obj).keys() - holding.get(name, set())
            if (too_much or name not in holding) and self._ripe(("record", name), seen):
                await handles.lower_to(self._api, obj["spec"].get("handleID") or name, self._counter(obj))
        for held in blocks:
            if held.block.empty and not held.block.affinity and self._ripe(("block", held.block.name), seen):
                await stored.write(self._api, held, held.block)

    def _counter(self, obj: dict[str, Any]) -> Callable[[set[Cidr]], Awaitable[dict[Cidr, int]]]:
        handle = obj["spec"].get("handleID") or obj["metadata"]["name"]

        async def look(named: set[Cidr]) -> dict[Cidr, int]:
            found = {}
            for cidr in named:
                held = await stored.read(self._api, cidr)
                if held is not None and (count := len(held.block.holdings().get(handle, []))):
                    found[cidr] = count
            return found

        return look

    def _strays(self, blocks: list[Held], seen: set[tuple[str, str]]) -> bool:
        """A former life of this node's agent had claimed addresses ahead, and its last write came late."""
        stock, lent = self._allocator.stock, set(self._allocator.lent)
        for held in blocks:
            for address, holder in allocations(held.block):
                stray = holder.handle == stock.handle and holder != stock.attribute and address not in lent
                if stray and self._ripe(("stray", address), seen):
                    return True
        return False


def _ahead(held: list[Holding]) -> bool:
    return any(attribute.fact("type") == ahead.TYPE for *_, attribute in held)


def _by_handle(blocks: list[Held]) -> dict[str, list[Holding]]:
    found: dict[str, list[Holding]] = {}
    for held in blocks:
        for address, attribute in allocations(held.block):
            if attribute.handle:
                found.setdefault(attribute.handle, []).append((held.block.cidr, address, attribute))
    return found
