"""The kernel tables that the agent keeps equal: links, addresses, routes, neighbours, FDB, nft tables.

Each says what it owns, so that a fresh agent recognises its predecessor's rows and never touches anybody else's.
`RouteKernel` is the seam: `links.RouteSocket` is the real kernel, `fake.FakeKernel` the one for tests.
"""

from __future__ import annotations

import errno
import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from socket import AF_INET, AF_UNSPEC
from typing import Protocol, TypeVar

from podwire.kernel import nft
from podwire.kernel.links import Link, Vxlan
from podwire.kernel.netlink import KernelError
from podwire.kernel.routes import METRIC_IPV6, SCOPE_LINK, TYPE_BLACKHOLE, Address, FdbEntry, Neighbour, Route

R = TypeVar("R")


class RouteKernel(Protocol):
    """rtnetlink as values. Every method raises KernelError."""

    def link(self, name: str) -> Link | None: ...
    def links(self) -> list[Link]: ...
    def add_vxlan(self, name: str, vxlan: Vxlan, *, mac: str = "", mtu: int = 1450) -> int: ...
    def set_link(self, index: int, *, up: bool | None = None, mtu: int | None = None) -> None: ...
    def delete_link(self, index: int) -> None: ...
    def addresses(self) -> list[Address]: ...
    def put_address(self, address: Address) -> None: ...
    def drop_address(self, address: Address) -> None: ...
    def routes(self, family: int = AF_INET) -> list[Route]: ...
    def put_route(self, route: Route) -> None: ...
    def drop_route(self, route: Route) -> None: ...
    def neighbours(self, index: int, family: int = AF_INET) -> list[Neighbour]: ...
    def put_neighbour(self, entry: Neighbour) -> None: ...
    def drop_neighbour(self, entry: Neighbour) -> None: ...
    def fdb(self, index: int) -> list[FdbEntry]: ...
    def put_fdb(self, entry: FdbEntry) -> None: ...
    def drop_fdb(self, entry: FdbEntry) -> None: ...


@dataclass(frozen=True, slots=True)
class VxlanLink:
    """The row of a VXLAN device."""

    vxlan: Vxlan
    mac: str
    mtu: int
    up: bool = True


class Links:
    """VXLAN devices by name; ours are those in `owned`. What cannot be changed in place is made anew."""

    name = "links"

    def __init__(self, kernel: RouteKernel, owned: frozenset[str]) -> None:
        self._kernel = kernel
        self._owned = owned

    def read(self) -> dict[str, VxlanLink]:
        found = (self._kernel.link(name) for name in sorted(self._owned))
        return {link.name: _vxlan_row(link) for link in found if link is not None}

    def write(self, key: str, row: VxlanLink) -> None:
        link = self._kernel.link(key)
        if link is not None and (link.vxlan != row.vxlan or link.mac != row.mac):
            self._kernel.delete_link(link.index)
            link = None
        index = link.index if link else self._kernel.add_vxlan(key, row.vxlan, mac=row.mac, mtu=row.mtu)
        self._kernel.set_link(index, up=row.up, mtu=row.mtu)

    def remove(self, key: str, row: VxlanLink) -> None:
        link = self._kernel.link(key)
        if link is not None:
            self._kernel.delete_link(link.index)


def _vxlan_row(link: Link) -> VxlanLink:
    # a device of another kind under our name has no VNI: it differs from every desired row and is replaced
    return VxlanLink(link.vxlan or Vxlan(0, 0, 0, ""), link.mac, link.mtu, link.up)


class Addresses:
    """Addresses of one interface, all of them ours but the kernel's link-local ones."""

    name = "addresses"

    def __init__(self, kernel: RouteKernel, index: int) -> None:
        self._kernel = kernel
        self._index = index

    def read(self) -> dict[str, Address]:
        rows = [row for row in self._kernel.addresses() if row.index == self._index and row.scope != SCOPE_LINK]
        return {row.cidr: row for row in rows}

    def write(self, key: str, row: Address) -> None:
        self._kernel.put_address(row)

    def remove(self, key: str, row: Address) -> None:
        _absent_is_fine(self._kernel.drop_address, row, errno.EADDRNOTAVAIL, errno.ENODEV)


