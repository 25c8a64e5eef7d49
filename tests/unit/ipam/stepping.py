"""A node's allocator as a program that goes one API call at a time, and an API whose states are values.

What a process does next follows from the answers it got so far and from nothing else: its time is its own, and stands
still while it waits for the API. So a process is known by its answers, and can be run again from them.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import Callable, Sequence
from contextvars import Context
from dataclasses import dataclass, field
from typing import Any

import msgspec

from podwire.ipam.claims import Allocator, NoAddresses
from podwire.ipam.crds import default_pool
from podwire.ipam.wish import Wish
from podwire.kube.fake import FakeApi
from podwire.model.api import ApiError, Object
from podwire.model.gvr import GVR
from podwire.model.ippool import IPAMConfig, IPPool

Call = tuple[str, GVR, bytes]  # verb, kind, arguments as JSON
Answer = tuple[int, bytes]  # 0 and the JSON of what came back, else 1 and that of an ApiError
Op = tuple[str, str]  # ("assign" | "release" | "tend" | "settle", handle); "later assign": at any time;
# ("pin", "handle address"): that very address if the first try succeeds, else any

PAUSE = GVR("", "v1", "pauses", "Pause")
UNKNOWN: Answer = (1, msgspec.json.encode([0, "ConnectionError", "the answer was lost", {}]))


class StepLoop(asyncio.AbstractEventLoop):
    """Runs what is ready, in order; timers only when asked to."""

    def __init__(self) -> None:
        self._ready: deque[asyncio.Handle] = deque()
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._count = 0
        self._now = 0.0
        self.problems: list[Any] = []

    def time(self) -> float:
        return self._now

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def call_soon(self, callback: Any, *args: Any, context: Context | None = None) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def call_later(
        self, delay: float, callback: Any, *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(self._now + delay, callback, args, self, context)
        self._count += 1
        heapq.heappush(self._timers, (handle.when(), self._count, handle))
        return handle

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """It is passed over when its time comes."""

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(self, coro: Any, *, name: str | None = None, context: Any = None, **_: Any) -> asyncio.Task[Any]:
        return asyncio.Task(coro, loop=self, name=name)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.problems.append(context)

    def settle(self) -> None:
        """Until nothing is ready."""
        asyncio._set_running_loop(self)
        try:
            while self._ready:
                handle = self._ready.popleft()
                if not handle.cancelled():
                    handle._run()
        finally:
            asyncio._set_running_loop(None)

    def next_timer(self) -> bool:
        """Let time pass until the next one; whether there was one."""
        while self._timers:
            when, _, handle = heapq.heappop(self._timers)
            if not handle.cancelled():
                self._now = max(self._now, when)
                self._ready.append(handle)
                return True
        return False


@dataclass(frozen=True)
class Plan:
    """What one node's pods do: `steps` follow each other, what is within a step runs together. `stock`: addresses are
    claimed ahead."""

    node: str
    steps: tuple[tuple[Op, ...], ...]
    stock: bool = False


@dataclass
class Process:
    """One life of a node's agent. `told` is what pods use (handle → address), `done` how many steps are behind it."""

    plan: Plan
    pool: IPPool
    number: int = 0
    told: dict[str, str] = field(default_factory=dict)
    done: int = 0
    pending: dict[int, Call] = field(default_factory=dict)
    finished: bool = False

    def __post_init__(self) -> None:
        self._loop = StepLoop()
        self._gates: dict[int, asyncio.Future[Any]] = {}
        self._calls = 0
        self._task = self._loop.create_task(self._live(dict(self.told)))
        self._advance()

    def answer(self, call: int, answer: Answer) -> None:
        """What the API says to one of the pending calls; the process goes on until it waits for others."""
        del self.pending[call]
        gate, (bad, body) = self._gates.pop(call), answer
        if bad:
            gate.set_exception(ApiError(*msgspec.json.decode(body)))
        else:
            gate.set_result(msgspec.json.decode(body))
        self._advance()

    def _advance(self) -> None:
        self._loop.settle()
        for _ in range(50):
            if self.pending or not self._loop.next_timer():
                break
            self._loop.settle()
        else:
            raise AssertionError("a process that works without end and without the API")
        if self._task.done():
            self._task.result()
            self.finished = not self.pending
        assert not self._loop.problems, self._loop.problems

    def __getattr__(self, verb: str) -> Callable[..., asyncio.Future[Any]]:
        if verb not in ("get", "list", "create", "update", "delete", "watch"):
            raise AttributeError(verb)

        async def call(gvr: GVR, *args: Any, **kwargs: Any) -> Any:
            self._calls += 1
            self.pending[self._calls] = (verb, gvr, msgspec.json.encode([args, kwargs]))
            gate = self._gates[self._calls] = self._loop.create_future()
            return await gate

        return call  # type: ignore[return-value]

    async def _live(self, former: dict[str, str]) -> None:
        allocator = Allocator(
            self,  # type: ignore[arg-type]
            self.plan.node,
            pools=lambda: [self.pool],
            config=IPAMConfig,
            now=lambda: "2026-01-01T00:00:00Z",
            clock=self._loop.time,
            instance=f"{self.plan.node}{self.number}",
        )
        if self.number:
            taken = {handle: (address,) for handle, address in former.items()}
            refused = await self._until(lambda: allocator.adopt(taken))
            assert not refused, f"recovery: {refused}"
            await self._until(lambda: allocator.release_all_but(set(former)))
        elif self.plan.stock:
            await self._until(lambda: allocator.adopt({}))
        for step in self.plan.steps[self.done :]:
            await asyncio.gather(*(self._op(allocator, verb, handle) for verb, handle in step))
            self.done += 1

    async def _op(self, allocator: Allocator, verb: str, handle: str) -> None:
        if verb == "later":
            await self.watch(PAUSE)
            verb, _, handle = handle.partition(" ")
        if verb == "assign":
            try:
                (self.told[handle],) = await self._until(lambda: allocator.assign(Wish(handle, {"pod": handle})))
            except NoAddresses:
                return
        elif verb == "pin":
            handle, _, address = handle.partition(" ")
            try:
                (self.told[handle],) = await allocator.assign(Wish(handle, {"pod": handle}, exact=(address,)))
            except ApiError:
                await self._op(allocator, "assign", handle)
        elif verb == "release":
            self.told.pop(handle, None)
            await self._until(lambda: allocator.release(handle))
        else:
            await self._until({"tend": allocator.tend, "settle": allocator.settled}[verb])

    async def _until(self, call: Callable[[], Any]) -> Any:
        """As a runtime does: once more after an error."""
        while True:
            try:
                return await call()
            except ApiError:
                continue


