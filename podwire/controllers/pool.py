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

NAME, NAME6 = "default-ipv4-ippool", "default-ipv6-ippool"
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


def default_pool6(pod_subnet: str) -> Object:
    """The same for IPv6, which goes between nodes inside the IPv4 tunnel; nothing of it is masqueraded."""
    pool = default_pool("0.0.0.0/0", BLOCK)
    spec = {**pool["spec"], "cidr": str(ipaddress.ip_network(pod_subnet)), "blockSize": 122, "natOutgoing": False}
    return {**pool, "metadata": {"name": NAME6}, "spec": spec}


class DefaultPool:
    """Done once a process: a pool that is taken away later stays away."""

    def __init__(self, world: World, *pools: Object) -> None:
        self._world, self._pools, self._done = world, pools, False

    def controller(self) -> Controller:
        return Controller("pool", {CRDS: self._crd_changed}, self.reconcile, workers=1)

    def _crd_changed(self, _: Object | None, new: Object | None) -> Iterable[Hashable]:
        known = new is not None and name_of(new) == CRD and condition_is(new, "Established")
        return [("", NAME)] if known and not self._done else []

    async def reconcile(self, _: Key) -> None:
        if self._done:
            return
        pools, _version = await self._world.client.list(IPPOOLS)
        there, ours = {name_of(pool) for pool in pools}, {name_of(pool) for pool in self._pools}
        for pool in self._pools if there < ours else ():  # none but what a former process came to make
            if name_of(pool) in there:
                continue
            try:
                await self._world.client.create(IPPOOLS, pool)
                log.info("controllers: made the address pool %s %s", name_of(pool), pool["spec"]["cidr"])
            except ApiError as error:
                if not error.already_exists:
                    raise
        self._done = True
