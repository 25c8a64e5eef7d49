"""How full each pool is, from a watch of blocks; so that nobody keeps back what others need.

Addresses claimed ahead count as available: else keeping them would make a pool scarce, giving them back would end that,
and so on without end. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from podwire.ipam import ahead
from podwire.model.address import AddressError, Cidr
from podwire.model.block import IPAMBlock
from podwire.model.ippool import IPPool

FEW = 8


@dataclass(slots=True)
class _Sum:
    size: int = 0
    free: int = 0
    blocks: int = 0


class Fill:
    """`see` is told of every block; `listeners` are called when a pool becomes scarce. `pools` are those known now."""

    def __init__(self, pools: Callable[[], Iterable[IPPool]]) -> None:
        self._pools = pools
        self._blocks: dict[str, tuple[Cidr, int]] = {}  # name → CIDR, addresses that can still be had
        self._cidrs: tuple[str, ...] = ()
        self._sums: dict[Cidr, _Sum] = {}
        self._scarce: set[Cidr] = set()
        self.listeners: list[Callable[[], None]] = []

    def see(self, name: str, block: IPAMBlock | None) -> None:
        """A block as it is stored now; None: there is none."""
        self._current()
        old = self._blocks.pop(name, None)
        if old is not None:
            self._add(old, -1)
        if block is not None and not block.spec.deleted:
            try:
                new = Cidr.parse(block.spec.cidr), _available(block)
            except AddressError:
                return
            self._blocks[name] = new
            self._add(new, 1)
        scarce = {cidr for cidr in self._current() if self._is_scarce(cidr)}
        news, self._scarce = scarce - self._scarce, scarce
        if news:
            for listener in self.listeners:
                listener()

    def _add(self, block: tuple[Cidr, int], sign: int) -> None:
        for pool, total in self._current().items():
            if pool.covers(block[0]):
                total.size += sign * block[0].size
                total.free += sign * block[1]
                total.blocks += sign

    def _current(self) -> dict[Cidr, _Sum]:
        pools = [pool for pool in self._pools() if pool.sound]
        cidrs = tuple(pool.spec.cidr for pool in pools)
        if cidrs != self._cidrs:
            self._cidrs, self._sums = cidrs, {pool.cidr: _Sum() for pool in pools}
            for block in list(self._blocks.values()):
                self._add(block, 1)
        return self._sums

    def _is_scarce(self, pool: Cidr) -> bool:
        total = self._sums[pool]
        return pool.size - total.size + total.free <= max(FEW, 2 * total.blocks)

    def scarce(self, cidr: Cidr) -> bool:
        """The pool of that block has hardly an address left, wherever."""
        return any(pool.covers(cidr) for pool in self._scarce)

    def spacious(self, pool: Cidr) -> bool:
        """At least a quarter of the pool is in nobody's block."""
        total = self._current().get(pool)
        return total is not None and (pool.size - total.size) * 4 >= pool.size

    def totals(self) -> dict[Cidr, tuple[int, int, int]]:
        """Of each pool: the addresses in blocks, how many of these can still be had, and the blocks."""
        return {pool: (total.size, total.free, total.blocks) for pool, total in self._current().items()}


def _available(block: IPAMBlock) -> int:
    kept = {at for at, a in enumerate(block.spec.attributes) if (a.secondary or {}).get("type") == ahead.TYPE}
    return sum(index is None or index in kept for index in block.spec.allocations)
