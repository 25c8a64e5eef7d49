"""What one node must hold, as values: the answer of `calc`, the question of `render`."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class Via(StrEnum):
    """How a destination is reached."""

    VXLAN = "vxlan"  # through the tunnel, to the peer's tunnel address
    DIRECT = "direct"  # over the underlay, to the peer's own address
    TUNNEL = "tunnel"  # the destination is a peer's tunnel address
    BLACKHOLE = "blackhole"  # a block of this node: what no pod has must not leave the node again


@dataclass(frozen=True, slots=True)
class BlockRoute:
    """Where a block or a single address goes. `gateway` is '' for TUNNEL and BLACKHOLE; `node` is its owner."""

    destination: str
    via: Via
    gateway: str
    node: str


@dataclass(frozen=True, slots=True)
class Peer:
    """Another node as the tunnel sees it: by its own IPv4 address, whatever is inside. One of the tunnel addresses may
    be ''."""

    node: str
    address: str
    tunnel_address: str
    tunnel_mac: str
    tunnel_address6: str = ""


@dataclass(frozen=True, slots=True)
class TunnelDevice:
    """This node's end of the tunnels: `address` and `address6` '' while IPAM has not given one, or no pool asks for
    one; `local` the node's own address."""

    address: str
    mac: str
    local: str
    address6: str = ""


@dataclass(frozen=True, slots=True)
class LocalEndpoint:
    """A pod of this node. `mac` is the pod's side, '' if unknown."""

    interface: str
    address: str
    mac: str = ""


@dataclass(slots=True)
class NodeState:
    """Everything by its key: routes by destination (CIDR), peers by node, endpoints by the caller's key.

    `device` is None while no pool wants VXLAN. `nat_pools` are masqueraded towards what is neither in `pools` nor among
    `hosts` (every node's addresses). The maps change in place; `Changes` says where.
    """

    node: str
    device: TunnelDevice | None = None
    routes: dict[str, BlockRoute] = field(default_factory=dict)
    peers: dict[str, Peer] = field(default_factory=dict)
    endpoints: dict[str, LocalEndpoint] = field(default_factory=dict)
    pools: frozenset[str] = frozenset()
    nat_pools: frozenset[str] = frozenset()
    hosts: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Changes:
    """Keys of NodeState's maps that changed, came or went; false when nothing did."""

    routes: frozenset[str] = frozenset()
    peers: frozenset[str] = frozenset()
    endpoints: frozenset[str] = frozenset()
    device: bool = False
    nat: bool = False

    def __bool__(self) -> bool:
        return bool(self.routes or self.peers or self.endpoints or self.device or self.nat)
