"""A port of a bridge and the pod behind it, put into the kernel and compared with it: the hands of `bridge`."""

from __future__ import annotations

import errno
import hashlib
import time
from collections.abc import Iterable, Sequence

from podwire.agent import forwarding
from podwire.agent import wiring as wire
from podwire.agent.attachments import Attachment
from podwire.cni import bridgeplan, plan
from podwire.cni.bridgeplan import BridgePlan, Ends
from podwire.cni.result import Destination
from podwire.kernel import bridges, links, netns, routes
from podwire.kernel.links import RouteSocket
from podwire.kernel.netlink import KernelError
from podwire.kernel.routes import SCOPE_UNIVERSE, Address, Neighbour, Route

_BRIDGE_SETTINGS6 = {"disable_ipv6": 0, "accept_dad": 0, "forwarding": 1}
_BRIDGE_SETTINGS = {"forwarding": 1, "accept_redirects": 0, "route_localnet": 0}


def single(cidr: str) -> bool:
    """Whether it is one address alone, in no subnet of the bridge."""
    return cidr.endswith(("/32", "/128"))


def shape_of(record: Attachment) -> BridgePlan:
    """The configuration that the record was made by, as far as it is kernel state."""
    return BridgePlan(
        bridge=record.bridge,
        gateway=record.bridge_gateway,
        default_gateway=record.default_gateway,
        masquerade=record.masquerade,
        hairpin=record.hairpin,
        promiscuous=record.promiscuous,
        mtu=record.mtu,
    )


def ends(socket: RouteSocket, record: Attachment) -> Ends:
    """What the record stands for. Raises KernelError."""
    bridge, port = socket.link(record.bridge), socket.link(record.host_name)
    lengths = [text.partition("/")[2] for text in record.gateways]
    return Ends(
        bridge=record.bridge,
        bridge_mac=bridge.mac if bridge else "",
        host_name=record.host_name,
        host_mac=port.mac if port else "",
        pod_name=record.interface,
        pod_mac=record.pod_mac,
        mtu=record.mtu,
        addresses=tuple(f"{one}/{length}" for one, length in zip(record.addresses, lengths, strict=True)),
        gateways=tuple(text.partition("/")[0] for text in record.gateways),
    )


def ensure_bridge(socket: RouteSocket, shape: BridgePlan, mtu: int, gateways: Sequence[str]) -> links.Link:
    """The bridge with those of the gateways (CIDRs) that lie in a subnet as its addresses, where it shall have any.
    Raises KernelError."""
    wanted = [text for text in gateways if not single(text)]
    first = next((text.partition("/")[0] for text in wanted if ":" not in text), "")
    fresh = socket.link(shape.bridge) is None
    # a MAC of its own: without one it would take a port's, and lose it with the port
    own = bridges.mac_of(first) if first else plan.mac_from(hashlib.sha1(shape.bridge.encode()).digest())
    index = bridges.ensure(socket, shape.bridge, own, mtu, promiscuous=shape.promiscuous)
    if fresh:
        socket.change(links.configure_ipv4(index, _BRIDGE_SETTINGS))
        forwarding.distrust(shape.bridge)
    if any(":" in text for text in gateways):
        forwarding.forward6(socket)
        for setting, value in _BRIDGE_SETTINGS6.items():
            netns.write_sysctl(f"net/ipv6/conf/{shape.bridge}/{setting}", str(value))
    if shape.gateway:
        held = {one.cidr for one in socket.addresses() if one.index == index}
        for text in wanted:
            if text not in held:
                socket.put_address(Address(index, text))
    link = socket.link(shape.bridge)
    if link is None:
        raise KernelError(f"find bridge {shape.bridge}", errno.ENODEV)
    return link


def create_port(socket: RouteSocket, ends: Ends, bridge: int, pod_netns: int, *, hairpin: bool) -> links.Link:
    """The veth pair, its host end a port of the bridge and up, its pod end still down. Raises KernelError."""
    name = ends.host_name
    socket.change(links.create_veth(name, ends.pod_name, peer_netns=pod_netns, mtu=ends.mtu, peer_mac=ends.pod_mac))
    index = socket.link_index(name)
    if index is None:
        raise KernelError(f"find link {name}", errno.ENODEV)
    # down until it is a port: no moment in which it is an interface of its own
    socket.batch([bridges.enslave(index, bridge), links.change_link(index, up=True)])
    socket.change(bridges.set_hairpin(index, hairpin))
    link = socket.link(name)
    if link is None:
        raise KernelError(f"find link {name}", errno.ENODEV)
    return link