class Values(FakeApi):
    """The fake with versions that count per object, so that writes of different objects end in the same state
    whichever came first. Nothing waits."""

    now: Any = None

    async def _enter(self, verb: str, gvr: GVR) -> None:
        return

    def _store(self, gvr: GVR, obj: Object, event: str) -> Object:
        written: dict[str, int] = self.now
        name = f"{gvr.plural}/{obj['metadata']['name']}"
        self._version = written.get(name, 0)
        written[name] = self._version + 1
        if event == "ADDED":
            obj["metadata"] |= {"uid": f"{name}/{self._version}", "creationTimestamp": "2026-01-01T00:00:00Z"}
        self._log.clear()
        return super()._store(gvr, obj, event)


class Store:
    """States of the API by number, and what each call makes of them."""

    def __init__(self) -> None:
        self._api = Values()
        self._states: list[tuple[Any, tuple[tuple[str, int], ...]]] = []
        self._numbers: dict[Any, int] = {}
        self._known: dict[tuple[int, Call], tuple[int, Answer]] = {}
        self.empty = self._number({}, {})

    def _number(self, objects: dict[Any, dict[Any, bytes]], written: dict[str, int]) -> int:
        kept = tuple(sorted((kind, tuple(sorted(held.items()))) for kind, held in objects.items() if held))
        state = (kept, tuple(sorted(written.items())))
        if state not in self._numbers:
            self._numbers[state] = len(self._states)
            self._states.append(state)
        return self._numbers[state]

    def open(self, state: int) -> FakeApi:
        """That state, to be read."""
        objects, written = self._states[state]
        self._api._objects = {kind: dict(held) for kind, held in objects}
        self._api.now = dict(written)
        self._api._version = 0
        return self._api

    def apply(self, state: int, call: Call) -> tuple[int, Answer]:
        """The state afterwards, and the answer."""
        if call[1] is PAUSE:
            return state, (0, b"null")
        key = (state, call)
        if key not in self._known:
            verb, gvr, packed = call
            api = self.open(state)
            args, kwargs = msgspec.json.decode(packed)
            answer: Answer
            try:
                answer = (0, msgspec.json.encode(_run(getattr(api, verb)(gvr, *args, **kwargs))))
            except ApiError as error:
                answer = (1, msgspec.json.encode([error.status, error.reason, error.message, error.details]))
            self._known[key] = (self._number(api._objects, api.now), answer)
        return self._known[key]


def _run(coroutine: Any) -> Any:
    """One that waits for nothing."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("a call that waits")


def pool_of(cidr: str, block_size: int) -> IPPool:
    return msgspec.convert(default_pool(cidr, block_size=block_size), IPPool)


def steps(*lines: str | Sequence[str]) -> tuple[tuple[Op, ...], ...]:
    """`"assign h"`, or several of them that run together."""
    groups = [[line] if isinstance(line, str) else line for line in lines]
    return tuple(tuple((word.split()[0], word.partition(" ")[2]) for word in group) for group in groups)
