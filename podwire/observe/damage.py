"""What is wrong with addresses as the API has them: leaks, double use, what lies outside, handles, affinities. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import msgspec

from podwire.ipam.blocks import Attribute, Block
from podwire.ipam.findings import fault
from podwire.model.address import AddressError, Cidr, parse_ip
from podwire.model.api import Object
from podwire.model.pod import Pod
from podwire.model.seen import NodeSeen
from podwire.model.workload import is_endpoint, pod_addresses
from podwire.observe.addresses import Holding, holdings
from podwire.observe.bookkeeping import affinity_findings, handle_findings
from podwire.observe.cluster import Cluster
from podwire.observe.finding import (
    BROKEN,
    DOUBLE,
    DROP_AFFINITY,
    HOLDER,
    LEAKED,
    OUTSIDE,
    RELEASE,
    UNALLOCATED,
    Finding,
)

_TUNNELS = ("vxlan-tunnel-addr-", "vxlan-v6-tunnel-addr-", "ipip-tunnel-addr-", "wireguard-tunnel-addr-")


@dataclass(frozen=True, slots=True)
class _Owner:
    """A Pod that says it has an address."""

    name: str
    node: str


def api_findings(cluster: Cluster, seen: Mapping[str, NodeSeen] | None = None) -> list[Finding]:
    """Everything wrong that the API alone shows. `seen` are the nodes that were looked into: what their kernel still
    has is not leaked."""
    pods = {_name(pod): pod for pod in cluster.pods}
    held = holdings(cluster)
    claimed = _claimed(cluster)
    found: list[Finding] = []
    found += [_broken(name, why) for name, why in cluster.broken]
    found += _leaks(cluster, held, pods, seen or {})
    leaked = {one.address for one in found if one.kind == LEAKED}
    found += _double(held, claimed)
    found += _outside(cluster, claimed)
    files = {file.address for node in (seen or {}).values() for file in node.files}
    found += _unallocated(cluster, held, {a: o for a, o in claimed.items() if a not in files}, leaked)
    found += handle_findings(cluster, held)
    found += affinity_findings(cluster)
    return found


def _name(pod: Object) -> str:
    return f"{pod['metadata'].get('namespace', '')}/{pod['metadata']['name']}"


def _claimed(cluster: Cluster) -> dict[str, list[_Owner]]:
    """Addresses that Pods of the pod network say they have."""
    found: dict[str, list[_Owner]] = {}
    for pod in cluster.pods:
        if is_endpoint(pod):
            for text in pod_addresses(pod):
                found.setdefault(_canonical(text), []).append(_Owner(_name(pod), pod["spec"]["nodeName"]))
    return found


def _canonical(text: str) -> str:
    try:
        number, width = parse_ip(text)
    except AddressError:
        return text
    return Cidr(number, width, width).address(0)


def _broken(name: str, why: str) -> Finding:
    return Finding(BROKEN, "", name, "", why, "nobody gives addresses from it; repair its spec by hand, or delete it")


# -- leaks ------------------------------------------------------------------------------------------------------------


def _leaks(
    cluster: Cluster, held: list[Holding], pods: Mapping[str, Object], seen: Mapping[str, NodeSeen]
) -> Iterator[Finding]:
    nodes = {node.name: node.tunnel_address for node in cluster.nodes}
    for one in held:
        why = _why_leaked(one, nodes, pods, seen)
        if why and not in_use(one, seen.get(one.node)):
            yield Finding(
                LEAKED,
                one.address,
                f"block {one.block}, handle {one.handle or 'none'}",
                one.node,
                why,
                f"podwire ipam release --ip {one.address}",
                RELEASE,
                one.block,
                one.handle,
                one.sequence,
            )


def is_tunnel(one: Holding) -> bool:
    return one.type.endswith("TunnelAddress") or one.handle.startswith(_TUNNELS)


def _why_leaked(
    one: Holding, nodes: Mapping[str, str], pods: Mapping[str, Object], seen: Mapping[str, NodeSeen]
) -> str:
    """Why nobody can be using it, '' when somebody may. The rules for pods are those by which the agent collects."""
    if one.released:
        return ""
    if is_tunnel(one) and one.node in nodes:
        return _tunnel_leaked(one, nodes)
    if not one.pod and not one.type and one.node:  # of an origin that we do not know
        if one.node not in nodes:
            return f"it is held on node {one.node}, which does not exist"
        return f"no attachment on node {one.node} has it" if one.node in seen and not one.ahead else ""
    pod = pods.get(one.holder)
    facts = {"node": one.node, "pod": one.pod, "namespace": one.namespace, "type": one.type}
    try:
        record = None if pod is None else msgspec.convert(pod, Pod)
    except msgspec.ValidationError:
        return ""  # it exists, that is all we know
    return fault(Attribute.of(one.handle, facts), one.address, record, one.node in nodes)


def _tunnel_leaked(one: Holding, nodes: Mapping[str, str]) -> str:
    used = nodes.get(one.node, "")
    mine = one.type == "vxlanTunnelAddress" or one.handle.startswith(_TUNNELS[0])
    return f"node {one.node} uses {used} for its tunnel instead" if mine and used and used != one.address else ""


def in_use(one: Holding, seen: NodeSeen | None) -> bool:
    """Whether the node on which it is held still has it: in a namespace, in a route, or on record."""
    if seen is None:
        return False
    if one.address in seen.present or any(route.address == one.address for route in seen.routes):
        return True
    if is_tunnel(one) and one.address in seen.tunnel.split(","):
        return True
    living = (record for record in seen.attachments if record.state != "deleted")
    return any(one.handle and record.handle == one.handle for record in living)


# -- pods -------------------------------------------------------------------------------------------------------------


def _double(held: list[Holding], claimed: Mapping[str, list[_Owner]]) -> Iterator[Finding]:
    for address, owners in sorted(claimed.items()):
        if len(owners) > 1:
            names = ", ".join(owner.name for owner in owners)
            holder = next((one.holder for one in held if one.address == address), "nobody")
            yield Finding(
                DOUBLE,
                address,
                f"Pods {names}",
                owners[0].node,
                f"{len(owners)} Pods have it; IPAM says {holder}",
                f"kubectl delete pod, each but {holder}: a new one gets an address of its own",
            )
    several: dict[str, list[Holding]] = {}
    for one in held:
        several.setdefault(one.address, []).append(one)
    for address, holders in several.items():
        if len(holders) > 1:
            where = ", ".join(one.block for one in holders)
            who = " and ".join(one.holder for one in holders)
            yield Finding(
                DOUBLE,
                address,
                f"blocks {where}",
                holders[0].node,
                f"overlapping blocks gave it to {who}",
                "delete one of the Pods, then the block that does not fit its pool's blockSize",
            )


def _outside(cluster: Cluster, claimed: Mapping[str, list[_Owner]]) -> Iterator[Finding]:
    if not cluster.pools:
        return  # addresses come from elsewhere
    for address, owners in sorted(claimed.items()):
        if cluster.pool_of(_single(address)) is None:
            yield Finding(
                OUTSIDE,
                address,
                f"Pod {owners[0].name}",
                owners[0].node,
                "no IPPool covers the Pod's address",
                "make an IPPool around it, or delete the Pod: a new one gets an address of a pool",
            )
    for block in cluster.blocks:
        if cluster.pool_of(block.cidr) is None:
            cure = DROP_AFFINITY if block.empty else ""
            yield Finding(
                OUTSIDE,
                "",
                f"block {block.cidr}",
                block.node,
                f"no IPPool covers the block, in which {_count(block)} are taken",
                "podwire ipam release --from-report gives it back"
                if cure
                else "make an IPPool around it, or move Pods",
                cure,
                str(block.cidr),
            )


def _count(block: Block) -> str:
    taken = sum(index is not None for index in block.allocations)
    return f"{taken} addresses" if taken != 1 else "1 address"


def _single(address: str) -> Cidr:
    number, width = parse_ip(address)
    return Cidr(number, width, width)


def _unallocated(
    cluster: Cluster, held: list[Holding], claimed: Mapping[str, list[_Owner]], leaked: set[str]
) -> Iterator[Finding]:
    if not cluster.pools:
        return
    holders: dict[str, Holding] = {}
    matched = {(one.address, one.holder) for one in held}
    for one in held:
        holders.setdefault(one.address, one)
    for address, owners in sorted(claimed.items()):
        holder, names = holders.get(address), [owner.name for owner in owners]
        if holder is None and _from_blocks(cluster, address, owners[0].node):
            yield Finding(
                UNALLOCATED,
                address,
                f"Pod {names[0]}",
                owners[0].node,
                "the Pod has it, but no block says so: it may be given to another",
                f"kubectl delete pod -n {names[0].replace('/', ' ')}: a new one gets an address on record",
            )
        elif holder and len(owners) == 1 and (address, names[0]) not in matched and address not in leaked:
            yield Finding(
                HOLDER,
                address,
                f"Pod {names[0]}",
                owners[0].node,
                f"the Pod has it, but IPAM says that {holder.holder} does",
                f"kubectl delete pod -n {names[0].replace('/', ' ')}: a new one gets an address of its own",
            )


def _from_blocks(cluster: Cluster, address: str, node: str) -> bool:
    """Whether an address should come from a block: a pool gives it, or gave it before it was disabled. In a disabled
    pool without a block around it, the node gives addresses of its podCIDR itself."""
    pool, one = cluster.pool_of(_single(address)), _single(address)
    if pool is None:
        return False
    if pool.usable or any(block.cidr.covers(one) for block in cluster.blocks):
        return True
    own = [text for known in cluster.nodes if known.name == node for text in known.pod_cidrs]
    return not any(Cidr.parse(text, host_bits=True).covers(one) for text in own)
