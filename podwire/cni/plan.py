"""What an ADD must create, pure: the routed wiring, name by name.

A pod gets one end of a veth pair as its interface, with a host address and a default route by 169.254.1.1, an address
that nobody has: the host end answers ARP for it (proxy_arp) and has a MAC of its own choice. The host routes the pod's
address straight to the host end. The names are Calico's, so that what people learned there reads right here.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from podwire.cni.spec import Address, Destination, Interface, Request, Result

PREFIX = "cali"
HOST_MAC = "ee:ee:ee:ee:ee:ee"
GATEWAY = "169.254.1.1"
HOST_SETTINGS = {"proxy_arp": 1, "forwarding": 1, "route_localnet": 1}
"""IPv4 settings of the host end; route_localnet lets host ports on 127.0.0.1 be forwarded to pods."""


@dataclass(frozen=True, slots=True)
class Wiring:
    """One attachment's links and addresses. `address` has no prefix length (it is always a host address)."""

    host_name: str
    pod_name: str
    pod_mac: str
    mtu: int
    address: str = ""


def host_name(request: Request) -> str:
    """Name of the host end: `cali` and 11 hex digits of the SHA-1 of "namespace.pod".

    A call without a pod (from cnitool, say), and a pod's further interfaces, take the attachment's identity instead.
    """
    if request.pod and request.interface == "eth0":
        identity = f"{request.namespace}.{request.pod}"
    else:
        identity = f"{request.container_id}.{request.interface}"
    return PREFIX + hashlib.sha1(identity.encode(), usedforsecurity=False).hexdigest()[:11]


def mac_from(entropy: bytes) -> str:
    """A locally administered unicast MAC of six random bytes."""
    return bytes([(entropy[0] | 0x02) & 0xFE, *entropy[1:6]]).hex(":")


def routed(request: Request, mtu: int, entropy: bytes) -> Wiring:
    """The wiring before its address is known."""
    return Wiring(host_name(request), request.interface, mac_from(entropy), mtu)


def result(wiring: Wiring, netns: str) -> Result:
    """What the runtime is told: host end, pod end, address and default route."""
    return Result(
        interfaces=(
            Interface(wiring.host_name, HOST_MAC, wiring.mtu),
            Interface(wiring.pod_name, wiring.pod_mac, wiring.mtu, netns),
        ),
        ips=(Address(f"{wiring.address}/32", GATEWAY, 1),),
        routes=(Destination("0.0.0.0/0", GATEWAY),),
    )
