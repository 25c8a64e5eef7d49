"""Small clusters for the tests of views: objects as an API would list them."""

from __future__ import annotations

from typing import Any

from podwire.ipam import blocks
from podwire.ipam.blocks import Attribute, Block
from podwire.model.address import Cidr
from podwire.model.block import affinity_name
from podwire.observe.cluster import Cluster, assemble

SINCE = "2026-01-02T03:04:05Z"
LATER = "2026-01-02T05:00:00Z"


def obj(name: str, spec: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    return {"metadata": {"name": name}, "spec": spec or {}, **more}


def pool(name: str = "pool", cidr: str = "10.0.0.0/24", **spec: Any) -> dict[str, Any]:
    return obj(name, {"cidr": cidr, "blockSize": 28, **spec})


def facts(pod: str, node: str, namespace: str = "default") -> dict[str, str]:
    return {"pod": pod, "namespace": namespace, "node": node, "timestamp": SINCE}


def block(cidr: str, node: str, **held: Attribute) -> Block:
    """`held` maps o3, say, to who has the address at offset 3."""
    made = blocks.fresh(Cidr.parse(cidr), f"host:{node}" if node else "", SINCE)
    for at, attribute in held.items():
        made = blocks.assign_exact(made, int(at[1:]), attribute)
    return made


def stored(one: Block) -> dict[str, Any]:
    return obj(one.name, blocks.to_spec(one))


def who(pod: str, node: str) -> Attribute:
    return Attribute.of(f"net.{pod}", facts(pod, node))


def affinity(node: str, cidr: str, state: str = "confirmed") -> dict[str, Any]:
    return obj(affinity_name(node, cidr), {"cidr": cidr, "node": node, "state": state, "type": "host"})


def handle(name: str, **counts: int) -> dict[str, Any]:
    """Counts by the block's name in underscores: b10_0_0_0_28=1."""
    cidrs = {}
    for text, count in counts.items():
        parts = text[1:].split("_")
        cidrs[".".join(parts[:4]) + "/" + parts[4]] = count
    return obj(name.lower(), {"handleID": name, "block": cidrs})


def pod(name: str, node: str, *addresses: str, phase: str = "Running", **spec: Any) -> dict[str, Any]:
    status = {"phase": phase, "podIPs": [{"ip": address} for address in addresses]}
    metadata = {"name": name, "namespace": "default", "uid": name, "creationTimestamp": SINCE}
    return {"metadata": metadata, "spec": {"nodeName": node, **spec}, "status": status}


def node(name: str, address: str = "172.18.0.2", **notes: str) -> dict[str, Any]:
    status = {"addresses": [{"type": "InternalIP", "address": address}]}
    annotations = {f"projectcalico.org/{key}": value for key, value in notes.items()}
    return {"metadata": {"name": name, "annotations": annotations}, "spec": {}, "status": status}


def cluster(
    *ipam_blocks: Block,
    pools: Any = None,
    affinities: Any = None,
    handles: Any = None,
    reservations: Any = (),
    nodes: Any = None,
    pods: Any = (),
) -> Cluster:
    """Affinities and handles are what the blocks need, unless they are given."""
    if affinities is None:
        affinities = [affinity(one.node, str(one.cidr)) for one in ipam_blocks if one.node]
    if handles is None:
        counts: dict[str, dict[str, int]] = {}
        for one in ipam_blocks:
            for name, ordinals in one.holdings().items():
                counts.setdefault(name, {})[str(one.cidr)] = len(ordinals)
        handles = [obj(name.lower(), {"handleID": name, "block": there}) for name, there in counts.items()]
    if nodes is None:
        nodes = [node("n1"), node("n2", "172.18.0.3")]
    return assemble(
        [pool()] if pools is None else pools,
        [stored(one) for one in ipam_blocks],
        affinities,
        handles,
        reservations,
        (),
        nodes,
        pods,
    )
