"""Admission on bridge ports and on interfaces that another plugin made: the tables of `render.nft_bridge`.

Like `admission`, which closes routed interfaces: closed is what is not admitted, the tables outlive the agent, and each
admission is one element. The tables are made when they are first needed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass
from errno import ENOENT

from podwire.agent.attachments import BRIDGE, CHAINED, READY, Attachment
from podwire.cni.bridgeplan import subnet_of
from podwire.cni.plan import PREFIX, family
from podwire.kernel.delta import Delta
from podwire.kernel.netlink import KernelError
from podwire.kernel.nfelements import ElementSocket, SetName, address_key, interface_key
from podwire.kernel.reconcile import reconcile
from podwire.kernel.routes import pack_mac
from podwire.kernel.tables import NftBody, NftProgram, NftTables
from podwire.render import nft_bridge

_SETS = {4: "endpoints", 6: "endpoints6"}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An interface, the MAC it speaks with, and its bare addresses. `governed`: its name has not our prefix."""

    interface: str
    mac: str
    addresses: tuple[str, ...]
    governed: bool = False


def endpoint_of(record: Attachment) -> Endpoint:
    """What the record's attachment may be."""
    return Endpoint(record.host_name, record.pod_mac, record.addresses, not record.host_name.startswith(PREFIX))


Elements = dict[SetName, set[bytes]]


def elements(endpoints: Iterable[Endpoint]) -> Elements:
    """Every set's members."""
    found: Elements = {SetName("bridge", "podwire", "macs"): set()}
    for kind, table in (("bridge", "podwire"), ("inet", "podwire_adopted")):
        found |= {SetName(kind, table, name): set() for name in ("governed", *_SETS.values())}
    for one in endpoints:
        key = interface_key(one.interface)
        found[SetName("bridge", "podwire", "macs")].add(key + pack_mac(one.mac) + b"\0\0")
        for kind, table in (("bridge", "podwire"), ("inet", "podwire_adopted")):
            if kind == "inet" and not one.governed:
                continue
            for address in one.addresses:
                found[SetName(kind, table, _SETS[family(address)])].add(key + address_key(address))
            if one.governed:
                found[SetName(kind, table, "governed")].add(key)
    return found


class Guard:
    """Threads may admit and expel at the same time."""

    def __init__(self, program: NftProgram, sockets: Callable[[], ElementSocket]) -> None:
        self._tables = NftTables(program, frozenset({nft_bridge.BRIDGE, nft_bridge.ADOPTED}))
        self._masquerade = NftTables(program, frozenset({nft_bridge.MASQUERADE}))
        self._sockets = sockets
        self._guard = threading.Lock()
        self._there = False
        self._subnets: set[str] = set()

    def restore(self, records: Iterable[Attachment], present: Container[str]) -> None:
        """After a start: the tables hold what the records say, and are left as they are when they do.

        An interface that is `present` stays governed: it may be one that was closed, and waits for its end.
        """
        mine = [one for one in records if one.state == READY and one.role in (BRIDGE, CHAINED)]
        if not mine:
            return
        masked = [one for one in mine if one.masquerade]
        if masked:
            subnets = {subnet_of(gateway) for one in masked for gateway in one.gateways}
            self.masquerade(subnets, {address for one in masked for address in one.addresses})
        self.prepare()
        for target, wanted in elements(map(endpoint_of, mine)).items():
            actual = self._sockets().read(target)
            self._sockets().add(target, wanted - actual)
            surplus = actual - wanted
            if target.name == "governed":
                surplus = {key for key in surplus if key.rstrip(b"\0").decode(errors="replace") not in present}
            self._sockets().delete(target, surplus)

    def prepare(self) -> None:
        """The tables stand; everything on a port with our prefix is closed from now on. Raises KernelError."""
        with self._guard:
            if self._there:
                return
            delta: Delta[str, NftBody] = Delta()
            bodies = {nft_bridge.BRIDGE: nft_bridge.bridge(PREFIX), nft_bridge.ADOPTED: nft_bridge.adopted()}
            delta.want({name: NftBody.of(text) for name, text in bodies.items()})
            for error in reconcile(delta, self._tables):
                raise error
            self._there = True

    def admit(self, endpoint: Endpoint) -> None:
        """The endpoint may speak; a governed one may from now on do nothing else. Raises KernelError."""
        self.prepare()
        for target, keys in elements([endpoint]).items():
            self._sockets().add(target, keys)

    def expel(self, endpoint: Endpoint) -> None:
        """Absent is fine. Raises KernelError."""
        for target, keys in elements([endpoint]).items():
            for key in keys:
                self._drop(target, key)

    def close(self, endpoint: Endpoint) -> None:
        """Nothing of it passes any more; a governed one stays governed. Raises KernelError."""
        for target, keys in elements([endpoint]).items():
            if target.name != "governed":
                for key in keys:
                    self._drop(target, key)

    def governed(self) -> set[str]:
        """Interfaces without our prefix that are closed but for their endpoints. Raises KernelError."""
        keys = _read(self._sockets(), SetName("bridge", "podwire", "governed"))
        return {key.rstrip(b"\0").decode(errors="replace") for key in keys}

    def ungovern(self, interface: str) -> None:
        """For an interface that is gone. Raises KernelError."""
        for kind, table in (("bridge", "podwire"), ("inet", "podwire_adopted")):
            self._drop(SetName(kind, table, "governed"), interface_key(interface))

    def missing(self, endpoint: Endpoint) -> list[str]:
        """Sets that should have the endpoint and do not, by name. Raises KernelError."""
        found = []
        for target, keys in elements([endpoint]).items():
            try:
                if keys - self._sockets().read(target):
                    found.append(f"{target.family} {target.table} {target.name}")
            except KernelError as error:
                if error.errno != ENOENT:
                    raise
                found.append(f"{target.family} {target.table} {target.name}")
        return found

    def masquerade(self, subnets: Iterable[str], addresses: Iterable[str]) -> None:
        """These IPv4 pods leave their subnets with the node's address. Raises KernelError."""
        wanted = {subnet for subnet in subnets if ":" not in subnet}
        target = SetName("ip", "podwire_bridge", "pods")
        with self._guard:
            if not wanted <= self._subnets:
                known = _read(self._sockets(), target)
                delta: Delta[str, NftBody] = Delta()
                self._subnets |= wanted
                delta.want({nft_bridge.MASQUERADE: NftBody.of(nft_bridge.masquerade(self._subnets))})
                for error in reconcile(delta, self._masquerade):
                    raise error
                self._sockets().add(target, known - _read(self._sockets(), target))
        keys = {address_key(address) for address in addresses if family(address) == 4}
        self._sockets().add(target, keys - _read(self._sockets(), target))

    def unmask(self, addresses: Iterable[str]) -> None:
        """The opposite of `masquerade`. Absent is fine. Raises KernelError."""
        for address in addresses:
            if family(address) == 4:
                self._drop(SetName("ip", "podwire_bridge", "pods"), address_key(address))

    def _drop(self, target: SetName, key: bytes) -> None:
        try:
            self._sockets().delete(target, [key])
        except KernelError as error:
            if error.errno != ENOENT:
                raise


def _read(socket: ElementSocket, target: SetName) -> set[bytes]:
    try:
        return socket.read(target)
    except KernelError as error:
        if error.errno == ENOENT:
            return set()
        raise
