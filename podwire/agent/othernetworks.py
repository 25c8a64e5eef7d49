"""Other pod networks on this node: their CNI configurations make way for ours, and it is told.

Two networks on one node undo each other's routes, rules and tunnel device. What a former network left is renamed, once
our own configuration is in place. What appears later was written by agents that run beside us: that is for a human to
decide, so the node's agent says that it is not ready, and leaves the file alone. Calico's agents call interfaces,
tunnel and routes as we do: as long as its configuration is there, nothing that differs in the kernel is put back.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from pathlib import Path

from podwire.agent import families
from podwire.agent.figures import Sample
from podwire.agent.health import Health
from podwire.cni import install, listing
from podwire.cni.install import Places
from podwire.kube.events import record
from podwire.model.api import Api

log = logging.getLogger(__name__)

LOOK_SECONDS = 5.0
PART = "other network"
NAMESAKE = "calico"
"""The plugin of the network whose names in the kernel are ours, too."""


class OtherNetworks:
    """Of one node. `make_way` when our own configuration is in place, then `run` until cancelled."""

    def __init__(self, api: Api, node: str, places: Places, health: Health) -> None:
        self._api = api
        self._node = node
        self._places = places
        self._health = health
        self._told: list[Path] = []
        self.yields = False
        """Whether another network uses the names of our kernel state."""

    async def make_way(self, since: float | None = None) -> None:
        """`since` is when our configuration appeared, if that was before this agent's time. What cannot be renamed, or
        is younger, stays a rival, and `look` tells it."""
        try:
            found = await asyncio.to_thread(install.set_aside, self._places, since)
        except OSError as error:
            log.error("other cni configuration cannot be renamed error=%s", error)
            return
        if found:
            names = ", ".join(map(str, found))
            log.warning("other cni configuration set aside files=%s", ",".join(map(str, found)))
            await self._tell(
                "OtherNetworkSetAside",
                f"CNI configuration of another pod network renamed: {names}; `podwire cni uninstall` puts it back",
            )

    async def run(self) -> None:
        while True:
            await self.look()
            await asyncio.sleep(LOOK_SECONDS)

    async def look(self) -> None:
        """Once: whether somebody wrote a configuration since."""
        found = await asyncio.to_thread(install.rivals, self._places)
        if found == self._told:
            return
        self._told = found
        self.yields = any(NAMESAKE in _types(path) for path in found)
        if not found:
            self._health.good(PART)
            log.info("other cni configuration is gone")
            return
        words = "; ".join(f"{path} ({', '.join(_types(path)) or 'unreadable'})" for path in found)
        why = (
            f"another pod network writes to this node: {words}. Two networks on one node undo each other's work:"
            " remove its agents (`kubectl get daemonsets -A`), then this file, or `podwire uninstall`"
        )
        if self.yields:
            why += ". Its interfaces, tunnel and routes have the names of Podwire's own: nothing is repaired meanwhile"
        self._health.not_ready(PART, why)
        log.error("other cni configuration found files=%s", ",".join(map(str, found)))
        await self._tell("OtherNetwork", why)

    def figures(self) -> Iterator[Sample]:
        yield families.OTHER_CONFIGURATIONS, (), len(self._told)

    async def _tell(self, reason: str, message: str) -> None:
        about = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": self._node, "uid": self._node}}
        await record(self._api, about, "Warning", reason, message, "podwire-agent", host=self._node)


def _types(path: Path) -> list[str]:
    return listing.types(install.read(path) or b"")
