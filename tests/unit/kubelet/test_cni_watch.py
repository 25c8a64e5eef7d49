"""When a node's network counts as ready, by a clock that the test winds."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from typing import Any

from podwire.kubelet import cniwatch, node
from podwire.kubelet.cniconf import NOT_INITIALIZED, CniError
from podwire.kubelet.cniwatch import Network


@dataclass
class Cni:
    """A runner whose answers are set; `collected` are the lists that GC was called with."""

    configured: bool = False
    status_fault: str = ""
    collected: list[list[str]] = field(default_factory=list)

    def network(self) -> None:
        if not self.configured:
            raise CniError(NOT_INITIALIZED)

    async def status(self) -> None:
        self.network()
        if self.status_fault:
            raise CniError(self.status_fault)

    async def collect(self, valid: Callable[[], Iterable[str]]) -> None:
        self.collected.append(list(valid()))
        raise CniError("a fault of GC is logged, no more")


class Sandboxes:
    def ids(self) -> list[str]:
        return ["c1"]


class World:
    """The context that Network needs, with a clock."""

    def __init__(self) -> None:
        self.cni = Cni()
        self.sandboxes = Sandboxes()
        self.network_ready = asyncio.Event()
        self.network_fault = NOT_INITIALIZED
        self.now = 100.0
        self.changes: list[str] = []
        self.tasks: list[asyncio.Task[Any]] = []
        told: Any = self
        self.network = Network(told, lambda: self.changes.append(self.network_fault), clock=lambda: self.now)

    def background(self, work: Coroutine[Any, Any, Any]) -> None:
        self.tasks.append(asyncio.ensure_future(work))

    async def step(self, seconds: float = 0.0) -> bool:
        self.now += seconds
        await self.network.step()
        await asyncio.gather(*self.tasks)
        return self.network_ready.is_set()


async def test_ready_when_configured_and_willing() -> None:
    world = World()
    assert not await world.step()
    assert world.changes == []  # as it was
    world.cni.configured, world.cni.status_fault = True, "no agent"
    assert not await world.step()
    world.cni.status_fault = ""
    assert await world.step()
    assert await world.step()
    assert world.changes == ["no agent", ""]
    world.cni.configured = False
    assert not await world.step()
    assert world.changes[2:] == [NOT_INITIALIZED]


async def test_a_moment_without_an_agent_is_forgiven() -> None:
    world = World()
    world.cni.configured = True
    await world.step()
    world.cni.status_fault = "no agent"
    assert await world.step(1)
    assert await world.step(cniwatch.GRACE_SECONDS - 1)
    world.cni.status_fault = ""
    assert await world.step(1)
    world.cni.status_fault = "no agent"
    assert await world.step(1)
    assert not await world.step(cniwatch.GRACE_SECONDS)
    assert world.changes == ["", "no agent"]


async def test_gc_at_the_start_and_now_and_then() -> None:
    world = World()
    await world.step()
    assert world.cni.collected == []
    world.cni.configured = True
    await world.step()
    await world.step(cniwatch.COLLECT_SECONDS - 1)
    assert world.cni.collected == [["c1"]]
    await world.step(1)
    assert world.cni.collected == [["c1"], ["c1"]]


async def test_news_are_looked_at_at_once() -> None:
    world = World()
    running = asyncio.ensure_future(world.network.run())
    await asyncio.sleep(0)
    world.cni.configured = True
    world.network.look()
    await asyncio.wait_for(world.network_ready.wait(), 20)
    running.cancel()


def test_the_node_says_why() -> None:
    (condition,) = [one for one in node.conditions("no agent", [], "now") if one["type"] == "Ready"]
    assert (condition["status"], condition["reason"]) == ("False", "KubeletNotReady")
    assert condition["message"] == (
        "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady "
        "message:Network plugin returns error: no agent"
    )
    (condition,) = [one for one in node.conditions("", [], "now") if one["type"] == "Ready"]
    assert condition["status"] == "True"
