"""Pools, blocks, nodes and borrowed addresses as rows. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from podwire.ipam import ahead
from podwire.ipam.blocks import Attribute, Block
from podwire.model.address import AddressError, Cidr, parse_ip
from podwire.model.ippool import IPPool
from podwire.model.workload import is_endpoint, pod_addresses
from podwire.observe.cluster import Cluster


@dataclass(frozen=True, slots=True)
class Holding:
    """One taken address. `node` is where its holder is, `block_node` whose block it comes from."""

    address: str
    block: str
    block_node: str
    handle: str
    namespace: str
    pod: str
    node: str
    type: str
    since: str
    released: str
    sequence: int | None

    @property
    def borrowed(self) -> bool:
        return bool(self.node and self.block_node and self.node != self.block_node)

    @property
    def ahead(self) -> bool:
        """Claimed by a node's agent for pods to come."""
        return self.type == ahead.TYPE or (bool(self.node) and self.handle == ahead.handle_of(self.node))

    @property
    def holder(self) -> str:
        """Who has it, in a word or two."""
        if self.pod:
            return f"{self.namespace}/{self.pod}"
        if self.ahead:
            return f"node {self.node}, for its next pods"
        return self.type or self.handle or "unknown"


@dataclass(frozen=True, slots=True)
class PoolRow:
    """A pool; `free` is what is left of `total`, `reserved` addresses among it."""

    name: str
    cidr: str
    block_size: int
    total: int
    used: int
    free: int
    reserved: int
    blocks: int
    encapsulation: str
    nat: bool
    uses: tuple[str, ...]
    state: str


@dataclass(frozen=True, slots=True)
class BlockRow:
    """A block; `lent` are addresses in it that other nodes' pods hold. `pool` is '' when no pool covers it."""

    cidr: str
    pool: str
    node: str
    affinity: str
    total: int
    used: int
    free: int
    lent: int
    since: str


@dataclass(frozen=True, slots=True)
class NodeRow:
    """A node: how many blocks it has, of how many addresses, how many of these are taken (`ahead` of them claimed for
    pods to come), and how many its pods hold in blocks of others."""

    node: str
    blocks: int
    total: int
    used: int
    free: int
    borrowed: int
    ahead: int


@dataclass(frozen=True, slots=True)
class CidrRow:
    """A node's podCIDR, where addresses do not come from blocks; `used` are those that its Pods say they have."""

    node: str
    cidr: str
    total: int
    used: int
    free: int


def held(block: Block) -> Iterator[Holding]:
    """Every taken address of a block."""
    sequences = dict(block.taken_at)
    for ordinal, index in enumerate(block.allocations):
        if index is not None:
            yield _holding(block, ordinal, block.attributes[index], sequences.get(ordinal))


def _holding(block: Block, ordinal: int, attribute: Attribute, sequence: int | None) -> Holding:
    facts = dict(attribute.secondary)
    return Holding(
        address=block.cidr.address(ordinal),
        block=str(block.cidr),
        block_node=block.node,
        handle=attribute.handle,
        namespace=facts.get("namespace", ""),
        pod=facts.get("pod", ""),
        node=facts.get("node", ""),
        type=facts.get("type", ""),
        since=facts.get("timestamp", ""),
        released=str(dict(attribute.extra).get("releasedAt") or ""),
        sequence=sequence,
    )


def holdings(cluster: Cluster) -> list[Holding]:
    """Every taken address of the cluster."""
    return [one for block in cluster.blocks for one in held(block)]


def taken(block: Block) -> int:
    return sum(index is not None for index in block.allocations)


def pool_rows(cluster: Cluster) -> list[PoolRow]:
    """Every pool by name, the unusable ones too."""
    return [_pool_row(cluster, pool) for pool in cluster.pools]


