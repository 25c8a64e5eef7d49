"""The event loop of daemons: uvloop where it is installed (TLS and sockets in C), else asyncio's own."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Coroutine
from typing import Any

_YOUNG = 20_000


def run(main: Coroutine[Any, Any, None]) -> None:
    """Like `asyncio.run`, and the collector of reference cycles waits for more objects than it does by default: caches
    and stores hold many that live long, and looking through them was a third of the cost of storing a pod."""
    gc.set_threshold(_YOUNG, 20, 50)
    try:
        import uvloop
    except ImportError:
        asyncio.run(main)
    else:
        uvloop.run(main)
