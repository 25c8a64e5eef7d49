"""Whether the node's network is ready, and what of it is left over: STATUS and GC, as runtimes call them.

A configuration must be there, and since CNI 1.1 its plugins must say that they would serve an ADD. A plugin that says
no while the node is ready has a moment to change its mind: an agent that is being replaced is no reason to leave.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from podwire.kubelet.cniconf import CniError
from podwire.kubelet.context import Context

log = logging.getLogger(__name__)

LOOK_SECONDS = 5.0
"""Between two STATUS calls, as the kubelet asks its runtime."""
AGAIN_SECONDS = 0.5
GRACE_SECONDS = 5.0
COLLECT_SECONDS = 300.0


class Network:
    """Keeps `context.network_ready` and `network_fault`; `changed` is called when they changed."""

    def __init__(
        self,
        context: Context,
        changed: Callable[[], None],
        grace: float = GRACE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._context = context
        self._changed = changed
        self._grace = grace
        self._clock = clock
        self._news = asyncio.Event()
        self._silent_since: float | None = None
        self._collected: float | None = None

    def look(self) -> None:
        """The configuration may have changed: see at once."""
        self._news.set()

    async def run(self) -> None:
        """For ever."""
        while True:
            self._news.clear()
            pause = await self.step()
            try:
                await asyncio.wait_for(self._news.wait(), pause)
            except TimeoutError:
                continue

    async def step(self) -> float:
        """One look; when to look again, in seconds."""
        fault = await self._fault()
        if not fault:
            self._silent_since = None
            self._set("")
            await self._collect()
            return LOOK_SECONDS
        if self._context.network_ready.is_set() and self._configured():
            self._silent_since = self._silent_since or self._clock()
            if self._clock() - self._silent_since < self._grace:
                return AGAIN_SECONDS
        self._set(fault)
        return AGAIN_SECONDS if self._configured() else LOOK_SECONDS

    def _configured(self) -> bool:
        try:
            self._context.cni.network()
        except CniError:
            return False
        return True

    async def _fault(self) -> str:
        try:
            await self._context.cni.status()
        except CniError as error:
            return str(error)
        return ""

    def _set(self, fault: str) -> None:
        context = self._context
        if fault == context.network_fault and bool(fault) != context.network_ready.is_set():
            return
        context.network_fault = fault
        if fault:
            log.warning("kubelet: network not ready: %s", fault)
            context.network_ready.clear()
        else:
            context.network_ready.set()
        self._changed()

    async def _collect(self) -> None:
        """What no sandbox of this node owns is given back, soon after the start and now and then."""
        if self._collected is not None and self._clock() - self._collected < COLLECT_SECONDS:
            return
        self._collected = self._clock()
        self._context.background(self._collect_now())

    async def _collect_now(self) -> None:
        try:
            await self._context.cni.collect(self._context.sandboxes.ids)
        except (CniError, OSError) as error:
            log.warning("kubelet: GC: %s", error)
