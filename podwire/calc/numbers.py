"""Small numbers for things in the kernel: the lowest free one, and a freed one rests until the change after."""

from __future__ import annotations

import heapq


class Exhausted(Exception):
    """More things than numbers."""


class Numbers:
    def __init__(self, what: str, largest: int) -> None:
        self._what, self._largest = what, largest
        self._next = 1
        self._free: list[int] = []
        self._resting: list[int] = []
        self._freed: list[int] = []

    def take(self) -> int:
        """From 1. Raises Exhausted."""
        if self._free:
            return heapq.heappop(self._free)
        if self._next > self._largest:
            raise Exhausted(f"more than {self._largest} {self._what}")
        self._next += 1
        return self._next - 1

    def free(self, number: int) -> None:
        self._freed.append(number)

    def settle(self) -> None:
        """A change is complete: what the change before freed may be used again."""
        for number in self._resting:
            heapq.heappush(self._free, number)
        self._resting, self._freed = self._freed, []
