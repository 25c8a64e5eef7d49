"""The loop body of every kernel table: read when in doubt, write what differs, remove what nobody wants."""

from __future__ import annotations

from collections import Counter
from typing import Protocol, TypeVar

from podwire.kernel.delta import Delta
from podwire.kernel.netlink import KernelError

K = TypeVar("K")
R = TypeVar("R")

counts: Counter[tuple[str, str]] = Counter()
"""What this process did with its tables, by (table, "read" | "write" | "remove" | "repair" | "error"); for metrics."""


class Table(Protocol[K, R]):
    """A kernel table. `read` returns only rows that this node owns; `write` creates or overwrites; `name` is for
    metrics and dumps."""

    @property
    def name(self) -> str: ...
    def read(self) -> dict[K, R]: ...
    def write(self, key: K, row: R) -> None: ...
    def remove(self, key: K, row: R) -> None: ...


def reconcile(delta: Delta[K, R], table: Table[K, R]) -> list[KernelError]:
    """Make `table` equal the desired rows; return what failed. A failed row stays pending.

    Writes come before removals (make before break). One refusal stops nothing else; after a refusal the table is
    in doubt and will be read before the next attempt.
    """
    name, doubtful = table.name, delta.actual is None
    try:
        if delta.actual is None:
            counts[name, "read"] += 1
            delta.actual = table.read()
    except KernelError as error:
        counts[name, "error"] += 1
        return [error]
    failed: list[KernelError] = []
    done = Counter[str]()
    for key, row in delta.writes():
        try:
            table.write(key, row)
            delta.actual[key] = row
            done["write"] += 1
        except KernelError as error:
            failed.append(error)
    for key, row in delta.removes():
        try:
            table.remove(key, row)
            del delta.actual[key]
            done["remove"] += 1
        except KernelError as error:
            failed.append(error)
    for kind, number in done.items():
        counts[name, kind] += number
        if doubtful:
            counts[name, "repair"] += number
    if failed:
        counts[name, "error"] += len(failed)
        delta.doubt()
    return failed
