"""One address explained: whose it is, where it comes from, and why it is or is not to be had. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from podwire.model.address import Cidr, parse_ip
from podwire.model.workload import pod_addresses
from podwire.observe.addresses import Holding, held, pool_state
from podwire.observe.cluster import Cluster

FREE, TAKEN, AHEAD, RELEASED, RESERVED, UNCLAIMED, OUTSIDE = (
    "free",
    "in use",
    "claimed ahead",
    "cooling down",
    "reserved",
    "in no block",
    "in no pool",
)


@dataclass(frozen=True, slots=True)
class Explained:
    """`state` in a word or two; `pods` are the Pods that say they have the address (namespace/name, phase); `notes`
    say in words what the columns cannot."""

    address: str
    state: str
    pool: str = ""
    pool_cidr: str = ""
    pool_state: str = ""
    block: str = ""
    block_node: str = ""
    affinity: str = ""
    holder: Holding | None = None
    borrowed: bool = False
    reserved_by: str = ""
    pods: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()


def explain(cluster: Cluster, address: str) -> Explained:
    """Raises AddressError when `address` is none."""
    number, width = parse_ip(address)
    one = Cidr(number, width, width)
    text = one.address(0)
    pool = cluster.pool_of(one)
    block = next((block for block in cluster.blocks if block.cidr.covers(one)), None)
    holder = next((each for each in held(block) if each.address == text), None) if block else None
    reserved = next((each.name for each in cluster.reservations if each.cidr.covers(one)), "")
    pods = tuple(_claimants(cluster, text))
    state = _state(bool(pool), bool(block), holder, reserved)
    records = {str(affinity.spec.cidr): affinity for affinity in cluster.affinities}
    record = records.get(str(block.cidr)) if block else None
    return Explained(
        address=text,
        state=state,
        pool=pool.name if pool else "",
        pool_cidr=pool.spec.cidr if pool else "",
        pool_state=pool_state(pool) if pool else "",
        block=str(block.cidr) if block else "",
        block_node=block.node if block else "",
        affinity=(record.spec.state or "confirmed") if record else "",
        holder=holder,
        borrowed=bool(holder and holder.borrowed),
        reserved_by=reserved,
        pods=pods,
        notes=tuple(_notes(cluster, text, state, holder, pods)),
    )


def _state(pool: bool, block: bool, holder: Holding | None, reserved: str) -> str:
    if holder:
        return RELEASED if holder.released else AHEAD if holder.ahead else TAKEN
    if reserved:
        return RESERVED
    if block:
        return FREE
    return UNCLAIMED if pool else OUTSIDE


def _claimants(cluster: Cluster, address: str) -> list[tuple[str, str]]:
    found = []
    for pod in cluster.pods:
        if address in pod_addresses(pod) and not (pod.get("spec") or {}).get("hostNetwork"):
            metadata, phase = pod["metadata"], (pod.get("status") or {}).get("phase", "Unknown")
            found.append((f"{metadata.get('namespace', '')}/{metadata['name']}", phase))
    return found


def _single(address: str) -> tuple[int, int, int]:
    number, width = parse_ip(address)
    return number, width, width


def _pod_cidrs(cluster: Cluster, address: str) -> list[tuple[str, str]]:
    one = Cidr(*_single(address))
    pairs = [(node.name, text) for node in cluster.nodes for text in node.pod_cidrs]
    return [(name, text) for name, text in pairs if Cidr.parse(text, host_bits=True).covers(one)]


def _notes(
    cluster: Cluster, address: str, state: str, holder: Holding | None, pods: tuple[tuple[str, str], ...]
) -> list[str]:
    notes = []
    if state == OUTSIDE:
        notes += [f"it is an address of node {node.name}" for node in cluster.nodes if address in node.addresses]
        notes += [f"it lies in the podCIDR {cidr} of node {name}" for name, cidr in _pod_cidrs(cluster, address)]
        if not notes:
            notes.append("no IPPool and no node's podCIDR covers it: no pod is given it")
    pool = cluster.pool_of(Cidr(*_single(address)))
    own = _pod_cidrs(cluster, address) if pool is not None and not pool.usable and state == UNCLAIMED else []
    notes += [f"node {name} gives it itself, out of its podCIDR {cidr}" for name, cidr in own]
    if state == UNCLAIMED and not own:
        notes.append("no node has claimed a block around it yet")
    tunnels = [node.name for node in cluster.nodes if address in (node.tunnel_address, node.tunnel_address6)]
    notes += [f"node {name} uses it as its tunnel's address" for name in tunnels]
    if holder and holder.borrowed:
        notes.append(f"node {holder.node} borrowed it from a block of node {holder.block_node}")
    if holder and holder.pod and state == TAKEN:
        told = [name for name, _ in pods]
        if holder.holder not in told:
            notes.append(f"no Pod {holder.holder} says that it has this address: see `podwire ipam check`")
    if not holder and pods and state != OUTSIDE and not own:
        notes.append("a Pod says it has this address, but nobody is noted as its holder: see `podwire ipam check`")
    if len(pods) > 1:
        notes.append(f"{len(pods)} Pods say that they have it: see `podwire ipam check`")
    return notes
