"""What host-local is configured with, pure: sets of ranges, addresses asked for, routes and where to keep files.

Source: containernetworking/plugins, plugins/ipam/host-local, release 1.9. Refusals are worded as there, because people
and their alerts search for these words.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

DEFAULT_DIRECTORY = "/var/lib/cni/networks"

IP = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class HostLocalError(Exception):
    """A configuration that cannot be used, or an address that cannot be had; `exhausted` when a range set is full."""

    def __init__(self, text: str, *, exhausted: bool = False) -> None:
        super().__init__(text)
        self.exhausted = exhausted


@dataclass(frozen=True, slots=True)
class Range:
    """Addresses `start` to `end`, both included, of a subnet; the gateway is never given out."""

    subnet: Network
    start: IP
    end: IP
    gateway: IP

    def __contains__(self, address: IP) -> bool:
        return address.version == self.start.version and int(self.start) <= int(address) <= int(self.end)

    def __str__(self) -> str:
        return f"{self.start}-{self.end}"

    def overlaps(self, other: Range) -> bool:
        return self.start in other or self.end in other or other.start in self or other.end in self


@dataclass(frozen=True, slots=True)
class RangeSet:
    """Ranges of one family; an attachment gets one address of each set."""

    ranges: tuple[Range, ...]

    def over(self, address: IP) -> Range | None:
        """The range that the address lies in."""
        return next((one for one in self.ranges if address in one), None)

    def __str__(self) -> str:
        return ",".join(map(str, self.ranges))


@dataclass(frozen=True, slots=True)
class Plan:
    """One call's configuration. `wanted` are the addresses asked for; `routes` are passed on as they came."""

    sets: tuple[RangeSet, ...]
    wanted: tuple[IP, ...] = ()
    routes: tuple[Mapping[str, Any], ...] = ()
    directory: str = DEFAULT_DIRECTORY
    resolv_conf: str = ""


def load(config: Mapping[str, Any], runtime: Mapping[str, Any], arguments: Mapping[str, str]) -> Plan:
    """The plan of one call: its configuration, runtimeConfig (keys in lower case), CNI_ARGS. Raises HostLocalError."""
    ipam = config.get("ipam")
    if not isinstance(ipam, Mapping):
        raise HostLocalError("IPAM config missing 'ipam' key")
    raw_sets = [*_list("runtimeConfig.ipRanges", runtime.get("ipranges"))]
    if ipam.get("subnet"):
        raw_sets.append([ipam])
    raw_sets += _list("ipam.ranges", ipam.get("ranges"))
    if not raw_sets:
        raise HostLocalError("no IP ranges specified")
    sets = tuple(_range_set(number, raw) for number, raw in enumerate(raw_sets))
    for first, one in enumerate(sets):
        for second in range(first + 1, len(sets)):
            if any(a.overlaps(b) for a in one.ranges for b in sets[second].ranges):
                raise HostLocalError(f"range set {first} overlaps with {second}")
    directory = ipam.get("dataDir") or DEFAULT_DIRECTORY
    if not isinstance(directory, str) or not directory.startswith("/") or ".." in directory.split("/"):
        raise HostLocalError(f"ipam.dataDir is not an absolute path: {str(directory)[:100]!r}")
    routes = _list("ipam.routes", ipam.get("routes"))
    if not all(isinstance(route, Mapping) and isinstance(route.get("dst"), str) for route in routes):
        raise HostLocalError("ipam.routes: a route without dst")
    return Plan(sets, _wanted(config, runtime, arguments), tuple(routes), directory, str(ipam.get("resolvConf") or ""))


def _list(where: str, value: Any) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise HostLocalError(f"{where} is not a list")
    return value


def _wanted(config: Mapping[str, Any], runtime: Mapping[str, Any], arguments: Mapping[str, str]) -> tuple[IP, ...]:
    """Of all three ways to ask: the oldest (IP= in CNI_ARGS), args.cni.ips, runtimeConfig.ips."""
    args = config.get("args")
    conventional = args.get("cni") if isinstance(args, Mapping) else None
    texts = [arguments["IP"]] if arguments.get("IP") else []
    if isinstance(conventional, Mapping):
        texts += _list("args.cni.ips", conventional.get("ips"))
    texts += _list("runtimeConfig.ips", runtime.get("ips"))
    found = [_address("cannot understand ip", str(text).partition("/")[0]) for text in texts]
    return tuple(dict.fromkeys(found))


