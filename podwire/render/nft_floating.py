"""Floating addresses as the table `inet podwire-floating`: constant rules, and map elements for what pods ask.

What is sent to a floating address, by others or by the node itself, goes to its pod, whatever the protocol. The
client's address is kept; only a pod that calls its own floating address is answered as that (else it would drop its own
packet). What the pod sends of its own accord leaves as ever. All this comes before host ports and Services: the
priorities are five less than theirs. Source: Calico's floating addresses do the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from podwire.render.elements import Row, address, declaration, row

TABLE = "inet podwire-floating"
_SETS = (
    ("map", "to4", "ipv4_addr : ipv4_addr"),
    ("map", "to6", "ipv6_addr : ipv6_addr"),
    ("map", "self4", "ipv4_addr . ipv4_addr . ipv4_addr : ipv4_addr"),
    ("map", "self6", "ipv6_addr . ipv6_addr . ipv6_addr : ipv6_addr"),
)
SETS = tuple(name for _, name, _ in _SETS)

_RULES = """\
	chain prerouting {
		type nat hook prerouting priority -105; policy accept;
		dnat ip to ip daddr map @to4
		dnat ip6 to ip6 daddr map @to6
	}
	chain output {
		type nat hook output priority -105; policy accept;
		dnat ip to ip daddr map @to4
		dnat ip6 to ip6 daddr map @to6
	}
	chain postrouting {
		type nat hook postrouting priority 95; policy accept;
		ct status & dnat == 0 return
		snat ip to ip saddr . ip daddr . ct original ip daddr map @self4
		snat ip6 to ip6 saddr . ip6 daddr . ct original ip6 daddr map @self6
	}"""


def pairs(floating: Iterable[str], addresses: Sequence[str]) -> list[tuple[str, str]]:
    """(floating address, the pod's address that it leads to): the pod's first of that family; without one, none."""
    found = []
    for each in floating:
        target = next((address for address in addresses if (":" in address) == (":" in each)), "")
        if target:
            found.append((each, target))
    return found


def rows(leads: Iterable[tuple[str, str]]) -> frozenset[Row]:
    """Elements for one pod's `pairs`."""
    found: list[Row] = []
    for floating, target in leads:
        family = "6" if ":" in target else "4"
        outer, inner = address(floating), address(target)
        found.append(row(f"to{family}", outer, data=(inner,)))
        found.append(row(f"self{family}", inner, inner, outer, data=(outer,)))
    return frozenset(found)


def body(members: Iterable[Row]) -> str:
    """What stands between the table's braces, with maps filled."""
    known = tuple(members)
    return "".join(declaration(kind, name, types, known) for kind, name, types in _SETS) + _RULES
