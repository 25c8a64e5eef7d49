"""Puts a planned wiring into the kernel, takes it out, and compares: the hands of attach.

Sockets are one a thread (`Sockets`), because a thread pool serves the calls. Doomed links are renamed, set down and
put into a group, so that a call is answered before the kernel's grace periods (15 ms a link); the reaper does the rest.
"""

from __future__ import annotations

import errno
import secrets
import threading
import time

from podwire.cni import plan
from podwire.cni.plan import Wiring
from podwire.kernel import links, netns, routes
from podwire.kernel.links import RouteSocket
from podwire.kernel.netlink import KernelError, Message
from podwire.kernel.nfelements import ElementSocket
from podwire.kernel.routes import PROTOCOL_BOOT, SCOPE_LINK, Address, Neighbour, Route

DOOMED_GROUP = 0x706F64
DOOMED_PREFIX = "pw"
CARRIER_SECONDS = 2.0


class Sockets(threading.local):
    """This thread's sockets in the node's namespace, opened when first used."""

    def __init__(self) -> None:
        self._route: RouteSocket | None = None
        self._elements: ElementSocket | None = None

    def route(self) -> RouteSocket:
        if self._route is None:
            self._route = RouteSocket()
        return self._route

    def elements(self) -> ElementSocket:
        if self._elements is None:
            self._elements = ElementSocket()
        return self._elements


def host_route(address: str, index: int) -> Route:
    """The route to a local pod: by its host end, protocol boot, so that `ip route` prints it bare."""
    return Route(f"{address}/32", index=index, scope=SCOPE_LINK, protocol=PROTOCOL_BOOT)


def create(socket: RouteSocket, wiring: Wiring, pod_netns: int) -> int:
    """The veth pair, host end up and configured, pod end still down; the host end's index. Raises KernelError."""
    socket.change(
        links.create_veth(
            wiring.host_name,
            wiring.pod_name,
            peer_netns=pod_netns,
            mtu=wiring.mtu,
            mac=plan.HOST_MAC,
            peer_mac=wiring.pod_mac,
            up=True,
        )
    )
    index = socket.link_index(wiring.host_name)
    if index is None:
        raise KernelError(f"find link {wiring.host_name}", errno.ENODEV)
    socket.batch([links.configure_ipv4(index, plan.HOST_SETTINGS), links.proxy_delay(index, 0)])
    return index


def address_host(socket: RouteSocket, wiring: Wiring, index: int) -> None:
    """The host's way to the pod. Raises KernelError."""
    socket.batch(
        [
            routes.add_route(host_route(wiring.address, index)),
            routes.add_neighbour(Neighbour(index, wiring.address, wiring.pod_mac)),
        ]
    )


def address_pod(wiring: Wiring, pod_netns: int) -> None:
    """Raise the pod's interfaces, give it its address and its way out. Raises KernelError."""
    with netns.inside(pod_netns):
        inner = RouteSocket()
    with inner:
        index = inner.link_index(wiring.pod_name)
        if index is None:
            raise KernelError(f"find link {wiring.pod_name} in the pod", errno.ENODEV)
        gateway = f"{plan.GATEWAY}/32"
        inner.batch(
            [
                links.change_link(1, up=True),
                links.change_link(index, up=True),
                routes.add_address(Address(index, f"{wiring.address}/32")),
                routes.add_route(Route(gateway, index=index, scope=SCOPE_LINK)),
                routes.add_route(Route("0.0.0.0/0", via=plan.GATEWAY, index=index)),
                routes.add_neighbour(Neighbour(index, plan.GATEWAY, plan.HOST_MAC)),
            ]
        )


def await_carrier(socket: RouteSocket, name: str) -> None:
    """Wait until the host end transmits: the kernel attaches its queue a moment after the pod end was raised.

    Until then the first packets to the pod would be lost. Raises KernelError after CARRIER_SECONDS.
    """
    end = time.monotonic() + CARRIER_SECONDS
    while True:
        link = socket.link(name)
        if link is not None and link.oper_up:
            return
        if link is None or time.monotonic() > end:
            raise KernelError(f"wait for carrier of {name}", errno.ENODEV if link is None else errno.ETIMEDOUT)
        time.sleep(0.0002)


def doom_host(socket: RouteSocket, name: str, address: str) -> bool:
    """Take the host end out of use: route away, down, renamed, in the group of the doomed. False when it is gone."""
    index = socket.link_index(name)
    if index is None:
        return False
    if address:
        _tolerate(socket, [routes.delete_route(host_route(address, index))], errno.ESRCH, errno.ENODEV)
    doomed = DOOMED_PREFIX + secrets.token_hex(5)
    changes = [links.change_link(index, up=False), links.change_link(index, name=doomed, group=DOOMED_GROUP)]
    _tolerate(socket, changes, errno.ENODEV)
    return True


def doom_pod(name: str, pod_netns: int) -> None:
    """Take the pod's interface out of sight: down (which flushes its routes) and renamed."""
    with netns.inside(pod_netns):
        inner = RouteSocket()
    with inner:
        index = inner.link_index(name)
        if index is not None:
            doomed = DOOMED_PREFIX + secrets.token_hex(5)
            _tolerate(inner, [links.change_link(index, up=False), links.change_link(index, name=doomed)], errno.ENODEV)


def reap(socket: RouteSocket) -> None:
    """Delete all doomed links, with one grace period for all. Raises KernelError."""
    _tolerate(socket, [links.delete_group(DOOMED_GROUP)], errno.ENODEV)


def _tolerate(socket: RouteSocket, messages: list[Message], *codes: int) -> None:
    for error in socket.try_batch(messages):
        if error is not None and error.errno not in codes:
            raise error


def host_faults(socket: RouteSocket, wiring: Wiring) -> list[str]:
    """What differs on the host's side, in words. Raises KernelError."""
    link = socket.link(wiring.host_name)
    if link is None:
        return [f"host interface {wiring.host_name} is missing"]
    faults = []
    if not link.up:
        faults.append(f"host interface {wiring.host_name} is down")
    if link.mac != plan.HOST_MAC:
        faults.append(f"host interface {wiring.host_name} has MAC {link.mac}")
    if host_route(wiring.address, link.index) not in socket.routes():
        faults.append(f"route to {wiring.address} by {wiring.host_name} is missing")
    return faults


def pod_faults(wiring: Wiring, pod_netns: int) -> list[str]:
    """What differs inside the pod, in words. Raises KernelError."""
    with netns.inside(pod_netns):
        inner = RouteSocket()
    with inner:
        link = inner.link(wiring.pod_name)
        if link is None:
            return [f"interface {wiring.pod_name} is missing in the pod"]
        faults = []
        if not link.up:
            faults.append(f"interface {wiring.pod_name} is down")
        if link.mac != wiring.pod_mac:
            faults.append(f"interface {wiring.pod_name} has MAC {link.mac} instead of {wiring.pod_mac}")
        if Address(link.index, f"{wiring.address}/32") not in inner.addresses():
            faults.append(f"address {wiring.address} is missing on {wiring.pod_name}")
        default = [route for route in inner.routes() if route.destination == "0.0.0.0/0"]
        if not any(route.index == link.index for route in default):
            faults.append(f"default route by {wiring.pod_name} is missing")
        return faults
