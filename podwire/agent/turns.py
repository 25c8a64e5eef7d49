"""How many calls may compute and talk to the kernel at a time.

More than the processors can serve would only take the interpreter and the kernel's locks from one another at every
system call: half as many calls a second, and each of them slower. Who waits for something else (an address from the
API, another call for the same attachment) has no turn meanwhile, so nobody waits behind them. Nor does who reads the
calls: a thread that waits steps aside first (see `cnisocket`).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import SimpleQueue

AT_ONCE = max(2, min(4, (os.cpu_count() or 1) + 1))


class Turns:
    """Threads take one with `taken`, and give it back for the time of `waiting`. `aside` is called before they wait."""

    def __init__(self, count: int = AT_ONCE) -> None:
        self.aside: Callable[[], None] = _nowhere
        self._free: SimpleQueue[None] = SimpleQueue()
        for _ in range(count):
            self._free.put(None)
        self._mine = threading.local()

    @contextmanager
    def taken(self) -> Iterator[None]:
        """The body computes. Not to be nested."""
        self._free.get()
        self._mine.held = True
        try:
            yield
        finally:
            self._mine.held = False
            self._free.put(None)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """The body waits for others."""
        self.aside()
        if not getattr(self._mine, "held", False):
            yield
            return
        self._mine.held = False
        self._free.put(None)
        try:
            yield
        finally:
            self._free.get()
            self._mine.held = True


def _nowhere() -> None:
    pass
