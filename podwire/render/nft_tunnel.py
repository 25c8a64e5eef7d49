"""Who may send into the tunnel: the table `inet podwire-tunnel`, constant rules and one set of the other nodes.

A VXLAN packet of our VNI is taken only from a known node's address. Nobody behind this node may send one to a node:
masquerade would give it a node's address. Other VNIs on the port are not ours, and are left alone. The VNI stands 12
bytes behind the UDP header's start (RFC 7348 section 5).
"""

from __future__ import annotations

from collections.abc import Iterable

from podwire.render.elements import Row, address, declaration, row

TABLE = "inet podwire-tunnel"
SETS = ("nodes",)


def rows(node: str) -> frozenset[Row]:
    """Elements for the node with this address."""
    return frozenset({row("nodes", address(node))})


def body(members: Iterable[Row], port: int, vni: int) -> str:
    """What stands between the table's braces, with the set filled."""
    return f"""\
{declaration("set", "nodes", "ipv4_addr", members)}	chain input {{
		type filter hook input priority raw; policy accept;
		udp dport {port} @th,96,24 {vni} ip saddr != @nodes counter drop
	}}
	chain forward {{
		type filter hook forward priority filter; policy accept;
		udp dport {port} ip daddr @nodes ip saddr != @nodes counter drop
	}}"""
