"""A node state in the kernel: sysctls, VXLAN device, neighbours and FDB, NAT table, routes, in this order.

Make before break: what a route needs stands before the route, and removals come after writes inside each table.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from socket import AF_INET, AF_INET6
from typing import Any

from podwire.agent.tunnel import TunnelSenders
from podwire.calc.state import NodeState
from podwire.kernel import netns
from podwire.kernel.delta import Delta
from podwire.kernel.links import Vxlan
from podwire.kernel.netlink import KernelError
from podwire.kernel.reconcile import Table, reconcile
from podwire.kernel.routes import PROTOCOL_KERNEL, TYPE_BLACKHOLE, Address, FdbEntry, Neighbour, Route
from podwire.kernel.tables import (
    Addresses,
    Fdb,
    Links,
    Neighbours,
    NftBody,
    NftProgram,
    NftTables,
    RouteKernel,
    Routes,
    VxlanLink,
)
from podwire.render import nft_nat, routing
from podwire.render.routing import Names
from podwire.render.tables import PROTOCOL_PODWIRE, RouteRow, RoutingRows, VxlanRow

LOOSE = "2"

Sysctl = Callable[[str, str], bool]


@dataclass(frozen=True, slots=True)
class Desired:
    """What the kernel shall hold; a value, so that it can go to a thread."""

    rows: RoutingRows
    nat: str


def desired(state: NodeState, names: Names) -> Desired:
    return Desired(routing.render(state, names), nft_nat.body(state))


class NodeDatapath:
    """Keeps the kernel equal to what is desired. Not for use by two threads at once.

    `bridged` says that pods of this node are reached by a bridge's prefix instead of routes of their own: then the
    blackholes of the node's blocks, being more exact, would swallow them.
    """

    def __init__(
        self,
        kernel: RouteKernel,
        program: NftProgram,
        names: Names,
        sysctl: Sysctl = netns.write_sysctl,
        read_sysctl: Callable[[str], str] = netns.read_sysctl,
        bridged: Callable[[], bool] = lambda: False,
        senders: TunnelSenders | None = None,
    ) -> None:
        self._kernel = kernel
        self._names = names
        self._sysctl = sysctl
        self._read_sysctl = read_sysctl
        self._bridged = bridged
        self._senders = senders
        self._links: Delta[str, VxlanLink] = Delta()
        self._links_table = Links(kernel, frozenset({names.tunnel}))
        self._nat: Delta[str, NftBody] = Delta()
        self._nat_table = NftTables(program, frozenset({nft_nat.TABLE}))
        self._routes: Delta[str, Route] = Delta()
        self._addresses: Delta[str, Address] = Delta()
        self._neighbours: Delta[str, Neighbour] = Delta()
        self._fdb: Delta[str, FdbEntry] = Delta()
        self._tunnel_index = 0

    def doubt(self) -> None:
        """Somebody else may have changed something: everything is read back at the next `apply`."""
        for delta in (self._links, self._nat, self._routes, self._addresses, self._neighbours, self._fdb):
            delta.doubt()
        if self._senders is not None:
            self._senders.doubt()

    def tables(self) -> dict[str, Delta[str, Any]]:
        """Each table by its name, for looking at while another thread may apply."""
        return {
            "links": self._links,
            "addresses": self._addresses,
            "fdb": self._fdb,
            "neighbours": self._neighbours,
            nft_nat.TABLE: self._nat,
            "routes": self._routes,
        }

    def apply(self, wanted: Desired) -> list[KernelError]:
        """Make it so; what failed. The rest is done nevertheless."""
        try:
            return [
                *self._apply_sysctls(),
                *self._apply_senders(wanted.rows),
                *self._apply_device(wanted.rows.device),
                *self._apply_tunnel(wanted.rows),
                *self._apply(self._nat, self._nat_table, {nft_nat.TABLE: NftBody.of(wanted.nat)}),
                *self._apply_routes(wanted.rows.routes),
            ]
        except KernelError as error:
            self.doubt()
            return [error]

    def _apply_sysctls(self) -> list[KernelError]:
        """Forwarding on; the reverse path check loose where routes to and from a pod differ by design.

        (A pod speaks to another node's own address over the underlay, and is answered through the tunnel.)
        """
        try:
            self._sysctl("net/ipv4/ip_forward", "1")
            strict = self._read_sysctl("net/ipv4/conf/all/rp_filter") == "1"
            for name in (self._names.uplink, self._names.tunnel):
                known = self._kernel.link(name) is not None
                if known and (strict or self._read_sysctl(f"net/ipv4/conf/{name}/rp_filter") == "1"):
                    self._sysctl(f"net/ipv4/conf/{name}/rp_filter", LOOSE)
        except KernelError as error:
            return [error]
        return []

    def _apply_senders(self, rows: RoutingRows) -> list[KernelError]:
        """Before the tunnel is there, nobody may send into it."""
        if self._senders is None or rows.device is None:
            return []
        return self._senders.apply({row.address for row in rows.fdb.values()})

    def _has_six(self) -> bool:
        """Whether the kernel knows IPv6 at all: where it does not, IPv4 is served nevertheless."""
        try:
            self._read_sysctl("net/ipv6/conf/all/disable_ipv6")
        except KernelError:
            return False
        return True

    def _six(self, device: VxlanRow | None) -> list[KernelError]:
        """IPv6 forwarded and spoken by the tunnel; an uplink that learns its default route from routers keeps doing so,
        which it would not as a router itself."""
        if device is None or not device.address6:
            return []
        try:
            accept = f"net/ipv6/conf/{self._names.uplink}/accept_ra"
            if self._kernel.link(self._names.uplink) is not None and self._read_sysctl(accept) == "1":
                self._sysctl(accept, "2")
            self._sysctl("net/ipv6/conf/all/forwarding", "1")
            if self._tunnel_index:
                self._sysctl(f"net/ipv6/conf/{self._names.tunnel}/disable_ipv6", "0")
        except KernelError as error:
            return [error]
        return []

    def _apply_device(self, row: VxlanRow | None) -> list[KernelError]:
        wanted: dict[str, VxlanLink] = {}
        if row is not None and row.local:
            parent = self._index(row.parent)
            wanted[row.interface] = VxlanLink(Vxlan(row.vni, row.port, parent, row.local), row.mac, row.mtu)
        failed = self._apply(self._links, self._links_table, wanted)
        link = self._kernel.link(self._names.tunnel) if wanted else None
        index = link.index if link else 0
        if index != self._tunnel_index:
            # a new device is empty, whatever we remember of the former one
            for delta in (self._addresses, self._neighbours, self._fdb, self._routes):
                delta.doubt()
            self._tunnel_index = index
            if link is not None and self._has_six():
                self._sysctl(f"net/ipv6/conf/{self._names.tunnel}/accept_ra", "0")
        return failed

    def _apply_tunnel(self, rows: RoutingRows) -> list[KernelError]:
        index = self._tunnel_index
        if not index or rows.device is None:
            return []
        ends = [f"{rows.device.address}/32"] if rows.device.address else []
        ends += [f"{rows.device.address6}/128"] if rows.device.address6 else []
        addresses = {cidr: Address(index, cidr) for cidr in ends}
        neighbours = {row.address: Neighbour(index, row.address, row.mac) for row in rows.neighbours.values()}
        fdb = {row.mac: FdbEntry(index, row.mac, row.address) for row in rows.fdb.values()}
        return [
            *self._six(rows.device),
            *self._apply(self._addresses, Addresses(self._kernel, index), addresses),
            *self._apply(self._fdb, Fdb(self._kernel, index), fdb),
            *self._apply(self._neighbours, Neighbours(self._kernel, index), neighbours),
        ]

    def _apply_routes(self, rows: Mapping[str, RouteRow]) -> list[KernelError]:
        indexes = {name: self._kernel.link(name) for name in {row.interface for row in rows.values() if row.interface}}
        wanted = {}
        missing = []
        bridged, four_only = self._bridged(), not self._has_six()
        for key, row in rows.items():
            if (bridged and row.type == TYPE_BLACKHOLE) or (four_only and ":" in row.destination):
                continue
            link = indexes.get(row.interface)
            if row.interface and link is None:
                missing.append(KernelError(f"route {row}", errno.ENODEV))
            else:
                wanted[key] = _route(row, link.index if link else 0)
        table = Routes(self._kernel, self._owns, (AF_INET, AF_INET6))
        return [*missing, *self._apply(self._routes, table, wanted)]

    def _owns(self, route: Route) -> bool:
        """Our protocol number, and everything by the tunnel device but what the kernel itself put there."""
        by_tunnel = self._tunnel_index != 0 and route.index == self._tunnel_index
        return route.protocol == PROTOCOL_PODWIRE or (by_tunnel and route.protocol != PROTOCOL_KERNEL)

    def _apply(self, delta: Delta[str, Any], table: Table[str, Any], rows: Mapping[str, Any]) -> list[KernelError]:
        delta.want(rows)
        return reconcile(delta, table)

    def _index(self, name: str) -> int:
        link = self._kernel.link(name)
        if link is None:
            raise KernelError(f"find uplink {name}", errno.ENODEV)
        return link.index


def _route(row: RouteRow, index: int) -> Route:
    return Route(row.destination, row.via, index, row.scope, row.protocol, row.type, row.onlink)
