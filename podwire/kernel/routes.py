"""Routes, addresses, neighbours and FDB entries as values, with their rtnetlink messages (linux/rtnetlink.h)."""

from __future__ import annotations

import errno
import socket
import struct
from dataclasses import dataclass
from functools import lru_cache

from podwire.kernel.netlink import (
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    KernelError,
    Message,
    attribute,
    attributes,
    u32,
)

RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTM_NEWNEIGH, RTM_DELNEIGH, RTM_GETNEIGH = 28, 29, 30

RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_PRIORITY, RTA_PREFSRC, RTA_TABLE = 1, 4, 5, 6, 7, 15
IFA_ADDRESS, IFA_LOCAL = 1, 2
NDA_DST, NDA_LLADDR = 1, 2

SCOPE_UNIVERSE, SCOPE_LINK, SCOPE_HOST = 0, 253, 254
PROTOCOL_KERNEL, PROTOCOL_BOOT, PROTOCOL_STATIC, PROTOCOL_RA, PROTOCOL_PODWIRE = 2, 3, 4, 9, 80
TYPE_UNICAST, TYPE_LOCAL, TYPE_BLACKHOLE, TYPE_UNREACHABLE = 1, 2, 6, 7
TABLE_MAIN = 254
METRIC_IPV6 = 1024  # what the kernel gives an IPv6 route that names none
RTNH_F_ONLINK = 4
NUD_NOARP, NUD_PERMANENT = 0x40, 0x80
NTF_SELF = 0x02
AF_BRIDGE = 7

_RTMSG = struct.Struct("=BBBBBBBBI")  # family, dst_len, src_len, tos, table, protocol, scope, type, flags
_NDMSG = struct.Struct("=BBHiHBB")  # family, pad, pad, ifindex, state, flags, type
_IFA_F_NODAD = 2
_IFADDRMSG = struct.Struct("=BBBBi")  # family, prefix length, flags, scope, ifindex


@dataclass(frozen=True, slots=True)
class Route:
    """One route of the main table; `destination` is a CIDR, `via` an address or "", `index` an interface or 0."""

    destination: str
    via: str = ""
    index: int = 0
    scope: int = SCOPE_UNIVERSE
    protocol: int = PROTOCOL_BOOT
    type: int = TYPE_UNICAST
    onlink: bool = False
    metric: int = 0
    source: str = ""
    table: int = TABLE_MAIN


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A permanent neighbour entry: address → MAC on an interface."""

    index: int
    address: str
    mac: str


@dataclass(frozen=True, slots=True)
class FdbEntry:
    """A permanent forwarding entry of a VXLAN device: MAC → underlay address."""

    index: int
    mac: str
    address: str


@dataclass(frozen=True, slots=True)
class Address:
    """An interface address in CIDR form."""

    index: int
    cidr: str
    scope: int = SCOPE_UNIVERSE


@lru_cache(512)  # the same few again and again in one attachment
def pack_address(address: str) -> tuple[int, bytes]:
    """(family, bytes) of an IPv4 or IPv6 address. Raises KernelError EINVAL naming the text."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        return family, socket.inet_pton(family, address)
    except OSError:
        raise KernelError(f"not an IP address: {address!r}", errno.EINVAL) from None


def unpack_address(raw: bytes) -> str:
    return socket.inet_ntop(socket.AF_INET6 if len(raw) == 16 else socket.AF_INET, raw)


@lru_cache(512)
def pack_cidr(cidr: str) -> tuple[int, bytes, int]:
    """(family, bytes, prefix length); a bare address is a host prefix, "default" is 0.0.0.0/0."""
    if cidr == "default":
        cidr = "0.0.0.0/0"
    address, slash, length = cidr.partition("/")
    family, raw = pack_address(address)
    bits = len(raw) * 8
    if slash and not (length.isdecimal() and int(length) <= bits):
        raise KernelError(f"not a prefix: {cidr!r}", errno.EINVAL)
    return family, raw, int(length) if slash else bits


