"""The default address pool, made once its kind exists, unless there is a pool already."""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Hashable, Iterable

from podwire.controllers.cache import Key, World
from podwire.controllers.loop import Controller
from podwire.controllers.objects import Object, condition_is, name_of
from podwire.kube.client import ApiError
from podwire.model.gvr import CRDS, IPPOOLS

log = logging.getLogger(__name__)

NAME = "default-ipv4-ippool"
BLOCK = 26
CRD = f"{IPPOOLS.plural}.{IPPOOLS.group}"


def default_pool(pod_subnet: str, node_mask: int, *, overlay: bool = True, disabled: bool = False) -> Object:
    """The pool over the whole pod subnet. A node whose pod CIDR is smaller than a block gets blocks of that size.

    A disabled pool gives out nothing, but still says which addresses are pods': these are masqueraded towards others.
    """
    network = ipaddress.ip_network(pod_subnet)
    block = max(BLOCK, node_mask)
    return {
        "apiVersion": IPPOOLS.api_version,
        "kind": IPPOOLS.kind,
        "metadata": {"name": NAME},
        "spec": {
            "cidr": str(network),
            "blockSize": block,
            "vxlanMode": "Always" if overlay else "Never",
            "ipipMode": "Never",
            "natOutgoing": True,
            "nodeSelector": "all()",
            **({"disabled": True} if disabled else {}),
        },
    }


class DefaultPool:
    """Done once a process: a pool that is taken away later stays away."""

    def __init__(self, world: World, pool: Object) -> None:
        self._world, self._pool, self._done = world, pool, False

    def controller(self) -> Controller:
        return Controller("pool", {CRDS: self._crd_changed}, self.reconcile, workers=1)

    def _crd_changed(self, _: Object | None, new: Object | None) -> Iterable[Hashable]:
        known = new is not None and name_of(new) == CRD and condition_is(new, "Established")
        return [("", NAME)] if known and not self._done else []

    async def reconcile(self, _: Key) -> None:
        if self._done:
            return
        pools, _version = await self._world.client.list(IPPOOLS)
        if not pools:
            try:
                await self._world.client.create(IPPOOLS, self._pool)
                log.info("controllers: made the address pool %s %s", NAME, self._pool["spec"]["cidr"])
            except ApiError as error:
                if not error.already_exists:
                    raise
        self._done = True
