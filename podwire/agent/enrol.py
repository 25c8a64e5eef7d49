"""Makes the node known to its peers: address and tunnel address, published as annotations of the Node object.

Also opens the attacher, as soon as the node exists and its podCIDR is known. Runs again whenever node or pools change;
where everything is published it writes nothing.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

from podwire.agent.health import Health
from podwire.agent.ipamwatch import IpamSettings
from podwire.agent.loop import Loop
from podwire.ipam.claims import Allocator, IpamError
from podwire.kernel.links import RouteSocket
from podwire.model.api import Api, ApiError
from podwire.model.gvr import NODES
from podwire.model.ippool import IPPool
from podwire.model.node import IPV4_ADDRESS, VXLAN_MAC, VXLAN_TUNNEL, VXLAN_TUNNEL6, Node, derived_mac

log = logging.getLogger(__name__)

RETRY_SECONDS = 0.5
POD_CIDR_SECONDS = 10.0
"""How long a podCIDR is waited for before blocks are taken from anywhere in the pools."""
YOUNG_SECONDS = 30.0
"""A Node that was without a podCIDR for so long is in a cluster that gives none: then it is not waited for."""
UPLINK_SKIP = ("lo", "cali", "vxlan.calico", "cbr0", "docker", "veth", "br-", "tunl", "flannel", "kube-ipvs", "cni")


def own_address(node_ip: str) -> str:
    """The node's address with its subnet's length ("172.18.0.2/16"); the first fitting interface's when none is told.

    "" when there is none yet. Raises KernelError.
    """
    return _own(node_ip)[1]


def uplink(node_ip: str) -> str:
    """The interface that holds the node's address; "eth0" while there is none. Raises KernelError."""
    return _own(node_ip)[0] or "eth0"


def _own(node_ip: str) -> tuple[str, str]:
    with RouteSocket() as socket:
        names = {link.index: link.name for link in socket.links() if link.up}
        found = [a for a in socket.addresses() if ":" not in a.cidr and a.index in names]
    for address in found:
        told = address.cidr.partition("/")[0] == node_ip
        fits = not node_ip and address.scope == 0 and not names[address.index].startswith(UPLINK_SKIP)
        if told or fits:
            return names[address.index], address.cidr
    return "", ""


def age(created: object, now: datetime) -> float:
    """Seconds since an object's creationTimestamp; 0 when that cannot be read."""
    try:
        return (now - datetime.fromisoformat(str(created))).total_seconds()
    except (ValueError, TypeError):
        return 0.0


class Enrolment:
    """Publishes; `open_attacher` is called once with the allocator."""

    def __init__(
        self,
        api: Api,
        node: str,
        node_ip: str,
        loop: Loop,
        health: Health,
        settings: IpamSettings,
        open_attacher: Callable[[Allocator], Awaitable[None]],
    ) -> None:
        self._api = api
        self._node = node
        self._node_ip = node_ip
        self._loop = loop
        self._health = health
        self._settings = settings
        self._open_attacher = open_attacher
        self._allocator: Allocator | None = None
        self._began = time.monotonic()
        self._old = False
        health.not_ready("node", "not enrolled")

    async def run(self) -> None:
        """Runs until cancelled."""
        while True:
            seen, before = self._loop.version, self._inputs()
            try:
                settled = await self._once()
            except (ApiError, IpamError) as error:
                log.warning("enrolment failed error=%s", error)
                self._health.not_ready("node", str(error))
                settled = False
            while settled and self._inputs() == before:  # blocks change with every pod, and do not matter here
                await self._loop.newer(seen, None)
                seen = self._loop.version
            if not settled:
                await self._loop.newer(seen, RETRY_SECONDS)

    def _inputs(self) -> tuple[Node | None, list[IPPool], bool]:
        return self._loop.nodes.get(self._node), list(self._loop.pools.values()), self._loop.pools_known

    async def _once(self) -> bool:
        node = self._loop.nodes.get(self._node)
        if node is None and self._allocator is not None:
            self._allocator.absent()
        if node is None or not self._loop.pools_known:
            self._health.not_ready("node", f"node {self._node} or the pools are not known yet")
            return True  # a change will come
        if not node.pod_cidrs and await self._may_get_pod_cidr():
            self._health.not_ready("node", f"node {self._node} has no podCIDR yet")
            return False
        allocator = await self._allocator_of(node)
        wanted = {IPV4_ADDRESS: await asyncio.to_thread(own_address, self._node_ip)}
        pools = [pool for pool in self._loop.pools.values() if pool.sound and not pool.spec.disabled]
        widths = {pool.cidr.width for pool in pools if pool.encapsulation}
        if 32 in widths:
            wanted[VXLAN_TUNNEL] = node.tunnel_address or await allocator.assign_tunnel()
        if any(pool.cidr.width == 128 and pool.encapsulation.startswith("vxlan") for pool in pools):
            wanted[VXLAN_TUNNEL6] = node.tunnel_address6 or await allocator.assign_tunnel(6)
        if widths:
            wanted[VXLAN_MAC] = derived_mac(self._node)
        await self._publish(node, {name: value for name, value in wanted.items() if value})
        self._health.good("node")
        return bool(wanted[IPV4_ADDRESS])

    async def _may_get_pod_cidr(self) -> bool:
        if self._old or time.monotonic() - self._began >= POD_CIDR_SECONDS:
            return False
        found = await self._api.get(NODES, self._node)
        self._old = age(found["metadata"].get("creationTimestamp"), datetime.now(UTC)) >= YOUNG_SECONDS
        return not self._old

    async def _allocator_of(self, node: Node) -> Allocator:
        if self._allocator is None:
            await self._settings.ready()
            pools, settings = self._loop.pools, self._settings
            fresh = Allocator(
                self._api,
                self._node,
                pod_cidrs=node.pod_cidrs,
                labels=node.metadata.labels,
                pools=lambda: list(pools.values()),
                reservations=settings.reservations,
                config=settings.config,
                fill=self._loop.fill,
            )
            try:
                await self._open_attacher(fresh)
            except BaseException:
                await fresh.close()
                raise
            self._allocator = fresh
        self._allocator.describe(node.pod_cidrs, node.metadata.labels)
        return self._allocator

    async def _publish(self, node: Node, annotations: dict[str, str]) -> None:
        have = node.metadata.annotations
        changed = {name: value for name, value in annotations.items() if have.get(name) != value}
        if changed:
            await self._api.patch(NODES, self._node, {"metadata": {"annotations": changed}})
