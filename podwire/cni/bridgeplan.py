"""What the bridge wiring is configured with, and what it answers. Pure.

The keys are the reference bridge plugin's: bridge, isGateway, isDefaultGateway, ipMasq, hairpinMode, promiscMode, mtu,
forceAddress; kubenet was this shape with cbr0. What we do not do (vlan, macspoofchk off …) is refused by name, so that
nobody believes in it. Source: containernetworking/plugins, plugins/main/bridge; kubenet of Kubernetes 1.23.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from podwire.cni import plan
from podwire.cni.spec import BAD_CONFIG, UNSUPPORTED_FIELD, Address, CniError, Destination, Interface, Request, Result

DEFAULT_BRIDGE = "cbr0"
_UNSUPPORTED = ("vlan", "vlanTrunk", "preserveDefaultVlan", "uplinkInterface")


@dataclass(frozen=True, slots=True)
class BridgePlan:
    """`mtu` 0 is the agent's own. Exactly one of hairpin and promiscuous may be on."""

    bridge: str = DEFAULT_BRIDGE
    gateway: bool = True
    default_gateway: bool = True
    masquerade: bool = False
    hairpin: bool = True
    promiscuous: bool = False
    mtu: int = 0
    ipam: str = "host-local"


@dataclass(frozen=True, slots=True)
class Ends:
    """One attachment on the bridge. Addresses are with their subnet's length, gateways beside them."""

    bridge: str
    bridge_mac: str
    host_name: str
    host_mac: str
    pod_name: str
    pod_mac: str
    mtu: int
    addresses: tuple[str, ...]
    gateways: tuple[str, ...]


def load(config: Mapping[str, Any]) -> BridgePlan:
    """Raises CniError 2 or 7 naming the field."""
    for name in _UNSUPPORTED:
        if config.get(name):
            raise CniError(UNSUPPORTED_FIELD, f"{name} does not work with Podwire's bridge wiring")
    bridge = config.get("bridge") or DEFAULT_BRIDGE
    fits = isinstance(bridge, str) and len(bridge.encode()) <= 15 and not any(c in "/:" or c.isspace() for c in bridge)
    if not fits or bridge in (".", "..") or bridge.startswith((plan.PREFIX, "pw")):
        raise CniError(BAD_CONFIG, "bridge is no name for a bridge", str(bridge)[:64])
    promiscuous = _flag(config, "promiscMode", False)
    hairpin = _flag(config, "hairpinMode", not promiscuous)
    if hairpin and promiscuous:
        raise CniError(BAD_CONFIG, "cannot set hairpin mode and promiscuous mode at the same time.")
    default_gateway = _flag(config, "isDefaultGateway", True)
    mtu = config.get("mtu") or 0
    if isinstance(mtu, bool) or not isinstance(mtu, int) or not (mtu == 0 or 68 <= mtu <= 65535):
        raise CniError(BAD_CONFIG, "mtu is no number from 68 to 65535", repr(mtu)[:64])
    ipam = config.get("ipam")
    kind = ipam.get("type") if isinstance(ipam, Mapping) else None
    if kind not in ("host-local", "podwire-ipam"):
        raise CniError(BAD_CONFIG, "ipam.type is none of host-local, podwire-ipam", str(kind)[:64])
    return BridgePlan(
        bridge=bridge,
        gateway=_flag(config, "isGateway", default_gateway) or default_gateway,
        default_gateway=default_gateway,
        masquerade=_flag(config, "ipMasq", False),
        hairpin=hairpin,
        promiscuous=promiscuous,
        mtu=mtu,
        ipam=str(kind),
    )


def _flag(config: Mapping[str, Any], name: str, default: bool) -> bool:
    value = config.get(name, default)
    if not isinstance(value, bool):
        raise CniError(BAD_CONFIG, f"{name} is neither true nor false", repr(value)[:64])
    return value


def subnet_of(cidr: str) -> str:
    """The subnet that an interface address lies in."""
    return str(ipaddress.ip_interface(cidr).network)


def gateway_cidr(cidr: str, gateway: str) -> str:
    """The gateway as an interface address of the same subnet."""
    return f"{gateway}/{cidr.partition('/')[2]}"


def result(
    request: Request, ends: Ends, routes: Sequence[Destination], dns: Mapping[str, Any], *, default: bool
) -> Result:
    """What the runtime is told: the bridge, both ends, addresses and routes."""
    ways = [Destination(plan.anywhere(gateway), gateway) for gateway in ends.gateways] if default else []
    told = {way.dst for way in ways}
    return Result(
        interfaces=(
            Interface(ends.bridge, ends.bridge_mac, ends.mtu),
            Interface(ends.host_name, ends.host_mac, ends.mtu),
            Interface(ends.pod_name, ends.pod_mac, ends.mtu, request.netns),
        ),
        ips=tuple(Address(cidr, gw, 2) for cidr, gw in zip(ends.addresses, ends.gateways, strict=True)),
        routes=(*ways, *(route for route in routes if route.dst not in told)),
        dns=dict(dns),
    )
