"""What only the event loop's thread may do, done by another thread while the loop waits for something to happen.

To hand a call over to the loop and back wakes two threads, which then fight for the interpreter: several times what an
address from the stock takes. So the loop holds a lock whenever its callbacks run, and leaves it when it waits; who has
it meanwhile may call what the loop's own callbacks call, as long as nothing there waits.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

PATIENCE_SECONDS = 0.001


class Between:
    """Made on the loop's thread; `close` there before the loop ends."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop: Any = loop
        self._lock = threading.Lock()
        self._selector: Any = getattr(loop, "_selector", None)
        self._select: Callable[[float | None], Any] | None = None
        self._due: Any = None
        # another kind of loop, or one that watches who calls it: then nothing is done in between
        if self._selector is not None and not loop.get_debug():
            self._lock.acquire()
            self._select = self._selector.select
            self._selector.select = self._wait

    def _wait(self, timeout: float | None = None) -> Any:
        assert self._select is not None
        if timeout is not None and timeout <= 0:
            return self._select(timeout)
        self._lock.release()
        try:
            return self._select(timeout)
        finally:
            self._lock.acquire()

    def close(self) -> None:
        """From now on nobody enters."""
        if self._select is not None:
            self._selector.select = self._select
            self._select = None

    def enter(self) -> bool:
        """Whether the caller has the loop's place now; then it must `leave` soon. False while callbacks run."""
        if self._select is None or not self._lock.acquire(timeout=PATIENCE_SECONDS):
            return False
        asyncio._set_running_loop(self._loop)
        self._due = self._next()
        return True

    def leave(self) -> None:
        """What was scheduled meanwhile the loop does not know of before it is woken."""
        news = self._due is not self._next()
        asyncio._set_running_loop(None)
        self._lock.release()
        if news:
            self._loop.call_soon_threadsafe(_nothing)

    def _next(self) -> Any:
        ready, timers = self._loop._ready, self._loop._scheduled
        return ready[-1] if ready else timers[0] if timers else None


def _nothing() -> None:
    pass
