"""Desired against actual: what must be written and what removed so that a kernel table holds the desired rows."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
R = TypeVar("R")


class Delta(Generic[K, R]):
    """One table's desired rows, and the actual ones as far as they are known (`actual` None = in doubt, read first)."""

    def __init__(self) -> None:
        self.desired: dict[K, R] = {}
        self.actual: dict[K, R] | None = None

    def want(self, rows: Mapping[K, R]) -> None:
        """Replace the whole desired state."""
        self.desired = dict(rows)

    def doubt(self) -> None:
        """The kernel may hold something else than we believe: read it back before the next change."""
        self.actual = None

    def writes(self) -> list[tuple[K, R]]:
        """Rows that are missing or different."""
        actual = self.actual or {}
        return [(key, row) for key, row in self.desired.items() if actual.get(key) != row]

    def removes(self) -> list[tuple[K, R]]:
        """Rows nobody wants."""
        return [(key, row) for key, row in (self.actual or {}).items() if key not in self.desired]
