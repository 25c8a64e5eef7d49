"""Installations of the tigera operator: their pools become IPPools, and what else they say is named in a warning.

A pool that an Installation no longer has is disabled, not deleted: pods may hold addresses of it.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable, Iterable
from typing import Any

from podwire.controllers.cache import World
from podwire.controllers.loop import Controller
from podwire.controllers.objects import Object, clone, condition, labels, meta, name_of, spec, stamp, status
from podwire.kube.client import ApiError
from podwire.model import installation
from podwire.model.address import AddressError, Cidr
from podwire.model.gvr import INSTALLATIONS, IPPOOLS

log = logging.getLogger(__name__)

COMPONENT = "podwire-installation"
NAME = "default"


class Installations:
    """One worker: pools of several Installations must not cross."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._told: dict[str, str] = {}

    def controller(self) -> Controller:
        triggers = {INSTALLATIONS: self._changed}
        return Controller("installation", triggers, self.reconcile, workers=1)

    def _changed(self, old: Object | None, new: Object | None) -> Iterable[Hashable]:
        if new is None:
            return []  # its pools stay, as they do when the operator goes
        return [name_of(new)] if old is None or spec(old) != spec(new) else []

    async def reconcile(self, name: str) -> None:
        found = self._world.store(INSTALLATIONS).get(name)
        if found is None:
            return
        if name != NAME:
            self._tell(found, f"an Installation is called {NAME}, as the operator has it; this one has no effect")
            return
        asked = installation.read(found)
        problems = list(asked.faults)
        there = {name_of(pool): pool for pool in (await self._world.client.list(IPPOOLS))[0]}
        for pool in asked.pools:
            problem = await self._put(pool, there)
            problems += [problem] if problem else []
        if isinstance(_pools_of(found), list):
            await self._retire({name_of(pool) for pool in asked.pools}, there)
        if asked.ignored:
            problems.append(f"only spec.calicoNetwork.ipPools has a meaning here; ignored: {', '.join(asked.ignored)}")
        if problems:
            self._tell(found, "; ".join(problems))
        await self._mark(found, asked.faults or [one for one in problems if one.startswith("IPPool ")])

    async def _put(self, wanted: Object, there: dict[str, Object]) -> str:
        """Make the pool so; why it cannot be, in words."""
        name, cidr = name_of(wanted), wanted["spec"]["cidr"]
        known = there.get(name)
        if known is None:
            if rival := _overlapping(cidr, there.values()):
                return (
                    f"IPPool {name} ({cidr}) overlaps IPPool {name_of(rival)} ({spec(rival)['cidr']}), which is older"
                )
            there[name] = await self._world.client.create(IPPOOLS, wanted)
            log.info("installation: made the address pool %s %s", name, cidr)
            return ""
        for fixed in ("cidr", "blockSize"):
            if spec(known).get(fixed) != wanted["spec"][fixed]:
                has, asked = spec(known).get(fixed), wanted["spec"][fixed]
                way = "name the pool otherwise, or give the lab's networking.podSubnet that cidr"
                return f"IPPool {name} exists with {fixed} {has}, which cannot become {asked}: {way}"
        if changed := list(installation.changes(wanted, known)):
            new = clone(known)
            new["spec"] |= wanted["spec"]
            meta(new).setdefault("labels", {}).update(installation.MANAGED)
            there[name] = await self._world.client.update(IPPOOLS, new)
            log.info("installation: changed the address pool %s: %s", name, ", ".join(changed))
        return ""

    async def _retire(self, wanted: set[str], there: dict[str, Object]) -> None:
        """No new addresses from pools that were made here and are no longer asked for."""
        for name, pool in there.items():
            ours = installation.MANAGED.items() <= labels(pool).items()
            if ours and name not in wanted and not spec(pool).get("disabled"):
                await self._world.client.patch(IPPOOLS, name, {"spec": {"disabled": True}})
                said = "no Installation asks for it any more; its addresses stay"
                self._world.tell(pool, "Normal", "Disabled", said, COMPONENT)

    async def _mark(self, found: Object, faults: Iterable[str]) -> None:
        """The condition that people wait for."""
        wrong = "; ".join(faults)
        verdict = {"type": "Ready", "status": "False" if wrong else "True", "reason": "Invalid" if wrong else "Applied"}
        verdict |= {"message": wrong, "observedGeneration": meta(found).get("generation", 0)}
        known = condition(found, "Ready")
        if known is not None and all(known.get(key) == value for key, value in verdict.items()):
            return
        verdict["lastTransitionTime"] = stamp(self._world.now())
        try:
            await self._world.update_status(INSTALLATIONS, found, {**status(found), "conditions": [verdict]})
        except ApiError as error:
            if not error.not_found:
                raise

    def _tell(self, found: Object, message: str) -> None:
        """One warning for each wording."""
        if self._told.get(name_of(found)) != message:
            self._told[name_of(found)] = message
            log.warning("installation: %s: %s", name_of(found), message)
            self._world.tell(found, "Warning", "NotHonoured", message, COMPONENT)


def _pools_of(found: Object) -> Any:
    network = spec(found).get("calicoNetwork")
    return network.get("ipPools") if isinstance(network, dict) else None


def _overlapping(cidr: str, pools: Iterable[Object]) -> Object | None:
    wanted = Cidr.parse(cidr)
    for pool in pools:
        try:
            other = Cidr.parse(spec(pool).get("cidr", ""), host_bits=True)
        except AddressError:
            continue
        if other.overlaps(wanted):
            return pool
    return None
