"""Routes, neighbours, FDB entries and the VXLAN device of a node state.

Protocol numbers follow Calico: tunnel and endpoint routes are `boot` (plain `ip route` shows none), blackholes and
unencapsulated routes carry 80.
"""

from __future__ import annotations

from dataclasses import dataclass

from podwire.calc.state import BlockRoute, LocalEndpoint, NodeState, Peer, TunnelDevice, Via
from podwire.render.tables import (
    PROTOCOL_PODWIRE,
    SCOPE_GLOBAL,
    SCOPE_LINK,
    TYPE_BLACKHOLE,
    FdbRow,
    NeighbourRow,
    RouteRow,
    RoutingRows,
    VxlanRow,
)


@dataclass(frozen=True, slots=True)
class Names:
    """What the node calls its interfaces, and the tunnel's numbers. `uplink` holds the node's address."""

    uplink: str = "eth0"
    tunnel: str = "vxlan.calico"
    vni: int = 4096
    port: int = 4789
    mtu: int = 1450


def render(state: NodeState, names: Names) -> RoutingRows:
    """All rows."""
    peers = list(state.peers.values()) if state.device else []
    routes = [row for route in state.routes.values() if (row := route_row(route, state, names))]
    routes += [endpoint_row(endpoint) for endpoint in state.endpoints.values()]
    neighbours = [row for peer in peers for row in neighbour_rows(peer, names)]
    fdb = [fdb_row(peer, names) for peer in peers]
    return RoutingRows(
        device=device_row(state.device, names) if state.device else None,
        routes={row.destination: row for row in routes},
        neighbours={row.address: row for row in neighbours},
        fdb={row.mac: row for row in fdb},
    )


def device_row(device: TunnelDevice, names: Names) -> VxlanRow:
    return VxlanRow(
        names.tunnel,
        names.vni,
        names.port,
        device.local,
        names.uplink,
        device.mac,
        names.mtu,
        device.address,
        device.address6,
    )


def route_row(route: BlockRoute, state: NodeState, names: Names) -> RouteRow | None:
    """None for a route through a tunnel that this node has not yet."""
    if route.via is Via.BLACKHOLE:
        return RouteRow(route.destination, protocol=PROTOCOL_PODWIRE, type=TYPE_BLACKHOLE)
    if route.via is Via.DIRECT:
        return RouteRow(route.destination, names.uplink, route.gateway, onlink=True, protocol=PROTOCOL_PODWIRE)
    if state.device is None:
        return None
    if route.via is Via.TUNNEL:
        scope = SCOPE_GLOBAL if ":" in route.destination else SCOPE_LINK  # IPv6 knows no scopes of routes
        return RouteRow(route.destination, names.tunnel, scope=scope)
    return RouteRow(route.destination, names.tunnel, route.gateway, onlink=True)


def endpoint_row(endpoint: LocalEndpoint) -> RouteRow:
    return RouteRow(f"{endpoint.address}/32", endpoint.interface, scope=SCOPE_LINK)


def neighbour_rows(peer: Peer, names: Names) -> list[NeighbourRow]:
    """Both families end at the same device."""
    ends = (peer.tunnel_address, peer.tunnel_address6)
    return [NeighbourRow(names.tunnel, end, peer.tunnel_mac) for end in ends if end]


def fdb_row(peer: Peer, names: Names) -> FdbRow:
    return FdbRow(names.tunnel, peer.tunnel_mac, peer.address)
