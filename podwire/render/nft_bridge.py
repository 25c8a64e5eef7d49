"""Tables that close bridge ports, and interfaces that another plugin made, to everything but admitted endpoints.

`bridge podwire` sees frames where the bridge does, before it learns from them and before it lets them out: an
interface with our prefix (or a governed one) may send only from its MAC and addresses, in IP and in ARP, and gets only
what is for its addresses. `inet podwire_adopted` does the same for governed interfaces that are routed to. Nothing
relies on br_netfilter. `inet podwire_bridge` masquerades what pods on bridges with ipMasq send out of their subnets.

Rules never change; everything that does is an element. A neighbour advertisement's target stands 8 bytes behind the
ICMPv6 header's start (RFC 4861 section 4.4); nft learned a name for it later than Podwire needs it.
"""

from __future__ import annotations

from collections.abc import Iterable

BRIDGE, ADOPTED, MASQUERADE = "bridge podwire", "inet podwire_adopted", "inet podwire_bridge"

_SETS = """\
	set governed {
		type ifname
	}
	set endpoints {
		type ifname . ipv4_addr
	}
	set endpoints6 {
		type ifname . ipv6_addr
	}
"""

_NEVER = """\
		icmp type redirect counter drop
		icmpv6 type { 134, 137 } counter drop
		udp sport 67 udp dport 68 counter drop
		udp sport 547 udp dport 546 counter drop
"""
"""What routers and DHCP servers say: no pod is one."""


def bridge(prefix: str) -> str:
    """The body of `bridge podwire`."""
    return f"""\
{_SETS}	set macs {{
		type ifname . ether_addr
	}}
	set targets6 {{
		typeof iifname . @th,64,128
	}}
	chain prerouting {{
		type filter hook prerouting priority dstnat; policy accept;
		iifname "{prefix}*" goto from
		iifname @governed goto from
	}}
	chain from {{
		iifname . ether saddr != @macs counter drop
{_NEVER}		ether type ip iifname . ip saddr @endpoints accept
		ether type arp iifname . arp saddr ether != @macs counter drop
		ether type arp iifname . arp saddr ip @endpoints accept
		icmpv6 type 136 @th,64,10 != 0x3fa iifname . @th,64,128 != @targets6 counter drop
		ether type ip6 iifname . ip6 saddr @endpoints6 accept
		ip6 hoplimit 255 ip6 saddr {{ ::, fe80::/10 }} icmpv6 type {{ 133, 135, 136 }} accept
		counter drop
	}}
	chain postrouting {{
		type filter hook postrouting priority srcnat; policy accept;
		oifname "{prefix}*" goto to
		oifname @governed goto to
	}}
	chain to {{
		icmp type redirect counter drop
		icmpv6 type {{ 134, 137 }} counter drop
		ether type ip oifname . ip daddr @endpoints accept
		ether type arp oifname . arp daddr ip @endpoints accept
		ether type ip6 oifname . ip6 daddr @endpoints6 accept
		ip6 hoplimit 255 ip6 daddr {{ ff02::/16, fe80::/10 }} icmpv6 type {{ 135, 136 }} accept
		counter drop
	}}"""


def adopted() -> str:
    """The body of `inet podwire_adopted`."""
    return f"""\
{_SETS}	chain prerouting {{
		type filter hook prerouting priority raw; policy accept;
		iifname @governed goto from
	}}
	chain from {{
{_NEVER}		iifname . ip saddr @endpoints return
		iifname . ip6 saddr @endpoints6 return
		ip6 hoplimit 255 ip6 saddr {{ ::, fe80::/10 }} icmpv6 type {{ 133, 135, 136 }} return
		counter drop
	}}
	chain forward {{
		type filter hook forward priority filter; policy accept;
		oifname @governed oifname . ip daddr != @endpoints counter drop
		oifname @governed oifname . ip6 daddr != @endpoints6 counter drop
	}}"""


def masquerade(subnets: Iterable[str]) -> str:
    """The body of `inet podwire_bridge`; `subnets` are those of bridges with ipMasq and do not overlap."""
    known = sorted(subnets)
    sets = []
    for digit, kind in (("", "ipv4_addr"), ("6", "ipv6_addr")):
        members = ", ".join(one for one in known if (":" in one) == (digit == "6"))
        elements = f"\n\t\telements = {{ {members} }}" if members else ""
        sets.append(f"\tset pods{digit} {{\n\t\ttype {kind}\n\t}}\n")
        sets.append(f"\tset subnets{digit} {{\n\t\ttype {kind}\n\t\tflags interval{elements}\n\t}}\n")
    return f"""\
{"".join(sets)}	chain postrouting {{
		type nat hook postrouting priority srcnat; policy accept;
		ip saddr @pods ip daddr != @subnets ip daddr != 224.0.0.0/4 counter masquerade fully-random
		ip6 saddr @pods6 ip6 daddr != @subnets6 ip6 daddr != {{ fe80::/10, ff00::/8 }} counter masquerade fully-random
	}}"""
