"""Linux bridges and their ports: made, set and read by rtnetlink (linux/if_bridge.h, linux/if_link.h)."""

from __future__ import annotations

import errno
import struct
from dataclasses import dataclass

from podwire.kernel import links, routes
from podwire.kernel.links import IFLA_IFNAME, IFLA_MASTER, IFLA_MTU, RTM_GETLINK, RTM_SETLINK
from podwire.kernel.netlink import KernelError, Message, attributes, nested, u8, u32
from podwire.kernel.routes import AF_BRIDGE

_IFLA_PROTINFO, _NLA_NESTED = 12, 0x8000
_BRPORT_STATE, _BRPORT_MODE = 1, 4
_IFF_UP, _IFF_PROMISC = 0x1, 0x100
_FORWARDING = 3
_IFINFOMSG = struct.Struct("=BBHiII")  # family, pad, type, index, flags, change


@dataclass(frozen=True, slots=True)
class Port:
    """A port: its own index and its bridge's; `hairpin`: a frame may leave by the port it came in by."""

    index: int
    name: str
    bridge: int
    hairpin: bool
    forwarding: bool


def ensure(socket: links.RouteSocket, name: str, mac: str, mtu: int, *, promiscuous: bool) -> int:
    """Index of the bridge, made if there is none, up and with this MTU. Raises KernelError; EEXIST when something else
    has the name. One that is there keeps its MAC."""
    link = socket.link(name)
    if link is None:
        try:
            socket.change(links.create_bridge(name, mac))
        except KernelError as error:
            if error.errno != errno.EEXIST:
                raise
        link = socket.link(name)
    if link is None:
        raise KernelError(f"find bridge {name}", errno.ENODEV)
    if link.kind != "bridge":
        raise KernelError(f"use {name}: it is a {link.kind or 'device'}, not a bridge", errno.EEXIST)
    if not link.up or link.mtu != mtu or (promiscuous and not link.promiscuous):
        flags = _IFF_UP | (_IFF_PROMISC if promiscuous else 0)
        head = _IFINFOMSG.pack(0, 0, 0, link.index, flags, flags)
        socket.change(Message(f"raise bridge {name}", links.RTM_NEWLINK, 0, head + u32(IFLA_MTU, mtu)))
    return link.index


def enslave(index: int, bridge: int) -> Message:
    """Make the link a port."""
    return links.change_link(index, master=bridge)


def set_hairpin(index: int, hairpin: bool) -> Message:
    """Of a port."""
    head = _IFINFOMSG.pack(AF_BRIDGE, 0, 0, index, 0, 0)
    flags = nested(_IFLA_PROTINFO | _NLA_NESTED, u8(_BRPORT_MODE, int(hairpin)))
    return Message(f"set hairpin of port {index}", RTM_SETLINK, 0, head + flags)


def ports(socket: links.RouteSocket) -> list[Port]:
    """Every bridge's ports. Raises KernelError."""
    head = _IFINFOMSG.pack(AF_BRIDGE, 0, 0, 0, 0, 0)
    found = []
    for body in socket.dump(Message("list bridge ports", RTM_GETLINK, 0, head)):
        _, _, _, index, _, _ = _IFINFOMSG.unpack_from(body)
        row = attributes(body, _IFINFOMSG.size)
        info = attributes(row.get(_IFLA_PROTINFO, b"") or row.get(_IFLA_PROTINFO | _NLA_NESTED, b""))
        if IFLA_MASTER not in row or not info:
            continue
        name = row[IFLA_IFNAME].rstrip(b"\0").decode()
        master = int(struct.unpack("=I", row[IFLA_MASTER])[0])
        hairpin, state = info.get(_BRPORT_MODE, b"\0")[0], info.get(_BRPORT_STATE, b"\0")[0]
        found.append(Port(index, name, master, bool(hairpin), state == _FORWARDING))
    return found


def mac_of(address: str) -> str:
    """The MAC that goes with an IPv4 address: 0a:58 and its four bytes. An address that comes again has its former MAC
    again, so that nobody's neighbour table is wrong."""
    return "0a:58:" + routes.pack_address(address)[1].hex(":")
