"""Addresses for one node's pods, claimed through the API: never handed out before the API has them.

Requests that arrive while a write is under way wait together and share the next one (group commit): one
compare-and-swap of a block serves them all. Each request is known by its handle; asking again with the same handle
gives the same addresses, releasing twice is harmless. Where the stock of addresses claimed ahead (see `ahead`) has what
is wished for, the answer is given at once and the pod's own handle is written in the background.
Source: Calico's automatic assignment (order of blocks and of writes).
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime

import msgspec

from podwire.ipam import ahead, pools
from podwire.ipam.blocks import Attribute, Block, Reserved
from podwire.ipam.commit import Commit
from podwire.ipam.fill import Fill
from podwire.ipam.handles import Marks
from podwire.ipam.ledger import Ledger, Spot
from podwire.ipam.placing import Placing
from podwire.ipam.pools import FAMILY, WIDTH, PoolError
from podwire.ipam.request import Request, fail, run_all
from podwire.ipam.room import IpamError, NoAddresses, Room, reserved_in, seconds_between
from podwire.ipam.wish import Wish
from podwire.model.address import Cidr
from podwire.model.api import Api
from podwire.model.gvr import IPPOOLS
from podwire.model.ippool import IPAMConfig, IPPool

__all__ = ["Allocator", "IpamError", "NoAddresses"]

TRIES = 100
REWRITE_SECONDS = 0.01  # how long what was lent gathers before it is written
RETRY_SECONDS = (0.2, 10.0)


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Allocator:
    """One node's addresses. One instance per node and process; calls may run concurrently on one event loop.

    `pod_cidrs` are the node's own podCIDRs, `network` the CNI network's name, part of every pod's handle. `pools`,
    `reservations`, `config` and `fill` give what the caller already watches; without them pools are listed for every
    new block, nothing is reserved, the configuration is read when needed, and no block is claimed before the present
    one is full. Nothing is claimed ahead before `adopt`. `instance` marks what this process writes; no two lives of a
    node may share one.
    """

    def __init__(
        self,
        api: Api,
        node: str,
        *,
        pod_cidr: str = "",
        pod_cidrs: Iterable[str] = (),
        network: str = "k8s-pod-network",
        labels: Mapping[str, str] | None = None,
        pools: Callable[[], Iterable[IPPool]] | None = None,
        reservations: Callable[[], Iterable[Cidr]] = tuple,
        config: Callable[[], IPAMConfig] | None = None,
        fill: Fill | None = None,
        now: Callable[[], str] = _now,
        clock: Callable[[], float] = time.monotonic,
        instance: str = "",
    ) -> None:
        self._api = api
        self._node = node
        self._network = network
        self._watched_pools = pools
        self._pools: list[IPPool] = []
        self._reservations = reservations
        self._now = now
        self._clock = clock
        instance = instance or uuid.uuid4().hex[:12]
        mark = {"node": node, "type": ahead.TYPE, "instance": instance, "timestamp": now()}
        self.stock = ahead.Stock(Attribute.of(ahead.handle_of(node), mark), lambda: asyncio.get_running_loop().time())
        self._ledger = Ledger(api, node, self.stock.saw)
        self._room = Room(api, node, self._ledger, reserved=self._reserved, config=config, now=now, clock=clock)
        self._placing = Placing(self._ledger, self.stock, self._room, self._choose, self._reserved, now, fill)
        self._fill = fill
        if fill is not None:
            fill.listeners.append(self._yield)
        self._commit = Commit(api, self._ledger, self.stock, self._room, self._placing, self._choose, Marks(instance))
        self._commit.pools = lambda: self._pools
        self.describe([*([pod_cidr] if pod_cidr else []), *pod_cidrs], labels or {})
        self._loaded = False
        self._adopted = False
        self._queue: list[Request] = []
        self._busy: Counter[str] = Counter()  # handles with a request in the queue or under way
        self._worker: asyncio.Task[None] | None = None
        self._later: asyncio.TimerHandle | None = None
        self._pause = 0.0
        self._turn = asyncio.Lock()  # held by whoever reads or writes blocks

    # -- what callers use ---------------------------------------------------------------------------------------------

    def describe(self, pod_cidrs: Iterable[str], labels: Mapping[str, str]) -> None:
        """The node's podCIDRs and labels, also when they change later. Raises AddressError."""
        found = [Cidr.parse(text, host_bits=True) for text in pod_cidrs]
        self._room.own = {cidr.width: cidr for cidr in reversed(found)}
        self._labels = dict(labels)
        self._present = True

    def handle_of(self, container_id: str) -> str:
        return f"{self._network}.{container_id}"

    def holdings(self) -> dict[Cidr, tuple[int, int]]:
        """Of each block affine to the node: how many addresses are used, and how many kept ahead."""
        kept = Counter(cidr for width in self.stock.pace for cidr, _ in self.stock.spots(width))
        blocks = {cidr: self._ledger.held[cidr].block for cidr in self._ledger.mine()}
        return {c: (sum(at is not None for at in b.allocations) - kept[c], kept[c]) for c, b in blocks.items()}

    async def assign(self, wish: Wish) -> list[str]:
        """The addresses of a handle, in the order of the wish's families: all of them or none. Raises IpamError,
        ApiError."""
        attribute = self._attribute(wish)
        found = self._from_stock(wish, attribute)
        return found or await self._ask(wish.handle, wish, attribute, lend=self._may_lend(wish))

    def at_once(self, wish: Wish) -> list[str] | None:
        """The same from the stock, None when the wish has to wait for a write. Raises IpamError."""
        return self._from_stock(wish, self._attribute(wish))

    def _attribute(self, wish: Wish) -> Attribute:
        if not wish.families or set(wish.families) - {4, 6} or len(set(wish.families)) != len(wish.families):
            raise IpamError(f"handle {wish.handle}: families are 4, 6 or both, not {wish.families}")
        facts = {"node": self._node, "timestamp": self._now(), **wish.facts}
        attribute = Attribute.of(wish.handle, facts)
        for family in wish.families:
            if wish.use == "Workload":
                self.stock.pace.setdefault(WIDTH[family], ahead.Pace())
        return attribute

    async def assign_tunnel(self, family: int = 4) -> str:
        """The address of the node's VXLAN device. Raises IpamError, ApiError."""
        handle, kind = ("vxlan-tunnel-addr", "vxlanTunnelAddress")
        if family == 6:
            handle, kind = ("vxlan-v6-tunnel-addr", "vxlanV6TunnelAddress")
        wish = Wish(f"{handle}-{self._node}", {"type": kind}, families=(family,), use="Tunnel")
        return (await self.assign(wish))[0]

    async def release(self, handle: str) -> list[str]:
        """Free what a handle holds; the addresses, none if it held nothing. Raises IpamError, ApiError."""
        return await self._ask(handle, None, None)

    async def adopt(
        self, taken: Mapping[str, Iterable[str]], facts: Mapping[str, Mapping[str, str]] | None = None
    ) -> dict[str, str]:
        """Make true on the API what the node's own records say: handle → addresses (`facts`: handle → namespace, pod).

        What a former life gave out but did not yet write under the pod's handle is written now. The answer names the
        addresses which that handle cannot have (address → who has it). From then on addresses are claimed ahead.
        Raises IpamError, ApiError.
        """
        async with self._turn:
            await self._load()
        refused: dict[str, str] = {}
        for handle, addresses in taken.items():
            known = {"node": self._node, "timestamp": self._now(), **(facts or {}).get(handle, {})}
            for address in addresses:
                cidr, ordinal = self._room.spot_of(address) or (None, 0)
                block = self._ledger.held[cidr].block if cidr in self._ledger.held else None
                holder = block.holder(ordinal) if block else None
                if holder is not None and holder.handle == handle:
                    continue
                if cidr is None or (holder is not None and holder.handle != self.stock.handle):
                    refused[address] = holder.handle if holder else "nobody, and no block holds it"
                    continue
                spots = self.stock.lent[handle].spots if handle in self.stock.lent else ()
                self.stock.lend(handle, Attribute.of(handle, known), (*spots, (cidr, ordinal)), noted=True)
        while any(handle in self.stock.lent for handle in taken):
            await self._ask("", None, None)
        self._adopted = True
        self._kick()
        return refused

    async def release_all_but(self, live: set[str]) -> list[str]:
        """Free what pods of this node hold whose handle is not among `live`; the handles freed. Tunnel addresses and
        addresses of unknown origin (no node noted) stay. After `adopt`, also what a former life had claimed ahead.
        Raises IpamError, ApiError."""
        async with self._turn:
            await self._load()
        stale = set()
        for held in self._ledger.held.values():
            for attribute in held.block.attributes:
                ours = attribute.fact("node") == self._node and not attribute.fact("type")
                if ours and attribute.handle and attribute.handle not in live | self.stock.lent.keys():
                    stale.add(attribute.handle)
        if self._adopted:
            self._commit.drop_strays = True
        await asyncio.gather(self._ask("", None, None), *(self.release(handle) for handle in sorted(stale)))
        return sorted(stale)

    async def ensure_block(self, family: int = 4) -> Cidr:
        """The node's first block, claimed if it has none yet. Raises IpamError, ApiError."""
        wish = Wish("", families=(family,))
        async with self._turn:
            await self._load()
            while not (mine := self._room.candidates(self._choose(wish, family), WIDTH[family])):
                await self._room.grow(self._choose(wish, family), family, wish)
            return mine[0]

    def blocks(self) -> list[Block]:
        """What this node owns or holds something in, as last seen."""
        return [held.block for _, held in sorted(self._ledger.held.items())]

    @property
    def lent(self) -> dict[str, str]:
        """Addresses that pods use while the API still has them under the node's own handle: address → handle."""
        entries = self.stock.lent.values()
        return {cidr.address(ordinal): entry.handle for entry in entries for cidr, ordinal in entry.spots}

    async def tend(self) -> None:
        """Call now and then (every ten seconds, say): keeps fewer addresses ahead when nobody asks, gives back blocks
        that nobody needs, sees what others changed. Raises IpamError, ApiError."""
        async with self._turn:
            await self._load()
            await run_all(self._ledger.reread(cidr) for cidr in self.stock.cidrs())
            if [pace for pace in self.stock.pace.values() if pace.idle()] or self._borrowed_from():
                self._placing.shrink = True
            await self._room.trim(self._pools, self._labels)
        await self._ask("", None, None)

    async def drop_strays(self) -> None:
        """Free what a former life of this node had claimed ahead and nobody adopted. Raises IpamError, ApiError."""
        async with self._turn:
            await self._load()
            await self._room.survey()
        self._commit.drop_strays = self._adopted
        await self._ask("", None, None)

    def absent(self) -> None:
        """The node has no Node object (any more): others may free what it holds, so nothing is given from the stock
        until `describe` says that it is back."""
        self._present = False
        self._ledger.doubtful.update(self.stock.cidrs())
        self._ledger.lost.update(self.stock.cidrs())

    async def settled(self) -> None:
        """Wait until everything that was lent is written under its own handle. Raises IpamError, ApiError."""
        while self._commit.waits() or self._commit.dirty or self._commit.tried:
            await self._ask("", None, None)

    def _yield(self) -> None:
        """A pool has become scarce: what was claimed ahead of it goes back, now."""
        self._placing.shrink = True
        if self._adopted:
            self._kick(0.0)

    async def close(self) -> None:
        """Stop background work; what was lent is written by the next life (`adopt`)."""
        if self._fill is not None and self._yield in self._fill.listeners:
            self._fill.listeners.remove(self._yield)
        if self._later is not None:
            self._later.cancel()
        if self._worker is not None:
            self._worker.cancel()
            await asyncio.gather(self._worker, return_exceptions=True)

    # -- from the stock -----------------------------------------------------------------------------------------------

    def _from_stock(self, wish: Wish, attribute: Attribute) -> list[str] | None:
        """Addresses that are on the API already; None when the wish has to wait for a write."""
        if self._busy.get(wish.handle) or not self._may_lend(wish):
            return None
        entry = self.stock.lent.get(wish.handle)
        if entry is not None:
            have = {FAMILY[cidr.width]: cidr.address(ordinal) for cidr, ordinal in entry.spots}
            return [have[f] for f in wish.families] if set(have) == set(wish.families) and not entry.dying else None
        if wish.handle in self._ledger.index or self._commit.unsettled(wish.handle):
            return None  # it has addresses, or a write that has no answer may still give it some
        if self._watched_pools is not None:
            self._pools = list(self._watched_pools())
        spots: list[Spot] = []
        for family in wish.families:
            try:
                spaces = [pool.cidr for pool in self._choose(wish, family)]
            except IpamError:
                spaces = []
            spot = self.stock.draw(WIDTH[family], lambda cidr, o, spaces=spaces: self._fits(cidr, o, spaces))  # type: ignore[misc]
            if spot is None:
                self.stock.put_back(spots)
                return None
            spots.append(spot)
        self.stock.lend(wish.handle, attribute, tuple(spots))
        low = any(self.stock.left(width) * 2 < pace.target for width, pace in self.stock.pace.items())
        self._kick(REWRITE_SECONDS if low else ahead.QUIET_SECONDS)
        return [cidr.address(ordinal) for cidr, ordinal in spots]

    def _may_lend(self, wish: Wish) -> bool:
        return self._adopted and self._present and wish.use == "Workload" and not wish.exact

    def _fits(self, cidr: Cidr, ordinal: int, spaces: list[Cidr]) -> bool:
        reserved = self._reserved(cidr)
        free = reserved is None or not reserved(cidr.first + ordinal)
        sure = cidr not in self._ledger.lost and self.stock.safe(cidr, ordinal)
        return free and sure and any(space.covers(cidr) for space in spaces)

    def _borrowed_from(self) -> bool:
        """Another node took addresses of our blocks: there is no block left to claim."""
        held = self._ledger.held
        attributes = (a for cidr in self._ledger.mine() for a in held[cidr].block.attributes)
        return any(a.fact("node") not in ("", self._node) for a in attributes)

    # -- the queue ----------------------------------------------------------------------------------------------------

    def _ask(
        self, handle: str, wish: Wish | None, attribute: Attribute | None, *, lend: bool = False
    ) -> asyncio.Future[list[str]]:
        future: asyncio.Future[list[str]] = asyncio.get_running_loop().create_future()
        self._queue.append(Request(handle, wish, attribute, future, lend=lend))
        self._busy[handle] += 1
        future.add_done_callback(lambda _: self._done(handle))
        self._start()
        return future

    def _done(self, handle: str) -> None:
        self._busy[handle] -= 1
        if not self._busy[handle]:
            del self._busy[handle]

    def _start(self) -> None:
        if self._later is not None:
            self._later.cancel()
            self._later = None
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())

    def _kick(self, seconds: float = REWRITE_SECONDS) -> None:
        """Write in the background, a little later."""
        if self._worker is not None and not self._worker.done():
            return  # it looks again before it ends
        loop = asyncio.get_running_loop()
        if self._later is not None:
            if self._pause or self._later.when() <= loop.time() + seconds:
                return
            self._later.cancel()
        self._later = loop.call_later(seconds, self._start)

    async def _work(self) -> None:
        loop, lull = asyncio.get_running_loop(), self.stock.lull
        while True:
            calm, handing = lull.calm(loop.time()), loop.time() >= lull.due()
            if not (self._queue or (self._adopted and self._commit.wants(calm=calm, handing=handing))):
                break
            batch, self._queue = self._queue, []
            asked = any(not request.handle for request in batch)
            if any(request.wish is not None for request in batch):
                calm = False
            try:
                async with self._turn:
                    await self._load()
                    waiting = [request for request in batch if not request.future.done()]
                    trouble = await self._serve(waiting, calm=calm or asked, handing=handing or asked)
                    if not (trouble or self._queue):
                        await self._claim_ahead()
            except Exception as error:  # noqa: BLE001 - whoever asked gets it
                fail(batch, error)
                trouble = True
            self._pause = min(max(self._pause * 2, RETRY_SECONDS[0]), RETRY_SECONDS[1]) if trouble else 0.0
            if trouble and not self._queue:
                self._later = loop.call_later(self._pause, self._start)
                return
        if self._adopted and self._commit.waits():
            self._later = loop.call_later(max(0.0, lull.due() - loop.time()), self._start)

    async def _claim_ahead(self) -> None:
        """The next block, before the present one is full, while pods keep coming. Raises ApiError."""
        fill = self._fill
        if fill is None or not (self._adopted and self._present):
            return
        for width, pace in self.stock.pace.items():
            if pace.asked:
                chosen = self._choose(Wish("", families=(FAMILY[width],)), FAMILY[width])
                spacious = [pool for pool in chosen if fill.spacious(pool.cidr)]
                await self._room.ahead(chosen, spacious, width, few=pace.target - self.stock.left(width))

    async def _serve(self, batch: list[Request], *, calm: bool, handing: bool) -> bool:
        """Whether something is left that has to be tried again later."""
        for _ in range(TRIES):
            batch = await self._commit.round(batch, stocking=self._adopted, calm=calm, handing=handing)
            if not batch:
                return self._commit.problem is not None
            if self._watched_pools is None:
                self._pools = await self._list_pools()
        fail(batch, IpamError(f"node {self._node}: gave up after {TRIES} lost races for address blocks"))
        return True

    # -- what is known ------------------------------------------------------------------------------------------------

    async def _load(self) -> None:
        """First use: read what the node has from former times, and finish claims that were cut off."""
        if self._watched_pools is not None:
            self._pools = list(self._watched_pools())
        if self._loaded:
            return
        if self._watched_pools is None:
            self._pools = await self._list_pools()
        await self._room.survey()
        await self._room.finish_claims()
        self._loaded = True

    async def _list_pools(self) -> list[IPPool]:
        return [msgspec.convert(obj, IPPool) for obj in (await self._api.list(IPPOOLS))[0]]

    def _choose(self, wish: Wish, family: int) -> list[IPPool]:
        try:
            return pools.choose(self._pools, wish, family, self._labels)
        except PoolError as error:
            raise IpamError(str(error)) from error

    def _reserved(self, cidr: Cidr) -> Reserved | None:
        return reserved_in(cidr, self._reservations())


def age(attribute: Attribute, now: str) -> float:
    """Seconds since an address was taken; 0 when that is not known."""
    return seconds_between(attribute.fact("timestamp"), now)
