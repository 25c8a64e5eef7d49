"""What nodes hold against what the API says: routes, host ends, attachments, host-local's files. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from podwire.model.api import Object
from podwire.model.seen import UNCOMPARED, NodeSeen, SeenAttachment, SeenFile
from podwire.model.workload import is_endpoint, pod_addresses
from podwire.observe.addresses import Holding, holdings
from podwire.observe.cluster import Cluster
from podwire.observe.damage import is_tunnel
from podwire.observe.endpoints import stray_links
from podwire.observe.finding import REMOVE_FILE, SCRUB, Finding

ROUTE = "kernel without allocation"
UNWIRED = "allocation without kernel"
STRAY = "stray interface"
RECORD = "record without allocation"
DAMAGED = "damaged endpoint"
LEFT = "left-over endpoint"
FILE = "leaked file"


def node_findings(cluster: Cluster, seen: NodeSeen) -> list[Finding]:
    """Everything wrong between one node's kernel and the API."""
    held = holdings(cluster)
    found = [*_routes(seen, held), *_stray(seen)]
    known = {one.address for one in found}
    found += [one for one in _records(seen, held) if one.address not in known]
    known |= {one.address for one in found}
    if not any(what.startswith(("network namespaces", "routes")) for what in seen.blind):  # not seen is not absent
        found += _unwired(cluster, seen, held)
    known |= {one.address for one in found}
    found += [one for one in _left(cluster, seen) if one.address not in known]
    known |= {one.address for one in found}
    return found + [one for one in _damaged(seen) if one.address not in known]


def _routes(seen: NodeSeen, held: list[Holding]) -> Iterator[Finding]:
    holders = {one.address: one for one in held}
    files = {file.address for file in seen.files}
    for route in seen.routes:
        holder = holders.get(route.address)
        if holder is None and route.address in files:
            continue  # host-local gave it
        if holder is not None and holder.node in ("", seen.node):
            continue
        why = "no block says that it is taken" if holder is None else f"IPAM says that it is held on {holder.node}"
        yield Finding(
            ROUTE,
            route.address,
            f"route by {route.interface}",
            seen.node,
            f"the kernel leads to a pod with it, but {why}",
            "podwire ipam release --from-report removes what no attachment has; else delete the Pod",
            SCRUB,
            interface=route.interface,
        )


def _stray(seen: NodeSeen) -> Iterator[Finding]:
    routed = {route.interface for route in seen.routes}
    for name in sorted(stray_links(seen) - routed):
        yield Finding(
            STRAY,
            "",
            f"interface {name}",
            seen.node,
            "no attachment on record has it",
            "podwire ipam release --from-report removes it (so does the agent's next start)",
            SCRUB,
            interface=name,
        )


def _records(seen: NodeSeen, held: list[Holding]) -> Iterator[Finding]:
    taken = {one.address for one in held} | {file.address for file in seen.files}
    for record in seen.attachments:
        if record.state != "ready" or record.role not in ("routed", "podwire-ipam"):
            continue
        for address in record.addresses:
            if address not in taken:
                yield Finding(
                    RECORD,
                    address,
                    f"attachment {record.container_id[:13]}/{record.interface}",
                    seen.node,
                    f"the agent wired {_who(record.namespace, record.pod)} with it, but no block says that it is taken",
                    "delete the Pod: a new one gets an address on record",
                )


def _left(cluster: Cluster, seen: NodeSeen) -> Iterator[Finding]:
    pods = {_name(pod) for pod in cluster.pods}
    for record in seen.attachments:
        if record.state == "ready" and record.pod and f"{record.namespace}/{record.pod}" not in pods:
            yield Finding(
                LEFT,
                record.addresses[0] if record.addresses else "",
                f"attachment {record.container_id[:13]}/{record.interface}",
                seen.node,
                f"Pod {record.namespace}/{record.pod} is gone, and the runtime never called DEL",
                "the runtime's next GC removes it; `podwire ipam release --force` gives its address back",
                handle=record.handle,
            )


def _who(namespace: str, pod: str) -> str:
    return f"Pod {namespace}/{pod}" if pod else "a pod"


def _unwired(cluster: Cluster, seen: NodeSeen, held: list[Holding]) -> Iterator[Finding]:
    running = {_name(pod): pod for pod in cluster.pods if _runs(pod)}
    wired = {*seen.present, *(route.address for route in seen.routes)}
    for one in held:
        if one.node != seen.node or is_tunnel(one) or one.ahead or one.address in wired:
            continue
        pod = running.get(one.holder)
        if pod is not None and one.address in pod_addresses(pod):
            yield Finding(
                UNWIRED,
                one.address,
                f"Pod {one.holder}",
                seen.node,
                "the Pod runs with it, but neither a route nor a namespace of the node has it",
                f"kubectl delete pod -n {one.namespace} {one.pod}: a new one is wired anew",
                handle=one.handle,
            )


def _name(pod: Object) -> str:
    return f"{pod['metadata'].get('namespace', '')}/{pod['metadata']['name']}"


def _runs(pod: Object) -> bool:
    status = pod.get("status") or {}
    return is_endpoint(pod) and status.get("phase") == "Running" and not pod["metadata"].get("deletionTimestamp")


def _way_out(record: SeenAttachment) -> str:
    if all(fault.startswith(UNCOMPARED) for fault in record.faults):
        return "see that the node's agent runs, and is of this version: another one's tables are others"
    if not record.pod:
        return "DEL the attachment and ADD it again"
    return f"kubectl delete pod -n {record.namespace} {record.pod}: a new one is wired anew"


def _damaged(seen: NodeSeen) -> Iterator[Finding]:
    for record in seen.attachments:
        if record.faults and record.state == "ready":
            yield Finding(
                DAMAGED,
                record.addresses[0] if record.addresses else "",
                f"{_who(record.namespace, record.pod)}, {record.host_name}",
                seen.node,
                "; ".join(record.faults),
                _way_out(record),
            )


# -- host-local -------------------------------------------------------------------------------------------------------


def file_findings(seen: NodeSeen, now: float, grace: float) -> Iterator[Finding]:
    """Addresses that host-local keeps and no network namespace of the node has. `now` and `grace` are in seconds; what
    is younger than `grace` may still be on its way into a pod."""
    if any(what.startswith("network namespaces") for what in seen.blind):
        return  # not seen is not absent
    living = {record.container_id for record in seen.attachments if record.state != "deleted"}
    for file in seen.files:
        if file.address in seen.present or file.container_id in living or now - file.since < grace:
            continue
        yield Finding(
            FILE,
            file.address,
            f"{file.directory}/{file.network}/{file.address}",
            seen.node,
            f"no network namespace of the node has it; it was kept for container {file.container_id[:13] or 'unknown'}",
            "podwire ipam release --from-report removes the file",
            REMOVE_FILE,
            handle=_owner(file),
            directory=file.directory,
            network=file.network,
        )


def _owner(file: SeenFile) -> str:
    return f"{file.container_id}/{file.interface}"


def all_node_findings(cluster: Cluster, nodes: Iterable[NodeSeen]) -> list[Finding]:
    return [found for seen in nodes for found in node_findings(cluster, seen)]


def by_node(nodes: Iterable[NodeSeen]) -> Mapping[str, NodeSeen]:
    return {seen.node: seen for seen in nodes}
