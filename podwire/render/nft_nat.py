"""natOutgoing as the nftables table `ip podwire`: pods of some pools speak to the outside with their node's address.

Masqueraded is what comes from a pool with natOutgoing and goes neither to a pool (any, disabled ones too: that is how
a range is kept from NAT) nor to a node. The rules never change; pools and nodes are elements of three sets.
UDP avoids source port 4789, which nodes speak to each other.
"""

from __future__ import annotations

from collections.abc import Iterable

from podwire.calc.state import NodeState
from podwire.model.address import Cidr

TABLE = "ip podwire"
SETS = ("nat_pools", "pools", "hosts")

_RULES = """\
	chain postrouting {
		type nat hook postrouting priority srcnat; policy accept;
		ip saddr != @nat_pools return
		ip daddr @pools return
		ip daddr @hosts return
		ip daddr 224.0.0.0/4 return
		meta l4proto udp counter masquerade to :4790-65535 fully-random
		counter masquerade fully-random
	}
"""


def elements(state: NodeState) -> dict[str, tuple[str, ...]]:
    """The members of each set, in order; a range inside another is left out, as intervals may not overlap."""
    return {
        "nat_pools": _widest(state.nat_pools),
        "pools": _widest(state.pools),
        "hosts": tuple(str(cidr).removesuffix("/32") for cidr in sorted(map(Cidr.parse, state.hosts))),
    }


def body(state: NodeState) -> str:
    """What stands between the table's braces, with the sets filled."""
    filled = elements(state)
    sets = [
        _set("nat_pools", "flags interval", filled["nat_pools"]),
        _set("pools", "flags interval", filled["pools"]),
        _set("hosts", "", filled["hosts"]),
    ]
    return "".join(sets) + _RULES


def script(state: NodeState) -> str:
    """A transaction that makes the table anew, for `nft -f -`."""
    return f"table {TABLE} {{}}\ndelete table {TABLE}\ntable {TABLE} {{\n{body(state)}}}\n"


def _set(name: str, flags: str, members: tuple[str, ...]) -> str:
    lines = [f"\tset {name} {{", "\t\ttype ipv4_addr"]
    lines += [f"\t\t{flags}"] if flags else []
    lines += [f"\t\telements = {{ {', '.join(members)} }}"] if members else []
    return "\n".join([*lines, "\t}"]) + "\n"


def _widest(cidrs: Iterable[str]) -> tuple[str, ...]:
    kept: list[Cidr] = []
    for cidr in sorted(map(Cidr.parse, cidrs), key=lambda c: (c.first, c.length)):
        if not kept or not kept[-1].covers(cidr):
            kept.append(cidr)
    return tuple(map(str, kept))