@lru_cache(512)
def pack_mac(mac: str) -> bytes:
    """Six bytes of "aa:bb:…". Raises KernelError EINVAL."""
    try:
        raw = bytes.fromhex(mac.replace(":", ""))
    except ValueError:
        raw = b""
    if len(raw) != 6:
        raise KernelError(f"not a MAC address: {mac!r}", errno.EINVAL)
    return raw


def _route_body(route: Route) -> bytes:
    family, destination, length = pack_cidr(route.destination)
    table = route.table if route.table < 256 else 0
    flags = RTNH_F_ONLINK if route.onlink else 0
    head = _RTMSG.pack(family, length, 0, 0, table, route.protocol, route.scope, route.type, flags)
    parts = [head, u32(RTA_TABLE, route.table)]
    if length:
        parts.append(attribute(RTA_DST, destination))
    if route.via:
        parts.append(attribute(RTA_GATEWAY, pack_address(route.via)[1]))
    if route.source:
        parts.append(attribute(RTA_PREFSRC, pack_address(route.source)[1]))
    if route.index:
        parts.append(u32(RTA_OIF, route.index))
    if route.metric:
        parts.append(u32(RTA_PRIORITY, route.metric))
    return b"".join(parts)


def add_route(route: Route, *, replace: bool = True) -> Message:
    """Create the route; with `replace` one of the same destination and metric is overwritten in place."""
    flags = NLM_F_CREATE | (NLM_F_REPLACE if replace else NLM_F_EXCL)
    return Message(f"add route {route.destination}", RTM_NEWROUTE, flags, _route_body(route))


def delete_route(route: Route) -> Message:
    """Remove exactly this route: a route to the same destination by another interface stays."""
    return Message(f"delete route {route.destination}", RTM_DELROUTE, 0, _route_body(route))


def get_routes(family: int = socket.AF_INET, table: int = TABLE_MAIN) -> Message:
    head = _RTMSG.pack(family, 0, 0, 0, 0, 0, 0, 0, 0)
    return Message("list routes", RTM_GETROUTE, 0, head + u32(RTA_TABLE, table))


def get_route(address: str) -> Message:
    """Which route does a packet to `address` take?"""
    family, raw = pack_address(address)
    head = _RTMSG.pack(family, len(raw) * 8, 0, 0, 0, 0, 0, 0, 0)
    return Message(f"find route to {address}", RTM_GETROUTE, 0, head + attribute(RTA_DST, raw))


def decode_route(body: bytes) -> Route:
    family, length, _, _, table, protocol, scope, kind, flags = _RTMSG.unpack_from(body)
    found = attributes(body, _RTMSG.size)
    zero = "::" if family == socket.AF_INET6 else "0.0.0.0"
    destination = unpack_address(found[RTA_DST]) if RTA_DST in found else zero
    return Route(
        destination=f"{destination}/{length}",
        via=unpack_address(found[RTA_GATEWAY]) if RTA_GATEWAY in found else "",
        index=_number(found.get(RTA_OIF)),
        scope=scope,
        protocol=protocol,
        type=kind,
        onlink=bool(flags & RTNH_F_ONLINK),
        metric=_number(found.get(RTA_PRIORITY)),
        source=unpack_address(found[RTA_PREFSRC]) if RTA_PREFSRC in found else "",
        table=_number(found.get(RTA_TABLE)) or table,
    )


def _number(raw: bytes | None) -> int:
    return int(struct.unpack("=I", raw)[0]) if raw else 0


def add_neighbour(entry: Neighbour) -> Message:
    family, raw = pack_address(entry.address)
    head = _NDMSG.pack(family, 0, 0, entry.index, NUD_PERMANENT, 0, 0)
    body = head + attribute(NDA_DST, raw) + attribute(NDA_LLADDR, pack_mac(entry.mac))
    return Message(f"add neighbour {entry.address}", RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, body)


