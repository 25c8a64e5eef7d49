"""A kernel in memory with the manners of the real one, for tests of everything that uses `tables.RouteKernel`.

It refuses what the kernel refuses (a route by a missing or downed link, a gateway out of reach, a name taken), drops
routes and entries with their link, counts calls, prints itself, and can be told to refuse one thing.
The same contract tests run against it and against a real namespace.
"""

from __future__ import annotations

import errno
import ipaddress
from collections import Counter
from dataclasses import dataclass, field, replace
from socket import AF_INET, AF_INET6, AF_UNSPEC

from podwire.kernel.links import Link, Vxlan
from podwire.kernel.netlink import KernelError
from podwire.kernel.nft import NftError
from podwire.kernel.routes import (
    METRIC_IPV6,
    SCOPE_LINK,
    SCOPE_UNIVERSE,
    TYPE_UNICAST,
    Address,
    FdbEntry,
    Neighbour,
    Route,
)

_LOOPBACK = Link(1, "lo", "00:00:00:00:00:00", 65536, True)


@dataclass
class FakeKernel:
    """Implements RouteKernel. `refuse[text] = errno` makes calls whose description contains the text fail."""

    calls: Counter[str] = field(default_factory=Counter)
    refuse: dict[str, int] = field(default_factory=dict)
    _links: dict[int, Link] = field(default_factory=lambda: {1: _LOOPBACK})
    _addresses: dict[tuple[int, str], Address] = field(default_factory=dict)
    _routes: dict[tuple[str, int], Route] = field(default_factory=dict)
    _neighbours: dict[tuple[int, str], Neighbour] = field(default_factory=dict)
    _fdb: dict[tuple[int, str], FdbEntry] = field(default_factory=dict)
    _next_index: int = 2

    # -- for tests ------------------------------------------------------------------------------------------------

    def add_link(self, name: str, kind: str = "veth", *, up: bool = True, mac: str = "02:00:00:00:00:01") -> int:
        """A link that somebody else made."""
        return self._add(Link(0, name, mac, 1500, up, kind))

    def dump(self) -> str:
        """What `ip route`, `ip neigh` and `bridge fdb` would show, sorted."""
        names = {index: link.name for index, link in self._links.items()}
        rows = [
            f"route {r.destination} via {r.via or '-'} dev {names.get(r.index, '-')}" for r in self._routes.values()
        ]
        rows += [f"neigh {n.address} dev {names[n.index]} lladdr {n.mac}" for n in self._neighbours.values()]
        rows += [f"fdb {f.mac} dev {names[f.index]} dst {f.address}" for f in self._fdb.values()]
        return "\n".join(sorted(rows))

    # -- RouteKernel ----------------------------------------------------------------------------------------------

    def link(self, name: str) -> Link | None:
        return next((link for link in self._links.values() if link.name == name), None)

    def links(self) -> list[Link]:
        return list(self._links.values())

    def add_vxlan(self, name: str, vxlan: Vxlan, *, mac: str = "", mtu: int = 1450) -> int:
        what = f"create vxlan {name}"
        self._call(what)
        if self.link(name) is not None:
            raise KernelError(what, errno.EEXIST)
        if vxlan.parent and vxlan.parent not in self._links:
            raise KernelError(what, errno.ENODEV)
        return self._add(Link(0, name, mac, mtu, False, "vxlan", vxlan=vxlan))

    def set_link(self, index: int, *, up: bool | None = None, mtu: int | None = None) -> None:
        link = self._known(f"change link {index}", index)
        changed = replace(link, up=link.up if up is None else up, mtu=link.mtu if mtu is None else mtu)
        self._links[index] = changed
        if not changed.up:
            self._flush_routes(index)

    def delete_link(self, index: int) -> None:
        self._known(f"delete link {index}", index)
        del self._links[index]
        self._flush_routes(index)
        self._addresses = {key: row for key, row in self._addresses.items() if key[0] != index}
        self._neighbours = {key: row for key, row in self._neighbours.items() if key[0] != index}
        self._fdb = {key: row for key, row in self._fdb.items() if key[0] != index}

    def addresses(self) -> list[Address]:
        return list(self._addresses.values())

    def put_address(self, address: Address) -> None:
        self._known(f"add address {address.cidr}", address.index)
        self._addresses[address.index, address.cidr] = address

    def drop_address(self, address: Address) -> None:
        what = f"delete address {address.cidr}"
        self._known(what, address.index)
        if self._addresses.pop((address.index, address.cidr), None) is None:
            raise KernelError(what, errno.EADDRNOTAVAIL)

    def routes(self, family: int = AF_INET) -> list[Route]:
        return [_told(row) for row in self._routes.values() if (":" in row.destination) == (family == AF_INET6)]

    def put_route(self, route: Route) -> None:
        what = f"add route {route.destination}"
        self._call(what)
        if route.type == TYPE_UNICAST:
            if route.index not in self._links:
                raise KernelError(what, errno.ENODEV)
            if not self._links[route.index].up:
                raise KernelError(what, errno.ENETDOWN, "Device for nexthop is not up")
            if route.via and not route.onlink and not self._reachable(route.via, route.index):
                raise KernelError(what, errno.ENETUNREACH, "Nexthop has invalid gateway")
        self._routes[route.destination, route.metric] = route

    def drop_route(self, route: Route) -> None:
        what = f"delete route {route.destination}"
        self._call(what)
        have = self._routes.get((route.destination, route.metric))
        if have is None or (route.index and have.index != route.index):
            raise KernelError(what, errno.ESRCH)
        del self._routes[route.destination, route.metric]

    def neighbours(self, index: int, family: int = AF_INET) -> list[Neighbour]:
        rows = [row for row in self._neighbours.values() if row.index == index]
        return [row for row in rows if family in (AF_UNSPEC, AF_INET6 if ":" in row.address else AF_INET)]

    def put_neighbour(self, entry: Neighbour) -> None:
        self._known(f"add neighbour {entry.address}", entry.index)
        self._neighbours[entry.index, entry.address] = entry

    def drop_neighbour(self, entry: Neighbour) -> None:
        what = f"delete neighbour {entry.address}"
        self._known(what, entry.index)
        if self._neighbours.pop((entry.index, entry.address), None) is None:
            raise KernelError(what, errno.ENOENT)

    def fdb(self, index: int) -> list[FdbEntry]:
        return [row for row in self._fdb.values() if row.index == index]

    def put_fdb(self, entry: FdbEntry) -> None:
        what = f"add fdb {entry.mac}"
        if self._known(what, entry.index).kind != "vxlan":
            raise KernelError(what, errno.EOPNOTSUPP)
        self._fdb[entry.index, entry.mac] = entry

    def drop_fdb(self, entry: FdbEntry) -> None:
        what = f"delete fdb {entry.mac}"
        self._known(what, entry.index)
        if self._fdb.pop((entry.index, entry.mac), None) is None:
            raise KernelError(what, errno.ENOENT)

    # -- inside ---------------------------------------------------------------------------------------------------

    def _call(self, what: str) -> None:
        self.calls[what.split()[0]] += 1
        for words, code in self.refuse.items():
            if words in what:
                raise KernelError(what, code)

    def _known(self, what: str, index: int) -> Link:
        self._call(what)
        if index not in self._links:
            raise KernelError(what, errno.ENODEV)
        return self._links[index]

    def _add(self, link: Link) -> int:
        index = self._next_index
        self._next_index += 1
        self._links[index] = replace(link, index=index)
        return index

    def _flush_routes(self, index: int) -> None:
        self._routes = {key: row for key, row in self._routes.items() if row.index != index}

    def _reachable(self, via: str, index: int) -> bool:
        gateway = ipaddress.ip_address(via)
        near = [r.destination for r in self._routes.values() if r.index == index and r.scope == SCOPE_LINK]
        near += [a.cidr for a in self._addresses.values() if a.index == index]
        return any(gateway in ipaddress.ip_network(cidr, strict=False) for cidr in near)


def _told(route: Route) -> Route:
    """As the kernel tells it: IPv6 routes always have a metric, no scope, and an interface."""
    if ":" not in route.destination:
        return route
    return replace(route, metric=route.metric or METRIC_IPV6, index=route.index or 1, scope=SCOPE_UNIVERSE)


@dataclass
class FakeNft:
    """Implements tables.NftProgram for whole tables: remembers each table's text, as written."""

    tables: dict[tuple[str, str], str] = field(default_factory=dict)
    calls: Counter[str] = field(default_factory=Counter)
    broken: bool = False

    def run(self, text: str) -> None:
        self.calls["run"] += 1
        if self.broken:
            raise NftError("nft -f -", errno.EINVAL, "syntax error")
        for line in text.splitlines():
            words = line.split()
            if words[:2] == ["delete", "table"]:
                self.tables.pop((words[2], words[3]), None)
            if words[:1] == ["table"]:
                self.tables[words[1], words[2]] = text[text.index(line) :]

    def read(self, family: str, table: str) -> str | None:
        self.calls["read"] += 1
        return self.tables.get((family, table))