def _range_set(number: int, raw: Any) -> RangeSet:
    try:
        ranges = tuple(_range(one) for one in _list("a range set", raw))
        if not ranges:
            raise HostLocalError("empty range set")
        if len({one.start.version for one in ranges}) > 1:
            raise HostLocalError("mixed address families")
        for index, one in enumerate(ranges):
            for other in ranges[index + 1 :]:
                if one.overlaps(other):
                    raise HostLocalError(f"subnets {one} and {other} overlap")
    except HostLocalError as error:
        raise HostLocalError(f"invalid range set {number}: {error}") from None
    return RangeSet(ranges)


def _range(raw: Any) -> Range:
    if not isinstance(raw, Mapping):
        raise HostLocalError("a range is not an object")
    told = {str(key).lower(): value for key, value in raw.items()}
    text = str(told.get("subnet") or "")
    try:
        subnet = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise HostLocalError(f"invalid CIDR address: {text[:100]}") from None
    if "/" not in text:
        raise HostLocalError(f"invalid CIDR address: {text[:100]}")
    if subnet.prefixlen > subnet.max_prefixlen - 2:
        raise HostLocalError(f"Network {text} too small to allocate from")
    if ipaddress.ip_address(text.partition("/")[0]) != subnet.network_address:
        raise HostLocalError(
            f"Network has host bits set. For a subnet mask of length {subnet.prefixlen} "
            f"the network address is {subnet.network_address}"
        )
    last = subnet.broadcast_address - (1 if subnet.version == 4 else 0)
    start = _address("rangeStart", told["rangestart"]) if told.get("rangestart") else subnet.network_address + 1
    end = _address("rangeEnd", told["rangeend"]) if told.get("rangeend") else last
    gateway = _address("gateway", told["gateway"]) if told.get("gateway") else subnet.network_address + 1
    for name, address in (("RangeStart", start), ("RangeEnd", end)):
        if address not in subnet:
            raise HostLocalError(f"{name} {address} not in network {subnet}")
    if int(end) < int(start):
        raise HostLocalError(f"RangeEnd {end} not in network {subnet}")
    return Range(subnet, start, end, gateway)


def _address(what: str, text: Any) -> IP:
    address = parse_address(str(text))
    if address is None:
        raise HostLocalError(f"{what}: invalid IP address: {str(text)[:100]}")
    return address


def parse_address(text: str) -> IP | None:
    """The address in its canonical family (an IPv4-mapped IPv6 address is IPv4), None for other text."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address):
        if address.scope_id:
            return None
        return address.ipv4_mapped or address
    return address


def free(one: RangeSet, held: Container[str], last: IP | None) -> Iterator[tuple[IP, Range]]:
    """Addresses of the set that nobody holds, in the order in which they are given out: on from the last one given,
    round and round, so that an address rests as long as possible before it comes again."""
    for start, end, where in _segments(one.ranges, last):
        number = start
        while number <= end:
            address = type(where.start)(number)
            if address != where.gateway and str(address) not in held:
                yield address, where
            number += 1


def _segments(ranges: Sequence[Range], last: IP | None) -> Iterator[tuple[int, int, Range]]:
    first = next((number for number, one in enumerate(ranges) if last is not None and last in one), None)
    if first is None or last is None:
        yield from ((int(one.start), int(one.end), one) for one in ranges)
        return
    begun = ranges[first]
    yield int(last) + 1, int(begun.end), begun
    for one in (*ranges[first + 1 :], *ranges[:first]):
        yield int(one.start), int(one.end), one
    yield int(begun.start), int(last), begun


def parse_resolv_conf(text: str) -> dict[str, Any]:
    """resolv.conf as a result's dns."""
    dns: dict[str, Any] = {}
    for line in text.splitlines():
        words = line.split()
        if len(words) < 2 or words[0][0] in "#;":
            continue
        if words[0] == "nameserver":
            dns.setdefault("nameservers", []).append(words[1])
        elif words[0] == "domain":
            dns["domain"] = words[1]
        elif words[0] in ("search", "options"):
            dns.setdefault(words[0], []).extend(words[1:])
    return dns
