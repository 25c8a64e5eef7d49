"""Makes a genuine cluster's first objects once the API answers, and from then on labels nodes as they register.

An object that is there already is left as it is. With Podwire's network it also runs the loops that make the default
pool and read Installations, which the embedded control plane has in its own process.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from podwire.controllers import loop
from podwire.controllers.cache import World
from podwire.controllers.installation import Installations
from podwire.controllers.pool import DefaultPool
from podwire.genuine.objects import Object, agents, name_service
from podwire.http.loop import run as run_loop
from podwire.ipam.crds import crds
from podwire.kube import kubeconfig
from podwire.kube.client import Api, ApiError, Client
from podwire.model import installation, policycrds
from podwire.model.gvr import CRDS, GVR, NODES, TIERS

log = logging.getLogger(__name__)

_PAUSE = 0.2


@dataclass(frozen=True, slots=True)
class First:
    """What to make: a name service at `dns` unless empty; with `pools`, Podwire's kinds, its agents' rights and these
    IPPools; `labels` of each node that it must not set itself."""

    dns: str
    pools: tuple[Object, ...]
    labels: Mapping[str, Mapping[str, str]]


def run(config: Path, first: First) -> None:
    """The daemon: blocks for ever. `config` is an administrator's kubeconfig."""
    run_loop(_run(config, first))


async def _run(config: Path, first: First) -> None:
    client = Client(kubeconfig.load(config), user_agent="podwire-lab")
    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(_label(client, first.labels))
            tasks.create_task(_make(client, first))
    finally:
        await client.close()


async def _make(client: Client, first: First) -> None:
    await asyncio.gather(*(ensure(client, gvr, obj) for gvr, obj in wanted(first)))
    if first.pools:
        await _loops(client, first.pools)


def wanted(first: First) -> list[tuple[GVR, Object]]:
    """Every object to make, in an order in which each may be made."""
    kinds: list[tuple[GVR, Object]] = []
    if first.pools:
        kinds = [(CRDS, crd) for crd in (*crds(), *installation.crds(), *policycrds.crds())]
        kinds += [*((TIERS, tier) for tier in policycrds.first_tiers()), *agents()]
    return [*kinds, *(name_service(first.dns) if first.dns else ())]


async def ensure(client: Api, gvr: GVR, obj: Object) -> None:
    """Create it, or leave what is there. Tries again while the API cannot take it."""
    while True:
        try:
            await client.create(gvr, obj)
        except ApiError as error:
            if error.already_exists:
                return
            if error.reason == "Invalid" and "already allocated" in str(error):
                log.error("%s %s: %s", gvr.kind, obj["metadata"]["name"], error)
                return
            log.warning("%s %s: %s", gvr.kind, obj["metadata"]["name"], error)
            await asyncio.sleep(_PAUSE)
        else:
            return


async def _label(client: Client, labels: Mapping[str, Mapping[str, str]]) -> None:
    async for item in client.watch(NODES):
        name = getattr(item, "key", ("", ""))[1]
        obj: Any = getattr(item, "object", None)
        if not isinstance(obj, dict):
            continue
        have = obj["metadata"].get("labels") or {}
        lacking = {key: value for key, value in labels.get(name, {}).items() if key not in have}
        if lacking:
            try:
                await client.patch(NODES, name, {"metadata": {"labels": lacking}})
            except ApiError as error:
                log.warning("node %s not labelled: %s", name, error)


async def _loops(client: Client, pools: tuple[Object, ...]) -> None:
    """Raises nothing: a refusal of the API is tried again."""
    world = World(client)
    loops = [
        (one, loop.attach(world, one))
        for one in (DefaultPool(world, *pools).controller(), Installations(world).controller())
    ]
    try:
        async with asyncio.TaskGroup() as group:
            for one, queue in loops:
                group.create_task(loop.operate(world, one, queue), name=one.name)
            for store in world.stores:
                group.create_task(world.follow(store.gvr), name=f"watch {store.gvr.plural}")
    finally:
        await world.close()
