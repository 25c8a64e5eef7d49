"""The form in which IPAM alone gives an address: with which prefix, and by which gateway. Pure.

What wires may put the gateway on a bridge (reference `bridge` with isGateway) or on each host end (`ptp`), and takes
the prefix for the link's: it should be one for all pods of the node, so the node's podCIDR where that holds the
address, else the address's block.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from podwire.cni.spec import BAD_CONFIG, CniError
from podwire.model.address import AddressError, Cidr

NODE, BLOCK, HOST = "node", "block", "host"


def prefix_form(config: Mapping[str, Any]) -> str:
    """`ipam.prefix`. Raises CniError 7."""
    stated = _ipam(config).get("prefix", NODE)
    if stated not in (NODE, BLOCK, HOST):
        raise CniError(BAD_CONFIG, f"ipam.prefix is none of {NODE}, {BLOCK}, {HOST}", str(stated)[:64])
    return str(stated)


def subnet(address: str, form: str, pod_cidrs: Iterable[str], blocks: Iterable[tuple[Cidr, int]]) -> Cidr:
    """The link's prefix; `blocks` are pools with the prefix length of their blocks."""
    host = Cidr.parse(address)
    if form == NODE:
        for text in pod_cidrs:
            if (cidr := Cidr.parse(text)).covers(host):
                return cidr
    if form in (NODE, BLOCK):
        for pool, length in blocks:
            if pool.covers(host):
                return Cidr.around(host.first, length, host.width)
    return host


def routes(config: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """`ipam.routes` as (destination, gateway or ""). Raises CniError 7."""
    stated = _ipam(config).get("routes") or ()
    if not isinstance(stated, list | tuple):
        raise CniError(BAD_CONFIG, "ipam.routes is not a list")
    return tuple(_route(position, entry) for position, entry in enumerate(stated))


def _route(position: int, entry: Any) -> tuple[str, str]:
    where = f"ipam.routes[{position}]"
    if not isinstance(entry, Mapping):
        raise CniError(BAD_CONFIG, f"{where} is not an object")
    destination, gateway = str(entry.get("dst", "")), str(entry.get("gw") or "")
    try:
        Cidr.parse(destination)
        if gateway:
            Cidr.parse(gateway)
    except AddressError as error:
        raise CniError(BAD_CONFIG, f"{where}: want a dst such as 0.0.0.0/0 and perhaps a gw", str(error)) from None
    return destination, gateway


def _ipam(config: Mapping[str, Any]) -> Mapping[str, Any]:
    value = config.get("ipam")
    return value if isinstance(value, Mapping) else {}
