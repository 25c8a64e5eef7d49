"""What is wrong with the stored state of IPAM, from what the API says alone. Pure.

The rules of validity are Calico's: an allocation is in order when its pod exists, is on the noted node and reports the
address; also when the pod reports none yet, and when too little is noted to tell. What cannot be told is never a leak.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise

from podwire.ipam import ahead
from podwire.ipam.blocks import Attribute, Block
from podwire.ipam.room import seconds_between
from podwire.ipam.search import Taken
from podwire.model.address import AddressError, Cidr, parse_ip
from podwire.model.block import TUNNEL_TYPES
from podwire.model.ippool import IPPool
from podwire.model.pod import Pod

LEAK, DOUBLE, OUTSIDE, UNCLAIMED = "leak", "double-use", "outside-pools", "not-allocated"
HANDLE, AFFINITY, NODE_GONE = "handle", "affinity", "node-gone"
WINDOWS_RESERVED = "windows-reserved-ipam-handle"
ENDED = ("Succeeded", "Failed")


@dataclass(frozen=True, slots=True)
class Finding:
    """`kind` is one of the words above; `text` is the sentence for a human. What does not apply is ''."""

    kind: str
    text: str
    address: str = ""
    block: str = ""
    handle: str = ""
    node: str = ""


@dataclass(frozen=True, slots=True)
class Affinity:
    node: str
    cidr: Cidr
    state: str = "confirmed"


@dataclass(frozen=True, slots=True)
class Stored:
    """What the API holds. `handles`: handle → block → count. `now` is RFC 3339; allocations younger than `grace`
    seconds are not judged, as their pod may be on its way."""

    blocks: Iterable[Block] = ()
    affinities: Iterable[Affinity] = ()
    handles: Mapping[str, Mapping[Cidr, int]] = field(default_factory=dict)
    pods: Iterable[Pod] = ()
    nodes: frozenset[str] = frozenset()
    pools: Iterable[IPPool] = ()
    now: str = ""
    grace: float = 0.0


def allocations(block: Block) -> Iterator[tuple[str, Attribute]]:
    """Every address that somebody holds."""
    for ordinal, index in enumerate(block.allocations):
        if index is not None and not block.attributes[index].released:
            yield block.cidr.address(ordinal), block.attributes[index]


def fault(attribute: Attribute, address: str, pod: Pod | None, node_exists: bool) -> str:
    """Why an allocation is not in order, in words; '' when it is, or when that cannot be told. `pod` is the one that
    the attribute names, None if there is none of that name."""
    node, name, namespace = attribute.fact("node"), attribute.fact("pod"), attribute.fact("namespace")
    if attribute.fact("type") in (*TUNNEL_TYPES, ahead.TYPE):
        return f"node {node} does not exist" if node and not node_exists else ""
    if not (node and name and namespace and attribute.handle) or attribute.fact("type"):
        return ""
    if pod is None:
        return f"pod {namespace}/{name} does not exist"
    if pod.status.phase in ENDED:
        return f"pod {namespace}/{name} has ended ({pod.status.phase})"
    if pod.spec.nodeName != node:
        where = f"is on node {pod.spec.nodeName}" if pod.spec.nodeName else "is on no node"
        return f"pod {namespace}/{name} {where}, not on {node}"
    if pod.spec.hostNetwork:
        return f"pod {namespace}/{name} uses the host's network"
    if pod.addresses and not any(same(address, told) for told in pod.addresses):
        return f"pod {namespace}/{name} has {', '.join(pod.addresses)}"
    return ""


def same(one: str, other: str) -> bool:
    """Two texts of an address mean the same one."""
    try:
        return one == other or parse_ip(one) == parse_ip(other)
    except AddressError:
        return False


def find(world: Stored) -> list[Finding]:
    """Everything that is wrong, by kind and place."""
    blocks = sorted(world.blocks, key=lambda block: block.cidr)
    found = [*_leaks(world, blocks), *_doubles(world, blocks), *_places(world, blocks), *_unclaimed(world, blocks)]
    return [*found, *_handles(world, blocks), *_affinities(world, blocks)]


def _leaks(world: Stored, blocks: list[Block]) -> Iterator[Finding]:
    pods = {pod.key: pod for pod in world.pods}
    for block in blocks:
        for address, holder in allocations(block):
            node = holder.fact("node")
            if world.grace and 0 <= seconds_between(holder.fact("timestamp"), world.now) < world.grace:
                continue
            pod = pods.get((holder.fact("namespace"), holder.fact("pod")))
            if why := fault(holder, address, pod, node in world.nodes):
                text = f"address {address} is held by {holder.handle}, but {why}"
                yield Finding(LEAK, text, address, str(block.cidr), holder.handle, node)


def _doubles(world: Stored, blocks: list[Block]) -> Iterator[Finding]:
    holders: dict[str, list[tuple[Block, Attribute]]] = defaultdict(list)
    for block in blocks:
        for address, holder in allocations(block):
            holders[address].append((block, holder))
    for address, several in holders.items():
        if len(several) > 1:
            who = " and ".join(f"{holder.handle} in block {block.cidr}" for block, holder in several)
            block, holder = several[0]
            yield Finding(DOUBLE, f"address {address} is held by {who}", address, str(block.cidr), holder.handle)
    for first, second in pairwise(blocks):
        if first.cidr.overlaps(second.cidr):
            yield Finding(DOUBLE, f"blocks {first.cidr} and {second.cidr} overlap", block=str(second.cidr))
    users: dict[tuple[int, int], list[Pod]] = defaultdict(list)
    for pod in world.pods:
        for address in pod.addresses:
            try:
                users[parse_ip(address)].append(pod)
            except AddressError:
                continue
    for pods in users.values():
        if len(pods) > 1:
            address = pods[0].addresses[0]
            who = " and ".join(f"{pod.metadata.namespace}/{pod.metadata.name}" for pod in pods)
            yield Finding(DOUBLE, f"address {address} is used by pods {who}", address, node=pods[0].spec.nodeName)


def _places(world: Stored, blocks: list[Block]) -> Iterator[Finding]:
    pools = [pool.cidr for pool in world.pools if pool.sound]
    for block in blocks:
        if any(pool.covers(block.cidr) for pool in pools):
            continue
        yield Finding(OUTSIDE, f"block {block.cidr} is in no IPPool", block=str(block.cidr), node=block.node)
        for address, holder in allocations(block):
            if not any(pool.holds(parse_ip(address)[0]) for pool in pools if pool.width == block.cidr.width):
                text = f"address {address} of {holder.handle} is in no IPPool"
                yield Finding(OUTSIDE, text, address, str(block.cidr), holder.handle, holder.fact("node"))


def _unclaimed(world: Stored, blocks: list[Block]) -> Iterator[Finding]:
    """Addresses that pods use inside the pools and that no block has as taken."""
    pools = Taken(pool.cidr for pool in world.pools if pool.sound)
    taken = {parse_ip(address) for block in blocks for address, _ in allocations(block)}
    for pod in world.pods:
        for address in pod.addresses:
            try:
                number, width = parse_ip(address)
            except AddressError:
                continue
            if (number, width) not in taken and pools.overlaps(Cidr(number, width, width)):
                text = f"address {address} is used by pod {'/'.join(pod.key)}, but no block has it as taken"
                yield Finding(UNCLAIMED, text, address, node=pod.spec.nodeName)


def _handles(world: Stored, blocks: list[Block]) -> Iterator[Finding]:
    actual: dict[str, Counter[Cidr]] = defaultdict(Counter)
    for block in blocks:
        for handle, ordinals in block.holdings().items():
            actual[handle][block.cidr] += len(ordinals)
    for handle in sorted(actual.keys() - world.handles.keys() - {"", WINDOWS_RESERVED}):
        yield Finding(HANDLE, f"handle {handle} holds addresses, but there is no IPAMHandle of it", handle=handle)
    for handle, counts in sorted(world.handles.items()):
        if not actual[handle]:
            yield Finding(HANDLE, f"handle {handle} holds nothing any more", handle=handle)
            continue
        for cidr in sorted(actual[handle].keys() | counts.keys()):
            have, said = actual[handle][cidr], counts.get(cidr, 0)
            if have != said:
                text = f"handle {handle} holds {have} of block {cidr}, its IPAMHandle says {said}"
                yield Finding(HANDLE, text, block=str(cidr), handle=handle)


def _affinities(world: Stored, blocks: list[Block]) -> Iterator[Finding]:
    owners = {block.cidr: block.node for block in blocks}
    claims = {(item.node, item.cidr) for item in world.affinities}
    for item in sorted(world.affinities, key=lambda item: (item.node, item.cidr)):
        cidr = str(item.cidr)
        if item.node not in world.nodes:
            text = f"block affinity of node {item.node} for {cidr}: the node does not exist"
            yield Finding(NODE_GONE, text, block=cidr, node=item.node)
        if item.cidr not in owners:
            text = f"block affinity of node {item.node} for {cidr}: there is no such block"
            yield Finding(AFFINITY, text, block=cidr, node=item.node)
        elif owners[item.cidr] != item.node:
            owner = owners[item.cidr] or "nobody"
            text = f"block affinity of node {item.node} for {cidr}: the block is {owner}'s"
            yield Finding(AFFINITY, text, block=cidr, node=item.node)
    for block in blocks:
        if block.node and (block.node, block.cidr) not in claims:
            text = f"block {block.cidr} is node {block.node}'s, but there is no block affinity that says so"
            yield Finding(AFFINITY, text, block=str(block.cidr), node=block.node)
