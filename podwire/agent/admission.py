"""Which pod interfaces may speak, and as whom: the tables of `render.nft_admission` and their sets.

The tables stand from the agent's first start on and outlive it. A packet from or to an interface with our prefix that
is not in the sets, with exactly this MAC and address, is dropped: so a half-wired pod, a left-over and a spoofed source
are closed without anybody's doing. An admission is one transaction, whatever the pod has.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from errno import ENOENT
from typing import Protocol

from podwire.agent.attachments import Attachment
from podwire.agent.elements import tell_repair
from podwire.cni.plan import PREFIX
from podwire.kernel.delta import Delta
from podwire.kernel.netlink import KernelError
from podwire.kernel.nfelements import Element, ElementSocket, SetName
from podwire.kernel.reconcile import reconcile
from podwire.kernel.tables import NftBody, NftProgram, NftTables
from podwire.render import nft_admission
from podwire.render.elements import Row
from podwire.render.nft_admission import ARP, TABLE, Endpoint

__all__ = ["ENDPOINTS", "Admission", "Endpoint", "speaker_of"]

ENDPOINTS = {4: SetName("inet", "podwire", "endpoints"), 6: SetName("inet", "podwire", "endpoints6")}
_NAMES = {
    name: SetName(family, table, name)
    for name, (family, table) in ((name, where.split()) for name, where in nft_admission.SETS.items())
}


Elements = dict[SetName, list[Element]]


def speaker_of(record: Attachment) -> Endpoint:
    """What the record's attachment may be."""
    return Endpoint(record.host_name, record.pod_mac, record.addresses, record.sources)


class Enforcement(Protocol):
    """What goes along with an admission: elements to delete and to add, in its transaction."""

    def admitting(self, interface: str) -> AbstractContextManager[tuple[Elements, Elements]]: ...
    def unbind(self, interface: str) -> None: ...


class Admission:
    """The tables and the sets. Threads may admit and expel at the same time."""

    def __init__(
        self, program: NftProgram, sockets: Callable[[], ElementSocket], policy: Enforcement | None = None
    ) -> None:
        self._policy = policy
        self._table = NftTables(program, frozenset({TABLE, ARP}))
        self._sockets = sockets
        self._delta: Delta[str, NftBody] = Delta()
        self._members: dict[str, Endpoint] = {}  # by interface
        self._guard = threading.Lock()

    def restore(self, endpoints: Iterable[Endpoint]) -> None:
        """Make tables and sets hold exactly `endpoints`; silent when they do. Raises KernelError."""
        with self._guard:
            self._members = {endpoint.interface: endpoint for endpoint in endpoints}
            self._enforce()

    def repair(self) -> None:
        """The same with those admitted since: somebody may have changed the tables. Raises KernelError."""
        with self._guard:
            self._enforce()

    def _enforce(self) -> None:
        members = [row for endpoint in self._members.values() for row in nft_admission.rows(endpoint)]
        self._delta.doubt()
        # rows are equal when the structure is: elements are compared one by one
        self._delta.want({table: _body(table, members) for table in (TABLE, ARP)})
        for error in reconcile(self._delta, self._table):
            raise error
        wire = self._sockets()
        wanted = _by_set(members)
        held = {target: wire.elements(target) for target in _NAMES.values()}
        drops = {target: some for target in held if (some := held[target] - wanted.get(target, set()))}
        puts = {target: some for target in wanted if (some := wanted[target] - held[target])}
        wire.update(drops=drops, puts=puts)
        tell_repair(self._table.name, drops, puts)

    def admit(self, endpoint: Endpoint) -> None:
        """In one transaction. Raises KernelError."""
        # policy first: it may have to wait, and nobody shall wait here for somebody who waits there
        with self._along(endpoint.interface) as (drops, puts), self._guard:
            self._members[endpoint.interface] = endpoint
            self._sockets().update(drops=drops, puts={**_by_set(nft_admission.rows(endpoint)), **puts})

    def _along(self, interface: str) -> AbstractContextManager[tuple[Elements, Elements]]:
        return self._policy.admitting(interface) if self._policy is not None else nullcontext(({}, {}))

    def expel(self, interface: str) -> None:
        """With all that it may. Absent is fine. Raises KernelError."""
        self._forget(interface)
        if self._policy is not None:
            self._policy.unbind(interface)

    def _forget(self, interface: str) -> None:
        with self._guard:
            endpoint = self._members.pop(interface, None)
            if endpoint is None:
                return
            gone = _by_set(nft_admission.rows(endpoint))
            try:
                self._sockets().update(drops=gone)
            except KernelError as error:
                if error.errno != ENOENT:
                    raise
                for target, elements in gone.items():
                    for element in elements:
                        self._drop(target, element)

    def _drop(self, target: SetName, element: Element) -> None:
        try:
            self._sockets().update(drops={target: [element]})
        except KernelError as error:
            if error.errno != ENOENT:
                raise

    def held(self) -> dict[str, list[str]]:
        """What each interface may be, as elements of sets, in words."""
        with self._guard:
            return {
                name: sorted(f"{row.set} {row.text}" for row in nft_admission.rows(endpoint))
                for name, endpoint in self._members.items()
            }

    def missing(self, endpoint: Endpoint) -> list[str]:
        """What the kernel lacks of it, in words. Raises KernelError."""
        wanted = sorted(nft_admission.rows(endpoint), key=lambda row: (row.set, row.text))
        held = {name: self._sockets().elements(_NAMES[name]) for name in {row.set for row in wanted}}
        lacking = [row for row in wanted if _element(row) not in held[row.set]]
        return [f"{endpoint.interface} is not admitted: set {row.set} lacks {row.text}" for row in lacking]


def _body(table: str, members: list[Row]) -> NftBody:
    digest = NftBody.of(nft_admission.body(table, PREFIX, ())).digest
    return NftBody(digest, nft_admission.body(table, PREFIX, members))


def _element(row: Row) -> Element:
    return Element(row.key, row.data, row.end)


def _by_set(rows: Iterable[Row]) -> dict[SetName, set[Element]]:
    found: dict[SetName, set[Element]] = {}
    for row in rows:
        found.setdefault(_NAMES[row.set], set()).add(_element(row))
    return found
