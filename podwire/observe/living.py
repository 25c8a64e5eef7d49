"""Why an address must not be taken from whoever holds it. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from podwire.model.seen import NodeSeen
from podwire.model.workload import pod_addresses
from podwire.observe.addresses import Holding
from podwire.observe.cluster import Cluster
from podwire.observe.damage import in_use, is_tunnel


def why_live(cluster: Cluster, one: Holding, seen: Mapping[str, NodeSeen]) -> str:
    """Who uses it, or may, and what to do instead; '' when that nobody does is proved."""
    for pod in cluster.pods:
        name = f"{pod['metadata'].get('namespace', '')}/{pod['metadata']['name']}"
        told = pod_addresses(pod)
        node = (pod.get("spec") or {}).get("nodeName", "")
        if one.address in told:
            return f"Pod {name} on node {node} has it; delete the Pod"
        ended = (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")
        if name == one.holder and not told and not ended:
            return f"Pod {name} on node {node} is being made with it"
    there = {node.name for node in cluster.nodes}
    if is_tunnel(one) and one.node in there:
        return f"it is the tunnel's address of node {one.node}"
    if one.ahead and one.node in there:
        return f"node {one.node} claimed it ahead for its next pods; its agent gives it back when it does not need it"
    if in_use(one, seen.get(one.node)):
        return f"node {one.node} still has it: see `podwire node endpoints {one.node}`"
    if not one.pod and one.node in there and one.node not in seen and not is_tunnel(one):
        return f"no Pod is noted for it, and node {one.node} cannot be looked into from here"
    return ""
