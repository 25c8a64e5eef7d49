"""Host ports as the table `inet podwire-ports`: constant rules, and map elements for what pods ask.

A connection to an address of the node is sent to the pod whose element matches: (address, protocol, port) first, then
(protocol, port) for all addresses. The client's address is kept but where the answer would not come back through the
node: the node speaking from 127.0.0.1, the pod itself (`self`), a client that is reached by the same interface as the
pod (`near` holds the pair), and pods whose owner wants it (`masked`). With br_netfilter, which is on wherever it is
loaded, a bridge hands over what it forwards between its ports, and then no interface is known that a packet came by:
answers pass this node's NAT there, so that only the pod itself needs masquerade, and it is known by its address.

What the node says from 127.0.0.1 would have to leave it, which the kernel allows with `route_localnet` only, and that
opens the node's loopback to its neighbours. So such packets get an address of the node (`speak`) before connection
tracking sees them, and answers get 127.0.0.1 back behind it. As this knows no connections, `talks` remembers those that
began with a first packet of ours: nobody else's who happens to have a port of that number is touched (but for UDP,
which has no first packet: there a client's port is taken to be 1024 or more, a server's less). A client that speaks to
127.0.0.1 from another address of the node needs no help, and its answers none: if `talks` has its ports from an earlier
one, they are forgotten. Packets to 127.0.0.0/8 that come from outside are dropped, as the kernel itself does without
`route_localnet`. Nothing leads from ::1 to a pod.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from podwire.render.elements import Row, address, declaration, interface, port, protocol, row

TABLE = "inet podwire-ports"
_SETS = (
    ("map", "at4", "ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service"),
    ("map", "at6", "ipv6_addr . inet_proto . inet_service : ipv6_addr . inet_service"),
    ("map", "any4", "inet_proto . inet_service : ipv4_addr . inet_service"),
    ("map", "any6", "inet_proto . inet_service : ipv6_addr . inet_service"),
    ("set", "self4", "ipv4_addr . ipv4_addr"),
    ("set", "self6", "ipv6_addr . ipv6_addr"),
    ("set", "near4", "ifname . ipv4_addr"),
    ("set", "near6", "ifname . ipv6_addr"),
    ("set", "masked4", "ipv4_addr . inet_proto . inet_service"),
    ("set", "masked6", "ipv6_addr . inet_proto . inet_service"),
    ("map", "speak_at4", "ipv4_addr . inet_proto . inet_service : ipv4_addr"),
    ("map", "speak_any4", "inet_proto . inet_service : ipv4_addr"),
)
SETS = tuple(name for _, name, _ in _SETS)

_RULES = """\
	set talks {
		type inet_proto . inet_service . inet_service
		size 262144
		flags dynamic,timeout
		timeout 2m
	}
	chain speaking {
		type filter hook output priority raw; policy accept;
		oifname "lo" ip saddr 127.0.0.1 ip daddr 127.0.0.0/8 meta l4proto { tcp, udp, sctp } goto spoken
		oifname "lo" ip saddr != 127.0.0.0/8 ip daddr 127.0.0.0/8 meta l4proto { tcp, udp, sctp } goto unchanged
	}
	chain spoken {
		tcp flags & (syn | ack) == syn goto begun
		sctp vtag 0 goto begun
		udp sport >= 1024 goto begun
		meta l4proto . th sport . th dport != @talks return
		tcp flags & (fin | rst) == 0 update @talks { meta l4proto . th sport . th dport timeout 5d }
		meta l4proto sctp update @talks { meta l4proto . th sport . th dport timeout 5d }
		goto changed
	}
	chain begun {
		jump changed
		ip saddr != 127.0.0.1 update @talks { meta l4proto . th sport . th dport timeout 2m }
	}
	chain changed {
		ip saddr set ip daddr . meta l4proto . th dport map @speak_at4
		ip saddr 127.0.0.1 ip saddr set meta l4proto . th dport map @speak_any4
	}
	chain unchanged {
		delete @talks { meta l4proto . th sport . th dport }
	}
	chain answered {
		type filter hook input priority 110; policy accept;
		iifname != "lo" ip saddr 127.0.0.0/8 meta l4proto . th dport . th sport @talks goto heard
	}
	chain heard {
		meta l4proto udp update @talks { meta l4proto . th dport . th sport timeout 2m }
		ip daddr set 127.0.0.1
	}
	chain ports {
		meta l4proto { tcp, udp, sctp } dnat ip to ip daddr . meta l4proto . th dport map @at4
		meta l4proto { tcp, udp, sctp } dnat ip6 to ip6 daddr . meta l4proto . th dport map @at6
		meta nfproto ipv4 meta l4proto { tcp, udp, sctp } dnat ip to meta l4proto . th dport map @any4
		meta nfproto ipv6 meta l4proto { tcp, udp, sctp } dnat ip6 to meta l4proto . th dport map @any6
	}
	chain martians {
		type filter hook prerouting priority raw; policy accept;
		iifname != "lo" ip daddr 127.0.0.0/8 counter drop
	}
	chain prerouting {
		type nat hook prerouting priority dstnat; policy accept;
		fib daddr type local jump ports
	}
	chain output {
		type nat hook output priority -100; policy accept;
		ip6 daddr ::1 return
		fib daddr type local jump ports
	}
	chain postrouting {
		type nat hook postrouting priority srcnat; policy accept;
		ct status & dnat == 0 return
		ip saddr . ip daddr @self4 masquerade
		ip6 saddr . ip6 daddr @self6 masquerade
		iifname . ip daddr @near4 masquerade
		iifname . ip6 daddr @near6 masquerade
		meta l4proto { tcp, udp, sctp } ip daddr . meta l4proto . th dport @masked4 masquerade
		meta l4proto { tcp, udp, sctp } ip6 daddr . meta l4proto . th dport @masked6 masquerade
	}"""


@dataclass(frozen=True, slots=True)
class Forward:
    """One host port: `at` is the host's address or "" for all of them, `target` the pod's, both of one family."""

    protocol: str
    at: str
    host_port: int
    target: str
    target_port: int

    @property
    def front(self) -> tuple[str, str, int]:
        """What only one pod can have; an address of the pod's family stands for all addresses."""
        every = "::" if ":" in self.target else "0.0.0.0"
        return self.protocol, self.at or every, self.host_port

    def __str__(self) -> str:
        where = f"[{self.at}]" if ":" in self.at else self.at or "every address"
        return f"{self.protocol} port {self.host_port} of {where}"


