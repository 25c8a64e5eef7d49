"""Puts a planned wiring into the kernel, takes it out, and compares: the hands of attach.

Sockets are one a thread (`Sockets`), because a thread pool serves the calls. Doomed links are set down, renamed where
the name is wanted, and put into a group, so that a call is answered before the kernel's grace periods (15 ms a link);
the reaper does the rest.
"""

from __future__ import annotations

import errno
import os
import secrets
import threading
import time
from collections.abc import Iterable
from socket import AF_INET, AF_INET6

from podwire.agent import forwarding
from podwire.cni import plan
from podwire.cni.plan import Wiring
from podwire.kernel import links, netns, routes
from podwire.kernel.links import RouteSocket
from podwire.kernel.netlink import KernelError, Message
from podwire.kernel.nfelements import ElementSocket
from podwire.kernel.routes import (
    PROTOCOL_BOOT,
    PROTOCOL_PODWIRE,
    SCOPE_LINK,
    TYPE_BLACKHOLE,
    TYPE_LOCAL,
    Address,
    Neighbour,
    Route,
)

DOOMED_GROUP = 0x706F64
DOOMED_PREFIX = "pw"
CARRIER_SECONDS = 2.0


class _Own:
    """The calling thread's network namespace, open as long as this is used."""

    def __init__(self) -> None:
        self.fd = netns.open_own()

    def __del__(self) -> None:
        os.close(self.fd)


class Sockets(threading.local):
    """This thread's sockets in the node's namespace, opened when first used."""

    def __init__(self) -> None:
        self._route: RouteSocket | None = None
        self._elements: ElementSocket | None = None
        self._home: _Own | None = None

    def route(self) -> RouteSocket:
        if self._route is None:
            self._route = RouteSocket()
        return self._route

    def elements(self) -> ElementSocket:
        if self._elements is None:
            self._elements = ElementSocket()
        return self._elements

    def home(self) -> int:
        """A descriptor of the node's namespace, for the way back from a pod's."""
        if self._home is None:
            self._home = _Own()
        return self._home.fd


def host_route(address: str, index: int) -> Route:
    """The route to a local pod: by its host end, protocol boot, so that `ip route` prints it bare."""
    return Route(plan.host_prefix(address), index=index, scope=SCOPE_LINK, protocol=PROTOCOL_BOOT)


def drop_blackholes(socket: RouteSocket) -> None:
    """Those of the node's blocks: pods behind a bridge have no routes of their own to win over them.

    The datapath keeps them away from then on (`bridged`). Raises KernelError.
    """
    held = [*socket.routes(AF_INET), *socket.routes(AF_INET6)]
    ours = [route for route in held if route.type == TYPE_BLACKHOLE and route.protocol == PROTOCOL_PODWIRE]
    _tolerate(socket, [routes.delete_route(route) for route in ours], errno.ESRCH)


class Indexes:
    """Interface numbers of our choice: links can be used in the same breath in which they are made. A number serves
    both ends, and none twice, as an end that waits for its deletion still has it."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._next = 0

    def take(self, socket: RouteSocket, *, anew: bool = False) -> int:
        """The next; `anew`: one of ours was taken by somebody else. Raises KernelError."""
        with self._guard:
            if anew or not self._next:
                self._next = max([self._next, *(link.index for link in socket.links())])
            self._next += 1
            return self._next


def create(socket: RouteSocket, wiring: Wiring, pod_netns: int, index: int) -> None:
    """The veth pair, both ends with that index, host end up and configured, pod end still down. Raises KernelError;
    EEXIST when one of the names or the index is taken."""
    pair = links.create_veth(
        wiring.host_name,
        wiring.pod_name,
        peer_netns=pod_netns,
        mtu=wiring.mtu,
        mac=plan.HOST_MAC,
        peer_mac=wiring.pod_mac,
        index=index,
        peer_index=index,
        up=True,
    )
    # by name: were the index somebody else's, the second message must not reach that one
    socket.batch([pair, links.configure_ipv4(0, plan.HOST_SETTINGS, name=wiring.host_name)])
    forwarding.distrust(wiring.host_name)


def address_host(socket: RouteSocket, wiring: Wiring, index: int) -> None:
    """The host's way to the pod. Raises KernelError."""
    if any(plan.family(address) == 6 for address in wiring.addresses):
        forwarding.forward6(socket)
        _settings6(wiring.host_name, plan.HOST_SETTINGS6)
    changes = [links.proxy_delay(index, 0)]
    for address in wiring.addresses:
        changes.append(routes.add_route(host_route(address, index)))
        changes.append(routes.add_neighbour(Neighbour(index, address, wiring.pod_mac)))
    socket.batch(changes)


def address_pod(wiring: Wiring, pod_netns: int, home: int, index: int, sysctls: Iterable[tuple[str, str]] = ()) -> None:
    """Raise the pod's interfaces, give it its addresses and its ways out, set its sysctls. Raises KernelError."""
    with netns.inside(pod_netns, home):
        inner = RouteSocket(brief=True)
        if any(plan.family(address) == 6 for address in wiring.addresses):
            for name in ("all", "default", "lo"):
                netns.write_sysctl(f"net/ipv6/conf/{name}/disable_ipv6", "0")
            _settings6(wiring.pod_name, plan.POD_SETTINGS6)
        forwarding.distrust(wiring.pod_name)
        for name, value in sysctls:
            netns.write_sysctl(name, value)
    with inner:
        changes = [links.change_link(1, up=True), links.change_link(index, up=True)]
        for address in wiring.addresses:
            changes += _way_out(address, index)
        inner.batch(changes)
        await_local(inner, wiring.addresses)


