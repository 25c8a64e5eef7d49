"""A node's attachments as rows: what the agent has on record, and what the kernel lacks of it or has beyond. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from podwire.model import workload
from podwire.model.api import Object
from podwire.model.seen import NodeSeen

ENFORCED = "enforced"
GOOD, DAMAGED, BEGUN, ENDING, STRAY = "ok", "damaged", "being made", "being removed", "stray"
_STATES = {"wiring": BEGUN, "deleted": ENDING}


@dataclass(frozen=True, slots=True)
class EndpointRow:
    """One pod interface. `state` is ok, damaged (and `faults` say how), being made, being removed, or stray: the
    kernel has it and no record does."""

    node: str
    namespace: str
    pod: str
    interface: str
    addresses: tuple[str, ...]
    state: str
    role: str
    container_id: str
    handle: str
    ports: tuple[str, ...]
    limits: str
    faults: tuple[str, ...]
    nats: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class NodeRow:
    """A node in a line: its agent, the CNI configuration that counts, its tunnel's address, whether policy is in force
    (as `NodeSeen.policy`), and its attachments."""

    node: str
    agent: str
    config: str
    tunnel: str
    attachments: int
    damaged: int
    stray: int
    spooled: int
    blind: tuple[str, ...]
    policy: str = ""


def endpoint_rows(seen: NodeSeen) -> list[EndpointRow]:
    """Attachments on record by pod, then what is stray."""
    rows = []
    for one in seen.attachments:
        state = _STATES.get(one.state, DAMAGED if one.faults else GOOD)
        rows.append(
            EndpointRow(
                node=seen.node,
                namespace=one.namespace,
                pod=one.pod,
                interface=one.host_name,
                addresses=one.addresses,
                state=state,
                role=one.role,
                container_id=one.container_id,
                handle=one.handle,
                ports=one.ports,
                limits=one.limits,
                nats=one.floating,
                faults=one.faults,
            )
        )
    return rows + [_stray(seen, name) for name in sorted(stray_links(seen))]


def stray_links(seen: NodeSeen) -> set[str]:
    """Host ends that no attachment on record has."""
    return set(seen.links) - {one.host_name for one in seen.attachments}


def _stray(seen: NodeSeen, name: str) -> EndpointRow:
    addresses = tuple(route.address for route in seen.routes if route.interface == name)
    fault = f"interface {name} is there, but no attachment on record has it"
    return EndpointRow(seen.node, "", "", name, addresses, STRAY, "", "", "", (), "", (fault,))


def node_row(seen: NodeSeen) -> NodeRow:
    """The node's line."""
    rows = endpoint_rows(seen)
    return NodeRow(
        node=seen.node,
        agent=seen.agent,
        config=seen.config,
        tunnel=seen.tunnel,
        attachments=sum(row.state != STRAY for row in rows),
        damaged=sum(row.state == DAMAGED for row in rows),
        stray=sum(row.state == STRAY for row in rows),
        spooled=seen.spooled,
        blind=seen.blind,
        policy=seen.policy,
    )


def workload_rows(pods: Iterable[Object], nodes: Iterable[str] = ()) -> list[dict[str, str]]:
    """Every Pod that is an endpoint as calicoctl lists it, of these nodes or of all."""
    wanted = set(nodes)
    rows = []
    for pod in pods:
        endpoint = workload.workload_endpoint(pod)
        if endpoint and (not wanted or endpoint["spec"]["node"] in wanted):
            rows.append({"namespace": endpoint["metadata"]["namespace"], **workload.row(endpoint)})
    return sorted(rows, key=lambda row: (row["namespace"], row["workload"]))
