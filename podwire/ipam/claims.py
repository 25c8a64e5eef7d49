"""Addresses for one node's pods, claimed through the API: never handed out before the API has them.

Requests that arrive while a write is under way wait together and share the next one (group commit): one
compare-and-swap of a block serves them all. Each request is known by its handle; asking again with the same handle
gives the same address, releasing twice is harmless.

What this process believes of a block is only what it read or wrote itself; a lost compare-and-swap, or a write whose
outcome is unknown, makes it read the block again before anything is taken from it.
Source: Calico's automatic assignment (order of blocks, claim, borrowing, limits).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import msgspec

from podwire.ipam import blocks, search, stored
from podwire.ipam.blocks import Attribute, Block, Reserved
from podwire.ipam.stored import Held, Lost
from podwire.ipam.wish import Wish
from podwire.model.address import Cidr
from podwire.model.api import Api, ApiError
from podwire.model.gvr import IPAMCONFIGS, IPPOOLS, NODES
from podwire.model.ippool import IPAMConfig, IPPool

TRIES = 100
BLOCKS_PER_NODE = 20  # upstream's limit when none is configured


class IpamError(Exception):
    """An address could not be had; the message says why, in words for a pod's events."""


class NoAddresses(IpamError):
    """Nothing is free for this node now; once something is released, the same request succeeds."""


@dataclass(eq=False, slots=True)
class _Request:
    """`attribute` None is a release. `cidrs` collects where a release freed something."""

    handle: str
    attribute: Attribute | None
    use: str
    answer: asyncio.Future[list[str]]
    freed: list[str] = field(default_factory=list)
    cidrs: set[Cidr] = field(default_factory=set)


@dataclass(slots=True)
class _Draft:
    """A block about to be written: as read, as it shall be, and whom that serves with what."""

    base: Held
    block: Block
    served: list[tuple[_Request, str]] = field(default_factory=list)


