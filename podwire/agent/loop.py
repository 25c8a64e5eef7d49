"""From the API to the kernel: newest update of each key → calculation → datapath, in batches of a few milliseconds.

Nothing is applied before every kind is in sync. What fails is tried again with a growing pause; the desired state is
always the newest.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from podwire.agent import families
from podwire.agent.datapath import Desired, desired
from podwire.agent.health import Health
from podwire.agent.journal import Journal
from podwire.calc.routes import RouteCalc
from podwire.ipam.fill import Fill
from podwire.kernel.netlink import KernelError
from podwire.kube.watch import InSync, Update
from podwire.model.block import IPAMBlock
from podwire.model.gvr import GVR, IPAMBLOCKS, IPPOOLS, NODES
from podwire.model.ippool import IPPool
from podwire.model.node import Node
from podwire.render.routing import Names

log = logging.getLogger(__name__)

GATHER_SECONDS = 0.003
RETRY_SECONDS = (0.2, 10.0)

Sink = Callable[[str, Any], None]


class Watcher(Protocol):
    """The part of the API client that the loop needs: watches that decode."""

    def watch(
        self,
        gvr: GVR,
        namespace: str = "",
        *,
        label_selector: str = "",
        field_selector: str = "",
        decode: type[Any] | None = None,
    ) -> AsyncIterator[Update | InSync]: ...


class Datapath(Protocol):
    """Where the desired state goes. `apply` returns what failed; after `doubt` it looks at what is really there."""

    def apply(self, wanted: Desired) -> Sequence[KernelError]: ...
    def doubt(self) -> None: ...


@dataclass
class _Kind:
    """One watched kind: its updates not yet calculated, newest of each name."""

    gvr: GVR
    decode: type[Any]
    sink: Sink
    waiting: dict[str, Any | None] = field(default_factory=dict)
    in_sync: bool = False


class Loop:
    """Watches what this node depends on and keeps `datapath` equal to it. `current` answers what the API last said."""

    def __init__(self, api: Watcher, calc: RouteCalc, datapath: Datapath, names: Names, health: Health) -> None:
        self._api = api
        self._calc = calc
        self._datapath = datapath
        self._names = names
        self._health = health
        self._news = asyncio.Event()
        self._oldest = 0.0
        self._doubtful = False
        self.nodes: dict[str, Node] = {}
        self.pools: dict[str, IPPool] = {}
        self.fill = Fill(lambda: self.pools.values())
        self.journal = Journal(time.time)
        self.version = 0
        self._told = asyncio.Condition()
        self.applied = asyncio.Event()
        self._kinds = [
            _Kind(NODES, Node, self._on_node),
            _Kind(IPPOOLS, IPPool, self._on_pool),
            _Kind(IPAMBLOCKS, IPAMBlock, self._on_block),
        ]
        health.not_ready("sync", "waiting for the API")

    async def run(self) -> None:
        """Runs until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for kind in self._kinds:
                tasks.create_task(self._watch(kind), name=f"watch-{kind.gvr.plural}")
            tasks.create_task(self._work(), name="apply")

    def doubt(self) -> None:
        """Somebody may have changed the kernel: compare it again, soon."""
        self._doubtful = True
        self._news.set()

    async def newer(self, version: int, seconds: float | None) -> None:
        """Wait until something was learned after `version`, or so long."""
        try:
            async with asyncio.timeout(seconds), self._told:
                await self._told.wait_for(lambda: self.version > version)
        except TimeoutError:
            pass

    async def _watch(self, kind: _Kind) -> None:
        async for item in self._api.watch(kind.gvr, decode=kind.decode):
            if isinstance(item, InSync):
                kind.in_sync = True
            else:
                kind.waiting[item.key[1]] = item.object
            self._oldest = self._oldest or time.monotonic()
            if not self._news.is_set():
                self._news.set()

    async def _work(self) -> None:
        pause, unapplied = 0.0, 0.0
        while True:
            if pause and not await self._news_within(pause):
                self._news.set()
            await self._news.wait()
            await asyncio.sleep(GATHER_SECONDS)
            self._news.clear()
            unapplied, self._oldest = unapplied or self._oldest, 0.0
            self._drain()
            known = all(kind.in_sync for kind in self._kinds)
            changes = self._calc.flush() if known else None  # at once: a dump has what is told and what came of it
            self.version += 1
            async with self._told:
                self._told.notify_all()
            if not known:
                continue
            doubtful, self._doubtful = self._doubtful, False
            if doubtful:
                self._datapath.doubt()
            if changes or doubtful or pause or not self.applied.is_set():
                since = unapplied if changes or pause else 0.0  # what is only compared again has no event
                pause = await self._apply(desired(self._calc.state, self._names), since, pause)
            unapplied = unapplied if pause else 0.0

    async def _news_within(self, seconds: float) -> bool:
        try:
            await asyncio.wait_for(self._news.wait(), seconds)
        except TimeoutError:
            return False
        return True

    def _drain(self) -> None:
        for kind in self._kinds:
            waiting, kind.waiting = kind.waiting, {}
            for name, value in waiting.items():
                self.journal.told(kind.gvr.plural, name, value)
                kind.sink(name, value)
            if kind.in_sync:
                self.journal.synced(kind.gvr.plural)

    async def _apply(self, wanted: Desired, since: float, pause: float) -> float:
        """The pause before the next attempt, 0 when all is applied."""
        failed = await asyncio.to_thread(self._datapath.apply, wanted)
        figures = self._health.figures
        figures.add(families.APPLIES)
        if not failed:
            if since:
                figures.observe(families.EVENT_TO_KERNEL, time.monotonic() - since)
            self._health.good("sync")
            self._health.good("datapath")
            self.applied.set()
            return 0.0
        for error in failed:
            log.error("datapath failed error=%s", error)
        self._health.not_ready("datapath", str(failed[0]))
        figures.add(families.APPLY_ERRORS, amount=len(failed))
        return min(max(pause * 2, RETRY_SECONDS[0]), RETRY_SECONDS[1])

    def _on_node(self, name: str, node: Node | None) -> None:
        _store(self.nodes, name, node)
        self._calc.on_node(name, node)

    def _on_pool(self, name: str, pool: IPPool | None) -> None:
        _store(self.pools, name, pool)
        self._calc.on_pool(name, pool)

    def _on_block(self, name: str, block: IPAMBlock | None) -> None:
        self._calc.on_block(name, block)
        self.fill.see(name, block)

    @property
    def pools_known(self) -> bool:
        return self._kinds[1].in_sync and not self._kinds[1].waiting


def _store(known: dict[str, Any], name: str, value: Any | None) -> None:
    if value is None:
        known.pop(name, None)
    else:
        known[name] = value
