"""From nodes, pools and blocks to the routes, peers and masquerade sets of one node, kept up to date event by event.

    node  ──► peers, hosts ──────────────► NodeState.peers, .hosts, .device
    block ──► claims: destination → node ─► NodeState.routes   (looks at: pool over it, owner's addresses, our subnet)
    pool  ──► sets ──────────────────────► NodeState.pools, .nat_pools

An event marks keys as dirty; `flush` recalculates just those. A change of a pool or of this node's own addresses marks
all (rare). Events may repeat or come in any order: the state depends only on what is there in the end.
Source: the route classes of Calico's l3 route resolver.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from podwire.calc.state import BlockRoute, Changes, LocalEndpoint, NodeState, Peer, TunnelDevice, Via
from podwire.model.address import AddressError, Cidr, format_ip
from podwire.model.block import IPAMBlock
from podwire.model.ippool import IPPool
from podwire.model.node import Node

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Pool:
    cidr: Cidr
    encapsulation: str
    nat: bool


@dataclass(frozen=True, slots=True)
class _Node:
    address: str
    subnet: Cidr | None
    tunnel: str
    tunnel6: str
    mac: str
    addresses: tuple[str, ...]

    def end(self, width: int) -> str:
        """The tunnel address of a family."""
        return self.tunnel if width == 32 else self.tunnel6

    @property
    def ends(self) -> set[Cidr]:
        return {cidr for cidr in (_host(self.tunnel), _host(self.tunnel6)) if cidr is not None}


class RouteCalc:
    """One node's view. `state` is the current answer; it changes only in `flush`."""

    def __init__(self, node: str) -> None:
        self.state = NodeState(node)
        self._node = node
        self._nodes: dict[str, _Node] = {}
        self._pools: dict[str, _Pool] = {}
        self._blocks: dict[str, dict[Cidr, str]] = {}  # block object → what it says: destination → node
        self._claims: dict[Cidr, dict[str, str]] = {}  # destination → block object → node
        self._owned: dict[str, set[Cidr]] = {}  # node → destinations claimed for it
        self._endpoints: dict[str, LocalEndpoint] = {}
        self._dirty: set[Cidr] = set()
        self._dirty_nodes: set[str] = set()
        self._dirty_endpoints: set[str] = set()
        self._all = True
        self._nat = True

    # -- events: the newest object of a name, or None ----------------------------------------------------------------

    def on_node(self, name: str, node: Node | None) -> None:
        new = _node(node) if node is not None else None
        if self._nodes.get(name) == new:
            return
        old = self._nodes.pop(name, None)
        if new is not None:
            self._nodes[name] = new
        self._dirty_nodes.add(name)
        self._dirty |= self._owned.get(name, set())
        self._dirty |= (old.ends if old else set()) | (new.ends if new else set())
        self._nat = self._nat or _addresses(old) != _addresses(new)
        self._all = self._all or name == self._node

    def on_pool(self, name: str, pool: IPPool | None) -> None:
        new = None
        if pool is not None and pool.sound and (pool.allows("Workload") or pool.allows("Tunnel")):
            new = _Pool(pool.cidr, pool.encapsulation, pool.spec.natOutgoing)
        if self._pools.get(name) == new:
            return
        self._pools.pop(name, None)
        if new is not None:
            self._pools[name] = new
        self._all = self._nat = True

    def on_block(self, name: str, block: IPAMBlock | None) -> None:
        new = _destinations(block) if block is not None else {}
        old = self._blocks.get(name, {})
        for destination in old.keys() - new.keys():
            self._claim(destination, name, None)
        for destination, node in new.items():
            if old.get(destination) != node:
                self._claim(destination, name, node)
        if new:
            self._blocks[name] = new
        else:
            self._blocks.pop(name, None)

    def on_endpoint(self, key: str, endpoint: LocalEndpoint | None) -> None:
        if self._endpoints.get(key) == endpoint:
            return
        self._endpoints.pop(key, None)
        if endpoint is not None:
            self._endpoints[key] = endpoint
        self._dirty_endpoints.add(key)

    def _claim(self, destination: Cidr, block: str, node: str | None) -> None:
        claims = self._claims.setdefault(destination, {})
        before = claims.pop(block, None)
        if node is not None:
            claims[block] = node
            self._owned.setdefault(node, set()).add(destination)
        if before is not None and before != node and before not in claims.values():
            self._owned[before].discard(destination)
            if not self._owned[before]:
                del self._owned[before]
        if not claims:
            del self._claims[destination]
        self._dirty.add(destination)
        for owner in (before, node):
            if owner in self._nodes:
                self._dirty |= self._nodes[owner].ends

    # -- the answer ---------------------------------------------------------------------------------------------------

    def flush(self) -> Changes:
        """Bring `state` up to date with the events so far; what changed in it."""
        if self._all:
            self._dirty |= set(self._claims) | {Cidr.parse(key) for key in self.state.routes}
            self._dirty |= {end for node in self._nodes.values() for end in node.ends}
            self._dirty_nodes |= set(self._nodes) | set(self.state.peers)
        changes = Changes(
            routes=frozenset(_refresh(self.state.routes, {str(d): self._route(d) for d in self._dirty})),
            peers=frozenset(_refresh(self.state.peers, {name: self._peer(name) for name in self._dirty_nodes})),
            endpoints=frozenset(
                _refresh(self.state.endpoints, {key: self._endpoints.get(key) for key in self._dirty_endpoints})
            ),
            device=self._refresh_device(),
            nat=self._nat and self._refresh_nat(),
        )
        self._dirty, self._dirty_nodes, self._dirty_endpoints = set(), set(), set()
        self._all = self._nat = False
        return changes

    def _refresh_device(self) -> bool:
        me = self._nodes.get(self._node)
        wanted = None
        if me and me.address and self._tunnels():
            wanted = TunnelDevice(me.tunnel, me.mac, me.address, me.tunnel6)
        changed, self.state.device = self.state.device != wanted, wanted
        return changed

    def _refresh_nat(self) -> bool:
        pools = frozenset(str(pool.cidr) for pool in self._pools.values() if pool.cidr.width == 32)
        nat = frozenset(str(pool.cidr) for pool in self._pools.values() if pool.cidr.width == 32 and pool.nat)
        hosts = frozenset(address for node in self._nodes.values() for address in node.addresses)
        before = (self.state.pools, self.state.nat_pools, self.state.hosts)
        self.state.pools, self.state.nat_pools, self.state.hosts = pools, nat, hosts
        return before != (pools, nat, hosts)

    def _tunnels(self) -> bool:
        return any(pool.encapsulation.startswith("vxlan") for pool in self._pools.values())

    def _peer(self, name: str) -> Peer | None:
        node = self._nodes.get(name)
        if node is None or name == self._node or not node.address or not node.ends or not self._tunnels():
            return None
        return Peer(name, node.address, node.tunnel, node.mac, node.tunnel6)

    def _route(self, destination: Cidr) -> BlockRoute | None:
        text = str(destination)
        if destination not in self._claims:
            return self._tunnel_route(destination, text)
        claims = self._claims[destination]
        owner = claims[min(claims)]  # blocks that contradict each other: the same one wins on every node
        if owner == self._node:
            # A block of one address needs no blackhole; a borrowed address is its endpoint's own route.
            return None if destination.single else BlockRoute(text, Via.BLACKHOLE, "", owner)
        pool, node = self._pool_over(destination), self._nodes.get(owner)
        if pool is None or node is None or not node.address:
            return None
        # the underlay is IPv4: it has no way of its own for IPv6
        if destination.width == 32 and pool.encapsulation not in ("vxlan", "ipip") and self._near(node):
            return BlockRoute(text, Via.DIRECT, node.address, owner)
        end = node.end(destination.width)
        if not pool.encapsulation.startswith("vxlan") or not end:
            return None
        if destination == _host(end):
            return BlockRoute(text, Via.TUNNEL, "", owner)
        return BlockRoute(text, Via.VXLAN, end, owner)

    def _tunnel_route(self, destination: Cidr, text: str) -> BlockRoute | None:
        """A peer's tunnel address that no block route of that peer covers."""
        for name in sorted(self._nodes):
            if destination not in self._nodes[name].ends or self._peer(name) is None:
                continue
            inside = any(cidr.covers(destination) for cidr in self._owned.get(name, ()))
            return None if inside else BlockRoute(text, Via.TUNNEL, "", name)
        return None

    def _near(self, node: _Node) -> bool:
        """The peer's address lies in our own node's subnet."""
        me = self._nodes.get(self._node)
        host = _host(node.address)
        return me is not None and me.subnet is not None and host is not None and me.subnet.covers(host)

    def _pool_over(self, destination: Cidr) -> _Pool | None:
        """The narrowest pool; names break ties."""
        over = [(-p.cidr.length, name) for name, p in self._pools.items() if p.cidr.covers(destination)]
        return self._pools[min(over)[1]] if over else None


