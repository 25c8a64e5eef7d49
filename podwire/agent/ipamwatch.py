"""What the allocator is told beside pools: reserved addresses and the cluster's IPAM configuration, as last seen."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from podwire.agent.loop import Watcher
from podwire.kube.watch import InSync
from podwire.model.address import Cidr
from podwire.model.gvr import IPAMCONFIGS, IPRESERVATIONS
from podwire.model.ippool import IPAMConfig, IPReservation

WAIT_SECONDS = 5.0


class IpamSettings:
    """`run` watches until cancelled."""

    def __init__(self, api: Watcher) -> None:
        self._api = api
        self._reservations: dict[str, IPReservation] = {}
        self._config = IPAMConfig()
        self._told = (asyncio.Event(), asyncio.Event())

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._watch_reservations(), name="watch-ipreservations")
            tasks.create_task(self._watch_config(), name="watch-ipamconfigurations")

    async def ready(self) -> None:
        """Wait until both are known; not for long, as a cluster may lack the kinds."""
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                for event in self._told:
                    await event.wait()
        except TimeoutError:
            pass

    def reservations(self) -> Iterable[Cidr]:
        return [cidr for reservation in self._reservations.values() for cidr in reservation.cidrs]

    def config(self) -> IPAMConfig:
        return self._config

    async def _watch_reservations(self) -> None:
        async for item in self._api.watch(IPRESERVATIONS, decode=IPReservation):
            if isinstance(item, InSync):
                self._told[0].set()
            elif item.object is None:
                self._reservations.pop(item.key[1], None)
            else:
                self._reservations[item.key[1]] = item.object

    async def _watch_config(self) -> None:
        async for item in self._api.watch(IPAMCONFIGS, decode=IPAMConfig):
            if isinstance(item, InSync):
                self._told[1].set()
            elif item.key[1] == "default":
                self._config = item.object or IPAMConfig()
