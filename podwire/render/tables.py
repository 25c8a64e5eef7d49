"""Rows of kernel tables with interface names instead of indexes: what an operator would type, as values.

Numbers are the kernel's own (linux/rtnetlink.h): protocol 3 is boot, 80 ours; scope 253 is link, 0 global.
"""

from __future__ import annotations

from dataclasses import dataclass, field

PROTOCOL_BOOT, PROTOCOL_PODWIRE = 3, 80
SCOPE_GLOBAL, SCOPE_LINK = 0, 253
TYPE_UNICAST, TYPE_BLACKHOLE = 1, 6


@dataclass(frozen=True, slots=True)
class RouteRow:
    """One route of the main table; key: destination (CIDR). `interface` is '' for a blackhole."""

    destination: str
    interface: str = ""
    via: str = ""
    onlink: bool = False
    scope: int = SCOPE_GLOBAL
    protocol: int = PROTOCOL_BOOT
    type: int = TYPE_UNICAST

    def __str__(self) -> str:
        """As `ip route` takes it."""
        words = ["blackhole"] if self.type == TYPE_BLACKHOLE else []
        words.append(self.destination)
        words += ["via", self.via] if self.via else []
        words += ["dev", self.interface] if self.interface else []
        words += ["proto", str(self.protocol)] if self.protocol != PROTOCOL_BOOT else []
        words += ["scope", "link"] if self.scope == SCOPE_LINK else []
        words += ["onlink"] if self.onlink else []
        return " ".join(words)


@dataclass(frozen=True, slots=True)
class NeighbourRow:
    """A permanent neighbour; key: address."""

    interface: str
    address: str
    mac: str

    def __str__(self) -> str:
        return f"{self.address} dev {self.interface} lladdr {self.mac} nud permanent"


@dataclass(frozen=True, slots=True)
class FdbRow:
    """Where a VXLAN device sends frames for a MAC; key: mac."""

    interface: str
    mac: str
    address: str

    def __str__(self) -> str:
        return f"{self.mac} dev {self.interface} dst {self.address} self permanent"


@dataclass(frozen=True, slots=True)
class VxlanRow:
    """The tunnel device and its addresses ('' while there is none)."""

    interface: str
    vni: int
    port: int
    local: str
    parent: str
    mac: str
    mtu: int
    address: str
    address6: str = ""

    def __str__(self) -> str:
        return (
            f"{self.interface} mtu {self.mtu} address {self.mac} type vxlan id {self.vni} dstport {self.port}"
            f" local {self.local} dev {self.parent} nolearning"
        )


@dataclass(frozen=True, slots=True)
class RoutingRows:
    """Everything that `routing` renders, each by its key."""

    device: VxlanRow | None = None
    routes: dict[str, RouteRow] = field(default_factory=dict)
    neighbours: dict[str, NeighbourRow] = field(default_factory=dict)
    fdb: dict[str, FdbRow] = field(default_factory=dict)

    def __str__(self) -> str:
        """The commands that would make it so, one a line, in order."""
        lines = [f"ip link add {self.device}"] if self.device else []
        if self.device and self.device.address:
            lines.append(f"ip address add {self.device.address}/32 dev {self.device.interface}")
        if self.device and self.device.address6:
            lines.append(f"ip address add {self.device.address6}/128 dev {self.device.interface} nodad")
        lines += [f"bridge fdb replace {row}" for _, row in sorted(self.fdb.items())]
        lines += [f"ip neigh replace {row}" for _, row in sorted(self.neighbours.items())]
        lines += [f"ip route replace {row}" for _, row in sorted(self.routes.items())]
        return "\n".join(lines) + "\n" if lines else ""
