"""Tables that close routed pod interfaces to everything but admitted endpoints: `inet podwire` and `arp podwire`.

What comes from an interface with our prefix passes with one of the pod's own (MAC, address) pairs, or from a prefix
that its pod is allowed; what goes to one passes to the pod's addresses. Router advertisements, redirects and answers of
DHCP servers never come from a pod. Neighbour discovery and multicast listener reports are spoken from the link-local
address that follows from the pod's MAC, or from none, and a neighbour advertisement tells of the pod's own addresses
only. ARP is heard when it names the pod's MAC and address, so that a pod cannot fill the node's neighbour table either.

Rules never change; everything that does is an element. The target of a neighbour advertisement stands 8 bytes behind
the ICMPv6 header's start (RFC 4861 section 4.4).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass

from podwire.render.elements import Part, Row, address, interface, row

TABLE, ARP = "inet podwire", "arp podwire"

_SETS = {
    "endpoints": (TABLE, "type ifname . ipv4_addr"),
    "endpoints6": (TABLE, "type ifname . ipv6_addr"),
    "senders": (TABLE, "type ifname . ether_addr . ipv4_addr"),
    "senders6": (TABLE, "type ifname . ether_addr . ipv6_addr"),
    "locals6": (TABLE, "type ifname . ether_addr . ipv6_addr"),
    "targets6": (TABLE, "typeof iifname . @th,64,128"),
    "macs": (TABLE, "type ifname . ether_addr"),
    "sources": (TABLE, "type ifname . ipv4_addr; flags interval"),
    "sources6": (TABLE, "type ifname . ipv6_addr; flags interval"),
    "ranges6": (TABLE, "typeof iifname . @th,64,128; flags interval"),
    "speakers": (ARP, "type ifname . ether_addr . ipv4_addr"),
    "speakers_macs": (ARP, "type ifname . ether_addr"),
    "speakers_sources": (ARP, "type ifname . ipv4_addr; flags interval"),
}
SETS = {name: table for name, (table, _) in _SETS.items()}
"""Table of each set."""

_RULES = {
    TABLE: """\
	chain prerouting {
		type filter hook prerouting priority raw; policy accept;
		iifname "%(prefix)s*" meta nfproto ipv4 goto from4
		iifname "%(prefix)s*" goto from6
	}
	chain from4 {
		icmp type redirect counter drop
		udp sport 67 udp dport 68 counter drop
		iifname . ether saddr . ip saddr @senders return
		iifname . ip saddr @sources iifname . ether saddr @macs return
		counter drop
	}
	chain from6 {
		icmpv6 type { 134, 137 } counter drop
		udp sport 547 udp dport 546 counter drop
		icmpv6 type 136 iifname . @th,64,128 != @targets6 iifname . @th,64,128 != @ranges6 counter drop
		iifname . ether saddr . ip6 saddr @senders6 return
		iifname . ip6 saddr @sources6 iifname . ether saddr @macs return
		ip6 hoplimit 255 icmpv6 type { 133, 135, 136 } goto local6
		ip6 hoplimit 1 icmpv6 type { 131, 132, 143 } goto local6
		counter drop
	}
	chain local6 {
		ip6 saddr :: return
		iifname . ether saddr . ip6 saddr @locals6 return
		counter drop
	}
	chain forward {
		type filter hook forward priority filter; policy accept;
		oifname "%(prefix)s*" icmp type redirect counter drop
		oifname "%(prefix)s*" icmpv6 type { 134, 137 } counter drop
		oifname "%(prefix)s*" oifname . ip daddr != @endpoints oifname . ip daddr != @sources counter drop
		oifname "%(prefix)s*" oifname . ip6 daddr != @endpoints6 oifname . ip6 daddr != @sources6 counter drop
	}""",
    ARP: """\
	chain input {
		type filter hook input priority filter; policy accept;
		iifname "%(prefix)s*" goto from
	}
	chain from {
		iifname . arp saddr ether . arp saddr ip @speakers return
		iifname . arp saddr ip @speakers_sources iifname . arp saddr ether @speakers_macs return
		counter drop
	}""",
}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A pod's interface: its MAC, its bare addresses, and prefixes that it may use besides."""

    interface: str
    mac: str
    addresses: tuple[str, ...]
    sources: tuple[str, ...] = ()


def link_local(mac: str) -> str:
    """The link-local address that an interface forms of its MAC (RFC 4291 appendix A)."""
    raw = bytes.fromhex(mac.replace(":", ""))
    eui = bytes([raw[0] ^ 2, *raw[1:3], 0xFF, 0xFE, *raw[3:]])
    return str(ipaddress.IPv6Address(b"\xfe\x80" + bytes(6) + eui))


def rows(endpoint: Endpoint) -> frozenset[Row]:
    """Everything that admits it."""
    name, mac = interface(endpoint.interface), _mac(endpoint.mac)
    found: list[Row] = []
    for each in endpoint.addresses:
        own = address(each)
        if ":" in each:
            found += [row("endpoints6", name, own), row("senders6", name, mac, own), _target(name, each)]
        else:
            found += [row("endpoints", name, own), row("senders", name, mac, own), row("speakers", name, mac, own)]
    if any(":" in each for each in endpoint.addresses):
        local = link_local(endpoint.mac)
        found += [row("locals6", name, mac, address(local)), _target(name, local)]
    if endpoint.sources:
        found += [row("macs", name, mac), row("speakers_macs", name, mac)]
    for prefix in endpoint.sources:
        network = ipaddress.ip_network(prefix)
        start, end = address(str(network.network_address)), address(str(network.broadcast_address))
        texts = {prefix: ("sources", "speakers_sources") if network.version == 4 else ("sources6",)}
        if network.version == 6:
            texts[f"{_number(start)}-{_number(end)}"] = ("ranges6",)
        for text, targets in texts.items():
            for target in targets:
                found.append(Row(target, name.raw + start.raw, b"", f"{name.text} . {text}", end=name.raw + end.raw))
    return frozenset(found)


def body(table: str, prefix: str, members: Iterable[Row]) -> str:
    """What stands between the braces of one of the tables, with sets filled."""
    known = tuple(members)
    text = []
    for name, (where, kind) in _SETS.items():
        if where != table:
            continue
        lines = [f"\tset {name} {{", *(f"\t\t{part}" for part in kind.split("; "))]
        texts = ", ".join(sorted(each.text for each in known if each.set == name))
        lines += [f"\t\telements = {{ {texts} }}"] if texts else []
        text.append("\n".join([*lines, "\t}"]) + "\n")
    return "".join(text) + _RULES[table] % {"prefix": prefix}


def _mac(text: str) -> Part:
    return Part(bytes.fromhex(text.replace(":", "")) + b"\0\0", text)


def _target(name: Part, text: str) -> Row:
    """nft knows the target of an advertisement as a number only."""
    part = address(text)
    return row("targets6", name, Part(part.raw, _number(part)))


def _number(part: Part) -> str:
    return f"0x{part.raw.hex()}"
