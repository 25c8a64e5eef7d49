"""What of policy has which name in the kernel: peer classes, slots of verdict tables, Log rules.

Calculation numbers anew at each start; the kernel keeps what it has. So classes and tables are found again by what they
stand for, and a restart with nothing new changes nothing.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Iterable, Iterator

from podwire.calc.verdicts import UNKNOWN, Decision, Match, PolicyState, Range, RuleRef, Table
from podwire.model.policy import Direction
from podwire.render import nft_policy, policyrows
from podwire.render.nft_policy import Slot, code
from podwire.render.policyrows import Cell, Place, Value

_LAST = 65_535


class Numbers:
    """The kernel's numbers of calculation's classes."""

    def __init__(self) -> None:
        self._of: dict[int, int] = {UNKNOWN: UNKNOWN}
        self._used: set[int] = {UNKNOWN}
        self._next = 1

    def __call__(self, peer: int) -> int:
        """A new class gets a number that no other has. Raises OverflowError when all are taken."""
        found = self._of.get(peer)
        if found is None:
            found = self._of[peer] = self._fresh()
            self._used.add(found)
        return found

    def _fresh(self) -> int:
        for _ in range(_LAST):
            found, self._next = self._next, self._next % _LAST + 1
            if found not in self._used:
                return found
        raise OverflowError("more than 65,535 peer classes")

    def retire(self, peers: Iterable[int]) -> set[int]:
        """These classes are no more. Their numbers, which nobody gets before they are free."""
        return {self._of.pop(peer) for peer in peers if peer != UNKNOWN and peer in self._of}

    def hold(self, numbers: Iterable[int]) -> None:
        """Nobody gets these, either."""
        self._used.update(numbers)

    def free(self, numbers: Iterable[int]) -> None:
        self._used.difference_update(numbers)
        self._used.add(UNKNOWN)

    def adopt(self, seen: Iterable[tuple[int, int]]) -> None:
        """`seen`: (class, number) of each address that the kernel knows. The number most of a class's addresses have
        stays that of the class."""
        for (peer, held), _ in Counter(seen).most_common():
            if peer not in self._of and held not in self._used:
                self._of[peer] = held
                self._used.add(held)


class Slots:
    """Which slot each table has; `spare` are made, empty, and nobody's."""

    def __init__(self) -> None:
        self.by_table: dict[int, Slot] = {}
        self.spare: dict[tuple[Direction, str], list[Slot]] = {}
        self._last = 0

    @staticmethod
    def shape(table: Table) -> str:
        letters = "".join("c" if stage.classed else "a" for stage in table.stages)
        return f"{'s' if table.by_source_port else ''}{letters}"

    def fits(self, number_of: int, table: Table) -> bool:
        slot = self.by_table.get(number_of)
        return slot is not None and slot.shape == self.shape(table) and slot.direction is table.direction

    def take(self, number_of: int, table: Table) -> tuple[Slot, bool]:
        """A slot for the table; whether it has yet to be made."""
        spare = self.spare.setdefault((table.direction, self.shape(table)), [])
        made = bool(spare)
        slot = self.by_table[number_of] = spare.pop() if made else self.fresh(table.direction, self.shape(table))
        return slot, not made

    def fresh(self, direction: Direction, shape: str) -> Slot:
        self._last += 1
        return Slot(direction, self._last, shape)

    def found(self, slot: Slot) -> None:
        """One that the kernel has."""
        self._last = max(self._last, slot.number)

    def keep(self, slot: Slot) -> None:
        """An empty one that nobody has."""
        self.spare.setdefault((slot.direction, slot.shape), []).append(slot)


class Logs:
    """Numbers of what Log rules say: 1 to 65,535, from the rules' own words, so that they are the same again."""

    def __init__(self) -> None:
        self._of: dict[tuple[RuleRef, ...], int] = {}
        self.rules: dict[int, tuple[RuleRef, ...]] = {}

    def __call__(self, logs: tuple[RuleRef, ...]) -> int:
        if not logs:
            return 0
        if logs not in self._of:
            found = zlib.crc32("\n".join(map(str, logs)).encode()) % _LAST + 1
            while found in self.rules:
                found = found % _LAST + 1
            self._of[logs] = found
            self.rules[found] = logs
        return self._of[logs]

    def code(self, decision: Decision) -> bytes:
        """A decision as the kernel has it."""
        if decision.onward is not None:
            action = nft_policy.ONWARD + decision.onward
        else:
            action = nft_policy.ALLOW if decision.allow else nft_policy.DENY
        return policyrows.number(code(action, self(decision.logs)))


class Names:
    """All three, and the elements that follow from them."""

    def __init__(self) -> None:
        self.numbers = Numbers()
        self.slots = Slots()
        self.logs = Logs()

    def address(self, state: PolicyState, address: str) -> tuple[str, Place, Value | None]:
        target, place = policyrows.address_place(address)
        peer = state.addresses.get(address)
        return target, place, None if peer is None else policyrows.number(self.numbers(peer))

    def range(self, over: Range, peer: int) -> Iterator[Cell]:
        return policyrows.range_cells(over, self.numbers(peer))

    def row(self, n: int, stage: int, match: Match, decision: Decision | None) -> Iterator[Cell]:
        """Value b"" for a row that is none."""
        value = self.logs.code(decision) if decision is not None else b""
        return policyrows.row_cells(self.slots.by_table[n], stage, match, self.numbers(match.number), value)

    def table(self, n: int, table: Table) -> Iterator[Cell]:
        slot = self.slots.by_table[n]
        for at, stage in enumerate(table.stages):
            for match, decision in stage.rows.items():
                yield from self.row(n, at, match, decision)
        yield from policyrows.end_cells(slot, self.logs.code(table.default))
        for first, last, other in table.by_source_port:
            yield from policyrows.source_cells(slot, first, last, self.slots.by_table[other])

    def verdict(self, n: int | None) -> str:
        """What leads an interface to its table."""
        return "return" if n is None else f"goto {self.slots.by_table[n].name}"

    def news(self, tables: Iterable[Decision]) -> set[int]:
        """Numbers of the Log rules that these decisions have."""
        return {self.logs(decision.logs) for decision in tables if decision.logs}


def decisions(table: Table) -> Iterator[Decision]:
    """Every decision that a table has."""
    yield table.default
    for stage in table.stages:
        yield from stage.rows.values()
