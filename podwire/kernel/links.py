"""Links as values, their rtnetlink messages, and `RouteSocket`: the calls that a node needs (linux/if_link.h)."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from podwire.kernel import netns, routes
from podwire.kernel.netlink import (
    NETLINK_ROUTE,
    NLM_F_CREATE,
    NLM_F_EXCL,
    KernelError,
    Message,
    NetlinkSocket,
    attribute,
    attributes,
    be16,
    iterate_attributes,
    nested,
    text,
    u8,
    u32,
    u64,
)
from podwire.kernel.routes import Address, FdbEntry, Neighbour, Route

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK, RTM_SETLINK, RTM_SETNEIGHTBL = 16, 17, 18, 19, 67

IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_LINK, IFLA_MASTER = 1, 3, 4, 5, 10
IFLA_OPERSTATE, IFLA_LINKINFO, IFLA_NET_NS_PID, IFLA_AF_SPEC, IFLA_GROUP, IFLA_NET_NS_FD = 16, 18, 19, 26, 27, 28
IFLA_NUM_TX_QUEUES, IFLA_NUM_RX_QUEUES, IFLA_LINK_NETNSID = 31, 32, 37
IFLA_INFO_KIND, IFLA_INFO_DATA, VETH_INFO_PEER, IFLA_INET_CONF = 1, 2, 1, 1
VXLAN_ID, VXLAN_LINK, VXLAN_LOCAL, VXLAN_LEARNING, VXLAN_PORT = 1, 3, 4, 7, 15
IFF_UP = 1

DEVCONF = {"forwarding": 1, "proxy_arp": 3, "accept_redirects": 4, "rp_filter": 8, "route_localnet": 26}
"""IPv4 per-device settings by sysctl name (linux/ip.h, IPV4_DEVCONF_…)."""

_IFINFOMSG = struct.Struct("=BBHiII")  # family, pad, type, index, flags, change
_NDTMSG = struct.Struct("=BBH")
_NDTA_NAME, _NDTA_PARMS, _NDTPA_IFINDEX, _NDTPA_PROXY_DELAY = 1, 6, 1, 13
_NO_STATISTICS = u32(29, 1 << 3)  # IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS: a third of a link's description
_MAX_NAME = 15
_OPER_UP, _IFF_PROMISC = 6, 0x100


@dataclass(frozen=True, slots=True)
class Vxlan:
    """What distinguishes one VXLAN device from another; a difference means: make it anew."""

    vni: int
    port: int
    parent: int
    local: str
    learning: bool = False


@dataclass(frozen=True, slots=True)
class Link:
    """An interface as the kernel reports it."""

    index: int
    name: str
    mac: str
    mtu: int
    up: bool
    kind: str = ""
    master: int = 0
    parent: int = 0
    group: int = 0
    vxlan: Vxlan | None = None
    oper_up: bool = False
    promiscuous: bool = False


def _name(kind: int, name: str) -> bytes:
    if not 0 < len(name.encode()) <= _MAX_NAME:
        raise KernelError(f"not an interface name: {name!r}", errno.EINVAL)
    return text(kind, name)


def _header(index: int = 0, flags: int = 0, change: int = 0) -> bytes:
    return _IFINFOMSG.pack(0, 0, 0, index, flags, change)


def create(
    name: str, kind: str, parts: Sequence[bytes], data: bytes = b"", *, index: int = 0, up: bool = False
) -> Message:
    """A link of any kind: `parts` are its attributes, `data` what only its kind knows."""
    info = text(IFLA_INFO_KIND, kind) + (nested(IFLA_INFO_DATA, data) if data else b"")
    flags = IFF_UP if up else 0
    body = _header(index, flags, flags) + _name(IFLA_IFNAME, name) + b"".join(parts) + nested(IFLA_LINKINFO, info)
    return Message(f"create {kind} {name}", RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body)


def create_veth(
    name: str,
    peer: str,
    *,
    peer_netns: int | None = None,
    mtu: int = 1500,
    mac: str = "",
    peer_mac: str = "",
    index: int = 0,
    peer_index: int = 0,
    up: bool = False,
) -> Message:
    """A veth pair; the peer is born in the namespace `peer_netns` (moving it later costs RCU waits of 15 ms).

    One queue each way: more only help several CPUs at once and double the creation time.
    """

    def side(address: str) -> list[bytes]:
        parts = [u32(IFLA_MTU, mtu), u32(IFLA_NUM_TX_QUEUES, 1), u32(IFLA_NUM_RX_QUEUES, 1)]
        return [*parts, attribute(IFLA_ADDRESS, routes.pack_mac(address))] if address else parts

    far = [_header(peer_index), _name(IFLA_IFNAME, peer), *side(peer_mac)]
    if peer_netns is not None:
        far.append(u32(IFLA_NET_NS_FD, peer_netns))
    data = attribute(VETH_INFO_PEER | 0x8000, b"".join(far))
    return create(name, "veth", side(mac), data, index=index, up=up)


def create_bridge(name: str, mac: str = "") -> Message:
    return create(name, "bridge", [attribute(IFLA_ADDRESS, routes.pack_mac(mac))] if mac else [])


def create_vxlan(name: str, vxlan: Vxlan, *, mac: str = "", mtu: int = 1450) -> Message:
    data = [u32(VXLAN_ID, vxlan.vni), be16(VXLAN_PORT, vxlan.port), u8(VXLAN_LEARNING, int(vxlan.learning))]
    if vxlan.local:
        data.append(attribute(VXLAN_LOCAL, routes.pack_address(vxlan.local)[1]))
    if vxlan.parent:
        data.append(u32(VXLAN_LINK, vxlan.parent))
    parts = [u32(IFLA_MTU, mtu)]
    if mac:
        parts.append(attribute(IFLA_ADDRESS, routes.pack_mac(mac)))
    return create(name, "vxlan", parts, b"".join(data))


def change_link(
    index: int,
    *,
    up: bool | None = None,
    mtu: int | None = None,
    master: int | None = None,
    netns_fd: int | None = None,
    name: str = "",
    mac: str = "",
    group: int | None = None,
) -> Message:
    """Change what is given, leave the rest."""
    flags = IFF_UP if up else 0
    parts = [_header(index, flags, IFF_UP if up is not None else 0)]
    for kind, value in ((IFLA_MTU, mtu), (IFLA_MASTER, master), (IFLA_NET_NS_FD, netns_fd), (IFLA_GROUP, group)):
        if value is not None:
            parts.append(u32(kind, value))
    if name:
        parts.append(_name(IFLA_IFNAME, name))
    if mac:
        parts.append(attribute(IFLA_ADDRESS, routes.pack_mac(mac)))
    return Message(f"change link {name or index}", RTM_NEWLINK, 0, b"".join(parts))


def configure_ipv4(index: int, settings: dict[str, int], *, name: str = "") -> Message:
    """Per-device IPv4 settings by `DEVCONF` name, without a write under /proc; of the link `name` for index 0."""
    values = b"".join(u32(DEVCONF[name], value) for name, value in settings.items())
    spec = nested(IFLA_AF_SPEC, nested(socket.AF_INET, nested(IFLA_INET_CONF, values)))
    named = _name(IFLA_IFNAME, name) if name else b""
    return Message(f"configure link {name or index}", RTM_SETLINK, 0, _header(index) + named + spec)


def retire(name: str, group: int) -> Message:
    """The link of that name down, and into a group."""
    body = _header(0, 0, IFF_UP) + _name(IFLA_IFNAME, name) + u32(IFLA_GROUP, group)
    return Message(f"retire link {name}", RTM_SETLINK, 0, body)


def proxy_delay(index: int, milliseconds: int) -> Message:
    """How long a proxied ARP answer is held back on the link (the kernel's default is 800 ms)."""
    parameters = nested(_NDTA_PARMS, u32(_NDTPA_IFINDEX, index), u64(_NDTPA_PROXY_DELAY, milliseconds))
    body = _NDTMSG.pack(socket.AF_INET, 0, 0) + text(_NDTA_NAME, "arp_cache") + parameters
    return Message(f"set proxy delay of link {index}", RTM_SETNEIGHTBL, 0, body)


def delete_link(index: int) -> Message:
    return Message(f"delete link {index}", RTM_DELLINK, 0, _header(index))


def delete_group(group: int) -> Message:
    """Remove every link of the group with one grace period for all of them."""
    return Message(f"delete links of group {group}", RTM_DELLINK, 0, _header() + u32(IFLA_GROUP, group))


def decode_link(body: bytes) -> Link:
    _, _, _, index, flags, _ = _IFINFOMSG.unpack_from(body)
    found = attributes(body, _IFINFOMSG.size)
    info = attributes(found.get(IFLA_LINKINFO, b""))
    kind = info.get(IFLA_INFO_KIND, b"").rstrip(b"\0").decode()

    def number(kind: int) -> int:
        return int(struct.unpack("=I", found[kind])[0]) if kind in found else 0

    return Link(
        index=index,
        name=found[IFLA_IFNAME].rstrip(b"\0").decode(),
        mac=found.get(IFLA_ADDRESS, b"").hex(":"),
        mtu=number(IFLA_MTU),
        up=bool(flags & IFF_UP),
        kind=kind,
        master=number(IFLA_MASTER),
        parent=number(IFLA_LINK),
        group=number(IFLA_GROUP),
        vxlan=_decode_vxlan(attributes(info.get(IFLA_INFO_DATA, b""))) if kind == "vxlan" else None,
        oper_up=found.get(IFLA_OPERSTATE, b"\0")[0] == _OPER_UP,
        promiscuous=bool(flags & _IFF_PROMISC),
    )


def _decode_vxlan(data: dict[int, bytes]) -> Vxlan:
    return Vxlan(
        vni=struct.unpack("=I", data[VXLAN_ID])[0],
        port=struct.unpack(">H", data[VXLAN_PORT])[0],
        parent=struct.unpack("=I", data.get(VXLAN_LINK, bytes(4)))[0],
        local=routes.unpack_address(data[VXLAN_LOCAL]) if VXLAN_LOCAL in data else "",
        learning=data.get(VXLAN_LEARNING, b"\0")[0] != 0,
    )


class RouteSocket(NetlinkSocket):
    """rtnetlink of one network namespace: the calling thread's own, or that of `netns_fd`."""

    def __init__(self, netns_fd: int | None = None, *, brief: bool = False) -> None:
        if netns_fd is None:
            super().__init__(NETLINK_ROUTE, brief=brief)
        else:
            with netns.inside(netns_fd):
                super().__init__(NETLINK_ROUTE, brief=brief)

    def _find(self, name: str) -> bytes | None:
        try:
            ask = _header() + _NO_STATISTICS + _name(IFLA_IFNAME, name)
            return self.get(Message(f"get link {name}", RTM_GETLINK, 0, ask))[1]
        except KernelError as error:
            if error.errno == errno.ENODEV:
                return None
            raise

    def link(self, name: str) -> Link | None:
        """The link of that name, or None."""
        found = self._find(name)
        return decode_link(found) if found is not None else None

    def link_index(self, name: str) -> int | None:
        found = self._find(name)
        return int(_IFINFOMSG.unpack_from(found)[3]) if found is not None else None

    def oper_up(self, name: str) -> bool | None:
        """Whether the link of that name transmits; None when there is none."""
        found = self._find(name)
        if found is None:
            return None
        states = (value for kind, value in iterate_attributes(found, _IFINFOMSG.size) if kind == IFLA_OPERSTATE)
        return next(states, b"\0")[0] == _OPER_UP

    def links(self) -> list[Link]:
        return [
            decode_link(body) for body in self.dump(Message("list links", RTM_GETLINK, 0, _header() + _NO_STATISTICS))
        ]

    def add_veth(
        self,
        name: str,
        peer: str,
        *,
        peer_netns: int | None = None,
        mtu: int = 1500,
        mac: str = "",
        peer_mac: str = "",
    ) -> int:
        """Index of the near end."""
        self.change(create_veth(name, peer, peer_netns=peer_netns, mtu=mtu, mac=mac, peer_mac=peer_mac))
        return self._index_of(name)

    def add_bridge(self, name: str, mac: str = "") -> int:
        self.change(create_bridge(name, mac))
        return self._index_of(name)

    def add_vxlan(self, name: str, vxlan: Vxlan, *, mac: str = "", mtu: int = 1450) -> int:
        self.change(create_vxlan(name, vxlan, mac=mac, mtu=mtu))
        return self._index_of(name)

    def _index_of(self, name: str) -> int:
        index = self.link_index(name)
        if index is None:
            raise KernelError(f"find link {name}", errno.ENODEV)
        return index

    def set_link(
        self,
        index: int,
        *,
        up: bool | None = None,
        mtu: int | None = None,
        master: int | None = None,
        netns: int | None = None,
        name: str = "",
        mac: str = "",
        group: int | None = None,
    ) -> None:
        self.change(change_link(index, up=up, mtu=mtu, master=master, netns_fd=netns, name=name, mac=mac, group=group))

    def delete_link(self, index: int) -> None:
        self.change(delete_link(index))

    def add_address(self, index: int, cidr: str, *, scope: int = routes.SCOPE_UNIVERSE) -> None:
        self.change(routes.add_address(Address(index, cidr, scope)))

    def addresses(self, family: int = socket.AF_UNSPEC) -> list[Address]:
        return [routes.decode_address(body) for body in self.dump(routes.get_addresses(family))]

    def add_route(
        self,
        destination: str,
        *,
        via: str = "",
        index: int = 0,
        scope: int | None = None,
        onlink: bool = False,
        protocol: int = routes.PROTOCOL_BOOT,
        type: int = routes.TYPE_UNICAST,
        source: str = "",
        metric: int = 0,
    ) -> None:
        """Create or replace; `scope` is derived as `ip route` does when not given."""
        if scope is None:
            scope = routes.SCOPE_LINK if type == routes.TYPE_UNICAST and not via else routes.SCOPE_UNIVERSE
        self.change(routes.add_route(Route(destination, via, index, scope, protocol, type, onlink, metric, source)))

    def routes(self, family: int = socket.AF_INET, table: int = routes.TABLE_MAIN) -> list[Route]:
        return [routes.decode_route(body) for body in self.dump(routes.get_routes(family, table))]

    def route_to(self, address: str) -> Route | None:
        """The route that a packet to `address` takes now; None when there is none."""
        try:
            return routes.decode_route(self.get(routes.get_route(address))[1])
        except KernelError as error:
            if error.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EINVAL, errno.EACCES):
                return None
            raise

    def neighbours(self, index: int, family: int = socket.AF_INET) -> list[Neighbour]:
        """Permanent entries of the interface."""
        found = [routes.decode_neighbour(body) for body in self.dump(routes.get_neighbours(index, family))]
        return [entry for entry, permanent in found if permanent]

    def fdb(self, index: int) -> list[FdbEntry]:
        """Entries of the VXLAN device that name an underlay address."""
        found = (routes.decode_fdb(body) for body in self.dump(routes.get_fdb(index)))
        return [entry for entry in found if entry.address]

    def put_address(self, address: Address) -> None:
        self.change(routes.add_address(address))

    def drop_address(self, address: Address) -> None:
        self.change(routes.delete_address(address))

    def put_route(self, route: Route) -> None:
        self.change(routes.add_route(route))

    def drop_route(self, route: Route) -> None:
        self.change(routes.delete_route(route))

    def put_neighbour(self, entry: Neighbour) -> None:
        self.change(routes.add_neighbour(entry))

    def drop_neighbour(self, entry: Neighbour) -> None:
        self.change(routes.delete_neighbour(entry))

    def put_fdb(self, entry: FdbEntry) -> None:
        self.change(routes.add_fdb(entry))

    def drop_fdb(self, entry: FdbEntry) -> None:
        self.change(routes.delete_fdb(entry))
