"""Group commit: what is asked for together, as one write of each block concerned.

A round places every request in drafts of the blocks, then writes: handles are raised first, then the blocks are
replaced by compare-and-swap, then handles that hold less are lowered. Who lost a race goes into the next round.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from podwire.ipam import handles
from podwire.ipam.ahead import Lent, Stock
from podwire.ipam.blocks import BlockError
from podwire.ipam.ledger import Ledger, Spot
from podwire.ipam.placing import Choose, Placing
from podwire.ipam.pools import FAMILY, PoolError, family_of, holding
from podwire.ipam.request import Request, answer, attempt, fail, run_all
from podwire.ipam.room import IpamError, Room
from podwire.ipam.stored import Lost
from podwire.ipam.writing import Writing, counts_of
from podwire.model.address import AddressError, Cidr
from podwire.model.api import Api, ApiError
from podwire.model.ippool import IPPool

_HANDED = 32
"""Of what was lent, as much gets its pods' handles in one round: a claim that waits does not wait for all of it."""


class Commit:
    """The rounds of one allocator; one at a time. `dirty` are handles to be lowered, `tried` those for which nothing
    was got: they are lowered unless somebody else got something meanwhile."""

    def __init__(
        self,
        api: Api,
        ledger: Ledger,
        stock: Stock,
        room: Room,
        placing: Placing,
        choose: Choose,
        marks: handles.Marks,
    ) -> None:
        self._api = api
        self._ledger = ledger
        self._stock = stock
        self._room = room
        self._placing = placing
        self._writing = Writing(api, ledger, stock, placing, marks)
        self._choose = choose
        self.pools: Callable[[], Iterable[IPPool]] = tuple
        self.dirty: set[str] = set()
        self.tried: set[str] = set()
        self.drop_strays = False

    @property
    def problem(self) -> Exception | None:
        """What went wrong in the last round and may be better later."""
        return self._writing.problem

    def unsettled(self, handle: str) -> bool:
        """A write of it that has no answer may still be done, or its stored form is to be put right."""
        return handle in self.tried or handle in self.dirty

    def waits(self) -> bool:
        """Something is left for a calm moment."""
        return bool(self._stock.lent) or self._writing.loose

    def wants(self, *, calm: bool, handing: bool) -> bool:
        """Something is due without anybody's asking."""
        lent = self._stock.lent
        if (handing and lent) or (calm and self._writing.loose) or any(entry.dying for entry in lent.values()):
            return True
        if (self.dirty | self.tried) - lent.keys() or self.drop_strays or self._placing.shrink:
            return True
        return any(self._stock.left(width) * 2 < self._placing.goal(width) for width in self._stock.pace)

    async def round(
        self, batch: list[Request], *, stocking: bool, calm: bool = True, handing: bool = True
    ) -> list[Request]:
        """One attempt; what must be tried again because something changed under it. `handing`: what was lent gets its
        pods' handles; `calm`: there is time for what nobody waits for."""
        self._writing.problem = None
        self._placing.begin()
        waiting = [r for r in batch if not r.handle]
        batch = await self._settle([r for r in batch if r.handle and not r.future.done()])
        again, assigns, releases, short = self._place_all(batch)
        lent = self._due(handing=handing)
        self._placing.drop_dying(lent)
        if self.drop_strays:
            self._placing.drop_strays()
        shrinking = self._placing.shrink
        refill = self._placing.restock(writing=bool(lent)) if stocking else []
        again += await self._raise(assigns, lent, refill)
        problems = await self._writing.write_blocks()
        self._placing.shrink |= shrinking and bool(problems)  # a rival wrote the block meanwhile: once more
        again += self._conclude(assigns, releases, problems)
        self._conclude_lent(lent, problems)
        await self._lower(releases, own=calm)
        again += await self._grow(short)
        self._tell(waiting)
        if not self._stock.lent:
            self._stock.lull.wrote()
        return self._hopeful(again)

    def _hopeful(self, again: list[Request]) -> list[Request]:
        """Without those that wait for what was lent to be written, when that cannot be now."""
        if self._writing.problem is not None:
            fail((r for r in again if r.wish is not None and r.handle in self._stock.lent), self._writing.problem)
        return [request for request in again if not request.future.done()]

    def _due(self, *, handing: bool) -> list[Lent]:
        """What was lent and gets its pod's handle now, or was given back before."""
        found: list[Lent] = []
        room = _HANDED if handing else 0
        for entry in self._stock.lent.values():
            if entry.dying or entry.wanted or room > 0:
                found.append(entry)
                room -= not (entry.dying or entry.wanted)
        return found

    def _tell(self, waiting: list[Request]) -> None:
        for request in waiting:
            if self._writing.problem is not None:
                fail([request], self._writing.problem)
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
            self._placing.cooldown = (await self._room.config()).spec.ipCooldownSeconds
        ready = await asyncio.gather(*(self._prepare(request) for request in batch))
        return [request for request, good in zip(batch, ready, strict=True) if good]

    async def _prepare(self, request: Request) -> bool:
        """Where the exact addresses are, and whether the handle holds more than is known."""
        if request.wish is None:
            return True
        try:
            held = self._ledger.counts(request.handle)
            if held and not request.won:
                for cidr in await handles.raise_to(self._api, request.handle, held, self._writing.marks):
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
            if request.wish is not None and request.handle in self._stock.lent:
                self._stock.lent[request.handle].wanted = True
                again.append(request)  # what it has is to be written first
                continue
            if request.wish is None:
                self._placing.release(request)
                releases.append(request)
                continue
            request.lend &= not self.unsettled(request.handle)
            try:
                missing = self._placing.place(request)
            except (IpamError, BlockError) as error:
                self._placing.undo(request)
                again += self._refuse(request, error if isinstance(error, IpamError) else IpamError(str(error)))
                continue
            if missing:
                self._placing.undo(request)
                short.append((request, missing))
            else:
                assigns.append(request)
        self._ledger.lenders = []
        return again, assigns, releases, short

    def _refuse(self, request: Request, error: Exception) -> list[Request]:
        """It cannot be served: what it won before (another family, say) is given back first."""
        if request.won:
            request.wish, request.error = None, error
            return [request]
        fail([request], error)
        self.tried.add(request.handle)
        return []

    # -- the stock ----------------------------------------------------------------------------------------------------

    # -- writing ------------------------------------------------------------------------------------------------------

    async def _raise(self, assigns: list[Request], lent: list[Lent], refill: list[Spot]) -> list[Request]:
        """Handles first: they say at least what is about to be taken. Who fails here leaves the drafts."""
        fresh = [request for request in assigns if request.placed and not request.ahead]
        entries = [entry for entry in lent if not entry.dying]
        for entry in entries:
            entry.noted = True
        marks = self._writing.marks
        own, notes, lending = await asyncio.gather(
            self._writing.raise_own(),
            asyncio.gather(*(self._writing.raise_for(request) for request in fresh)),
            asyncio.gather(
                *(attempt(handles.raise_to, self._api, e.handle, counts_of(e.spots), marks) for e in entries)
            ),
        )
        if isinstance(own, Exception):
            self._writing.problem = own
            for request in [request for request in assigns if request.ahead]:
                self._placing.undo(request)
                assigns.remove(request)
                fail([request], own)
            for cidr, ordinal in refill:
                self._placing.drafts[cidr].undo(ordinal)
        for entry, noted in zip(entries, lending, strict=True):
            if isinstance(noted, Exception):
                self._writing.problem = noted
            else:
                self._placing.hand_over(entry)
        again = []
        for request, problem in zip(fresh, notes, strict=True):
            if problem is not None:
                self._placing.undo(request)
                assigns.remove(request)
                self.tried.add(request.handle)
                if isinstance(problem, Lost):
                    again.append(request)
                else:
                    again += self._refuse(request, problem)
        return again

    def _conclude(
        self, assigns: list[Request], releases: list[Request], problems: dict[Cidr, ApiError | Lost]
    ) -> list[Request]:
        again = []
        for request in assigns:
            cidrs = {cidr for cidr, _ in request.placed.values()}
            lost = [problems[cidr] for cidr in cidrs if cidr in problems]
            if request.ahead:
                again += self._lend(request, lost)
                continue
            request.won |= bool(cidrs - problems.keys())
            if not lost:
                answer(request, self._told(request))
                if request.raised - self._ledger.index.get(request.handle, set()) - cidrs:
                    self.tried.add(request.handle)  # a race was lost in another block before
            elif error := next((problem for problem in lost if isinstance(problem, ApiError)), None):
                again += self._refuse(request, error)
                self.tried.add(request.handle)
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

    def _lend(self, request: Request, lost: list[ApiError | Lost]) -> list[Request]:
        """What was stored for it under the node's handle is lent to it; what is not given stays in the stock."""
        assert request.wish is not None and request.attribute is not None
        if error := next((problem for problem in lost if isinstance(problem, ApiError)), None):
            fail([request], error)
        if lost or request.future.done():
            return [] if request.future.done() else [request]
        spots = tuple(request.placed[family] for family in request.wish.families)
        taken = [spot for spot in spots if self._stock.take(spot)]
        if len(taken) < len(spots):  # somebody drew it before all was written
            self._stock.put_back(taken)
            return [request]
        self._stock.lend(request.handle, request.attribute, spots)
        answer(request, [cidr.address(ordinal) for cidr, ordinal in spots])
        return []

    def _told(self, request: Request) -> list[str]:
        assert request.wish is not None
        have = {FAMILY[cidr.width]: (cidr, o) for cidr, o in reversed(self._ledger.spots(request.handle))}
        have |= request.placed  # lenders' blocks are not kept, unless the node is noted
        return [have[family][0].address(have[family][1]) for family in request.wish.families]

    def _conclude_lent(self, lent: list[Lent], problems: dict[Cidr, ApiError | Lost]) -> None:
        for entry in lent:
            handed = entry.dying or all(
                cidr not in self._ledger.held
                or self._under(cidr, ordinal) not in ("", self._stock.handle)
                or cidr in problems
                for cidr, ordinal in entry.spots
            )
            if handed and not any(cidr in problems for cidr, _ in entry.spots):
                self._stock.lent.pop(entry.handle, None)
                if entry.dying and entry.noted:
                    self.dirty.add(entry.handle)
        if not any(isinstance(problem, Exception) for problem in problems.values()):
            self.drop_strays = False

    def _under(self, cidr: Cidr, ordinal: int) -> str:
        holder = self._ledger.held[cidr].block.holder(ordinal)
        return holder.handle if holder else ""

    async def _lower(self, releases: list[Request], *, own: bool) -> None:
        """Handles that hold less now, with `own` the stock's. What fails is tried again later; the release itself is
        done."""
        self.dirty |= {request.handle for request in releases if not request.bare}
        self.tried -= self.dirty
        if not self._ledger.doubtful:
            for handles_due, mine in ((self.dirty, False), (self.tried, True)):
                due = sorted(handles_due - self._stock.lent.keys())
                outcomes = await asyncio.gather(*(attempt(self._writing.lower, handle, own=mine) for handle in due))
                for handle, outcome in zip(due, outcomes, strict=True):
                    if isinstance(outcome, Exception):
                        self._writing.problem = outcome
                    else:
                        handles_due.discard(handle)
            if own:
                await self._writing.lower_own()
            else:
                self._writing.loosen()
        for request in releases:
            if request.error is not None:
                fail([request], request.error)
            else:
                answer(request, request.freed)

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
                outcome = await attempt(self._room.grow, pools, family, request.wish)
                outcomes[key] = outcome if isinstance(outcome, Exception) else None
            error = outcomes[key]
            again += [request] if error is None else self._refuse(request, error)
        return again
