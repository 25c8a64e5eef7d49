"""The writes of one round: handles raised, blocks replaced, handles lowered.

`problem` is what went wrong last in a way that trying again later may mend.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable

from podwire.ipam import handles, stored
from podwire.ipam.ahead import Stock
from podwire.ipam.ledger import Ledger, Spot
from podwire.ipam.placing import Placing
from podwire.ipam.request import Request, attempt
from podwire.ipam.stored import Lost
from podwire.model.address import Cidr
from podwire.model.api import Api, ApiError


class Writing:
    """For one allocator."""

    def __init__(self, api: Api, ledger: Ledger, stock: Stock, placing: Placing, marks: handles.Marks) -> None:
        self._api = api
        self._ledger = ledger
        self._stock = stock
        self._placing = placing
        self.problem: Exception | None = None
        self.marks = marks
        self._noted: dict[Cidr, int] | None = None  # what the stored handle of the stock counts, where known
        self.loose = False  # that may be more than it holds

    async def raise_own(self) -> Exception | None:
        """The stock's handle, before blocks say more of it."""
        noted = self._noted or {}
        planned = {cidr: draft.count(self._stock.handle) for cidr, draft in self._placing.drafts.items()}
        more = {cidr: count for cidr, count in planned.items() if count > noted.get(cidr, 0)}
        if not more:
            return None
        outcome = await attempt(handles.raise_to, self._api, self._stock.handle, more, self.marks)
        if isinstance(outcome, Exception):
            return outcome
        self._noted = {**noted, **more}
        return None

    async def raise_for(self, request: Request) -> Exception | None:
        """The stored handle also tells when it has an address already that this process has not seen: its
        predecessor's last write may land after it began to read."""
        wanted = Counter(self._ledger.counts(request.handle))
        wanted.update(counts_of(request.placed.values()))
        request.raised |= wanted.keys()
        outcome = await attempt(handles.raise_to, self._api, request.handle, wanted, self.marks)
        if isinstance(outcome, Exception):
            return outcome
        others = outcome - request.checked
        if not others:
            return None
        for cidr in others:
            problem = await attempt(self._ledger.reread, cidr, wanted=True)
            if isinstance(problem, Exception):
                return problem
        request.checked |= {cidr for cidr in others if cidr not in self._ledger.index.get(request.handle, ())}
        return Lost(f"handle {request.handle} is said to hold addresses elsewhere too")

    async def write_blocks(self) -> dict[Cidr, ApiError | Lost]:
        """Every draft; what failed, by block."""
        changed = list(self._placing.drafts)
        problems = await asyncio.gather(*(self._write_block(cidr) for cidr in changed))
        return {cidr: problem for cidr, problem in zip(changed, problems, strict=True) if problem is not None}

    async def _write_block(self, cidr: Cidr) -> ApiError | Lost | None:
        base, block = self._placing.bases[cidr], self._placing.drafts[cidr].done()
        if block == base.block:
            return None
        if self._ledger.held.get(cidr) is not base:
            return Lost(f"block {cidr} was read anew")
        try:
            written = await stored.write(self._api, base, block)
        except (ApiError, Lost) as error:
            self._ledger.doubtful.add(cidr)  # also after an ApiError: it may have been written
            if isinstance(error, ApiError):
                self._stock.unanswered(base.block, block)
                self.problem = error
            else:
                self._ledger.lost.add(cidr)
            return error
        if written is None:
            self._ledger.forget(cidr)
        else:
            self._ledger.keep(written)
        return None

    async def lower(self, handle: str, *, own: bool = False) -> None:
        """Make a stored handle say what it holds; `own`: if this process raised it last. Raises ApiError, Lost."""

        async def actual(named: set[Cidr]) -> dict[Cidr, int]:
            for cidr in named - self._ledger.held.keys():
                await self._ledger.reread(cidr, wanted=True)
            return self._ledger.counts(handle)

        await handles.lower_to(self._api, handle, actual, self.marks if own else None, known=self.marks.known)

    def loosen(self) -> None:
        """Leave that for later: a stock that comes and goes needs no write of its handle each time."""
        self.loose = self._ledger.counts(self._stock.handle) != (self._noted or {})

    async def lower_own(self) -> None:
        """The stock's handle, where it says too much."""
        self.loose = False
        actual = self._ledger.counts(self._stock.handle)
        if actual != self._noted and (self._noted or actual or self._ledger.held):
            outcome = await attempt(self.lower, self._stock.handle)
            if isinstance(outcome, Exception):
                self.problem = outcome
            else:
                self._noted = actual


def counts_of(spots: Iterable[Spot]) -> Counter[Cidr]:
    return Counter(cidr for cidr, _ in spots)