def _pool_row(cluster: Cluster, pool: IPPool) -> PoolRow:
    cidr = pool.cidr if pool.sound else None
    inside = [block for block in cluster.blocks if cidr is not None and cidr.covers(block.cidr)]
    total, used = cidr.size if cidr else 0, sum(taken(block) for block in inside)
    return PoolRow(
        name=pool.name,
        cidr=pool.spec.cidr,
        block_size=pool.block_size,
        total=total,
        used=used,
        free=total - used,
        reserved=_reserved(cluster, cidr) if cidr else 0,
        blocks=len(inside),
        encapsulation=pool.encapsulation or "none",
        nat=pool.spec.natOutgoing,
        uses=tuple(pool.spec.allowedUses or ["Workload", "Tunnel"]),
        state=pool_state(pool),
    )


def pool_state(pool: IPPool) -> str:
    """`usable`, or why not."""
    if not pool.sound:
        return "invalid"
    if pool.metadata.deletionTimestamp:
        return "deleting"
    if pool.spec.disabled:
        return "disabled"
    if not pool.usable:
        return "not allocatable"
    return "manual" if pool.spec.assignmentMode == "Manual" else "usable"


def _reserved(cluster: Cluster, pool: Cidr) -> int:
    """Addresses of the pool inside reservations, each counted once."""
    spans = sorted(
        (max(one.cidr.first, pool.first), min(one.cidr.last, pool.last))
        for one in cluster.reservations
        if one.cidr.overlaps(pool)
    )
    count, end = 0, -1
    for first, last in spans:
        count += max(0, last - max(first, end + 1) + 1)
        end = max(end, last)
    return count


def block_rows(cluster: Cluster) -> list[BlockRow]:
    """Every block in the order of addresses."""
    found = []
    for block in cluster.blocks:
        pool, used = cluster.pool_of(block.cidr), taken(block)
        found.append(
            BlockRow(
                cidr=str(block.cidr),
                pool=pool.name if pool else "",
                node=block.node,
                affinity=block.affinity,
                total=block.cidr.size,
                used=used,
                free=block.cidr.size - used,
                lent=sum(one.borrowed for one in held(block)),
                since=block.claimed,
            )
        )
    return found


def node_rows(cluster: Cluster) -> list[NodeRow]:
    """Every node of the cluster, and every other that has a block or an address."""
    mine: dict[str, list[Block]] = {node.name: [] for node in cluster.nodes}
    borrowed: dict[str, int] = {}
    for block in cluster.blocks:
        if block.node:
            mine.setdefault(block.node, []).append(block)
        for one in held(block):
            if one.borrowed:
                borrowed[one.node] = borrowed.get(one.node, 0) + 1
                mine.setdefault(one.node, [])
    rows = []
    for node, own in sorted(mine.items()):
        total, used = sum(block.cidr.size for block in own), sum(taken(block) for block in own)
        kept = sum(one.ahead for block in own for one in held(block))
        rows.append(NodeRow(node, len(own), total, used, total - used, borrowed.get(node, 0), kept))
    return rows


def cidr_rows(cluster: Cluster) -> list[CidrRow]:
    """Every podCIDR of every node."""
    used = {text for pod in cluster.pods if is_endpoint(pod) for text in pod_addresses(pod)}
    numbers = [parse_ip(text) for text in used if _is_address(text)]
    rows = []
    for node in cluster.nodes:
        for text in node.pod_cidrs:
            cidr = Cidr.parse(text, host_bits=True)
            taken = sum(width == cidr.width and cidr.holds(number) for number, width in numbers)
            rows.append(CidrRow(node.name, str(cidr), cidr.size, taken, cidr.size - taken))
    return rows


def _is_address(text: str) -> bool:
    try:
        parse_ip(text)
    except AddressError:
        return False
    return True


def borrowed_rows(cluster: Cluster) -> list[Holding]:
    """Addresses that a node's pods hold in another node's block."""
    return sorted((one for one in holdings(cluster) if one.borrowed), key=lambda one: parse_ip(one.address)[::-1])
