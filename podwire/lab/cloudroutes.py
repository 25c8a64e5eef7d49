"""What a cloud does for kubenet: its router learns which node has which podCIDR, and the Node learns that it did.

Runs in the lab's outer namespace, which is the router between the nodes. Nodes know nothing of each other's podCIDRs;
they send everything to this router. Source for the condition: k8s.io/cloud-provider controllers/route.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from podwire.http.loop import run as run_loop
from podwire.kernel.delta import Delta
from podwire.kernel.links import RouteSocket
from podwire.kernel.netlink import KernelError
from podwire.kernel.reconcile import reconcile
from podwire.kernel.routes import PROTOCOL_PODWIRE, Route
from podwire.kernel.tables import Routes
from podwire.kube.client import Client
from podwire.kube.kubeconfig import Cluster
from podwire.kube.watch import InSync
from podwire.lab.kubeconfig import Credentials
from podwire.lab.topology import UNDERLAY
from podwire.lab.underlay import BRIDGE
from podwire.model.api import Api, ApiError
from podwire.model.gvr import NODES
from podwire.model.node import Node

log = logging.getLogger(__name__)

_RETRY_SECONDS = 0.5


def wanted(nodes: Mapping[str, Node], pod_subnet: str) -> dict[str, str]:
    """podCIDR → the node's address. Left out is what lies outside of the pod subnet or within another node's (of two
    the first in the order of names has it), and nodes whose address is none of the underlay."""
    subnet = ipaddress.ip_network(pod_subnet)
    found: dict[str, str] = {}
    for name in sorted(nodes):
        for text in nodes[name].pod_cidrs:
            try:
                cidr, via = ipaddress.IPv4Network(text), ipaddress.IPv4Address(nodes[name].address)
            except ValueError:
                continue
            taken = any(cidr.overlaps(ipaddress.IPv4Network(other)) for other in found)
            if isinstance(subnet, ipaddress.IPv4Network) and cidr.subnet_of(subnet) and via in UNDERLAY and not taken:
                found[str(cidr)] = str(via)
    return found


class CloudRoutes:
    """Keeps the router's table equal to the nodes' podCIDRs; `index` is its interface towards the nodes."""

    def __init__(self, api: Client, pod_subnet: str, socket: RouteSocket, index: int) -> None:
        self._api, self._pod_subnet, self._index = api, pod_subnet, index
        self._nodes: dict[str, Node] = {}
        self._told: dict[str, str] = {}
        self._delta: Delta[str, Route] = Delta()
        self._table = Routes(socket, lambda route: route.protocol == PROTOCOL_PODWIRE)
        self._news = asyncio.Event()

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow())
            tasks.create_task(self._work())

    async def _follow(self) -> None:
        in_sync = False
        async for item in self._api.watch(NODES, decode=Node):
            if isinstance(item, InSync):
                in_sync = True
            elif item.object is None:
                self._nodes.pop(item.key[1], None)
            else:
                self._nodes[item.key[1]] = item.object
            if in_sync:
                self._news.set()

    async def _work(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            if not await self._once():
                await asyncio.sleep(_RETRY_SECONDS)
                self._news.set()

    async def _once(self) -> bool:
        routes = wanted(self._nodes, self._pod_subnet)
        rows = {cidr: Route(cidr, via, self._index, protocol=PROTOCOL_PODWIRE) for cidr, via in routes.items()}
        self._delta.want(rows)
        failed: list[KernelError] = reconcile(self._delta, self._table)
        for error in failed:
            log.error("route failed error=%s", error)
        if failed:
            return False
        try:
            for name, node in list(self._nodes.items()):
                mine = ",".join(cidr for cidr in node.pod_cidrs if routes.get(cidr) == node.address)
                if mine and self._told.get(node.metadata.uid) != mine:
                    await publish(self._api, name)
                    self._told[node.metadata.uid] = mine
                    log.info("route made node=%s podCIDR=%s via=%s", name, mine, node.address)
        except ApiError as error:
            log.warning("node condition not written error=%s", error)
            return error.not_found
        return True


async def publish(api: Api, node: str) -> None:
    """The node's condition that the network knows it. Raises ApiError."""
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    condition: dict[str, Any] = {
        "type": "NetworkUnavailable",
        "status": "False",
        "reason": "RouteCreated",
        "message": "RouteController created a route",
        "lastHeartbeatTime": now,
        "lastTransitionTime": now,
    }
    await api.patch(NODES, node, {"status": {"conditions": [condition]}}, kind="strategic", subresource="status")


def run(credentials: Credentials, pod_subnet: str) -> None:
    """The daemon: blocks for ever."""
    run_loop(_run(credentials, pod_subnet))


async def _run(credentials: Credentials, pod_subnet: str) -> None:
    cluster = Cluster(
        credentials.server,
        credentials.authority.encode(),
        credentials.certificate.encode(),
        credentials.key.encode(),
    )
    client = Client(cluster, user_agent="podwire-cloud")
    try:
        socket = RouteSocket()
        await CloudRoutes(client, pod_subnet, socket, socket.link_index(BRIDGE) or 0).run()
    finally:
        await client.close()
