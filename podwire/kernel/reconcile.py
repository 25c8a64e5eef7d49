"""The loop body of every kernel table: read when in doubt, write what differs, remove what nobody wants."""

from __future__ import annotations

from typing import Protocol, TypeVar

from podwire.kernel.delta import Delta
from podwire.kernel.netlink import KernelError

K = TypeVar("K")
R = TypeVar("R")


class Table(Protocol[K, R]):
    """A kernel table. `read` returns only rows that this node owns; `write` creates or overwrites."""

    def read(self) -> dict[K, R]: ...
    def write(self, key: K, row: R) -> None: ...
    def remove(self, key: K, row: R) -> None: ...


def reconcile(delta: Delta[K, R], table: Table[K, R]) -> list[KernelError]:
    """Make `table` equal the desired rows; return what failed. A failed row stays pending.

    Writes come before removals (make before break). One refusal stops nothing else; after a refusal the table is
    in doubt and will be read before the next attempt.
    """
    try:
        if delta.actual is None:
            delta.actual = table.read()
    except KernelError as error:
        return [error]
    failed: list[KernelError] = []
    for key, row in delta.writes():
        try:
            table.write(key, row)
            delta.actual[key] = row
        except KernelError as error:
            failed.append(error)
    for key, row in delta.removes():
        try:
            table.remove(key, row)
            del delta.actual[key]
        except KernelError as error:
            failed.append(error)
    if failed:
        delta.doubt()
    return failed
