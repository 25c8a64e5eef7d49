"""A control loop: changes of objects name keys, keys wait in a queue, workers reconcile them.

A key is worked on by one worker at a time; news about it meanwhile makes it come once more. What fails comes back
after an exponential, jittered pause; news cuts the pause short. Nothing polls.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from podwire.controllers.cache import World
from podwire.controllers.objects import Object
from podwire.kube.client import ApiError
from podwire.model.gvr import GVR

log = logging.getLogger(__name__)

FIRST_PAUSE = 0.005  # seconds
LONGEST_PAUSE = 60.0

Trigger = Callable[[Object | None, Object | None], Iterable[Hashable]]
Reconcile = Callable[[Any], Awaitable[float | None]]


@dataclass(frozen=True)
class Controller:
    """`triggers` says which keys a change (old, new) of a kind concerns; `reconcile` brings one key in order, and may
    return after how many seconds it wants to look again. Work begins when all `needs` and trigger kinds are in sync;
    `optional` kinds trigger without being waited for."""

    name: str
    triggers: Mapping[GVR, Trigger]
    reconcile: Reconcile
    needs: tuple[GVR, ...] = ()
    optional: tuple[GVR, ...] = ()
    workers: int = 8
    start: tuple[Hashable, ...] = ()


def backoff(failures: int) -> float:
    """Seconds to wait after so many failures in a row, before jitter."""
    return min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(failures - 1, 30))


@dataclass
class Queue:
    """Keys that wait, each once, in the order in which they came."""

    _ready: deque[Hashable] = field(default_factory=deque)
    _queued: set[Hashable] = field(default_factory=set)
    _working: set[Hashable] = field(default_factory=set)
    _again: set[Hashable] = field(default_factory=set)
    _timers: dict[Hashable, asyncio.TimerHandle] = field(default_factory=dict)
    _failures: dict[Hashable, int] = field(default_factory=dict)
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    def __len__(self) -> int:
        return len(self._ready)

    @property
    def idle(self) -> bool:
        """Nothing waits and nothing is being worked on (timers may run)."""
        return not self._ready and not self._working

    def add(self, key: Hashable) -> None:
        """Have `key` worked on as soon as possible."""
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer.cancel()
        if key in self._working:
            self._again.add(key)
        elif key not in self._queued:
            self._queued.add(key)
            self._ready.append(key)
            self._news.set()

    def add_after(self, key: Hashable, seconds: float) -> None:
        """Have `key` worked on in `seconds`, or before if there is news. An earlier appointment stays."""
        loop = asyncio.get_running_loop()
        timer = self._timers.get(key)
        if timer is not None:
            if timer.when() <= loop.time() + seconds:
                return
            timer.cancel()
        self._timers[key] = loop.call_later(max(seconds, 0.0), self.add, key)

    async def take(self) -> Hashable:
        """The next key; `done` must follow."""
        while not self._ready:
            self._news.clear()
            await self._news.wait()
        key = self._ready.popleft()
        self._queued.discard(key)
        self._working.add(key)
        return key

    def done(self, key: Hashable, *, failed: bool = False, after: float | None = None) -> None:
        """The work on `key` is over; `after` seconds it wants to be looked at again."""
        self._working.discard(key)
        if failed:
            self._failures[key] = self._failures.get(key, 0) + 1
            pause = backoff(self._failures[key]) * random.uniform(0.5, 1.0)
            after = pause if after is None else min(after, pause)
        else:
            self._failures.pop(key, None)
        if key in self._again:
            self._again.discard(key)
            # Work that fails all the time must not spin because its own writes are news.
            if not failed or self._failures[key] <= 3:
                self.add(key)
                return
        if after is not None:
            self.add_after(key, after)

    def failures(self, key: Hashable) -> int:
        return self._failures.get(key, 0)

    def close(self) -> None:
        """Forget all appointments."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()


def attach(world: World, controller: Controller) -> Queue:
    """A queue into which the changes of the controller's kinds flow from now on."""
    queue = Queue()
    for gvr, trigger in controller.triggers.items():

        def heard(old: Object | None, new: Object | None, trigger: Trigger = trigger) -> None:
            for key in trigger(old, new):
                queue.add(key)

        world.store(gvr).subscribe(heard)
    for gvr in controller.needs:
        world.store(gvr)
    for key in controller.start:
        queue.add(key)
    return queue


async def operate(world: World, controller: Controller, queue: Queue) -> None:
    """Work, for ever, once everything needed is in sync."""
    for gvr in {*controller.needs, *controller.triggers} - set(controller.optional):
        await world.store(gvr).synced.wait()
    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(controller.workers):
                group.create_task(_work(controller, queue))
    finally:
        queue.close()


async def _work(controller: Controller, queue: Queue) -> None:
    while True:
        key = await queue.take()
        try:
            after = await controller.reconcile(key)
        except asyncio.CancelledError:
            raise
        except ApiError as error:
            # A lost compare-and-swap is everyday: somebody else was faster, and the news is under way.
            level = logging.DEBUG if error.conflict or queue.failures(key) < 2 else logging.WARNING
            log.log(level, "controllers: %s: %s: %s (%s)", controller.name, key, error, error.reason)
            queue.done(key, failed=True)
        except Exception:
            log.exception("controllers: %s: %s failed", controller.name, key)
            queue.done(key, failed=True)
        else:
            queue.done(key, after=after)
