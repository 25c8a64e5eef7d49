"""The drafts of one round: where in the blocks known each request, and the stock, gets its addresses.

Nothing is written here. What cannot be stored after all is undone in its draft, and the rest of the draft stands.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

from podwire.ipam import ahead
from podwire.ipam.ahead import Lent, Stock
from podwire.ipam.blocks import Draft, Reserved, cooling
from podwire.ipam.fill import Fill
from podwire.ipam.ledger import Ledger, Spot
from podwire.ipam.pools import FAMILY, WIDTH
from podwire.ipam.request import Request
from podwire.ipam.room import IpamError, Room, owner_words, seconds_between
from podwire.ipam.stored import Held
from podwire.ipam.wish import Wish
from podwire.model.address import Cidr
from podwire.model.ippool import IPPool

log = logging.getLogger(__name__)

Choose = Callable[[Wish, int], list[IPPool]]


class Placing:
    """For one allocator; `begin` starts a round. `cooldown` is in seconds, `shrink` asks for a smaller stock once."""

    def __init__(
        self,
        ledger: Ledger,
        stock: Stock,
        room: Room,
        choose: Choose,
        reserved: Callable[[Cidr], Reserved | None],
        now: Callable[[], str],
        fill: Fill | None = None,
    ) -> None:
        self._fill = fill
        self._ledger = ledger
        self._stock = stock
        self._room = room
        self._choose = choose
        self._reserved = reserved
        self._now = now
        self.drafts: dict[Cidr, Draft] = {}
        self.bases: dict[Cidr, Held] = {}
        self.cooldown = 0
        self.shrink = False

    def begin(self) -> None:
        """Drafts of the last round are void."""
        self.drafts, self.bases = {}, {}

    def draft(self, cidr: Cidr) -> Draft:
        """The draft of a block that the ledger holds."""
        if cidr not in self.drafts:
            held = self.bases[cidr] = self._ledger.held[cidr]
            draft = self.drafts[cidr] = Draft(held.block)
            now = self._now()
            draft.thaw(lambda released: seconds_between(released, now) >= self.cooldown)
        return self.drafts[cidr]

    def release(self, request: Request) -> None:
        """Free in drafts what the handle holds, and note what that is."""
        entry = self._stock.lent.get(request.handle)
        spots = self._ledger.spots(request.handle)
        request.bare = entry is not None and not entry.noted and request.handle not in self._ledger.index
        if entry is not None:
            entry.dying = True
            spots = [*spots, *entry.spots]
        request.cidrs = {cidr for cidr, _ in spots}
        request.freed = [cidr.address(ordinal) for cidr, ordinal in dict.fromkeys(spots)]
        self.free(spots)

    def free(self, spots: Iterable[Spot]) -> None:
        resting = cooling(self._now()) if self.cooldown else None
        for cidr, ordinal in spots:
            self.draft(cidr).release([ordinal], resting)

    def place(self, request: Request) -> int:
        """Put every family that the handle lacks into drafts; the family for which nothing was found, or 0.
        Raises IpamError, BlockError."""
        wish = request.wish
        assert wish is not None and request.attribute is not None
        request.placed = {}
        request.ahead = request.lend and not request.exact and request.handle not in self._ledger.index
        if request.ahead and self._place_ahead(request):
            return 0
        request.ahead = False
        have: dict[int, list[Spot]] = {}
        for spot in self._ledger.spots(request.handle):
            have.setdefault(FAMILY[spot[0].width], []).append(spot)
        for family, (keep, *extra) in have.items():
            self.free(extra)  # a rival process of this node gave it a second one
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

    def _place_ahead(self, request: Request) -> bool:
        """All families as if for the stock, to be lent as soon as that is stored: one write serves all who wait."""
        assert request.wish is not None
        for family in request.wish.families:
            width = WIDTH[family]
            for cidr in self._room.candidates(self._choose(request.wish, family), width):
                ordinal = self.draft(cidr).take(self._stock.attribute, self._reserved(cidr))
                if ordinal is not None:
                    request.placed[family] = cidr, ordinal
                    break
            else:
                self.undo(request)
                return False
        return True

    def _place_any(self, request: Request, family: int) -> Spot | None:
        assert request.wish is not None and request.attribute is not None
        pools = self._choose(request.wish, family)
        width = WIDTH[family]
        for cidr in self._room.candidates(pools, width):
            ordinal = self.draft(cidr).take(request.attribute, self._reserved(cidr))
            if ordinal is not None:
                return cidr, ordinal
        spaces = [pool.cidr for pool in pools]
        spot = self._stock.draw(width, lambda cidr, _: any(space.covers(cidr) for space in spaces))
        if spot is not None:
            self.draft(spot[0]).hand_over(spot[1], request.attribute)
        return spot

    def _place_exact(self, request: Request, family: int) -> Spot:
        cidr, ordinal = request.exact[family]
        assert request.attribute is not None
        draft = self.draft(cidr)
        if self._stock.take((cidr, ordinal)):
            draft.hand_over(ordinal, request.attribute)
            return cidr, ordinal
        if draft.holder(ordinal) is not None:
            lent = next((e.handle for e in self._stock.lent.values() if (cidr, ordinal) in e.spots), "")
            owner = f"handle {lent}" if lent else owner_words(draft.block, ordinal)
            raise IpamError(f"address {cidr.address(ordinal)} is already assigned to {owner}")
        draft.take_exact(ordinal, request.attribute)
        return cidr, ordinal

    def undo(self, request: Request) -> None:
        """What was placed for it is free again, or back in the stock."""
        for cidr, ordinal in request.placed.values():
            draft = self.drafts[cidr]
            before = draft.block.holder(ordinal)
            if before is not None and before == self._stock.attribute:
                draft.hand_over(ordinal, before)
                self._stock.put_back([(cidr, ordinal)])
            else:
                draft.undo(ordinal)
        request.placed = {}

    # -- the stock ----------------------------------------------------------------------------------------------------

    def goal(self, width: int) -> int:
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
        found = self._room.candidates(self._choose(wish, FAMILY[width]), width)
        return [c for c in found if c in mine and not self._scarce(c)]

    def _scarce(self, cidr: Cidr) -> bool:
        return self._fill is not None and self._fill.scarce(cidr)

    def _give_back(self, spots: Iterable[Spot]) -> None:
        for cidr, ordinal in spots:
            self._stock.take((cidr, ordinal))
            self.draft(cidr).release([ordinal])

    def restock(self, *, writing: bool) -> list[Spot]:
        """Claim more addresses ahead when few are left or the block is written anyway; return some when they are too
        many."""
        added: list[Spot] = []
        shrink, self.shrink = self.shrink, False
        for width in self._stock.pace:
            self._give_back(spot for spot in self._stock.spots(width) if self._scarce(spot[0]))
            goal, left = self.goal(width), self._stock.left(width)
            if shrink or not goal:
                self._give_back(self._stock.spots(width)[: max(0, left - goal)])
            if left * 2 >= goal and not self.drafts and not writing:
                continue
            for cidr in self._stock_cidrs(width):
                while (
                    left < goal
                    and (o := self.draft(cidr).take(self._stock.attribute, self._reserved(cidr))) is not None
                ):
                    added.append((cidr, o))
                    left += 1
        return added

    def drop_strays(self) -> None:
        """What a former life had claimed ahead and nobody adopted."""
        used = {spot for entry in self._stock.lent.values() for spot in entry.spots}
        for cidr, held in list(self._ledger.held.items()):
            for ordinal in held.block.holdings().get(self._stock.handle, []):
                if held.block.holder(ordinal) != self._stock.attribute and (cidr, ordinal) not in used:
                    self.draft(cidr).release([ordinal])

    def drop_dying(self, lent: list[Lent]) -> None:
        """Free what was lent and given back before it was written."""
        for entry in lent:
            for cidr, ordinal in entry.spots if entry.dying else ():
                holder = self.draft(cidr).holder(ordinal) if cidr in self._ledger.held else None
                if holder is not None and holder.handle in (self._stock.handle, entry.handle):
                    self.free([(cidr, ordinal)])

    def hand_over(self, entry: Lent) -> None:
        """What was lent gets its pod's own handle."""
        for cidr, ordinal in entry.spots:
            if cidr not in self._ledger.held:
                log.error("address lost with its block address=%s handle=%s", cidr.address(ordinal), entry.handle)
                continue
            draft = self.draft(cidr)
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
