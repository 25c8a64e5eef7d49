"""Group commit: what is asked for together, as one write of each block concerned.

A round places every request in drafts of the blocks, then writes: handles are raised first, then the blocks are
replaced by compare-and-swap, then handles that hold less are lowered. Who lost a race goes into the next round.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from podwire.ipam import ahead, handles, stored
from podwire.ipam.ahead import Lent, Stock
from podwire.ipam.blocks import Attribute, BlockError, Draft, Reserved, cooling
from podwire.ipam.ledger import Ledger, Spot
from podwire.ipam.pools import FAMILY, WIDTH, PoolError, family_of, holding
from podwire.ipam.room import IpamError, Room, owner_words, seconds_between
from podwire.ipam.stored import Held, Lost
from podwire.ipam.wish import Wish
from podwire.model.address import AddressError, Cidr
from podwire.model.api import Api, ApiError
from podwire.model.ippool import IPPool

log = logging.getLogger(__name__)

T = TypeVar("T")
Choose = Callable[[Wish, int], list[IPPool]]


@dataclass(eq=False, slots=True)
class Request:
    """`wish` None is a release, then with `error` what to answer once it is done. No handle: wait for what is due."""

    handle: str
    wish: Wish | None
    attribute: Attribute | None
    future: asyncio.Future[list[str]]
    error: Exception | None = None
    placed: dict[int, Spot] = field(default_factory=dict)  # family → address taken in this round
    won: bool = False  # something of it is stored already
    exact: dict[int, Spot] = field(default_factory=dict)
    checked: set[Cidr] = field(default_factory=set)  # named by the stored handle, and it holds nothing there
    freed: list[str] = field(default_factory=list)
    cidrs: set[Cidr] = field(default_factory=set)


class Commit:
    """The rounds of one allocator; one at a time. `dirty` are handles to be lowered."""

    def __init__(
        self,
        api: Api,
        ledger: Ledger,
        stock: Stock,
        room: Room,
        choose: Choose,
        reserved: Callable[[Cidr], Reserved | None],
        now: Callable[[], str],
    ) -> None:
        self._api = api
        self._ledger = ledger
        self._stock = stock
        self._room = room
        self._choose = choose
        self._reserved = reserved
        self._now = now
        self.pools: Callable[[], Iterable[IPPool]] = tuple
        self.dirty: set[str] = set()
        self.drop_strays = False
        self.shrink = False
        self.problem: Exception | None = None
        self._noted: dict[Cidr, int] | None = None  # what the stored handle of the stock counts, where known
        self._drafts: dict[Cidr, Draft] = {}
        self._bases: dict[Cidr, Held] = {}
        self._cooldown = 0

    def wants(self) -> bool:
        """Something is due without anybody's asking."""
        if self._stock.lent or self.dirty or self.drop_strays or self.shrink:
            return True
        return any(self._stock.left(width) * 2 < self._goal(width) for width in self._stock.pace)

    async def round(self, batch: list[Request], *, stocking: bool) -> list[Request]:
        """One attempt; what must be tried again because something changed under it."""
        self.problem = None
        self._drafts, self._bases = {}, {}
        waiting = [r for r in batch if not r.handle]
        batch = await self._settle([r for r in batch if r.handle and not r.future.done()])
        again, assigns, releases, short = self._place_all(batch)
        lent = list(self._stock.lent.values())
        self._place_dying(lent)
        if self.drop_strays:
            self._place_strays()
        refill = self._place_stock() if stocking else []
        again += await self._raise(assigns, lent, refill)
        problems = await self._write_blocks()
        again += self._conclude(assigns, releases, problems)
        self._conclude_lent(lent, problems)
        await self._lower(releases)
        again += await self._grow(short)
        self._tell(waiting)
        return again

    def _tell(self, waiting: list[Request]) -> None:
        for request in waiting:
            if self.problem is not None:
                fail([request], self.problem)
            else:
                answer(request, [])

    # -- before -------------------------------------------------------------------------------------------------------

    async def _settle(self, batch: list[Request]) -> list[Request]:
        """Read again what is in doubt, and what a repeated request already holds: the API's word counts."""
        index = self._ledger.index
        repeated = [r for r in batch if r.wish is not None and r.handle in index and not r.won]
        again = {cidr for r in repeated for cidr in index[r.handle]}
        await run_all(self._ledger.reread(cidr) for cidr in self._ledger.doubtful | again)
        lent = self._stock.lent
        unknown = {r.handle for r in batch if r.wish is None and r.handle not in index and r.handle not in lent}
        await run_all(self._find(handle) for handle in unknown)
        if any(r.wish is None for r in batch):
            self._cooldown = (await self._room.config()).spec.ipCooldownSeconds
        ready = await asyncio.gather(*(self._prepare(request) for request in batch))
        return [request for request, good in zip(batch, ready, strict=True) if good]

    async def _prepare(self, request: Request) -> bool:
        """Where the exact addresses are, and whether the handle holds more than is known."""
        if request.wish is None:
            return True
        try:
            held = self._ledger.counts(request.handle)
            if held and not request.won:
                for cidr in await handles.raise_to(self._api, request.handle, held):
                    await self._ledger.reread(cidr, wanted=True)
            request.exact = {}
            for address in request.wish.exact:
                family = self._family(address, request)
                pool = holding(self.pools(), address, request.wish.use)
                request.exact[family] = await self._room.exact(address, pool)
        except PoolError as error:
            fail([request], IpamError(str(error)))
            return False
        except (IpamError, ApiError, Lost) as error:
            fail([request], error if not isinstance(error, Lost) else IpamError(str(error)))
            return False
        return True

    def _family(self, address: str, request: Request) -> int:
        assert request.wish is not None
        try:
            family = family_of(address)
        except AddressError as error:
            raise IpamError(f"address asked for: {error}") from error
        if family in request.exact:
            raise IpamError(f"addresses asked for: more than one is IPv{family} ({', '.join(request.wish.exact)})")
        if family not in request.wish.families:
            raise IpamError(f"address {address} was asked for, but no IPv{family} address is wanted here")
        return family

    async def _find(self, handle: str) -> None:
        """Look where the API says that an unknown handle holds addresses, in whosever block that is."""
        found = await handles.read(self._api, handle)
        if found is not None:
            await run_all(self._ledger.reread(cidr, wanted=True) for cidr in handles.counts_of(found))
            if handle not in self._ledger.index:
                self.dirty.add(handle)

    # -- placing ------------------------------------------------------------------------------------------------------

    def _place_all(
        self, batch: list[Request]
    ) -> tuple[list[Request], list[Request], list[Request], list[tuple[Request, int]]]:
        again: list[Request] = []
        assigns: list[Request] = []
        releases: list[Request] = []
        short: list[tuple[Request, int]] = []
        busy: set[str] = set()
        for request in batch:
            if request.handle in busy:
                again.append(request)  # its turn comes when the first of the same handle is stored
                continue
            busy.add(request.handle)
            if request.wish is None:
                self._place_release(request)
                releases.append(request)
                continue
            try:
                missing = self._place(request)
            except (IpamError, BlockError) as error:
                self._undo(request)
                again += self._refuse(request, error if isinstance(error, IpamError) else IpamError(str(error)))
                continue
            if missing:
                self._undo(request)
                short.append((request, missing))
            else:
                assigns.append(request)
        self._ledger.lenders = []
        return again, assigns, releases, short

    def _draft(self, cidr: Cidr) -> Draft:
        if cidr not in self._drafts:
            held = self._bases[cidr] = self._ledger.held[cidr]
            draft = self._drafts[cidr] = Draft(held.block)
            now = self._now()
            draft.thaw(lambda released: seconds_between(released, now) >= self._cooldown)
        return self._drafts[cidr]

    def _place_release(self, request: Request) -> None:
        entry = self._stock.lent.get(request.handle)
        spots = self._ledger.spots(request.handle)
        if entry is not None:
            entry.dying = True
            spots = [*spots, *entry.spots]
        request.cidrs = {cidr for cidr, _ in spots}
        request.freed = [cidr.address(ordinal) for cidr, ordinal in dict.fromkeys(spots)]
        self._free(spots)

    def _free(self, spots: Iterable[Spot]) -> None:
        resting = cooling(self._now()) if self._cooldown else None
        for cidr, ordinal in spots:
            self._draft(cidr).release([ordinal], resting)

    def _place(self, request: Request) -> int:
        """Put every family that the handle lacks into drafts; the family for which nothing was found, or 0.
        Raises IpamError, BlockError."""
        wish = request.wish
        assert wish is not None and request.attribute is not None
        request.placed = {}
        have: dict[int, list[Spot]] = {}
        for spot in self._ledger.spots(request.handle):
            have.setdefault(FAMILY[spot[0].width], []).append(spot)
        for family, (keep, *extra) in have.items():
            self._free(extra)  # a rival process of this node gave it a second one
            if family in request.exact and request.exact[family] != keep:
                raise IpamError(f"handle {request.handle} has address {keep[0].address(keep[1])} already")
        for family in wish.families:
            if family in have:
                continue
            exact = family in request.exact
            found = self._place_exact(request, family) if exact else self._place_any(request, family)
            if found is None:
                return family
            request.placed[family] = found
        return 0

    def _place_any(self, request: Request, family: int) -> Spot | None:
        assert request.wish is not None and request.attribute is not None
        pools = self._choose(request.wish, family)
        width = WIDTH[family]
        for cidr in self._room.candidates(pools, width):
            ordinal = self._draft(cidr).take(request.attribute, self._reserved(cidr))
            if ordinal is not None:
                return cidr, ordinal
        spaces = [pool.cidr for pool in pools]
        spot = self._stock.draw(width, lambda cidr, _: any(space.covers(cidr) for space in spaces))
        if spot is not None:
            self._draft(spot[0]).hand_over(spot[1], request.attribute)
        return spot

    def _place_exact(self, request: Request, family: int) -> Spot:
        cidr, ordinal = request.exact[family]
        assert request.attribute is not None
        draft = self._draft(cidr)
        if self._stock.take((cidr, ordinal)):
            draft.hand_over(ordinal, request.attribute)
            return cidr, ordinal
        if draft.holder(ordinal) is not None:
            lent = next((e.handle for e in self._stock.lent.values() if (cidr, ordinal) in e.spots), "")
            owner = f"handle {lent}" if lent else owner_words(draft.block, ordinal)
            raise IpamError(f"address {cidr.address(ordinal)} is already assigned to {owner}")
        draft.take_exact(ordinal, request.attribute)
        return cidr, ordinal

    def _undo(self, request: Request) -> None:
        for cidr, ordinal in request.placed.values():
            draft = self._drafts[cidr]
            before = draft.block.holder(ordinal)
            if before is not None and before == self._stock.attribute:
                draft.hand_over(ordinal, before)
                self._stock.put_back([(cidr, ordinal)])
            else:
                draft.undo(ordinal)
        request.placed = {}

    def _refuse(self, request: Request, error: Exception) -> list[Request]:
        """It cannot be served: what it won before (another family, say) is given back first."""
        if request.won:
            request.wish, request.error = None, error
            return [request]
        fail([request], error)
        self.dirty.add(request.handle)
        return []

    # -- the stock ----------------------------------------------------------------------------------------------------

    def _goal(self, width: int) -> int:
        """How many addresses should be claimed ahead now."""
        pace = self._stock.pace.get(width)
        held = self._ledger.held
        mine = self._ledger.mine(width)
        if pace is None or any(
            a.fact("node") not in ("", self._stock.attribute.fact("node"))
            for c in mine
            for a in held[c].block.attributes
        ):
            return 0  # others borrow from us: nothing is left to claim
        room = sum(len(held[cidr].block.unallocated) for cidr in self._stock_cidrs(width))
        return ahead.allowance(pace.target, room + self._stock.left(width))

    def _stock_cidrs(self, width: int) -> list[Cidr]:
        wish = Wish("", families=(FAMILY[width],))
        mine = set(self._ledger.mine(width))
        return [c for c in self._room.candidates(self._choose(wish, FAMILY[width]), width) if c in mine]

    def _place_stock(self) -> list[Spot]:
        """Claim more addresses ahead when few are left or the block is written anyway; return some when they are too
        many."""
        added: list[Spot] = []
        shrink, self.shrink = self.shrink, False
        for width in self._stock.pace:
            goal, left = self._goal(width), self._stock.left(width)
            if shrink or not goal:
                for spot in self._stock.spots(width)[: left - goal] if left > goal else []:
                    self._stock.take(spot)
                    self._draft(spot[0]).release([spot[1]])
            if left * 2 >= goal and not self._drafts and not self._stock.lent:
                continue
            for cidr in self._stock_cidrs(width):
                while (
                    left < goal
                    and (o := self._draft(cidr).take(self._stock.attribute, self._reserved(cidr))) is not None
                ):
                    added.append((cidr, o))
                    left += 1
        return added

    def _place_strays(self) -> None:
        """What a former life had claimed ahead and nobody adopted."""
        used = {spot for entry in self._stock.lent.values() for spot in entry.spots}
        for cidr, held in list(self._ledger.held.items()):
            for ordinal in held.block.holdings().get(self._stock.handle, []):
                if held.block.holder(ordinal) != self._stock.attribute and (cidr, ordinal) not in used:
                    self._draft(cidr).release([ordinal])

    def _place_dying(self, lent: list[Lent]) -> None:
        for entry in lent:
            for cidr, ordinal in entry.spots if entry.dying else ():
                holder = self._draft(cidr).holder(ordinal) if cidr in self._ledger.held else None
                if holder is not None and holder.handle in (self._stock.handle, entry.handle):
                    self._free([(cidr, ordinal)])

    def _hand_over(self, entry: Lent) -> None:
        for cidr, ordinal in entry.spots:
            if cidr not in self._ledger.held:
                log.error("address lost: its block is gone address=%s handle=%s", cidr.address(ordinal), entry.handle)
                continue
            draft = self._draft(cidr)
            holder = draft.holder(ordinal)
            if holder is None:
                draft.take_exact(ordinal, entry.attribute)
            elif holder.handle == self._stock.handle:
                draft.hand_over(ordinal, entry.attribute)
            elif holder.handle != entry.handle:
                owner = owner_words(draft.block, ordinal)
                log.error(
                    "address used twice address=%s handle=%s owner=%s", cidr.address(ordinal), entry.handle, owner
                )

    # -- writing ------------------------------------------------------------------------------------------------------

    async def _raise(self, assigns: list[Request], lent: list[Lent], refill: list[Spot]) -> list[Request]:
        """Handles first: they say at least what is about to be taken. Who fails here leaves the drafts."""
        fresh = [request for request in assigns if request.placed]
        entries = [entry for entry in lent if not entry.dying]
        own, notes, lending = await asyncio.gather(
            self._raise_own(),
            asyncio.gather(*(self._raise_request(request) for request in fresh)),
            asyncio.gather(*(_attempt(handles.raise_to(self._api, e.handle, _counts(e.spots))) for e in entries)),
        )
        if isinstance(own, Exception):
            self.problem = own
            for cidr, ordinal in refill:
                self._drafts[cidr].undo(ordinal)
        for entry, noted in zip(entries, lending, strict=True):
            if isinstance(noted, Exception):
                self.problem = noted
            else:
                self._hand_over(entry)
        again = []
        for request, problem in zip(fresh, notes, strict=True):
            if problem is not None:
                self._undo(request)
                assigns.remove(request)
                self.dirty.add(request.handle)
                if isinstance(problem, Lost):
                    again.append(request)
                else:
                    again += self._refuse(request, problem)
        return again

    async def _raise_own(self) -> Exception | None:
        noted = self._noted or {}
        planned = {cidr: draft.count(self._stock.handle) for cidr, draft in self._drafts.items()}
        more = {cidr: count for cidr, count in planned.items() if count > noted.get(cidr, 0)}
        if not more:
            return None
        outcome = await _attempt(handles.raise_to(self._api, self._stock.handle, more))
        if isinstance(outcome, Exception):
            return outcome
        self._noted = {**noted, **more}
        return None

    async def _raise_request(self, request: Request) -> Exception | None:
        """The stored handle also tells when it has an address already that this process has not seen: its
        predecessor's last write may land after it began to read."""
        wanted = Counter(self._ledger.counts(request.handle))
        wanted.update(_counts(request.placed.values()))
        outcome = await _attempt(handles.raise_to(self._api, request.handle, wanted))
        if isinstance(outcome, Exception):
            return outcome
        others = outcome - request.checked
        if not others:
            return None
        for cidr in others:
            problem = await _attempt(self._ledger.reread(cidr, wanted=True))
            if isinstance(problem, Exception):
                return problem
        request.checked |= {cidr for cidr in others if cidr not in self._ledger.index.get(request.handle, ())}
        return Lost(f"handle {request.handle} is said to hold addresses elsewhere too")

    async def _write_blocks(self) -> dict[Cidr, ApiError | Lost]:
        changed = list(self._drafts)
        problems = await asyncio.gather(*(self._write_block(cidr) for cidr in changed))
        return {cidr: problem for cidr, problem in zip(changed, problems, strict=True) if problem is not None}

    async def _write_block(self, cidr: Cidr) -> ApiError | Lost | None:
        base, block = self._bases[cidr], self._drafts[cidr].done()
        if block == base.block:
            return None
        if self._ledger.held.get(cidr) is not base:
            return Lost(f"block {cidr} was read anew")
        try:
            written = await stored.write(self._api, base, block)
        except (ApiError, Lost) as error:
            self._ledger.doubtful.add(cidr)  # also after an ApiError: it may have been written
            if isinstance(error, ApiError):
                self.problem = error
            return error
        if written is None:
            self._ledger.forget(cidr)
        else:
            self._ledger.keep(written)
        return None

    def _conclude(
        self, assigns: list[Request], releases: list[Request], problems: dict[Cidr, ApiError | Lost]
    ) -> list[Request]:
        again = []
        for request in assigns:
            cidrs = {cidr for cidr, _ in request.placed.values()}
            lost = [problems[cidr] for cidr in cidrs if cidr in problems]
            request.won |= bool(cidrs - problems.keys())
            if not lost:
                answer(request, self._told(request))
            elif error := next((problem for problem in lost if isinstance(problem, ApiError)), None):
                again += self._refuse(request, error)
                self.dirty.add(request.handle)
            else:
                again.append(request)
        for request in list(releases):
            lost = [problems[cidr] for cidr in request.cidrs if cidr in problems]
            if lost:
                releases.remove(request)
            if error := next((problem for problem in lost if isinstance(problem, ApiError)), None):
                fail([request], request.error or error)
                self.dirty.add(request.handle)
            elif lost:
                again.append(request)
        return again

    def _told(self, request: Request) -> list[str]:
        assert request.wish is not None
        have = {FAMILY[cidr.width]: (cidr, o) for cidr, o in reversed(self._ledger.spots(request.handle))}
        have |= request.placed  # lenders' blocks are not kept, unless the node is noted
        return [have[family][0].address(have[family][1]) for family in request.wish.families]

    def _conclude_lent(self, lent: list[Lent], problems: dict[Cidr, ApiError | Lost]) -> None:
        for entry in lent:
            handed = entry.dying or all(
                cidr not in self._ledger.held or self._under(cidr, ordinal) == entry.handle or cidr in problems
                for cidr, ordinal in entry.spots
            )
            if handed and not any(cidr in problems for cidr, _ in entry.spots):
                self._stock.lent.pop(entry.handle, None)
                if entry.dying:
                    self.dirty.add(entry.handle)
        if not any(isinstance(problem, Exception) for problem in problems.values()):
            self.drop_strays = False

    def _under(self, cidr: Cidr, ordinal: int) -> str:
        holder = self._ledger.held[cidr].block.holder(ordinal)
        return holder.handle if holder else ""

    async def _lower(self, releases: list[Request]) -> None:
        """Handles that hold less now. What fails is tried again later; the release itself is done."""
        self.dirty |= {request.handle for request in releases}
        if not self._ledger.doubtful:
            due = sorted(self.dirty - self._stock.lent.keys())
            outcomes = await asyncio.gather(*(_attempt(self._lower_one(handle)) for handle in due))
            for handle, outcome in zip(due, outcomes, strict=True):
                if isinstance(outcome, Exception):
                    self.problem = outcome
                else:
                    self.dirty.discard(handle)
            await self._lower_own()
        for request in releases:
            if request.error is not None:
                fail([request], request.error)
            else:
                answer(request, request.freed)

    async def _lower_one(self, handle: str) -> None:
        async def actual(named: set[Cidr]) -> dict[Cidr, int]:
            for cidr in named - self._ledger.held.keys():
                await self._ledger.reread(cidr, wanted=True)
            return self._ledger.counts(handle)

        await handles.lower_to(self._api, handle, actual)

    async def _lower_own(self) -> None:
        actual = self._ledger.counts(self._stock.handle)
        if actual != self._noted and (self._noted or actual or self._ledger.held):
            outcome = await _attempt(self._lower_one(self._stock.handle))
            if isinstance(outcome, Exception):
                self.problem = outcome
            else:
                self._noted = actual

    # -- more room ----------------------------------------------------------------------------------------------------

    async def _grow(self, short: list[tuple[Request, int]]) -> list[Request]:
        again: list[Request] = []
        outcomes: dict[tuple[int, tuple[str, ...]], Exception | None] = {}
        for request, family in short:
            if request.wish is None:
                continue
            pools = self._choose(request.wish, family)
            key = (family, tuple(pool.name for pool in pools))
            if key not in outcomes:
                outcome = await _attempt(self._room.grow(pools, family, request.wish))
                outcomes[key] = outcome if isinstance(outcome, Exception) else None
            error = outcomes[key]
            again += [request] if error is None else self._refuse(request, error)
        return again


def _counts(spots: Iterable[Spot]) -> Counter[Cidr]:
    return Counter(cidr for cidr, _ in spots)


async def _attempt(call: Coroutine[Any, Any, T]) -> T | Exception:
    """The outcome of a call as a value."""
    try:
        return await call
    except (ApiError, Lost, IpamError) as error:
        return error


async def run_all(calls: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Run together, wait for every one also if some fail, then raise the first failure."""
    for outcome in await asyncio.gather(*calls, return_exceptions=True):
        if isinstance(outcome, BaseException):
            raise outcome


def answer(request: Request, addresses: list[str]) -> None:
    if not request.future.done():
        request.future.set_result(addresses)


def fail(requests: Iterable[Request], error: Exception) -> None:
    for request in requests:
        if not request.future.done():
            request.future.set_exception(error)