def delete_neighbour(entry: Neighbour) -> Message:
    family, raw = pack_address(entry.address)
    head = _NDMSG.pack(family, 0, 0, entry.index, 0, 0, 0)
    return Message(f"delete neighbour {entry.address}", RTM_DELNEIGH, 0, head + attribute(NDA_DST, raw))


def get_neighbours(index: int, family: int = socket.AF_INET) -> Message:
    return Message("list neighbours", RTM_GETNEIGH, 0, _NDMSG.pack(family, 0, 0, 0, 0, 0, 0) + u32(8, index))


def decode_neighbour(body: bytes) -> tuple[Neighbour, bool]:
    """The entry and whether it is permanent; entries without a MAC have ""."""
    _, _, _, index, state, _, _ = _NDMSG.unpack_from(body)
    found = attributes(body, _NDMSG.size)
    mac = found.get(NDA_LLADDR, b"").hex(":")
    return Neighbour(index, unpack_address(found[NDA_DST]), mac), bool(state & NUD_PERMANENT)


def add_fdb(entry: FdbEntry) -> Message:
    head = _NDMSG.pack(AF_BRIDGE, 0, 0, entry.index, NUD_PERMANENT, NTF_SELF, 0)
    body = head + attribute(NDA_LLADDR, pack_mac(entry.mac)) + attribute(NDA_DST, pack_address(entry.address)[1])
    return Message(f"add fdb {entry.mac}", RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, body)


def delete_fdb(entry: FdbEntry) -> Message:
    head = _NDMSG.pack(AF_BRIDGE, 0, 0, entry.index, NUD_PERMANENT, NTF_SELF, 0)
    body = head + attribute(NDA_LLADDR, pack_mac(entry.mac)) + attribute(NDA_DST, pack_address(entry.address)[1])
    return Message(f"delete fdb {entry.mac}", RTM_DELNEIGH, 0, body)


def get_fdb(index: int) -> Message:
    return Message("list fdb", RTM_GETNEIGH, 0, _NDMSG.pack(AF_BRIDGE, 0, 0, index, 0, 0, 0))


def decode_fdb(body: bytes) -> FdbEntry:
    _, _, _, index, _, _, _ = _NDMSG.unpack_from(body)
    found = attributes(body, _NDMSG.size)
    address = unpack_address(found[NDA_DST]) if NDA_DST in found else ""
    return FdbEntry(index, found.get(NDA_LLADDR, b"").hex(":"), address)


def add_address(address: Address) -> Message:
    family, raw, length = pack_cidr(address.cidr)
    # nobody else can have it. Even where detection is off, an address that is not told so cannot be a source until the
    # kernel's work queue has come to it
    flags = _IFA_F_NODAD if family == socket.AF_INET6 else 0
    head = _IFADDRMSG.pack(family, length, flags, address.scope, address.index)
    body = head + attribute(IFA_LOCAL, raw) + attribute(IFA_ADDRESS, raw)
    return Message(f"add address {address.cidr}", RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, body)


def delete_address(address: Address) -> Message:
    family, raw, length = pack_cidr(address.cidr)
    head = _IFADDRMSG.pack(family, length, 0, address.scope, address.index)
    return Message(f"delete address {address.cidr}", RTM_DELADDR, 0, head + attribute(IFA_LOCAL, raw))


def get_addresses(family: int = socket.AF_UNSPEC) -> Message:
    return Message("list addresses", RTM_GETADDR, 0, _IFADDRMSG.pack(family, 0, 0, 0, 0))


def decode_address(body: bytes) -> Address:
    _, length, _, scope, index = _IFADDRMSG.unpack_from(body)
    found = attributes(body, _IFADDRMSG.size)
    raw = found.get(IFA_LOCAL) or found[IFA_ADDRESS]
    return Address(index, f"{unpack_address(raw)}/{length}", scope)