def await_local(socket: RouteSocket, addresses: Iterable[str]) -> None:
    """Wait until the namespace takes packets to its IPv6 addresses: the kernel makes their local routes a moment after
    the addresses, also without duplicate address detection (net/ipv6/addrconf.c, addrconf_dad_work).

    Until then the first packets to the pod would be lost. Raises KernelError after CARRIER_SECONDS.
    """
    end = time.monotonic() + CARRIER_SECONDS
    for address in addresses:
        while plan.family(address) == 6 and not _is_local(socket, address):
            if time.monotonic() > end:
                raise KernelError(f"wait for the local route of {address}", errno.ETIMEDOUT)
            time.sleep(0.0002)


def _is_local(socket: RouteSocket, address: str) -> bool:
    found = socket.route_to(address)
    return found is not None and found.type == TYPE_LOCAL


def _way_out(address: str, index: int) -> list[Message]:
    """In the pod: the address, and the default route by a gateway whose MAC needs no asking."""
    gateway = plan.gateway(address)
    changes = [routes.add_address(Address(index, plan.host_prefix(address)))]
    if plan.family(address) == 4:
        changes.append(routes.add_route(Route(plan.host_prefix(gateway), index=index, scope=SCOPE_LINK)))
    changes.append(routes.add_route(Route(plan.anywhere(address), via=gateway, index=index)))
    changes.append(routes.add_neighbour(Neighbour(index, gateway, plan.HOST_MAC)))
    return changes


def _settings6(name: str, settings: dict[str, int]) -> None:
    """IPv6 settings of an interface in the calling thread's namespace. Raises KernelError."""
    for setting, value in settings.items():
        netns.write_sysctl(f"net/ipv6/conf/{name}/{setting}", str(value))


def await_carrier(socket: RouteSocket, name: str) -> None:
    """Wait until the host end transmits: the kernel attaches its queue a moment after the pod end was raised.

    Until then the first packets to the pod would be lost. Raises KernelError after CARRIER_SECONDS.
    """
    end = time.monotonic() + CARRIER_SECONDS
    while True:
        up = socket.oper_up(name)
        if up:
            return
        if up is None or time.monotonic() > end:
            raise KernelError(f"wait for carrier of {name}", errno.ENODEV if up is None else errno.ETIMEDOUT)
        time.sleep(0.0002)


def retire_host(socket: RouteSocket, name: str) -> None:
    """Take the host end out of use for good: down, which flushes its routes, and in the group of the doomed.

    It keeps its name until it is gone: giving it another takes the kernel longer than all the rest, and only an ADD
    that wants the same name before the next reaping needs that (`doom_host`). One that is gone is fine. Raises
    KernelError.
    """
    _tolerate(socket, [links.retire(name, DOOMED_GROUP)], errno.ENODEV)


def doom_host(socket: RouteSocket, name: str, addresses: Iterable[str]) -> bool:
    """Take the host end out of use: routes away, down, renamed, in the group of the doomed. False when it is gone."""
    index = socket.link_index(name)
    if index is None:
        return False
    doom_index(socket, index, addresses)
    return True


def doom_index(socket: RouteSocket, index: int, addresses: Iterable[str]) -> None:
    """The same for an interface known by its index."""
    changes = [routes.delete_route(host_route(address, index)) for address in addresses]
    changes.append(links.change_link(index, up=False))
    changes.append(links.change_link(index, name=DOOMED_PREFIX + secrets.token_hex(5), group=DOOMED_GROUP))
    _tolerate(socket, changes, errno.ESRCH, errno.ENODEV)


def doom_pod(name: str, pod_netns: int, home: int) -> None:
    """Take the pod's interface out of sight: down (which flushes its routes) and renamed."""
    with netns.inside(pod_netns, home):
        inner = RouteSocket(brief=True)
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
    for address in wiring.addresses:
        if not _has_route(socket, host_route(address, link.index)):
            faults.append(f"route to {address} by {wiring.host_name} is missing")
    return faults


def _has_route(socket: RouteSocket, wanted: Route) -> bool:
    """By destination and interface: IPv6 knows no scope, and gives a metric of its own."""
    family = AF_INET6 if ":" in wanted.destination else AF_INET
    known = {(route.destination, route.via, route.index) for route in socket.routes(family)}
    return (wanted.destination, wanted.via, wanted.index) in known


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
        held = inner.addresses()
        for address in wiring.addresses:
            if Address(link.index, plan.host_prefix(address)) not in held:
                faults.append(f"address {address} is missing on {wiring.pod_name}")
            if not _has_route(inner, Route(plan.anywhere(address), via=plan.gateway(address), index=link.index)):
                faults.append(f"default route {plan.anywhere(address)} by {wiring.pod_name} is missing")
        return faults
