"""Rows of an nftables table by owner: what an attachment put there can be taken away by its name alone.

The table's structure is nft's text, written once; after that only elements change, by netlink, with no process start.
A row that two owners have (a late DEL of one, say) goes with the last of them.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Collection, Iterable, Mapping

from podwire.kernel.delta import Delta
from podwire.kernel.netlink import KernelError
from podwire.kernel.nfelements import Element, ElementSocket, SetName
from podwire.kernel.reconcile import counts, reconcile
from podwire.kernel.tables import NftBody, NftProgram, NftTables
from podwire.render.elements import Row

Body = Callable[[Iterable[Row]], str]


class OwnedElements:
    """One table. `body` renders it with elements filled in; `sets` are those whose elements change. Threads may call
    at the same time."""

    def __init__(
        self, table: str, sets: Iterable[str], body: Body, program: NftProgram, sockets: Callable[[], ElementSocket]
    ) -> None:
        self._key = table
        family, name = table.split()
        self._sets = {each: SetName(family, name, each) for each in sets}
        self._body = body
        self._table = NftTables(program, frozenset({table}))
        self._sockets = sockets
        self._owned: dict[str, frozenset[Row]] = {}
        self._guard = threading.Lock()

    def restore(self, wanted: Mapping[str, frozenset[Row]]) -> None:
        """Make the table hold exactly this; silent when it does. Raises KernelError."""
        with self._guard:
            self._owned = dict(wanted)
            self._enforce()

    def repair(self) -> None:
        """The same with what was put since: somebody may have changed the table. Raises KernelError."""
        with self._guard:
            self._enforce()

    def _enforce(self) -> None:
        rows = self._rows()
        delta: Delta[str, NftBody] = Delta()
        # rows of the table are equal when the structure is: elements are compared one by one
        delta.want({self._key: NftBody(NftBody.of(self._body(())).digest, self._body(rows))})
        for error in reconcile(delta, self._table):
            raise error
        self._align(rows)

    def put(self, owner: str, rows: frozenset[Row]) -> None:
        """The owner's rows are now these. Raises KernelError; then nothing has changed."""
        with self._guard:
            former = self._owned.get(owner, frozenset())
            before = self._rows()
            self._owned[owner] = rows
            after = self._rows()
            try:
                self._change(before - after, rows)  # all of them: what stands is fine, what somebody flushed comes back
            except KernelError as error:
                if error.errno not in (errno.ENOENT, errno.EBUSY, errno.EEXIST):
                    self._owned[owner] = former
                    raise
                self._mend(owner, former, after)
            if not rows:
                del self._owned[owner]

    def drop(self, owner: str) -> bool:
        """Whether there was anything. Raises KernelError; then nothing has changed."""
        if owner not in self._owned:
            return False
        self.put(owner, frozenset())
        return True

    def held(self) -> dict[str, list[str]]:
        """What each owner has there, in words."""
        with self._guard:
            return {owner: sorted(f"{r.set} {r.text}" for r in rows) for owner, rows in self._owned.items()}

    def faults(self, rows: Iterable[Row]) -> list[str]:
        """Which of the rows the kernel lacks, in words. Raises KernelError."""
        wanted = list(rows)
        held = {name: self._sockets().elements(self._sets[name]) for name in {row.set for row in wanted}}
        return [f"{self._key} {r.set} lacks {r.text}" for r in wanted if _element(r) not in held[r.set]]

    def _mend(self, owner: str, former: frozenset[Row], rows: frozenset[Row]) -> None:
        """Somebody else has changed the table: make all of it right, or leave all as it was."""
        try:
            self._align(rows)
        except KernelError:
            self._owned[owner] = former
            raise

    def _align(self, rows: frozenset[Row]) -> None:
        wire = self._sockets()
        wanted = {name: {_element(row) for row in rows if row.set == name} for name in self._sets}
        actual = {name: wire.elements(self._sets[name]) for name in self._sets}
        drops = {self._sets[name]: actual[name] - wanted[name] for name in self._sets}
        puts = {self._sets[name]: wanted[name] - actual[name] for name in self._sets}
        wire.update(drops=drops, puts=puts)
        tell_repair(self._key, drops, puts)

    def _change(self, drops: Iterable[Row], puts: Iterable[Row]) -> None:
        self._sockets().update(drops=self._by_set(drops), puts=self._by_set(puts))

    def _by_set(self, rows: Iterable[Row]) -> dict[SetName, list[Element]]:
        found: dict[SetName, list[Element]] = {}
        for row in rows:
            found.setdefault(self._sets[row.set], []).append(_element(row))
        return found

    def _rows(self) -> frozenset[Row]:
        return frozenset().union(*self._owned.values())


def tell_repair(table: str, *changes: Mapping[SetName, Collection[Element]]) -> None:
    """Count elements that somebody else had changed."""
    if number := sum(len(elements) for change in changes for elements in change.values()):
        counts[table, "repair"] += number


def _element(row: Row) -> Element:
    return Element(row.key, row.data)
