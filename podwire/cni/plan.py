"""What an ADD must create, pure: the routed wiring, name by name.

A pod gets one end of a veth pair as its interface, with host addresses and a default route a family: by 169.254.1.1, an
address that nobody has (the host end answers ARP for it), and by the host end's link-local address, which follows from
its fixed MAC. The host routes the pod's addresses straight to the host end. The names are Calico's, so that what people
learned there reads right here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from podwire.cni.spec import Address, Destination, Interface, Request, Result

PREFIX = "cali"
HOST_MAC = "ee:ee:ee:ee:ee:ee"
GATEWAY = "169.254.1.1"
GATEWAY6 = "fe80::ecee:eeff:feee:eeee"
HOST_SETTINGS = {"proxy_arp": 1, "forwarding": 1, "accept_redirects": 0, "route_localnet": 0}
"""IPv4 settings of the host end; those that are 0 may be something else by the node's defaults."""
HOST_SETTINGS6 = {"disable_ipv6": 0, "accept_dad": 0, "proxy_ndp": 1, "forwarding": 1}
POD_SETTINGS6 = {"disable_ipv6": 0, "accept_dad": 0}
"""IPv6 settings of either end. Nobody else can have these addresses: detecting duplicates would only cost a second."""


@dataclass(frozen=True, slots=True)
class Wiring:
    """One attachment's links and addresses; these have no prefix length (they are always host addresses)."""

    host_name: str
    pod_name: str
    pod_mac: str
    mtu: int
    addresses: tuple[str, ...] = ()


def family(address: str) -> int:
    return 6 if ":" in address else 4


def host_prefix(address: str) -> str:
    """The address as a prefix of its own: /32 or /128."""
    return f"{address}/128" if ":" in address else f"{address}/32"


def gateway(address: str) -> str:
    """The next hop of a pod with this address."""
    return GATEWAY6 if ":" in address else GATEWAY


def anywhere(address: str) -> str:
    """The default route's destination in the address's family."""
    return "::/0" if ":" in address else "0.0.0.0/0"


def host_name(request: Request) -> str:
    """Name of the host end: `cali` and 11 hex digits of the SHA-1 of "namespace.pod".

    A call without a pod (from cnitool, say), and a pod's further interfaces, take the attachment's identity instead.
    """
    if request.pod and request.interface == "eth0":
        identity = f"{request.namespace}.{request.pod}"
    else:
        identity = f"{request.container_id}.{request.interface}"
    return PREFIX + hashlib.sha1(identity.encode(), usedforsecurity=False).hexdigest()[:11]


def handle(request: Request) -> str:
    """The name under which IPAM keeps the attachment's addresses."""
    suffix = "" if request.interface == "eth0" else f".{request.interface}"
    return f"{request.network}.{request.container_id}{suffix}"


def mac_from(entropy: bytes) -> str:
    """A locally administered unicast MAC of six random bytes."""
    return bytes([(entropy[0] | 0x02) & 0xFE, *entropy[1:6]]).hex(":")


def routed(request: Request, mtu: int, mac: str) -> Wiring:
    """The wiring before its addresses are known."""
    return Wiring(host_name(request), request.interface, mac, mtu)


def result(wiring: Wiring, netns: str, dns: Mapping[str, Any] | None = None) -> Result:
    """What the runtime is told: host end, pod end, addresses and default routes."""
    return Result(
        interfaces=(
            Interface(wiring.host_name, HOST_MAC, wiring.mtu),
            Interface(wiring.pod_name, wiring.pod_mac, wiring.mtu, netns),
        ),
        ips=tuple(Address(host_prefix(address), gateway(address), 1) for address in wiring.addresses),
        routes=tuple(Destination(anywhere(address), gateway(address)) for address in wiring.addresses),
        dns=dict(dns or {}),
    )
