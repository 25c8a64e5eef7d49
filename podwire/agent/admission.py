"""Which pod interfaces may speak, and as whom: the table `inet podwire` and its set of (interface, address).

The table stands from the agent's first start on and outlives it. A packet from or to an interface with our prefix that
is not in the set, with exactly this address, is dropped: so a half-wired pod, a left-over and a spoofed source are
closed without anybody's doing.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable

from podwire.cni.plan import PREFIX
from podwire.kernel.delta import Delta
from podwire.kernel.netlink import KernelError
from podwire.kernel.nfelements import ElementSocket, SetName, address_key, interface_key
from podwire.kernel.reconcile import reconcile
from podwire.kernel.tables import NftBody, NftProgram, NftTables

TABLE = "inet podwire"
ENDPOINTS = SetName("inet", "podwire", "endpoints")

Endpoint = tuple[str, str]  # interface, address

_STRUCTURE = f"""\
	set endpoints {{
		type ifname . ipv4_addr
		%s
	}}
	chain prerouting {{
		type filter hook prerouting priority raw; policy accept;
		iifname "{PREFIX}*" iifname . ip saddr != @endpoints counter drop
	}}
	chain forward {{
		type filter hook forward priority filter; policy accept;
		oifname "{PREFIX}*" oifname . ip daddr != @endpoints counter drop
		iifname "{PREFIX}*" meta nfproto ipv6 counter drop
		oifname "{PREFIX}*" meta nfproto ipv6 counter drop
	}}"""


def body(endpoints: set[Endpoint]) -> NftBody:
    """The table with its elements; rows are equal when the structure is, elements being changed one by one."""
    elements = ", ".join(f'"{interface}" . {address}' for interface, address in sorted(endpoints))
    filled = _STRUCTURE % (f"elements = {{ {elements} }}" if elements else "")
    return NftBody(NftBody.of(_STRUCTURE).digest, filled)


class Admission:
    """The table and the set. Threads may admit and expel at the same time."""

    def __init__(self, program: NftProgram, sockets: Callable[[], ElementSocket]) -> None:
        self._table = NftTables(program, frozenset({TABLE}))
        self._sockets = sockets
        self._delta: Delta[str, NftBody] = Delta()
        self._guard = threading.Lock()

    def restore(self, endpoints: set[Endpoint]) -> None:
        """Make table and set hold exactly `endpoints`; silent when they do. Raises KernelError."""
        with self._guard:
            self._delta.doubt()
            self._delta.want({TABLE: body(endpoints)})
            for error in reconcile(self._delta, self._table):
                raise error
            wire = self._sockets()
            actual = wire.read(ENDPOINTS)
            wanted = {_key(endpoint) for endpoint in endpoints}
            wire.add(ENDPOINTS, wanted - actual)
            wire.delete(ENDPOINTS, actual - wanted)

    def admit(self, endpoint: Endpoint) -> None:
        """Raises KernelError."""
        self._sockets().add(ENDPOINTS, [_key(endpoint)])

    def expel(self, endpoint: Endpoint) -> None:
        """Absent is fine. Raises KernelError."""
        try:
            self._sockets().delete(ENDPOINTS, [_key(endpoint)])
        except KernelError as error:
            if error.errno != 2:
                raise

    def members(self) -> set[Endpoint]:
        """What the kernel holds. Raises KernelError."""
        return {_endpoint(key) for key in self._sockets().read(ENDPOINTS)}


def _key(endpoint: Endpoint) -> bytes:
    return interface_key(endpoint[0]) + address_key(endpoint[1])


def _endpoint(key: bytes) -> Endpoint:
    return key[:16].rstrip(b"\0").decode(), socket.inet_ntop(socket.AF_INET, key[16:20])
