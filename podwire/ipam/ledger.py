"""What one process believes of blocks: only what it read or wrote itself.

A lost compare-and-swap, or a write whose outcome is unknown, puts a block in doubt: it is read again before anything
is written to it.
"""

from __future__ import annotations

from collections.abc import Callable

from podwire.ipam import stored
from podwire.ipam.blocks import Block
from podwire.ipam.stored import Held
from podwire.model.address import Cidr
from podwire.model.api import Api

Spot = tuple[Cidr, int]  # a block and an ordinal in it


class Ledger:
    """The blocks of a node, and others in which it holds addresses. `saw` is told of every change of what is known."""

    def __init__(self, api: Api, node: str, saw: Callable[[Cidr, Block | None], None]) -> None:
        self._api = api
        self._node = node
        self._saw = saw
        self.held: dict[Cidr, Held] = {}
        self.index: dict[str, set[Cidr]] = {}  # handle → the blocks in which it holds something
        self.doubtful: set[Cidr] = set()
        self.lost: set[Cidr] = set()  # those of the doubtful that others changed
        self.lenders: list[Cidr] = []

    def keep(self, held: Held, *, wanted: bool = False) -> None:
        """Remember a block as it is stored now, if it is ours, holds something of ours, or is wanted anyway."""
        block, cidr = held.block, held.block.cidr
        self._drop(cidr)
        ours = block.node == self._node or any(a.fact("node") == self._node for a in block.attributes)
        if ours or wanted or cidr in self.lenders:
            self.held[cidr] = held
            for handle in block.holdings():
                self.index.setdefault(handle, set()).add(cidr)
        self._saw(cidr, block)

    def forget(self, cidr: Cidr) -> None:
        """There is no such block any more."""
        self._drop(cidr)
        self._saw(cidr, None)

    def _drop(self, cidr: Cidr) -> None:
        self.doubtful.discard(cidr)
        self.lost.discard(cidr)
        known = self.held.pop(cidr, None)
        for handle in known.block.holdings() if known else ():
            self.index[handle].discard(cidr)
            if not self.index[handle]:
                del self.index[handle]

    async def reread(self, cidr: Cidr, *, wanted: bool = False) -> None:
        """Raises ApiError."""
        held = await stored.read(self._api, cidr)
        if held is None:
            self.forget(cidr)
        else:
            self.keep(held, wanted=wanted)

    def mine(self, width: int = 0) -> list[Cidr]:
        """The blocks affine to the node."""
        return [c for c, held in self.held.items() if held.block.node == self._node and width in (0, c.width)]

    def spots(self, handle: str) -> list[Spot]:
        """What a handle holds, as far as known; in order of address."""
        cidrs = sorted(self.index.get(handle, ()))
        return [(cidr, ordinal) for cidr in cidrs for ordinal in self.held[cidr].block.holdings()[handle]]

    def counts(self, handle: str) -> dict[Cidr, int]:
        return {cidr: len(self.held[cidr].block.holdings()[handle]) for cidr in self.index.get(handle, ())}
