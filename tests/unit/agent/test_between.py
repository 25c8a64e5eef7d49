"""What other threads do between the callbacks of the agent's event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from podwire.agent.between import Between
from podwire.agent.claimer import Claimer
from podwire.agent.turns import Turns
from podwire.ipam.wish import Wish


@dataclass
class Looping:
    """A loop in a thread of its own."""

    loop: asyncio.AbstractEventLoop
    between: Between

    def run(self, work: Callable[[], Any]) -> None:
        self.loop.call_soon_threadsafe(work)


@pytest.fixture
def looping() -> Iterator[Looping]:
    found: list[Looping] = []
    there = threading.Event()

    async def live() -> None:
        loop = asyncio.get_running_loop()
        found.append(Looping(loop, Between(loop)))
        loop.call_soon(there.set)
        ended = found[0].ended = asyncio.Event()  # type: ignore[attr-defined]
        await ended.wait()
        found[0].between.close()

    thread = threading.Thread(target=lambda: asyncio.run(live()))
    thread.start()
    assert there.wait(20)
    yield found[0]
    found[0].run(found[0].ended.set)  # type: ignore[attr-defined]
    thread.join(20)
    assert not found[0].between.enter(), "nobody enters after its end"


def entered(between: Between) -> None:
    """As soon as the loop waits."""
    for _ in range(10_000):
        if between.enter():
            return
    raise AssertionError("the loop never waits")


def test_no_callback_runs_meanwhile(looping: Looping) -> None:
    entered(looping.between)
    assert asyncio.get_running_loop() is looping.loop
    ran = threading.Event()
    looping.run(ran.set)
    assert not ran.wait(0.05)
    looping.between.leave()
    assert ran.wait(20)
    with pytest.raises(RuntimeError):
        asyncio.get_running_loop()


def test_nobody_enters_while_a_callback_runs(looping: Looping) -> None:
    running, go = threading.Event(), threading.Event()

    def work() -> None:
        running.set()
        go.wait(20)

    looping.run(work)
    assert running.wait(20)
    assert not looping.between.enter()
    go.set()
    entered(looping.between)
    looping.between.leave()


def test_a_timer_that_was_set_wakes_the_loop(looping: Looping) -> None:
    ran = threading.Event()
    entered(looping.between)
    asyncio.get_running_loop().call_later(0.01, ran.set)
    looping.between.leave()
    assert ran.wait(20)


class Stocked:
    """Claims that are there at once, or not."""

    def __init__(self, *given: str) -> None:
        self.given, self.threads = list(given), list[int]()

    def at_once(self, wish: Wish) -> list[str] | None:
        self.threads.append(threading.get_ident())
        if wish.handle == "bad":
            raise ValueError("bad")
        return [self.given.pop()] if self.given else None

    async def assign(self, wish: Wish) -> list[str]:
        return ["10.0.0.9"]

    async def release(self, handle: str) -> list[str]:
        return []


def test_who_claims_is_served_in_its_own_thread_or_else_by_the_loop(looping: Looping) -> None:
    claims, claimer = Stocked("10.0.0.1"), Claimer(Turns())
    claimer.open(claims, looping.loop, looping.between)
    first = claimer.claim(Wish("a"))
    assert first.addresses() == ("10.0.0.1",)
    assert claimer.claim(Wish("b")).addresses() == ("10.0.0.9",), "the stock is empty: the loop waits for the API"
    with pytest.raises(Exception, match="cannot claim"):
        claimer.claim(Wish("bad")).addresses()
    assert threading.get_ident() in claims.threads
