"""Where a node's next addresses come from: a new block, an idle one of another node, or a loan.

What exists is surveyed once and kept; a claim that meets a block which the survey did not know tells of it. All blocks
are listed again only when nothing seems to be left.
Source: Calico's automatic assignment (limits, order of claim, reclaiming, borrowing).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime

import msgspec

from podwire.ipam import search, stored
from podwire.ipam.ahead import handle_of
from podwire.ipam.blocks import Block, Reserved
from podwire.ipam.ledger import Ledger, Spot
from podwire.ipam.pools import FAMILY, WIDTH, automatic
from podwire.ipam.stored import Held, Lost
from podwire.ipam.wish import Wish
from podwire.model.address import AddressError, Cidr, parse_ip
from podwire.model.api import Api, ApiError
from podwire.model.gvr import IPAMCONFIGS, NODES
from podwire.model.ippool import IPAMConfig, IPPool

BLOCKS_PER_NODE = 20  # upstream's limit when none is configured
RECLAIM_SECONDS = 60.0
CONFIG_SECONDS = 30.0
IDLE_SECONDS = 300.0  # a block must have been empty for so long before it is given back


class IpamError(Exception):
    """An address could not be had; the message says why, in words for a pod's events."""


class NoAddresses(IpamError):
    """Nothing is free for this node now; once something is released, the same request succeeds."""


def seconds_between(earlier: str, later: str) -> float:
    """Between two times as RFC 3339 text; 0 when one cannot be read."""
    try:
        return (datetime.fromisoformat(later) - datetime.fromisoformat(earlier)).total_seconds()
    except (ValueError, TypeError):
        return 0.0


