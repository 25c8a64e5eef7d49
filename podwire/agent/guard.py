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

_GOVERNED = "governed"
_CLOSING = (("bridge", "podwire"), ("inet", "podwire_adopted"))
_SETS = {4: "endpoints", 6: "endpoints6"}
_MACS = SetName("bridge", "podwire", "macs")
_TARGETS = SetName("bridge", "podwire", "targets6")
_PODS = {4: SetName("inet", "podwire_bridge", "pods"), 6: SetName("inet", "podwire_bridge", "pods6")}


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


def elements(endpoints: Iterable[Endpoint], closing: Iterable[str] = ()) -> Elements:
    """Every set's members; `closing` are governed interfaces without an endpoint."""
    found: Elements = {_MACS: set(), _TARGETS: set()}
    for kind, table in _CLOSING:
        found |= {SetName(kind, table, name): set() for name in (_GOVERNED, *_SETS.values())}
        found[SetName(kind, table, _GOVERNED)] |= {interface_key(name) for name in closing}
    for one in endpoints:
        key = interface_key(one.interface)
        found[_MACS].add(key + pack_mac(one.mac) + b"\0\0")
        found[_TARGETS] |= {key + address_key(address) for address in one.addresses if family(address) == 6}
        for kind, table in _CLOSING:
            if kind == "inet" and not one.governed:
                continue
            for address in one.addresses:
                found[SetName(kind, table, _SETS[family(address)])].add(key + address_key(address))
            if one.governed:
                found[SetName(kind, table, _GOVERNED)].add(key)
    return found


def masked(addresses: Iterable[str]) -> Elements:
    """The sets of who leaves with the node's address."""
    found: Elements = {target: set() for target in _PODS.values()}
    for address in addresses:
        found[_PODS[family(address)]].add(address_key(address))
    return found


