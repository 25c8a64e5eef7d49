"""Pods created on a given node, and when a watch saw each of them Ready and gone."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from bench.clustersite import Site, is_ready, now, within
from podwire.genuine.settings import SANDBOX_IMAGE
from podwire.kube.client import Client
from podwire.kube.watch import InSync
from podwire.model.gvr import PODS, SERVICEACCOUNTS

NAMESPACE = "default"
SECONDS = 150.0
"""For how long one pod or one burst is waited for."""


class Seen:
    """One watch over the namespace's pods: the moment of each one's Ready condition, and which exist."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._news = asyncio.Condition()
        self._synced = False
        self.ready: dict[str, float] = {}
        self.known: set[str] = set()

    async def follow(self) -> None:
        """Until cancelled."""
        async for change in self._client.watch(PODS, NAMESPACE):
            if isinstance(change, InSync):
                self._synced = True
            elif change.object is None:
                self.known.discard(change.key[1])
            else:
                name = change.key[1]
                self.known.add(name)
                if is_ready(change.object):
                    self.ready.setdefault(name, now())
            async with self._news:
                self._news.notify_all()

    async def synced(self) -> None:
        async with within(SECONDS, "the list of pods"), self._news:
            await self._news.wait_for(lambda: self._synced)

    async def all_ready(self, names: list[str]) -> float:
        """The moment when the last of them was. Raises RuntimeError."""
        async with within(SECONDS, f"{len(names)} pods Ready"), self._news:
            await self._news.wait_for(lambda: all(name in self.ready for name in names))
        return max(self.ready[name] for name in names)

    async def all_gone(self, names: list[str]) -> None:
        """Raises RuntimeError."""
        async with within(SECONDS, f"{len(names)} pods gone"), self._news:
            await self._news.wait_for(lambda: not self.known.intersection(names))


def pod(name: str, node: str) -> dict[str, Any]:
    """One container that does nothing; its image is on every node."""
    container = {"name": "pause", "image": SANDBOX_IMAGE, "imagePullPolicy": "IfNotPresent"}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {"nodeName": node, "containers": [container], "terminationGracePeriodSeconds": 1},
    }


class Pods:
    """Creates and deletes; names never come again."""

    def __init__(self, site: Site, seen: Seen) -> None:
        self._client, self._seen, self._count = site.client, seen, 0

    async def create(self, node: str, count: int) -> tuple[list[str], float]:
        """So many at once on that node: their names, and the seconds from the first call until the last is Ready."""
        names = [f"p{self._count + number}" for number in range(count)]
        self._count += count
        began = now()
        await asyncio.gather(*(self._client.create(PODS, pod(name, node)) for name in names))
        return names, await self._seen.all_ready(names) - began

    async def delete(self, names: list[str]) -> None:
        """And wait until they are gone, so that the next measurement has the machine to itself."""
        await asyncio.gather(*(self._client.delete(PODS, name, NAMESPACE) for name in names))
        await self._seen.all_gone(names)


@contextlib.asynccontextmanager
async def pods(site: Site) -> Any:
    """When the namespace can have pods."""
    async with within(SECONDS, "the default service account"):
        while not (await site.client.list(SERVICEACCOUNTS, NAMESPACE))[0]:
            await asyncio.sleep(0.05)
    seen = Seen(site.client)
    following = asyncio.create_task(seen.follow())
    try:
        await seen.synced()
        yield Pods(site, seen)
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