Drafts = dict[Cidr, _Draft]


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Allocator:
    """One node's addresses. One instance per node and process; calls may run concurrently.

    `pod_cidr` is the node's own podCIDR ('' if it has none), `network` the CNI network's name, part of every pod's
    handle. `pools` gives the IPPools that the caller already watches; without it they are listed for every claim.
    """

    def __init__(
        self,
        api: Api,
        node: str,
        *,
        pod_cidr: str = "",
        network: str = "k8s-pod-network",
        labels: Mapping[str, str] | None = None,
        pools: Callable[[], Iterable[IPPool]] | None = None,
        reserved: Reserved | None = None,
        now: Callable[[], str] = _now,
    ) -> None:
        self._api = api
        self._node = node
        self._own = Cidr.parse(pod_cidr) if pod_cidr else None
        self._network = network
        self._labels = dict(labels or {})
        self._watched_pools = pools
        self._pools: list[IPPool] = []
        self._reserved = reserved
        self._now = now
        self._held: dict[Cidr, Held] = {}  # blocks of this node, and others in which it holds addresses
        self._index: dict[str, set[Cidr]] = {}  # handle → the blocks in which it holds something
        self._doubtful: set[Cidr] = set()
        self._lenders: list[Cidr] = []
        self._loaded = False
        self._queue: list[_Request] = []
        self._worker: asyncio.Task[None] | None = None
        self._turn = asyncio.Lock()  # held by whoever reads or writes blocks

    # -- what callers use ---------------------------------------------------------------------------------------------

    def handle_of(self, container_id: str) -> str:
        return f"{self._network}.{container_id}"

    async def assign(self, wish: Wish) -> list[str]:
        """The addresses of a handle, in the order of the wish's families. Raises IpamError, ApiError."""
        if wish.families != (4,):
            raise IpamError(f"handle {wish.handle}: only one IPv4 address can be assigned")
        known = {"node": self._node, "timestamp": self._now(), **wish.facts}
        return await self._ask(wish.handle, Attribute.of(wish.handle, known), wish.use)

    async def assign_tunnel(self) -> str:
        """The address of the node's VXLAN device. Raises IpamError, ApiError."""
        wish = Wish(f"vxlan-tunnel-addr-{self._node}", {"type": "vxlanTunnelAddress"}, use="Tunnel")
        return (await self.assign(wish))[0]

    async def release(self, handle: str) -> list[str]:
        """Free what a handle holds; the addresses, none if it held nothing. Raises IpamError, ApiError."""
        return await self._ask(handle, None, "")

    async def release_all_but(self, live: set[str]) -> list[str]:
        """Free what pods of this node hold whose handle is not among `live`; the handles freed. Tunnel addresses and
        addresses of unknown origin (no node noted) stay. Raises IpamError, ApiError."""
        async with self._turn:
            await self._load()
        stale = set()
        for held in self._held.values():
            for attribute in held.block.attributes:
                ours = attribute.fact("node") == self._node and not attribute.fact("type")
                if ours and attribute.handle and attribute.handle not in live:
                    stale.add(attribute.handle)
        await asyncio.gather(*(self.release(handle) for handle in sorted(stale)))
        return sorted(stale)

    async def ensure_block(self) -> Cidr:
        """The node's first block, claimed if it has none yet. Raises IpamError, ApiError."""
        async with self._turn:
            await self._load()
            mine = self._candidates("Workload")
            while not mine:
                await self._grow("Workload")
                mine = self._candidates("Workload")
            return mine[0]

    def blocks(self) -> list[Block]:
        """What this node owns or holds something in, as last seen."""
        return [held.block for _, held in sorted(self._held.items())]

    # -- the queue ----------------------------------------------------------------------------------------------------

    def _ask(self, handle: str, attribute: Attribute | None, use: str) -> asyncio.Future[list[str]]:
        answer: asyncio.Future[list[str]] = asyncio.get_running_loop().create_future()
        self._queue.append(_Request(handle, attribute, use, answer))
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        return answer

    async def _work(self) -> None:
        while self._queue:
            batch, self._queue = self._queue, []
            try:
                async with self._turn:
                    await self._load()
                    await self._commit([request for request in batch if not request.answer.cancelled()])
            except Exception as error:  # noqa: BLE001 - whoever asked gets it
                _fail(batch, error)

    async def _commit(self, batch: list[_Request]) -> None:
        for _ in range(TRIES):
            batch = await self._round(batch)
            if not batch:
                return
        _fail(batch, IpamError(f"node {self._node}: gave up after {TRIES} lost races for address blocks"))

    async def _round(self, batch: list[_Request]) -> list[_Request]:
        """One attempt; what must be tried again because something changed under it."""
        await self._settle(batch)
        drafts: Drafts = {}
        again: list[_Request] = []
        wanted: dict[str, list[_Request]] = {}
        fresh: set[str] = set()
        for request in batch:
            if request.handle in fresh:
                again.append(request)  # its turn comes when the first of the same handle is stored
            elif request.attribute is None:
                fresh.add(request.handle)
                self._place_release(request, drafts)
            elif request.handle in self._index:
                fresh.add(request.handle)
                again += await self._confirm(request, drafts)
            else:
                fresh.add(request.handle)
                wanted.setdefault(request.use, []).append(request)
        left = {use: self._place(requests, self._candidates(use), drafts) for use, requests in wanted.items()}
        self._lenders = []
        again += await self._write(drafts)
        for use, requests in left.items():
            if requests:
                try:
                    await self._grow(use)
                    again += requests
                except (IpamError, ApiError) as error:
                    _fail(requests, error)
        return again

    async def _settle(self, batch: list[_Request]) -> None:
        """Read again what is in doubt, and what a repeated request already holds: the API's word counts."""
        repeated = [c for r in batch if r.attribute is not None for c in self._index.get(r.handle, ())]
        await _all(self._reread(cidr) for cidr in {*self._doubtful, *repeated})
        unknown = {r.handle for r in batch if r.attribute is None and r.handle not in self._index}
        await _all(self._find(handle) for handle in unknown)

    async def _find(self, handle: str) -> None:
        """Look where the API says that an unknown handle holds addresses, in whosever block that is."""
        cidrs = await stored.handle_blocks(self._api, handle)
        for cidr in cidrs:
            held = await stored.read(self._api, cidr)
            if held is not None and handle in held.block.holdings():
                self._keep(held, wanted=True)
        if cidrs and handle not in self._index:
            await stored.forget_handle(self._api, handle)

    def _draft(self, drafts: Drafts, cidr: Cidr) -> _Draft:
        if cidr not in drafts:
            held = self._held[cidr]
            drafts[cidr] = _Draft(held, held.block)
        return drafts[cidr]

    def _place_release(self, request: _Request, drafts: Drafts) -> None:
        request.cidrs = set(self._index.get(request.handle, ()))
        request.freed = []
        for cidr in request.cidrs:
            draft = self._draft(drafts, cidr)
            draft.block, ordinals = blocks.release_handle(draft.block, request.handle)
            draft.served.append((request, ""))
            request.freed += [cidr.address(ordinal) for ordinal in ordinals]
        if not request.cidrs:
            _answer(request, [])

    def _place(self, requests: list[_Request], cidrs: list[Cidr], drafts: Drafts) -> list[_Request]:
        """Addresses from these blocks, in order, as far as they last; the requests left over."""
        for cidr in cidrs:
            if not requests:
                break
            attributes = [request.attribute for request in requests if request.attribute is not None]
            draft = self._draft(drafts, cidr)
            draft.block, served = blocks.assign(draft.block, attributes, self._reserved)
            pairs = zip(requests, served, strict=False)
            draft.served += [(request, cidr.address(ordinal)) for request, (_, ordinal) in pairs]
            requests = requests[len(served) :]
        return requests

    async def _confirm(self, request: _Request, drafts: Drafts) -> list[_Request]:
        """The same handle again: the address that it has. If a rival process gave it a second one, that goes first and
        the request is to be tried again."""
        keep = min(self._index[request.handle])
        try:
            others = await stored.count_handle(self._api, request.handle, keep)
            for cidr in set(others) - self._index[request.handle]:
                await self._reread(cidr)
        except (ApiError, Lost) as error:
            _fail([request], error)
            return []
        if extra := self._index[request.handle] - {keep}:
            for cidr in extra:
                draft = self._draft(drafts, cidr)
                draft.block, _ = blocks.release_handle(draft.block, request.handle)
            return [request]
        ordinals = self._held[keep].block.holdings()[request.handle]
        _answer(request, [keep.address(ordinals[0])])
        return []

    # -- writing ------------------------------------------------------------------------------------------------------

    async def _write(self, drafts: Drafts) -> list[_Request]:
        """Store the changed blocks, each once, and the handles beside them; the requests that lost.

        Blocks and handles go out together: an address counts only when both are stored, and what is stored of a failed
        attempt is found again by its handle.
        """
        where = {request: (cidr, address) for cidr, draft in drafts.items() for request, address in draft.served}
        requests = list(where)
        notes, problems = await asyncio.gather(
            asyncio.gather(*(self._note(request, where[request][0]) for request in requests)),
            self._write_blocks(drafts),
        )
        again = []
        for request, noted in zip(requests, notes, strict=True):
            lost = [problems[cidr] for cidr in request.cidrs or {where[request][0]} if cidr in problems]
            problem = next(iter(lost), noted)
            if problem is None:
                _answer(request, request.freed if request.attribute is None else [where[request][1]])
            elif isinstance(problem, Lost):
                again.append(request)
            else:
                _fail([request], problem)
        return again

    async def _write_blocks(self, drafts: Drafts) -> dict[Cidr, ApiError | Lost]:
        changed = [cidr for cidr, draft in drafts.items() if draft.block != draft.base.block]
        problems = await asyncio.gather(*(self._write_block(cidr, drafts[cidr]) for cidr in changed))
        return {cidr: problem for cidr, problem in zip(changed, problems, strict=True) if problem is not None}

    async def _write_block(self, cidr: Cidr, draft: _Draft) -> ApiError | Lost | None:
        try:
            self._keep(await stored.write(self._api, draft.base, draft.block))
        except (ApiError, Lost) as error:
            self._doubtful.add(cidr)  # also after an ApiError: it may have been written
            return error
        return None

    async def _note(self, request: _Request, cidr: Cidr) -> ApiError | Lost | None:
        """Keep the IPAMHandle objects: upstream's tools read them, and they tell when a handle has an address already
        that this process has not seen (its predecessor's last write may land after it began to read)."""
        try:
            if request.attribute is None:
                await stored.forget_handle(self._api, request.handle)
                return None
            others = await stored.count_handle(self._api, request.handle, cidr)
        except (ApiError, Lost) as error:
            return error
        self._doubtful.update(others)
        return Lost(f"handle {request.handle} is said to hold addresses elsewhere too") if others else None

    # -- what is known ------------------------------------------------------------------------------------------------

    def _keep(self, held: Held, *, wanted: bool = False) -> None:
        """Remember a block as it is stored now, if it is ours, holds something of ours, or is wanted anyway."""
        block, cidr = held.block, held.block.cidr
        self._forget(cidr)
        if not (wanted or block.node == self._node or self._holds(block) or cidr in self._lenders):
            return
        self._held[cidr] = held
        for handle in block.holdings():
            self._index.setdefault(handle, set()).add(cidr)

    def _holds(self, block: Block) -> bool:
        return any(attribute.fact("node") == self._node for attribute in block.attributes)

    def _forget(self, cidr: Cidr) -> None:
        self._doubtful.discard(cidr)
        known = self._held.pop(cidr, None)
        for handle in known.block.holdings() if known else ():
            self._index[handle].discard(cidr)
            if not self._index[handle]:
                del self._index[handle]

    async def _reread(self, cidr: Cidr) -> None:
        held = await stored.read(self._api, cidr)
        if held is None:
            self._forget(cidr)
        else:
            self._keep(held)

    async def _load(self) -> None:
        """First use: read what the node has from former times, and finish claims that were cut off."""
        await self._refresh_pools()
        if self._loaded:
            return
        for held in await stored.read_all(self._api):
            self._keep(held)
        for cidr, affinity in (await stored.affinities(self._api, self._node)).items():
            if (affinity["spec"].get("state") or "confirmed") != "confirmed" or cidr not in self._held:
                await self._claim(cidr)
        self._loaded = True

    async def _refresh_pools(self) -> None:
        if self._watched_pools is not None:
            self._pools = list(self._watched_pools())
        elif not self._pools or not self._loaded:
            self._pools = await self._list_pools()

    async def _list_pools(self) -> list[IPPool]:
        return [msgspec.convert(obj, IPPool) for obj in (await self._api.list(IPPOOLS))[0]]

    def _allowed(self, use: str) -> list[IPPool]:
        """The pools that may serve this node now, by name."""
        found = [p for p in self._pools if p.usable and p.cidr.width == 32 and p.allows(use)]
        automatic = [p for p in found if p.spec.assignmentMode.lower() != "manual" and p.selects_node(self._labels)]
        return sorted(automatic, key=lambda pool: pool.name)

    def _candidates(self, use: str) -> list[Cidr]:
        """Own blocks with room, those inside the podCIDR first, then lenders."""
        pools = [pool.cidr for pool in self._allowed(use)]
        mine = [cidr for cidr, held in self._held.items() if held.block.node == self._node]
        fitting = [c for c in mine if any(p.covers(c) for p in pools) and self._held[c].block.has_room(self._reserved)]
        fitting.sort(key=lambda cidr: (self._own is None or not self._own.covers(cidr), cidr))
        return fitting + [cidr for cidr in self._lenders if cidr in self._held and cidr not in mine]

    # -- more room ----------------------------------------------------------------------------------------------------

    async def _grow(self, use: str) -> None:
        """Get the node a block with room: its own after all, a new one, or somebody's to borrow from.
        Raises NoAddresses."""
        if self._watched_pools is None:
            self._pools = await self._list_pools()
        pools = self._allowed(use)
        if not pools:
            raise NoAddresses(f"no IP addresses available on node {self._node}: no enabled IPPool serves it for {use}")
        existing = {held.block.cidr: held for held in await stored.read_all(self._api)}
        for cidr, held in existing.items():
            if cidr in self._held:
                self._keep(held)
            elif held.block.node == self._node:
                await self._claim(cidr)  # the rest of a claim that was cut off
        if self._candidates(use):
            return
        config = await self._config()
        limit = config.spec.maxBlocksPerHost or BLOCKS_PER_NODE
        mine = [c for c, held in existing.items() if held.block.node == self._node]
        owned = [cidr for cidr in mine if any(pool.cidr.covers(cidr) for pool in pools)]
        if len(owned) >= limit:
            raise self._exhausted(pools, owned, f"the node has its limit of {limit} blocks, all of them full")
        if config.spec.autoAllocateBlocks and await self._claim_any(pools, existing):
            return
        if config.spec.strictAffinity:
            raise self._exhausted(pools, owned, "no block is left to claim, and borrowing is off (strictAffinity)")
        if not self._borrow(pools, existing):
            raise self._exhausted(pools, owned, "no block is left to claim, and none has a free address")

    async def _claim_any(self, pools: list[IPPool], existing: Mapping[Cidr, Held]) -> bool:
        taken = search.Taken(existing)
        others = await self._other_pod_cidrs()
        for pool in pools:
            for cidr in search.candidates(self._node, pool.cidr, pool.block_size, taken, self._own, others):
                if await self._claim(cidr) and self._held[cidr].block.has_room(self._reserved):
                    return True
        return False

    async def _claim(self, cidr: Cidr) -> bool:
        held = await stored.claim(self._api, self._node, cidr, self._now())
        if held is not None:
            self._keep(held)
        return held is not None

    def _borrow(self, pools: list[IPPool], existing: Mapping[Cidr, Held]) -> bool:
        """Choose a foreign block with room to take single addresses from."""
        for pool in pools:
            inside = sorted(cidr for cidr in existing if pool.cidr.covers(cidr))
            start = search.fnv1_32(self._node) % max(1, len(inside))
            for cidr in inside[start:] + inside[:start]:
                held = existing[cidr]
                if not held.block.affinity.startswith("virtual:") and held.block.has_room(self._reserved):
                    self._lenders = [cidr]
                    self._keep(held)
                    return True
        return False

    async def _other_pod_cidrs(self) -> list[Cidr]:
        found = []
        for node in (await self._api.list(NODES))[0]:
            if node["metadata"]["name"] != self._node and (text := (node.get("spec") or {}).get("podCIDR")):
                found.append(Cidr.parse(text, host_bits=True))
        return [cidr for cidr in found if cidr.width == 32]

    async def _config(self) -> IPAMConfig:
        try:
            return msgspec.convert(await self._api.get(IPAMCONFIGS, "default"), IPAMConfig)
        except ApiError as error:
            if error.not_found:
                return IPAMConfig()
            raise

    def _exhausted(self, pools: list[IPPool], owned: list[Cidr], why: str) -> NoAddresses:
        shown = ", ".join(f"{pool.name} ({pool.spec.cidr})" for pool in pools)
        have = ", ".join(str(cidr) for cidr in sorted(owned)) or "none"
        text = f"no IP addresses available on node {self._node} in IPPool {shown}: {why} (blocks of the node: {have})"
        return NoAddresses(text)


async def _all(calls: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Run together, wait for every one also if some fail, then raise the first failure."""
    for outcome in await asyncio.gather(*calls, return_exceptions=True):
        if isinstance(outcome, BaseException):
            raise outcome


def _answer(request: _Request, addresses: list[str]) -> None:
    if not request.answer.done():
        request.answer.set_result(addresses)


def _fail(requests: Iterable[_Request], error: Exception) -> None:
    for request in requests:
        if not request.answer.done():
            request.answer.set_exception(error)
