"""How large a pod's packets may be: the uplink's MTU, less what the tunnel in use puts around them. Pure.

Source: IPv4 (20) or IPv6 (40), UDP (8), VXLAN (8) and the inner Ethernet header (14); IPIP is one IPv4 header.
"""

from __future__ import annotations

from collections.abc import Iterable

from podwire.model.ippool import IPPool

DEFAULT = 1500
_OVERHEAD = {"vxlan": 50, "vxlan-cross-subnet": 50, "ipip": 20, "": 0}
_IPV6_EXTRA = 20


def tunnel(uplink: int, node_ip: str = "") -> int:
    """The MTU of the VXLAN device, in bytes."""
    return uplink - _OVERHEAD["vxlan"] - (_IPV6_EXTRA if ":" in node_ip else 0)


def pods(uplink: int, pools: Iterable[IPPool], node_ip: str = "") -> int:
    """The MTU of a new pod, in bytes: small enough for each encapsulation that a pool asks for."""
    used = {pool.encapsulation for pool in pools if pool.sound and not pool.spec.disabled}
    extra = _IPV6_EXTRA if ":" in node_ip and used - {""} else 0
    return uplink - max((_OVERHEAD[kind] for kind in used), default=0) - extra
