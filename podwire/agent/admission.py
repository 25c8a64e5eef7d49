"""Which pod interfaces may speak, and as whom: the table `inet podwire` and its sets of (interface, address).

The table stands from the agent's first start on and outlives it. A packet from or to an interface with our prefix that
is not in the set, with exactly this address, is dropped: so a half-wired pod, a left-over and a spoofed source are
closed without anybody's doing. Only what has failed so far is looked up among the prefixes that a pod may use, too.
"""

from __future__ import annotations

import ipaddress
import threading
from collections.abc import Callable, Iterable, Mapping
from errno import ENOENT

from podwire.cni.plan import PREFIX
from podwire.kernel.delta import Delta
from podwire.kernel.netlink import KernelError
from podwire.kernel.nfelements import Element, ElementSocket, SetName, address_key, interface_key
from podwire.kernel.reconcile import reconcile
from podwire.kernel.tables import NftBody, NftProgram, NftTables

TABLE = "inet podwire"
ENDPOINTS = {4: SetName("inet", "podwire", "endpoints"), 6: SetName("inet", "podwire", "endpoints6")}
SOURCES = {4: SetName("inet", "podwire", "sources"), 6: SetName("inet", "podwire", "sources6")}

Endpoint = tuple[str, str]  # interface, address

# ND and MLD are spoken from the link's own address or from none, and go no further than the link
_STRUCTURE = f"""\
	set endpoints {{
		type ifname . ipv4_addr
		%s
	}}
	set endpoints6 {{
		type ifname . ipv6_addr
		%s
	}}
	set sources {{
		type ifname . ipv4_addr
		flags interval
		%s
	}}
	set sources6 {{
		type ifname . ipv6_addr
		flags interval
		%s
	}}
	chain prerouting {{
		type filter hook prerouting priority raw; policy accept;
		iifname "{PREFIX}*" iifname . ip saddr != @endpoints iifname . ip saddr != @sources counter drop
		iifname "{PREFIX}*" meta nfproto ipv6 goto from6
	}}
	chain from6 {{
		iifname . ip6 saddr @endpoints6 return
		iifname . ip6 saddr @sources6 return
		ip6 hoplimit 255 ip6 saddr {{ ::, fe80::/10 }} icmpv6 type {{ 133, 135, 136 }} return
		ip6 hoplimit 1 ip6 saddr {{ ::, fe80::/10 }} meta l4proto icmpv6 icmpv6 type {{ 131, 132, 143 }} return
		counter drop
	}}
	chain forward {{
		type filter hook forward priority filter; policy accept;
		oifname "{PREFIX}*" oifname . ip daddr != @endpoints oifname . ip daddr != @sources counter drop
		oifname "{PREFIX}*" oifname . ip6 daddr != @endpoints6 oifname . ip6 daddr != @sources6 counter drop
	}}"""


def body(endpoints: set[Endpoint], sources: set[Endpoint]) -> NftBody:
    """The table with its elements; rows are equal when the structure is, elements being changed one by one."""
    members = [_elements(several, family) for several in (endpoints, sources) for family in ENDPOINTS]
    filled = _STRUCTURE % tuple(members)
    return NftBody(NftBody.of(_STRUCTURE).digest, filled)


def _elements(endpoints: set[Endpoint], family: int) -> str:
    members = [f'"{interface}" . {address}' for interface, address in sorted(endpoints) if _family(address) == family]
    return f"elements = {{ {', '.join(members)} }}" if members else ""


def _family(address: str) -> int:
    return 6 if ":" in address else 4