def address_pod(ends: Ends, ways: Iterable[Destination], pod_netns: int, *, default: bool) -> None:
    """Raise the pod's interfaces, give it its addresses, its default ways (if any) and routes. Raises KernelError."""
    with netns.inside(pod_netns):
        inner = RouteSocket()
        if any(":" in address for address in ends.addresses):
            for name in ("all", "default", "lo"):
                netns.write_sysctl(f"net/ipv6/conf/{name}/disable_ipv6", "0")
            for setting, value in plan.POD_SETTINGS6.items():
                netns.write_sysctl(f"net/ipv6/conf/{ends.pod_name}/{setting}", str(value))
        forwarding.distrust(ends.pod_name)
    with inner:
        index = inner.link_index(ends.pod_name)
        if index is None:
            raise KernelError(f"find link {ends.pod_name} in the pod", errno.ENODEV)
        changes = [links.change_link(1, up=True), links.change_link(index, up=True)]
        for cidr, gateway in zip(ends.addresses, ends.gateways, strict=True):
            changes.append(routes.add_address(Address(index, cidr)))
            if gateway and single(cidr):  # off the link, but its MAC is known
                changes.append(routes.add_route(Route(plan.host_prefix(gateway), index=index, scope=routes.SCOPE_LINK)))
                changes.append(routes.add_neighbour(Neighbour(index, gateway, ends.bridge_mac)))
            if gateway and default:
                changes.append(routes.add_route(Route(plan.anywhere(cidr), via=gateway, index=index)))
        for way in ways:
            if way.dst in ("0.0.0.0/0", "::/0") and default:
                continue
            via = way.gw or next((gw for gw in ends.gateways if (":" in gw) == (":" in way.dst)), "")
            scope = SCOPE_UNIVERSE if via else routes.SCOPE_LINK
            changes.append(routes.add_route(Route(way.dst, via=via, index=index, scope=scope)))
        inner.batch(changes)
        wire.await_local(inner, [cidr.partition("/")[0] for cidr in ends.addresses])


def reach(socket: RouteSocket, ends: Ends, bridge: int) -> None:
    """Pods whose addresses are of no subnet on the bridge are routed to it one by one. Raises KernelError."""
    changes = []
    for cidr in ends.addresses:
        address = cidr.partition("/")[0]
        if single(cidr):
            changes.append(routes.add_route(wire.host_route(address, bridge)))
        changes.append(routes.add_neighbour(Neighbour(bridge, address, ends.pod_mac)))
    socket.batch(changes)


def forget(socket: RouteSocket, bridge: str, addresses: Iterable[str]) -> None:
    """The opposite of `reach`; absent is fine. Raises KernelError."""
    index = socket.link_index(bridge) if bridge else None
    if index is None:
        return
    gone = []
    for address in addresses:
        gone.append(routes.delete_route(wire.host_route(address, index)))
        gone.append(routes.delete_neighbour(Neighbour(index, address, "")))
    for error in socket.try_batch(gone):
        if error is not None and error.errno not in (errno.ESRCH, errno.ENODEV, errno.ENOENT):
            raise error


def await_forwarding(socket: RouteSocket, name: str) -> None:
    """Wait until the port has carrier and forwards: the bridge learns of it a moment after the pod end was raised.

    Raises KernelError after `wiring.CARRIER_SECONDS`.
    """
    wire.await_carrier(socket, name)
    end = time.monotonic() + wire.CARRIER_SECONDS
    while not any(port.forwarding for port in bridges.ports(socket) if port.name == name):
        if time.monotonic() > end:
            raise KernelError(f"wait for port {name} to forward", errno.ETIMEDOUT)
        time.sleep(0.0002)


def faults(socket: RouteSocket, shape: BridgePlan, ends: Ends, pod_netns: int) -> list[str]:
    """What differs, in words. Raises KernelError."""
    bridge = socket.link(ends.bridge)
    if bridge is None:
        return [f"bridge {ends.bridge} is missing"]
    found = [] if bridge.up else [f"bridge {ends.bridge} is down"]
    port = next((port for port in bridges.ports(socket) if port.name == ends.host_name), None)
    if port is None or port.bridge != bridge.index:
        found.append(f"host interface {ends.host_name} is no port of {ends.bridge}")
    elif port.hairpin != shape.hairpin:
        found.append(f"hairpin mode of {ends.host_name} is {'on' if port.hairpin else 'off'}")
    link = socket.link(ends.host_name)
    if link is not None and not link.up:
        found.append(f"host interface {ends.host_name} is down")
    if shape.promiscuous and not bridge.promiscuous:
        found.append(f"bridge {ends.bridge} is not promiscuous")
    held = {one.cidr for one in socket.addresses() if one.index == bridge.index}
    for cidr, gateway in zip(ends.addresses, ends.gateways, strict=True):
        text = bridgeplan.gateway_cidr(cidr, gateway)
        if shape.gateway and not single(cidr) and text not in held:
            found.append(f"gateway {text} is missing on {ends.bridge}")
    with netns.inside(pod_netns):
        inner = RouteSocket()
    with inner:
        return found + _pod_faults(inner, shape, ends)


def _pod_faults(inner: RouteSocket, shape: BridgePlan, ends: Ends) -> list[str]:
    link = inner.link(ends.pod_name)
    if link is None:
        return [f"interface {ends.pod_name} is missing in the pod"]
    found = [] if link.up else [f"interface {ends.pod_name} is down"]
    if link.mac != ends.pod_mac:
        found.append(f"interface {ends.pod_name} has MAC {link.mac} instead of {ends.pod_mac}")
    held = inner.addresses()
    for cidr, gateway in zip(ends.addresses, ends.gateways, strict=True):
        if Address(link.index, cidr) not in held:
            found.append(f"address {cidr} is missing on {ends.pod_name}")
        family = 10 if ":" in cidr else 2
        ways = {(route.destination, route.via) for route in inner.routes(family)}
        if shape.default_gateway and (plan.anywhere(cidr), gateway) not in ways:
            found.append(f"default route by {gateway} is missing")
    return found