class Routes:
    """Routes of the main table that `owned` recognises, by destination; of IPv4 alone, or of several families."""

    name = "routes"

    def __init__(
        self, kernel: RouteKernel, owned: Callable[[Route], bool], families: tuple[int, ...] = (AF_INET,)
    ) -> None:
        self._kernel = kernel
        self._owned = owned
        self._families = families

    def read(self) -> dict[str, Route]:
        rows = [_as_written(row) for family in self._families for row in self._kernel.routes(family)]
        return {row.destination: row for row in rows if self._owned(row)}

    def write(self, key: str, row: Route) -> None:
        self._kernel.put_route(row)

    def remove(self, key: str, row: Route) -> None:
        _absent_is_fine(self._kernel.drop_route, row, errno.ESRCH, errno.ENODEV)


def _as_written(route: Route) -> Route:
    """IPv6 routes come back with a metric, blackholes of it with the loopback interface."""
    if ":" not in route.destination:
        return route
    index = 0 if route.type == TYPE_BLACKHOLE else route.index
    return replace(route, index=index, metric=0 if route.metric == METRIC_IPV6 else route.metric)


class Neighbours:
    """Permanent neighbour entries of one interface, by address."""

    name = "neighbours"

    def __init__(self, kernel: RouteKernel, index: int) -> None:
        self._kernel = kernel
        self._index = index

    def read(self) -> dict[str, Neighbour]:
        return {row.address: row for row in self._kernel.neighbours(self._index, AF_UNSPEC)}

    def write(self, key: str, row: Neighbour) -> None:
        self._kernel.put_neighbour(row)

    def remove(self, key: str, row: Neighbour) -> None:
        _absent_is_fine(self._kernel.drop_neighbour, row, errno.ENOENT, errno.ENODEV)


class Fdb:
    """Forwarding entries of one VXLAN device, by MAC."""

    name = "fdb"

    def __init__(self, kernel: RouteKernel, index: int) -> None:
        self._kernel = kernel
        self._index = index

    def read(self) -> dict[str, FdbEntry]:
        return {row.mac: row for row in self._kernel.fdb(self._index) if row.mac != "00:00:00:00:00:00"}

    def write(self, key: str, row: FdbEntry) -> None:
        self._kernel.put_fdb(row)

    def remove(self, key: str, row: FdbEntry) -> None:
        _absent_is_fine(self._kernel.drop_fdb, row, errno.ENOENT, errno.ENODEV)


def _absent_is_fine(drop: Callable[[R], None], row: R, *codes: int) -> None:
    try:
        drop(row)
    except KernelError as error:
        if error.errno not in codes:
            raise


class NftProgram(Protocol):
    """The two calls of nft that tables need."""

    def run(self, text: str) -> None: ...
    def read(self, family: str, table: str) -> str | None: ...


class Nft:
    """The real program."""

    def run(self, text: str) -> None:
        nft.run(text)

    def read(self, family: str, table: str) -> str | None:
        return nft.read(family, table)


@dataclass(frozen=True, slots=True)
class NftBody:
    """What stands between a table's braces; equal when the digests are. Rows read back know only the digest."""

    digest: str
    text: str = field(default="", compare=False)

    @classmethod
    def of(cls, text: str) -> NftBody:
        return cls(hashlib.sha256(text.encode()).hexdigest()[:16], text)


_DIGEST = re.compile(r'comment "podwire (\w+)"')


class NftTables:
    """Whole nft tables: key "family name", row `NftBody`.

    Written in one transaction that deletes and makes the table anew. nft prints bodies differently than they were
    written, so the body's digest is kept in the table's comment, and that is what `read` brings back to compare.
    """

    def __init__(self, program: NftProgram, owned: frozenset[str]) -> None:
        self._program = program
        self._owned = owned
        self.name = ", ".join(sorted(owned))

    def read(self) -> dict[str, NftBody]:
        rows: dict[str, NftBody] = {}
        for key in sorted(self._owned):
            family, name = key.split()
            listing = self._program.read(family, name)
            if listing is not None:
                found = _DIGEST.search(listing)
                rows[key] = NftBody(found.group(1) if found else "")
        return rows

    def write(self, key: str, row: NftBody) -> None:
        head = f'add table {key}\ndelete table {key}\ntable {key} {{\n\tcomment "podwire {row.digest}"\n'
        self._program.run(f"{head}{row.text}\n}}\n")

    def remove(self, key: str, row: NftBody) -> None:
        self._program.run(f"delete table {key}\n")