class Room:
    """For one allocator. `now` is the time as text, `clock` seconds that only grow."""

    def __init__(
        self,
        api: Api,
        node: str,
        ledger: Ledger,
        *,
        reserved: Callable[[Cidr], Reserved | None],
        config: Callable[[], IPAMConfig] | None,
        now: Callable[[], str],
        clock: Callable[[], float],
    ) -> None:
        self._api = api
        self._node = node
        self._ledger = ledger
        self._reserved = reserved
        self._watched_config = config
        self._now = now
        self._clock = clock
        self.own: dict[int, Cidr] = {}  # width → the node's podCIDR
        self._existing: dict[Cidr, Held] = {}  # as surveyed; later finds are added to `_taken` only
        self._taken = search.Taken(())
        self._others: list[Cidr] = []
        self._surveyed = False
        self._empty_since: dict[Cidr, float] = {}
        self._config: tuple[float, IPAMConfig] | None = None

    async def survey(self) -> None:
        """List blocks and podCIDRs. Raises ApiError."""
        self._existing = {held.block.cidr: held for held in await stored.read_all(self._api)}
        self._taken = search.Taken(self._existing)
        self._others = await self._other_pod_cidrs()
        self._surveyed = True
        for cidr in [cidr for cidr in self._ledger.held if cidr not in self._existing]:
            self._ledger.forget(cidr)
        for held in self._existing.values():
            self._ledger.keep(held, wanted=held.block.cidr in self._ledger.held)

    async def _other_pod_cidrs(self) -> list[Cidr]:
        found = []
        for node in (await self._api.list(NODES))[0]:
            spec = node.get("spec") or {}
            if node["metadata"]["name"] != self._node:
                for text in spec.get("podCIDRs") or [spec.get("podCIDR")]:
                    try:
                        found += [Cidr.parse(text, host_bits=True)] if text else []
                    except AddressError:
                        continue
        return found

    async def config(self) -> IPAMConfig:
        """Raises ApiError."""
        if self._watched_config is not None:
            return self._watched_config()
        if self._config is None or self._clock() - self._config[0] > CONFIG_SECONDS:
            try:
                found = msgspec.convert(await self._api.get(IPAMCONFIGS, "default"), IPAMConfig)
            except ApiError as error:
                if not error.not_found:
                    raise
                found = IPAMConfig()
            self._config = (self._clock(), found)
        return self._config[1]

    def has_room(self, cidr: Cidr) -> bool:
        """A block that the ledger holds can serve automatic assignment."""
        return self._ledger.held[cidr].block.has_room(self._reserved(cidr))

    def candidates(self, pools: Iterable[IPPool], width: int) -> list[Cidr]:
        """Own blocks with room, those inside the podCIDR first, then lenders."""
        spaces = [pool.cidr for pool in pools]
        own = self.own.get(width)
        mine = [c for c in self._ledger.mine(width) if any(p.covers(c) for p in spaces) and self.has_room(c)]
        mine.sort(key=lambda cidr: (own is None or not own.covers(cidr), cidr))
        lent = [c for c in self._ledger.lenders if c in self._ledger.held and c not in mine and c.width == width]
        return mine + [c for c in lent if any(p.covers(c) for p in spaces) and self.has_room(c)]

    async def grow(self, pools: list[IPPool], family: int, wish: Wish) -> None:
        """Get the node a block with room: its own after all, a new one, an idle one, or somebody's to borrow from.
        Raises NoAddresses, ApiError."""
        if not pools:
            raise NoAddresses(self._no_pool(family, wish))
        width = WIDTH[family]
        self._config = None if self._watched_config is None else self._config
        config = (await self.config()).spec
        fresh = not self._surveyed
        if fresh:
            await self.survey()
        while True:
            if self._own_room(pools, width):
                return
            owned = [c for c in self._ledger.mine(width) if any(pool.cidr.covers(c) for pool in pools)]
            limit = config.maxBlocksPerHost or BLOCKS_PER_NODE
            if len(owned) < limit and config.autoAllocateBlocks and await self._claim_any(pools, width):
                return
            if fresh:
                break
            await self.survey()
            fresh = True
        if len(owned) >= limit:
            raise self._exhausted(pools, owned, f"the node has its limit of {limit} blocks, all of them full")
        if not config.autoAllocateBlocks:
            raise self._exhausted(pools, owned, "its blocks are full, and claiming is off (autoAllocateBlocks)")
        if await self._reclaim(pools):
            return
        if config.strictAffinity:
            raise self._exhausted(pools, owned, "no block is left to claim, and borrowing is off (strictAffinity)")
        if not self._borrow(pools):
            raise self._exhausted(pools, owned, "no block is left to claim, and none has a free address")

    async def ahead(self, pools: list[IPPool], spacious: list[IPPool], width: int, few: int) -> None:
        """One more block, of the spacious among `pools`, if no more than so few addresses are left (at most a quarter
        of a block's), and no block is still without pods. Raises ApiError."""
        owned = [c for c in self._ledger.mine(width) if any(pool.cidr.covers(c) for pool in pools)]
        blocks = [self._ledger.held[c].block for c in owned]
        if not (owned and spacious) or any(block.holdings().keys() <= {handle_of(self._node)} for block in blocks):
            return
        if sum(len(block.unallocated) for block in blocks) > min(few, max(c.size for c in owned) // 4):
            return
        config = (await self.config()).spec
        if config.autoAllocateBlocks and len(owned) < (config.maxBlocksPerHost or BLOCKS_PER_NODE):
            await self._claim_any(spacious, width)

    def _own_room(self, pools: list[IPPool], width: int) -> bool:
        mine = set(self._ledger.mine(width))
        return any(cidr in mine for cidr in self.candidates(pools, width))

    async def _claim_any(self, pools: list[IPPool], width: int) -> bool:
        own = self.own.get(width)
        for pool in pools:
            for cidr in search.candidates(self._node, pool.cidr, pool.block_size, self._taken, own, self._others):
                if await self.claim(cidr) and self.has_room(cidr):
                    return True
        return False

    async def claim(self, cidr: Cidr) -> bool:
        """Raises ApiError."""
        try:
            held, rival = await stored.claim(self._api, self._node, cidr, self._now())
        except Lost:
            return False
        self._taken.add(cidr)
        if rival is not None:
            self._existing[cidr] = rival
        if held is not None:
            self._ledger.keep(held)
        return held is not None

    async def _reclaim(self, pools: list[IPPool]) -> bool:
        """Take an empty block of another node, unless it was claimed or used a moment ago."""
        for pool in pools:
            for cidr, held in sorted(self._existing.items()):
                block = held.block
                idle = block.empty and seconds_between(block.claimed, self._now()) >= RECLAIM_SECONDS
                if not (idle and block.node and block.node != self._node and pool.cidr.covers(cidr)):
                    continue
                again = await stored.read(self._api, cidr)
                if again is None or again.block.sequence != block.sequence or not again.block.empty:
                    continue
                gone = await stored.give_up(self._api, block.node, again, only_empty=True)
                if gone and await self.claim(cidr) and self.has_room(cidr):
                    return True
        return False

    def _borrow(self, pools: list[IPPool]) -> bool:
        """Choose a foreign block with room to take single addresses from."""
        for pool in pools:
            inside = sorted(cidr for cidr in self._existing if pool.cidr.covers(cidr))
            start = search.fnv1_32(self._node) % max(1, len(inside))
            for cidr in inside[start:] + inside[:start]:
                block = self._existing[cidr].block
                foreign = block.node != self._node and not block.affinity.startswith("virtual:")
                if foreign and block.has_room(self._reserved(cidr)):
                    self._ledger.lenders = [*(c for c in self._ledger.lenders if c.width != cidr.width), cidr]
                    self._ledger.keep(self._existing[cidr])
                    return True
        return False

    async def finish_claims(self) -> None:
        """Claims of former times that were cut off: finish them, or drop the record where the block is another's."""
        for cidr, affinity in (await stored.affinities(self._api, self._node)).items():
            if not stored.confirmed(affinity) or cidr not in self._ledger.held:
                await self.claim(cidr)

    async def give_up(self, cidr: Cidr) -> bool:
        """An empty block of the node goes back to the pool. Raises ApiError."""
        gone = await stored.give_up(self._api, self._node, self._ledger.held[cidr], only_empty=True)
        if gone:
            self._ledger.forget(cidr)
            self._surveyed = False
        else:
            await self._ledger.reread(cidr)
        return gone

    async def trim(self, pools: list[IPPool], labels: Mapping[str, str]) -> None:
        """Give back blocks of pools that no longer select the node, and blocks empty for long (never the last).
        Raises ApiError."""
        for width in (32, 128):
            chosen = automatic(pools, FAMILY[width], "Workload", labels)
            left = self._ledger.mine(width)
            for cidr in sorted(left):
                block = self._ledger.held[cidr].block
                pool = next((p for p in pools if p.sound and p.cidr.covers(cidr)), None)
                foreign = pool is not None and pool.automatic and pool not in chosen and pool.allows("Workload")
                if not block.empty:
                    self._empty_since.pop(cidr, None)
                    continue
                since = self._empty_since.setdefault(cidr, self._clock())
                idle = self._clock() - since >= IDLE_SECONDS and len(left) > 1
                if (foreign or idle) and await self.give_up(cidr):
                    left.remove(cidr)
                    self._empty_since.pop(cidr, None)

    def spot_of(self, address: str) -> Spot | None:
        """The block, among those that exist, which has an address, and where in it."""
        number, width = parse_ip(address)
        found = (c for c in [*self._ledger.held, *self._existing] if c.width == width and c.holds(number))
        cidr = next(found, None)
        if cidr is not None and cidr not in self._ledger.held:
            self._ledger.keep(self._existing[cidr], wanted=True)
        return None if cidr is None else (cidr, number - cidr.first)

    async def exact(self, address: str, pool: IPPool) -> Spot:
        """The place of an address that was asked for; its block is claimed when nobody has it. Raises IpamError."""
        number, _ = parse_ip(address)
        cidr = self._around(number, pool)
        await self._ledger.reread(cidr, wanted=True)
        if cidr not in self._ledger.held and not await self.claim(cidr):
            await self._ledger.reread(cidr, wanted=True)
        held = self._ledger.held.get(cidr)
        if held is None:
            raise IpamError(f"address {address}: its block {cidr} comes and goes; try again")
        if held.block.node != self._node and (await self.config()).spec.strictAffinity:
            owner = held.block.affinity or "nobody"
            raise IpamError(
                f"address {address} is in block {cidr} of {owner}, and borrowing is off (strictAffinity): "
                f"ask for an address of a block of node {self._node}, or set strictAffinity to false"
            )
        return cidr, number - cidr.first

    def _around(self, number: int, pool: IPPool) -> Cidr:
        """The block of an address: the one that exists, else the one that would be made."""
        for cidr in [*self._ledger.held, *self._existing]:
            if cidr.width == pool.cidr.width and cidr.holds(number):
                return cidr
        return Cidr.around(number, pool.block_size, pool.cidr.width)

    def _no_pool(self, family: int, wish: Wish) -> str:
        text = (
            f"no IP addresses available on node {self._node}: no enabled IPPool serves it for {wish.use} (IPv{family}"
        )
        where = f", namespace {wish.facts['namespace']})" if "namespace" in wish.facts else ")"
        return f"{text}{where}: see nodeSelector, namespaceSelector, allowedUses and assignmentMode of the pools"

    def _exhausted(self, pools: list[IPPool], owned: list[Cidr], why: str) -> NoAddresses:
        shown = ", ".join(f"{pool.name} ({pool.spec.cidr})" for pool in pools)
        have = ", ".join(str(cidr) for cidr in sorted(owned)) or "none"
        text = f"no IP addresses available on node {self._node} in IPPool {shown}: {why} (blocks of the node: {have})"
        return NoAddresses(text)


def reserved_in(cidr: Cidr, reservations: Iterable[Cidr]) -> Reserved | None:
    """The test for one block; None when nothing in it is reserved."""
    inside = [r for r in reservations if r.overlaps(cidr)]
    return (lambda number: any(r.holds(number) for r in inside)) if inside else None


def owner_words(block: Block, ordinal: int) -> str:
    """Who holds an address, for an error message."""
    holder = block.holder(ordinal)
    if holder is None:
        return "nobody"
    facts: Mapping[str, str] = dict(holder.secondary)
    pod = f"pod {facts.get('namespace', '')}/{facts['pod']}, " if facts.get("pod") else ""
    node = f" on node {facts['node']}" if facts.get("node") else ""
    return f"{pod}handle {holder.handle or '(none)'}{node}"