class Guard:
    """Threads may admit and expel at the same time."""

    def __init__(self, program: NftProgram, sockets: Callable[[], ElementSocket]) -> None:
        self._tables = NftTables(program, frozenset({nft_bridge.BRIDGE, nft_bridge.ADOPTED}))
        self._masquerade = NftTables(program, frozenset({nft_bridge.MASQUERADE}))
        self._sockets = sockets
        self._guard = threading.Lock()
        self._there = False
        self._members: set[Endpoint] = set()
        self._closing: set[str] = set()  # governed by name, nobody's any more: closed until they are gone
        self._masked: set[str] = set()
        self._subnets: set[str] = set()

    def held(self) -> dict[str, list[str]]:
        """Ports that are governed, those still closed after their pod, and what is masqueraded."""
        with self._guard:
            return {
                "members": sorted(map(str, self._members)),
                "closing": sorted(self._closing),
                "masked": sorted(self._masked),
                "subnets": sorted(self._subnets),
            }

    def restore(self, records: Iterable[Attachment], present: Container[str]) -> None:
        """After a start: the tables hold what the records say, and are left as they are when they do.

        An interface that is `present` stays governed: it may be one that was closed, and waits for its end.
        """
        mine = [one for one in records if one.state == READY and one.role in (BRIDGE, CHAINED)]
        masquerading = [one for one in mine if one.masquerade]
        with self._guard:
            self._members = {endpoint_of(one) for one in mine}
            self._closing = {name for name in self._governed() if name in present} - self._names()
            self._masked = {address for one in masquerading for address in one.addresses}
            self._subnets = {subnet_of(gateway) for one in masquerading for gateway in one.gateways}
            if mine or _read(self._sockets(), _MACS) is not None:
                self._enforce()
            if masquerading or _read(self._sockets(), _PODS[4]) is not None:
                self._mask()

    def repair(self, present: Container[str]) -> None:
        """While the agent runs: what somebody else took away comes back; interfaces that were closed, or governed for
        nobody, and are not `present` need not be governed any more. Raises KernelError."""
        with self._guard:
            self._closing = {name for name in self._closing | self._governed() if name in present} - self._names()
            if self._there:
                self._enforce()
            if self._masked:
                self._mask()

    def _names(self) -> set[str]:
        return {one.interface for one in self._members if one.governed}

    def _enforce(self) -> None:
        bodies = {nft_bridge.BRIDGE: nft_bridge.bridge(PREFIX), nft_bridge.ADOPTED: nft_bridge.adopted()}
        self._write(bodies, self._tables)
        self._align(elements(self._members, self._closing))
        self._there = True

    def _mask(self) -> None:
        self._write({nft_bridge.MASQUERADE: nft_bridge.masquerade(self._subnets)}, self._masquerade)
        self._align(masked(self._masked))

    def _write(self, bodies: dict[str, str], tables: NftTables) -> None:
        delta: Delta[str, NftBody] = Delta()
        delta.want({name: NftBody.of(text) for name, text in bodies.items()})
        for error in reconcile(delta, tables):
            raise error

    def _align(self, wanted: Elements) -> None:
        for target, keys in wanted.items():
            actual = self._sockets().read(target)
            self._sockets().add(target, keys - actual)
            self._sockets().delete(target, actual - keys)

    def prepare(self) -> None:
        """The tables stand; everything on a port with our prefix is closed from now on. Raises KernelError."""
        with self._guard:
            if not self._there:
                self._enforce()

    def admit(self, endpoint: Endpoint) -> None:
        """The endpoint may speak; a governed one may from now on do nothing else. Raises KernelError."""
        self.prepare()
        with self._guard:
            self._members.add(endpoint)
            self._closing.discard(endpoint.interface)
            for target, keys in elements([endpoint]).items():
                self._sockets().add(target, keys)

    def expel(self, endpoint: Endpoint) -> None:
        """Absent is fine. Raises KernelError."""
        with self._guard:
            self._members.discard(endpoint)
            self._drop(elements([endpoint]))

    def close(self, endpoint: Endpoint) -> None:
        """Nothing of it passes any more; a governed one stays governed until it is gone. Raises KernelError."""
        with self._guard:
            self._members.discard(endpoint)
            if endpoint.governed:
                self._closing.add(endpoint.interface)
            gone = elements([endpoint])
            self._drop({target: keys for target, keys in gone.items() if target.name != _GOVERNED})

    def sweep(self, present: Callable[[str], bool], *, nobodys: bool = False) -> list[str]:
        """Interfaces that were closed and are gone need not be governed any more; with `nobodys` those, too, that are
        governed and no endpoint has. Their names. Raises KernelError."""
        with self._guard:
            if nobodys:
                self._closing |= self._governed() - self._names()
            gone = sorted(name for name in self._closing if not present(name))
            for name in gone:
                self._drop({SetName(kind, table, _GOVERNED): {interface_key(name)} for kind, table in _CLOSING})
                self._closing.discard(name)
            return gone

    def _governed(self) -> set[str]:
        """Interfaces without our prefix that are closed but for their endpoints."""
        keys = _read(self._sockets(), SetName("bridge", "podwire", _GOVERNED)) or set()
        return {key.rstrip(b"\0").decode(errors="replace") for key in keys}

    def missing(self, endpoint: Endpoint) -> list[str]:
        """Sets that should have the endpoint and do not, by name. Raises KernelError."""
        found = []
        for target, keys in elements([endpoint]).items():
            if keys and not keys <= (_read(self._sockets(), target) or set()):
                found.append(f"{target.family} {target.table} {target.name}")
        return found

    def masquerade(self, subnets: Iterable[str], addresses: Iterable[str]) -> None:
        """These pods leave their subnets with the node's address. Raises KernelError."""
        wanted = set(subnets)
        with self._guard:
            self._masked.update(addresses)
            if not wanted <= self._subnets:
                self._subnets |= wanted
                self._mask()
                return
            for target, keys in masked(addresses).items():
                self._sockets().add(target, keys)

    def unmask(self, addresses: Iterable[str]) -> None:
        """The opposite of `masquerade`. Absent is fine. Raises KernelError."""
        with self._guard:
            self._masked.difference_update(addresses)
            self._drop(masked(addresses))

    def _drop(self, gone: Elements) -> None:
        for target, keys in gone.items():
            for key in keys:
                try:
                    self._sockets().delete(target, [key])
                except KernelError as error:
                    if error.errno != ENOENT:
                        raise


def _read(socket: ElementSocket, target: SetName) -> set[bytes] | None:
    """None: there is no such table."""
    try:
        return socket.read(target)
    except KernelError as error:
        if error.errno == ENOENT:
            return None
        raise
