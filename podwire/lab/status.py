"""What a lab looks like now, as values to print: nodes, agents, pods, addresses, memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from podwire.lab.api import Reader, Unreachable, condition, is_ready
from podwire.lab.processes import of_lab, proportional_set_size
from podwire.lab.state import LabError, LabState, Supervisor
from podwire.lab.topology import LabPlan

IMAGE = "podwire/node:v1.36.0"


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """One node: what the API says of it, which of its daemons run, what its processes weigh (bytes, PSS), and whether
    network policy is in force there (as `NodeSeen.policy`; '' while nobody looked)."""

    name: str
    role: str
    state: str
    ready: str
    address: str
    address6: str
    pod_cidr: str
    pods: int
    agent: str
    kubelet: str
    memory_bytes: int
    policy: str = ""


@dataclass(frozen=True, slots=True)
class PodStatus:
    """One pod."""

    namespace: str
    name: str
    phase: str
    ready: str
    address: str
    node: str


@dataclass(frozen=True, slots=True)
class LabStatus:
    """The whole lab; `memory_bytes` is the sum over all its processes (bytes, PSS)."""

    name: str
    state: str
    server: str
    pod_subnet: str
    service_subnet: str
    nodes: tuple[NodeStatus, ...]
    pods: tuple[PodStatus, ...]
    processes: int
    memory_bytes: int
    note: str = ""


@dataclass(frozen=True, slots=True)
class LabLine:
    """A line of `lab list`."""

    name: str
    state: str
    nodes: int
    server: str
    directory: str


def line_of(state: LabState) -> LabLine:
    """The short form. A lab whose files cannot be read is still a line: it can be taken down."""
    try:
        plan = state.read_plan()
        port = state.read_json("port.json").get("port")
        running = state.supervisor()
    except LabError:
        return LabLine(state.name, "damaged", 0, "", str(state.directory))
    return LabLine(
        name=state.name,
        state="running" if running else "stopped",
        nodes=len(plan.nodes) if plan else 0,
        server=f"https://127.0.0.1:{port}" if port else "",
        directory=str(state.directory),
    )


def look(state: LabState, plan: LabPlan) -> LabStatus:
    """Look at everything. A lab that does not answer is still described; `note` says what could not be seen."""
    supervisor = state.supervisor()
    line = line_of(state)
    nodes: dict[str, dict[str, Any]] = {}
    pods: list[dict[str, Any]] = []
    note = "" if supervisor else f"not running; `podwire lab up --name {state.name}` takes it up again"
    if supervisor:
        try:
            reader = Reader(int(state.read_json("port.json")["port"]), state.pki)
            nodes = {node["metadata"]["name"]: node for node in reader.nodes()}
            pods = reader.pods()
            reader.close()
        except (Unreachable, OSError) as error:
            note = f"the API does not answer: {error}"
    weights, daemons, count = _weigh(state, plan, supervisor)
    return LabStatus(
        name=state.name,
        state=line.state,
        server=line.server,
        pod_subnet=plan.pod_subnet,
        service_subnet=plan.service_subnet,
        nodes=tuple(_node(plan, name, nodes.get(name), pods, weights, daemons) for name in _names(plan)),
        pods=tuple(_pod(pod) for pod in pods),
        processes=count,
        memory_bytes=sum(weights.values()),
        note=note,
    )


def _names(plan: LabPlan) -> list[str]:
    return [node.name for node in plan.nodes]


def _weigh(
    state: LabState, plan: LabPlan, supervisor: Supervisor | None
) -> tuple[dict[str, int], dict[str, set[str]], int]:
    """Memory per node ("" for what belongs to none), the daemons that run on each, and the number of processes."""
    weights: dict[str, int] = {"": 0}
    daemons: dict[str, set[str]] = {}
    if supervisor is None:
        return weights, daemons, 0
    pids = {number: name for name, number in state.read_json("nodes.json").items()}
    every = of_lab(supervisor)
    owner = {supervisor.pid: ""}
    inits = {process.pid for process in every if process.parent == supervisor.pid}
    for process in every:
        if process.pid == supervisor.pid:
            pass
        elif process.parent == supervisor.pid:
            nested = len(process.inner) > 1 and process.inner[-1] == 1
            owner[process.pid] = pids.get(process.inner[-2], "") if nested else ""
        else:
            owner[process.pid] = owner.get(process.parent, "")
            words = process.title.split()
            if len(words) == 3 and words[0] == "podwire":
                daemons.setdefault(owner[process.pid], set()).add(words[1])
            elif words and process.parent in inits:
                daemons.setdefault(owner[process.pid], set()).add(words[0].rpartition("/")[2])
        name = owner[process.pid]
        weights[name] = weights.get(name, 0) + proportional_set_size(process.pid)
    return weights, daemons, len(every)


def _node(
    plan: LabPlan,
    name: str,
    obj: dict[str, Any] | None,
    pods: list[dict[str, Any]],
    weights: dict[str, int],
    daemons: dict[str, set[str]],
) -> NodeStatus:
    node = plan.node(name)
    assert node is not None
    here = [pod for pod in pods if pod.get("spec", {}).get("nodeName") == name]
    running = daemons.get(name, set())
    return NodeStatus(
        name=name,
        role=node.role,
        state="running" if name in weights else "stopped",
        ready=_readiness(obj),
        address=node.address,
        address6=node.address6,
        pod_cidr=str((obj or {}).get("spec", {}).get("podCIDR", "")),
        pods=len(here),
        agent="running" if "agent" in running else "stopped",
        kubelet="running" if "kubelet" in running else "stopped",
        memory_bytes=weights.get(name, 0),
    )


def _readiness(obj: dict[str, Any] | None) -> str:
    if obj is None:
        return "Unknown"
    return "Ready" if is_ready(obj) else f"NotReady: {condition(obj, 'Ready').get('message', 'nothing heard yet')}"


def _pod(pod: dict[str, Any]) -> PodStatus:
    status = pod.get("status", {})
    containers = status.get("containerStatuses") or []
    ready = sum(bool(container.get("ready")) for container in containers)
    return PodStatus(
        namespace=pod["metadata"].get("namespace", ""),
        name=pod["metadata"]["name"],
        phase=status.get("phase", "Unknown"),
        ready=f"{ready}/{len(pod.get('spec', {}).get('containers') or [])}",
        address=status.get("podIP", ""),
        node=pod.get("spec", {}).get("nodeName", ""),
    )
