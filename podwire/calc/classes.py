"""Peer classes: a number for each set of marks that some address has.

*Marks* are the things by which active rules tell peers apart (a selector matches, a prefix holds, a named port is
this number). Every address counts once for the class of its marks; a class that nothing counts for is retired, and its
number rests until the change after.
"""

from __future__ import annotations

from collections.abc import Iterable

from podwire.calc.numbers import Numbers
from podwire.calc.prefixes import NONE, Marks
from podwire.calc.verdicts import UNKNOWN

LARGEST = 65_535


class Classes:
    def __init__(self) -> None:
        self._numbers: dict[Marks, int] = {NONE: UNKNOWN}
        self._counts: dict[int, int] = {}
        self._with: dict[int, set[int]] = {}
        self._pool = Numbers("classes of peers that the rules of this node tell apart", LARGEST)
        self.marks: dict[int, Marks] = {UNKNOWN: NONE}
        self.fresh: set[int] = set()
        """Classes that are new, or whose marks are others than before (`rename`), since the last `settle`."""
        self._gone: set[int] = set()

    def number(self, marks: Marks) -> int:
        """The class of an address with these marks; a new one if need be. Raises Exhausted."""
        found = self._numbers.get(marks)
        if found is None:
            found = self._numbers[marks] = self._pool.take()
            self._counts[found] = 0
            self._name(found, marks)
        return found

    def known(self, marks: Marks) -> bool:
        return marks in self._numbers

    def count(self, number: int) -> int:
        """How many addresses and ranges are of this class."""
        return self._counts.get(number, 0)

    def move(self, before: int, after: int) -> None:
        """One address or range is no longer of class `before`, but of class `after`."""
        if after != UNKNOWN:
            self._counts[after] += 1
            self._gone.discard(after)
        if before != UNKNOWN:
            self._counts[before] -= 1
            if not self._counts[before]:
                self._gone.add(before)

    def rename(self, number: int, marks: Marks) -> None:
        """The class keeps its number and its addresses; all of them have these marks now, which no class had."""
        self._unname(number)
        self._numbers[marks] = number
        self._name(number, marks)

    def of(self, mark: int) -> Iterable[int]:
        """The classes that have a mark."""
        return self._with.get(mark, ())

    def settle(self) -> tuple[frozenset[int], frozenset[int]]:
        """The classes that are new (or renamed) and those that are retired, since the last time."""
        for number in self._gone:
            self._unname(number)
            del self._counts[number]
            self._pool.free(number)
        fresh, gone = frozenset(self.fresh - self._gone), frozenset(self._gone)
        self.fresh, self._gone = set(), set()
        return fresh, gone

    def rest(self) -> None:
        """A change is complete: the numbers that the one before retired may be used again."""
        self._pool.settle()

    def _name(self, number: int, marks: Marks) -> None:
        self.marks[number] = marks
        for mark in marks:
            self._with.setdefault(mark, set()).add(number)
        self.fresh.add(number)

    def _unname(self, number: int) -> None:
        marks = self.marks.pop(number)
        del self._numbers[marks]
        for mark in marks:
            self._with[mark].discard(number)
            if not self._with[mark]:
                del self._with[mark]
