"""While the agent runs: bridges and ports that somebody else changed are put back, as the records say. What is right
is only read.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Iterable, Mapping
from socket import AF_INET, AF_INET6

from podwire.agent import bridgewire
from podwire.agent import wiring as wire
from podwire.agent.attachments import READY, Attachment
from podwire.cni.bridgeplan import subnet_of
from podwire.kernel import bridges, links
from podwire.kernel.links import Link, RouteSocket
from podwire.kernel.netlink import KernelError

log = logging.getLogger(__name__)

_OVERTAKEN = (errno.ENODEV, errno.ENETDOWN, errno.EINVAL, errno.EOPNOTSUPP)  # by a DEL


def mend(
    socket: RouteSocket, records: Iterable[Attachment], held: set[tuple[str, int]], alive: Callable[[Attachment], bool]
) -> None:
    """`records` are of attachments in use on bridges, `held` the node's routes (destination, interface); `alive` tells
    whether one still is in use. Raises KernelError."""
    by_bridge: dict[str, list[Attachment]] = {}
    for record in records:
        by_bridge.setdefault(record.bridge, []).append(record)
    if not by_bridge:
        return
    known = {link.name: link for link in socket.links()}
    ports = {port.index: port for port in bridges.ports(socket)}
    for name, mine in by_bridge.items():
        bridge, anew = _bridge(socket, name, mine, known)
        near = {(one.address, one.mac) for f in (AF_INET, AF_INET6) for one in socket.neighbours(bridge or 0, f)}
        for record in mine:
            link = known.get(record.host_name)
            if bridge is None or link is None or link.kind != "veth":
                continue
            changed = _port(socket, record, link, bridge, ports)
            single = [wire.host_route(r.partition("/")[0], bridge).destination for r in _single(record)]
            lost = any((way, bridge) not in held for way in single)
            lost = lost or any((address, record.pod_mac) not in near for address in record.addresses)
            if anew or changed or lost:
                log.warning("pod's port repaired interface=%s addresses=%s", link.name, ",".join(record.addresses))
                _reach(socket, record, bridge)
                if not alive(record):  # a DEL came in between
                    bridgewire.forget(socket, name, record.addresses)


def clear(socket: RouteSocket, records: Iterable[Attachment]) -> None:
    """At the start: on bridges that the records name, what led to pods of no attachment in use goes. (An agent that is
    killed while it wires has no addresses on record yet.) Raises KernelError."""
    known = list(records)
    used = {address for record in known if record.state == READY for address in record.addresses}
    for name in sorted({record.bridge for record in known if record.bridge}):
        index = socket.link_index(name)
        if index is not None:
            near = {one.address for f in (AF_INET, AF_INET6) for one in socket.neighbours(index, f)}
            bridgewire.forget(socket, name, sorted(near - used))


def tidy(socket: RouteSocket, bridge: str, records: Iterable[Attachment], former: Iterable[str]) -> None:
    """Take from the bridge its address in each of these subnets that no attachment on record has any more. Raises
    KernelError."""
    index = socket.link_index(bridge)
    used = {subnet_of(gateway) for record in records for gateway in record.gateways}
    unused = set(former) - used
    if index is None or not unused:
        return
    for address in socket.addresses():
        if address.index == index and subnet_of(address.cidr) in unused:
            log.info("address of a former podCIDR removed bridge=%s address=%s", bridge, address.cidr)
            socket.drop_address(address)


def _single(record: Attachment) -> list[str]:
    """Addresses that lie in no subnet of the bridge."""
    return [a for a, gateway in zip(record.addresses, record.gateways, strict=True) if bridgewire.single(gateway)]


def _bridge(
    socket: RouteSocket, name: str, mine: list[Attachment], known: Mapping[str, Link]
) -> tuple[int | None, bool]:
    """Index of the bridge (None: something else has its name), and whether it had to be changed."""
    link = known.get(name)
    if link is not None and link.kind != "bridge":
        log.error("bridge has become something else name=%s kind=%s", name, link.kind or "device")
        return None, False
    anew = False
    held = {one.cidr for one in socket.addresses() if link is not None and one.index == link.index}
    for record in mine:
        shape = bridgewire.shape_of(record)
        wanted = {text for text in record.gateways if shape.gateway and not bridgewire.single(text)}
        if link is None or not link.up or wanted - held or (shape.promiscuous and not link.promiscuous):
            log.warning("bridge repaired name=%s addresses=%s", name, ",".join(sorted(wanted)) or "none")
            link = bridgewire.ensure_bridge(socket, shape, link.mtu if link else record.mtu, record.gateways)
            held |= wanted
            anew = True
    return (link.index if link else None), anew


def _port(socket: RouteSocket, record: Attachment, link: Link, bridge: int, ports: Mapping[int, bridges.Port]) -> bool:
    port = ports.get(link.index)
    right = port is not None and port.bridge == bridge
    if right and link.up and port is not None and port.hairpin == record.hairpin:
        return False
    changes = [] if right else [bridges.enslave(link.index, bridge)]
    changes.append(links.change_link(link.index, up=True))
    _raise(socket.try_batch(changes))
    _raise(socket.try_batch([bridges.set_hairpin(link.index, record.hairpin)]))
    return True


def _reach(socket: RouteSocket, record: Attachment, bridge: int) -> None:
    try:
        bridgewire.reach(socket, bridgewire.ends(socket, record), bridge)
    except KernelError as error:
        _raise([error])


def _raise(errors: Iterable[KernelError | None]) -> None:
    for error in errors:
        if error is not None and error.errno not in _OVERTAKEN:
            raise error
