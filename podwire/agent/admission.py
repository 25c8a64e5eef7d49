"""Which pod interfaces may speak, and as whom: the table `inet podwire` and its sets of (interface, address).

The table stands from the agent's first start on and outlives it. A packet from or to an interface with our prefix that
is not in the set, with exactly this address, is dropped: so a half-wired pod, a left-over and a spoofed source are
closed without anybody's doing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from errno import ENOENT

from podwire.cni.plan import PREFIX
from podwire.kernel.delta import Delta
from podwire.kernel.netlink import KernelError
from podwire.kernel.nfelements import ElementSocket, SetName, address_key, interface_key
from podwire.kernel.reconcile import reconcile
from podwire.kernel.tables import NftBody, NftProgram, NftTables

TABLE = "inet podwire"
ENDPOINTS = {4: SetName("inet", "podwire", "endpoints"), 6: SetName("inet", "podwire", "endpoints6")}

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
	chain prerouting {{
		type filter hook prerouting priority raw; policy accept;
		iifname "{PREFIX}*" iifname . ip saddr != @endpoints counter drop
		iifname "{PREFIX}*" meta nfproto ipv6 goto from6
	}}
	chain from6 {{
		iifname . ip6 saddr @endpoints6 return
		ip6 hoplimit 255 ip6 saddr {{ ::, fe80::/10 }} icmpv6 type {{ 133, 135, 136 }} return
		ip6 hoplimit 1 ip6 saddr {{ ::, fe80::/10 }} meta l4proto icmpv6 icmpv6 type {{ 131, 132, 143 }} return
		counter drop
	}}
	chain forward {{
		type filter hook forward priority filter; policy accept;
		oifname "{PREFIX}*" oifname . ip daddr != @endpoints counter drop
		oifname "{PREFIX}*" oifname . ip6 daddr != @endpoints6 counter drop
	}}"""


def body(endpoints: set[Endpoint]) -> NftBody:
    """The table with its elements; rows are equal when the structure is, elements being changed one by one."""
    filled = _STRUCTURE % tuple(_elements(endpoints, family) for family in ENDPOINTS)
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
        self._guard = threading.Lock()

    def restore(self, endpoints: Iterable[Endpoint]) -> None:
        """Make table and sets hold exactly `endpoints`; silent when they do. Raises KernelError."""
        with self._guard:
            self._members = set(endpoints)
            self._enforce()

    def repair(self) -> None:
        """The same with those admitted since: somebody may have changed the table. Raises KernelError."""
        with self._guard:
            self._enforce()

    def _enforce(self) -> None:
        self._delta.doubt()
        self._delta.want({TABLE: body(self._members)})
        for error in reconcile(self._delta, self._table):
            raise error
        wire = self._sockets()
        for family, target in ENDPOINTS.items():
            actual = wire.read(target)
            wanted = {_key(endpoint) for endpoint in self._members if _family(endpoint[1]) == family}
            wire.add(target, wanted - actual)
            wire.delete(target, actual - wanted)

    def admit(self, interface: str, addresses: Iterable[str]) -> None:
        """Raises KernelError."""
        endpoints = [(interface, address) for address in addresses]
        with self._guard:
            self._members.update(endpoints)
            for family, target in ENDPOINTS.items():
                self._sockets().add(target, [_key(one) for one in endpoints if _family(one[1]) == family])

    def expel(self, interface: str, addresses: Iterable[str]) -> None:
        """Absent is fine. Raises KernelError."""
        endpoints = [(interface, address) for address in addresses]
        with self._guard:
            self._members.difference_update(endpoints)
            for endpoint in endpoints:
                try:
                    self._sockets().delete(ENDPOINTS[_family(endpoint[1])], [_key(endpoint)])
                except KernelError as error:
                    if error.errno != ENOENT:
                        raise

    def missing(self, interface: str, addresses: Iterable[str]) -> list[str]:
        """Those of the addresses that are not admitted by the interface. Raises KernelError."""
        wanted = list(addresses)
        families = {_family(address) for address in wanted}
        actual = {family: self._sockets().read(ENDPOINTS[family]) for family in families}
        return [address for address in wanted if _key((interface, address)) not in actual[_family(address)]]


def _key(endpoint: Endpoint) -> bytes:
    return interface_key(endpoint[0]) + address_key(endpoint[1])