def rows(
    forwards: Iterable[Forward],
    near: Sequence[tuple[str, str]],
    speak: Mapping[str, str],
    *,
    masked: bool,
    shared: bool = False,
) -> frozenset[Row]:
    """Elements for one pod: `near` are pairs (interface, pod's address): clients there are
    masqueraded. `speak` has the node's address for what it says from 127.0.0.1, by the pod's. `shared`: others are
    there, too (on a bridge)."""
    found: list[Row] = []
    for forward in forwards:
        family = "6" if ":" in forward.target else "4"
        front = (protocol(forward.protocol), port(forward.host_port))
        back = (address(forward.target), port(forward.target_port))
        if forward.at:
            found.append(row(f"at{family}", address(forward.at), *front, data=back))
        else:
            found.append(row(f"any{family}", *front, data=back))
        source = speak.get(forward.target, "")
        if source and forward.at.startswith("127."):
            found.append(row("speak_at4", address(forward.at), *front, data=(address(source),)))
        elif source and not forward.at:
            found.append(row("speak_any4", *front, data=(address(source),)))
        if masked:
            found.append(row(f"masked{family}", back[0], front[0], back[1]))
    for name, target in near:
        family = "6" if ":" in target else "4"
        found.append(row(f"near{family}", interface(name), address(target)))
        if shared:
            found.append(row(f"self{family}", address(target), address(target)))
    return frozenset(found)


def body(members: Iterable[Row]) -> str:
    """What stands between the table's braces, with sets and maps filled."""
    known = tuple(members)
    return "".join(declaration(kind, name, types, known) for kind, name, types in _SETS) + _RULES