def calculate(
    node: str,
    nodes: Mapping[str, Node],
    pools: Mapping[str, IPPool],
    blocks: Mapping[str, IPAMBlock],
    endpoints: Mapping[str, LocalEndpoint] | None = None,
) -> NodeState:
    """The state from scratch."""
    calc = RouteCalc(node)
    for name, one in nodes.items():
        calc.on_node(name, one)
    for name, pool in pools.items():
        calc.on_pool(name, pool)
    for name, block in blocks.items():
        calc.on_block(name, block)
    for key, endpoint in (endpoints or {}).items():
        calc.on_endpoint(key, endpoint)
    calc.flush()
    return calc.state


def _refresh(held: dict[str, T], fresh: Mapping[str, T | None]) -> list[str]:
    """Put fresh values into a map (None takes a key out); the keys where that made a difference."""
    changed = []
    for key, value in fresh.items():
        if held.get(key) == value:
            continue
        changed.append(key)
        if value is None:
            del held[key]
        else:
            held[key] = value
    return changed


def _host(address: str) -> Cidr | None:
    try:
        return Cidr.parse(address) if address and "/" not in address else None
    except AddressError:
        return None


def _addresses(node: _Node | None) -> tuple[str, ...]:
    return node.addresses if node else ()


def _node(node: Node) -> _Node:
    """Addresses that cannot be read count as absent."""
    subnet = None
    try:
        subnet = Cidr.parse(node.subnet, host_bits=True) if node.subnet else None
    except AddressError:
        pass
    address = node.address if _host(node.address) else ""
    return _Node(
        address,
        subnet,
        _end(node.tunnel_address, 32),
        _end(node.tunnel_address6, 128),
        node.tunnel_mac,
        tuple(a for a in node.addresses if _host(a)),
    )


def _end(address: str, width: int) -> str:
    """An address of that family in its usual spelling, else ''."""
    host = _host(address)
    return format_ip(host.first, width) if host is not None and host.width == width else ""


def _destinations(block: IPAMBlock) -> dict[Cidr, str]:
    """The block for its owner, and single addresses for the nodes that borrowed them."""
    spec = block.spec
    try:
        cidr = Cidr.parse(spec.cidr)
    except AddressError:
        return {}
    if spec.deleted:
        return {}
    found = {cidr: block.node} if block.node else {}
    for ordinal, index in enumerate(spec.allocations[: cidr.size]):
        if index is None or not 0 <= index < len(spec.attributes):
            continue
        node = (spec.attributes[index].secondary or {}).get("node", "")
        if node and node != block.node:
            found[Cidr(cidr.first + ordinal, cidr.width, cidr.width)] = node
    return found