class Admission:
    """The table and the set. Threads may admit and expel at the same time."""

    def __init__(self, program: NftProgram, sockets: Callable[[], ElementSocket]) -> None:
        self._table = NftTables(program, frozenset({TABLE}))
        self._sockets = sockets
        self._delta: Delta[str, NftBody] = Delta()
        self._members: set[Endpoint] = set()
        self._sources: dict[str, tuple[str, ...]] = {}  # by interface
        self._guard = threading.Lock()

    def restore(self, endpoints: Iterable[Endpoint], sources: Mapping[str, tuple[str, ...]]) -> None:
        """Make table and sets hold exactly `endpoints`, and the `sources` of interfaces; silent when they do.

        Raises KernelError.
        """
        with self._guard:
            self._members = set(endpoints)
            self._sources = dict(sources)
            self._enforce()

    def repair(self) -> None:
        """The same with those admitted since: somebody may have changed the table. Raises KernelError."""
        with self._guard:
            self._enforce()

    def _enforce(self) -> None:
        self._delta.doubt()
        sources = {(name, prefix) for name, prefixes in self._sources.items() for prefix in prefixes}
        self._delta.want({TABLE: body(self._members, sources)})
        for error in reconcile(self._delta, self._table):
            raise error
        wire = self._sockets()
        for family, target in ENDPOINTS.items():
            actual = wire.read(target)
            wanted = {_key(endpoint) for endpoint in self._members if _family(endpoint[1]) == family}
            wire.add(target, wanted - actual)
            wire.delete(target, actual - wanted)
        for family, target in SOURCES.items():
            held = wire.elements(target)
            ranges = {_range(name, prefix) for name, prefix in sources if _family(prefix) == family}
            wire.update(drops={target: held - ranges}, puts={target: ranges - held})

    def admit(self, interface: str, addresses: Iterable[str]) -> None:
        """Raises KernelError."""
        endpoints = [(interface, address) for address in addresses]
        with self._guard:
            self._members.update(endpoints)
            for family, target in ENDPOINTS.items():
                self._sockets().add(target, [_key(one) for one in endpoints if _family(one[1]) == family])

    def allow(self, interface: str, prefixes: tuple[str, ...]) -> None:
        """The interface's pod may also speak from there, and be spoken to. Raises KernelError."""
        with self._guard:
            if prefixes:
                self._sources[interface] = prefixes
                self._sockets().update(puts=_ranges(interface, prefixes))

    def expel(self, interface: str, addresses: Iterable[str]) -> None:
        """With its prefixes. Absent is fine. Raises KernelError."""
        endpoints = [(interface, address) for address in addresses]
        with self._guard:
            for target, ranges in _ranges(interface, self._sources.pop(interface, ())).items():
                for one in ranges:
                    self._drop(target, one)
            self._members.difference_update(endpoints)
            for endpoint in endpoints:
                self._drop(ENDPOINTS[_family(endpoint[1])], Element(_key(endpoint)))

    def _drop(self, target: SetName, element: Element) -> None:
        try:
            self._sockets().update(drops={target: [element]})
        except KernelError as error:
            if error.errno != ENOENT:
                raise

    def lacking(self, interface: str, prefixes: tuple[str, ...]) -> list[str]:
        """Those of the prefixes that are not allowed to the interface. Raises KernelError."""
        held = {one for target in _ranges(interface, prefixes) for one in self._sockets().elements(target)}
        return [prefix for prefix in prefixes if _range(interface, prefix) not in held]

    def missing(self, interface: str, addresses: Iterable[str]) -> list[str]:
        """Those of the addresses that are not admitted by the interface. Raises KernelError."""
        wanted = list(addresses)
        families = {_family(address) for address in wanted}
        actual = {family: self._sockets().read(ENDPOINTS[family]) for family in families}
        return [address for address in wanted if _key((interface, address)) not in actual[_family(address)]]


def _key(endpoint: Endpoint) -> bytes:
    return interface_key(endpoint[0]) + address_key(endpoint[1])


def _range(interface: str, prefix: str) -> Element:
    network = ipaddress.ip_network(prefix)
    name = interface_key(interface)
    return Element(name + network.network_address.packed, end=name + network.broadcast_address.packed)


def _ranges(interface: str, prefixes: Iterable[str]) -> dict[SetName, list[Element]]:
    found: dict[SetName, list[Element]] = {}
    for prefix in prefixes:
        found.setdefault(SOURCES[_family(prefix)], []).append(_range(interface, prefix))
    return found
