"""What a runtime asks of an attachment beside an address: host ports, bandwidth, addresses, MAC, DNS. Pure.

All of it comes in `runtimeConfig`, where runtimes write keys in different cases (containerd Go's, CRI-O JSON's): the
request's are in lower case already. Of older ways, `args.cni.ips` and IP= and MAC= in CNI_ARGS are understood.
Source: containernetworking/cni CONVENTIONS.md.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from podwire.cni.spec import BAD_CONFIG, CniError, Request

PROTOCOLS = ("tcp", "udp", "sctp")
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
_MAX_RATE = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class PortMapping:
    """A port of the host that leads to the pod; `host_ip` "" means every address of the host."""

    host_port: int
    container_port: int
    protocol: str = "tcp"
    host_ip: str = ""


@dataclass(frozen=True, slots=True)
class Bandwidth:
    """Rates in bits per second, bursts in bits, as the convention has them; a rate of 0 is no limit. Ingress is what
    the pod receives."""

    ingress_rate: int = 0
    ingress_burst: int = 0
    egress_rate: int = 0
    egress_burst: int = 0


def port_mappings(request: Request) -> tuple[PortMapping, ...]:
    """`portMappings` with a host port, in their order. Raises CniError 7."""
    raw = request.runtime.get("portmappings") or []
    if not isinstance(raw, list):
        raise CniError(BAD_CONFIG, "runtimeConfig.portMappings is not a list")
    return tuple(_mapping(i, entry) for i, entry in enumerate(raw) if not _no_host_port(entry))


def _no_host_port(entry: Any) -> bool:
    return isinstance(entry, Mapping) and entry.get("hostport") in (None, 0)


def _mapping(position: int, entry: Any) -> PortMapping:
    where = f"runtimeConfig.portMappings[{position}]"
    if not isinstance(entry, Mapping):
        raise CniError(BAD_CONFIG, f"{where} is not an object")
    protocol = str(entry.get("protocol") or "tcp").lower()
    if protocol not in PROTOCOLS:
        raise CniError(BAD_CONFIG, f"{where}.protocol is none of {', '.join(PROTOCOLS)}", protocol[:64])
    host_ip = str(entry.get("hostip") or "")
    if host_ip in ("0.0.0.0", "::"):
        host_ip = ""
    if host_ip:
        host_ip = str(_address(f"{where}.hostIP", host_ip))
    ports = (_port(f"{where}.{name}", entry.get(name.lower())) for name in ("hostPort", "containerPort"))
    return PortMapping(next(ports), next(ports), protocol, host_ip)


def _port(where: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 65536:
        raise CniError(BAD_CONFIG, f"{where} is no port", repr(value)[:64])
    return value


def _address(where: str, text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    try:
        return ipaddress.ip_address(text.partition("/")[0])
    except ValueError:
        raise CniError(BAD_CONFIG, f"{where} is no IP address", text[:64]) from None


def bandwidth(request: Request, *, configured: bool = False) -> Bandwidth | None:
    """The limits of `runtimeConfig.bandwidth`, or with `configured` those that stand in the plugin's own configuration
    where the runtime gave none (as the reference plugin takes them); None without any. Raises CniError 7."""
    raw = request.runtime.get("bandwidth")
    if raw is None and configured:
        raw = {str(key).lower(): value for key, value in request.config.items()}
    if raw is None:
        return None
    if not isinstance(raw, Mapping):
        raise CniError(BAD_CONFIG, "runtimeConfig.bandwidth is not an object")
    names = ("ingressRate", "ingressBurst", "egressRate", "egressBurst")
    limits = Bandwidth(*(_rate(name, raw.get(name.lower())) for name in names))
    for direction, rate, burst in (
        ("ingress", limits.ingress_rate, limits.ingress_burst),
        ("egress", limits.egress_rate, limits.egress_burst),
    ):
        if bool(rate) != bool(burst):
            raise CniError(BAD_CONFIG, f"bandwidth: {direction} needs a rate and a burst, or neither")
    return limits if limits != Bandwidth() else None


def _rate(name: str, value: Any) -> int:
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _MAX_RATE:
        raise CniError(BAD_CONFIG, f"bandwidth: {name} is no number of bits", repr(value)[:64])
    return value


def addresses(request: Request) -> tuple[str, ...]:
    """The addresses that the runtime wants the pod to have; prefix lengths are dropped. Raises CniError 7."""
    told = request.args.get("IP")
    raw = request.runtime.get("ips") or _conventional(request) or (told.split(",") if told else None)
    if not raw:
        return ()
    if not isinstance(raw, list) or not all(isinstance(text, str) for text in raw):
        raise CniError(BAD_CONFIG, "runtimeConfig.ips is not a list of addresses")
    return tuple(str(_address("runtimeConfig.ips", text)) for text in raw if text)


def _conventional(request: Request) -> Any:
    """`args.cni.ips` of the configuration."""
    args = request.config.get("args")
    told = args.get("cni") if isinstance(args, Mapping) else None
    return told.get("ips") if isinstance(told, Mapping) else None


def mac(request: Request) -> str:
    """The MAC that the runtime wants the pod's interface to have, "" for any. Raises CniError 7."""
    text = str(request.runtime.get("mac") or request.args.get("MAC") or "").lower()
    if text:
        check_mac("runtimeConfig.mac", text)
    return text


def check_mac(where: str, text: str) -> None:
    """Raises CniError 7 for what is no unicast MAC in lower case."""
    if not _MAC.fullmatch(text) or int(text[:2], 16) & 1 or text == "00:00:00:00:00:00":
        raise CniError(BAD_CONFIG, f"{where} is no unicast MAC address", text[:64])


def dns(request: Request) -> dict[str, Any]:
    """The result's dns: what the runtime gave, else what the configuration says. Raises CniError 7."""
    given = request.runtime.get("dns")
    if given is not None:
        where, names = "runtimeConfig.dns", {"nameservers": "servers", "search": "searches", "options": "options"}
    else:
        given = request.config.get("dns") or {}
        where, names = "dns", {key: key for key in ("nameservers", "search", "options")}
    if not isinstance(given, Mapping):
        raise CniError(BAD_CONFIG, f"{where} is not an object")
    found: dict[str, Any] = {}
    for key, source in names.items():
        words = given.get(source) or []
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise CniError(BAD_CONFIG, f"{where}.{source} is not a list of strings")
        if words:
            found[key] = words
    domain = given.get("domain")
    return {**found, "domain": domain} if isinstance(domain, str) and domain else found
