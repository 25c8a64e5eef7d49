"""Node pod CIDRs: each node gets a piece of the pod subnet, the lowest one that is free.

Source: k8s.io/kubernetes pkg/controller/nodeipam/ipam (range_allocator).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from podwire.controllers.cache import Key, World
from podwire.controllers.loop import Controller
from podwire.controllers.objects import Object, labels, meta, name_of, spec
from podwire.kube.client import ApiError
from podwire.model.gvr import NODES

COMPONENT = "cidrAllocator"
NODE_MASK6 = 64
CONTROL_PLANE = "node-role.kubernetes.io/control-plane"

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def pieces_of(node: Object) -> list[Network]:
    """The pod CIDRs that a node has; what is not one is left out."""
    told = spec(node).get("podCIDRs") or ([spec(node)["podCIDR"]] if spec(node).get("podCIDR") else [])
    found = []
    for text in told:
        try:
            found.append(ipaddress.ip_network(text, strict=False))
        except ValueError:
            continue
    return found


def lowest_free(subnet: Network, mask: int, taken: Iterable[Network]) -> Network | None:
    """The first piece of `subnet` with prefix length `mask` that overlaps nothing taken; None when all are."""
    held = sorted(
        (int(one.network_address), int(one.broadcast_address)) for one in taken if one.version == subnet.version
    )
    size = 1 << (subnet.max_prefixlen - mask)
    at, end = int(subnet.network_address), int(subnet.broadcast_address)
    for first, last in held:
        if last < at:
            continue
        if at + size - 1 < first:
            break
        at = max(at, (last // size + 1) * size)
    if at + size - 1 > end:
        return None
    return type(subnet)((at, mask))


def order(node: Object) -> tuple[bool, str, str]:
    """Nodes that wait together: control planes first, then the oldest."""
    return CONTROL_PLANE not in labels(node), meta(node).get("creationTimestamp") or "", name_of(node)


class NodeCidrs:
    """One key for all nodes: pieces must not be given out twice."""

    def __init__(self, world: World, pod_subnet: str, node_mask: int, pod_subnet6: str = "") -> None:
        """Raises ValueError when a subnet or the mask do not make sense."""
        self._world = world
        self._cut: list[tuple[Network, int]] = [(ipaddress.ip_network(pod_subnet), node_mask)]
        if pod_subnet6:
            self._cut.append((ipaddress.ip_network(pod_subnet6), NODE_MASK6))
        for subnet, mask in self._cut:
            if not subnet.prefixlen <= mask <= subnet.max_prefixlen:
                raise ValueError(f"node mask /{mask} does not fit into the pod subnet {subnet}")

    def controller(self) -> Controller:
        triggers = {NODES: lambda old, new: [("", "")] if new is None or not pieces_of(new) else []}
        return Controller("cidrs", triggers, self.reconcile, workers=1)

    async def reconcile(self, _: Key) -> None:
        nodes = list(self._world.store(NODES))
        taken = [piece for node in nodes for piece in pieces_of(node)]
        for node in sorted((one for one in nodes if not pieces_of(one)), key=order):
            if self._world.store(NODES).leaving(node):
                continue
            pieces = [lowest_free(subnet, mask, taken) for subnet, mask in self._cut]
            if None in pieces:
                said = f"Node {name_of(node)} status is now: CIDRNotAvailable"
                self._world.tell(node, "Normal", "CIDRNotAvailable", said, COMPONENT)
                continue
            texts = [str(piece) for piece in pieces]
            change = {"metadata": {"uid": meta(node)["uid"]}, "spec": {"podCIDR": texts[0], "podCIDRs": texts}}
            try:
                await self._world.patch(NODES, node, change)
            except ApiError as error:
                if not error.not_found:
                    raise
                continue
            taken += [piece for piece in pieces if piece is not None]
