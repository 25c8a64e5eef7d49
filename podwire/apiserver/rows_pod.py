"""The pod and node rows of a Table: what STATUS, READY and RESTARTS say.

Source: behaviour of Kubernetes' pkg/printers/internalversion (printPod, printNode).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from podwire.apiserver.durations import age, seconds_of
from podwire.apiserver.resources import AGE, NAME, Column

Object = dict[str, Any]

POD_COLUMNS = (
    NAME,
    Column("Ready", description="Containers that are ready, of all."),
    Column("Status", description="What the pod's containers are doing, in one word."),
    Column("Restarts", description="How often containers were restarted, and when the last time."),
    AGE,
    Column("IP", priority=1, description="The pod's address."),
    Column("Node", priority=1, description="The node that runs the pod."),
    Column("Nominated Node", priority=1, description="The node that is being made free for the pod."),
    Column("Readiness Gates", priority=1, description="Readiness gates passed, of all."),
)
NODE_COLUMNS = (
    NAME,
    Column("Status", description="Whether the node is ready and takes pods."),
    Column("Roles", description="The node's roles."),
    AGE,
    Column("Version", description="The kubelet's version."),
    Column("Internal-IP", priority=1, description="The node's address inside the cluster."),
    Column("External-IP", priority=1, description="The node's address outside."),
    Column("OS-Image", priority=1, description="The node's operating system."),
    Column("Kernel-Version", priority=1, description="The node's kernel."),
    Column("Container-Runtime", priority=1, description="The node's container runtime."),
)


@dataclass
class _Tally:
    """What walking the container statuses gathers."""

    reason: str
    ready: int = 0
    restarts: int = 0
    last_restart: str = ""

    def count(self, status: Object) -> None:
        self.restarts += status.get("restartCount", 0)
        ended = ((status.get("lastState") or {}).get("terminated") or {}).get("finishedAt") or ""
        if ended and (not self.last_restart or seconds_of(ended) > seconds_of(self.last_restart)):
            self.last_restart = ended


def pod_row(pod: Object, now: float) -> list[Any]:
    spec, status, metadata = pod.get("spec") or {}, pod.get("status") or {}, pod["metadata"]
    tally = _tally(pod)
    sidecars = sum(1 for each in spec.get("initContainers") or [] if each.get("restartPolicy") == "Always")
    total = len(spec.get("containers") or []) + sidecars
    restarts = str(tally.restarts)
    if tally.restarts and tally.last_restart:
        restarts += f" ({age(tally.last_restart, now)} ago)"
    addresses = [each.get("ip", "") for each in status.get("podIPs") or []] or [status.get("podIP", "")]
    return [
        metadata.get("name", ""),
        f"{tally.ready}/{total}",
        tally.reason,
        restarts,
        age(metadata.get("creationTimestamp"), now),
        addresses[0] or "<none>",
        spec.get("nodeName") or "<none>",
        status.get("nominatedNodeName") or "<none>",
        _gates(spec, status),
    ]


def _gates(spec: Object, status: Object) -> str:
    gates = spec.get("readinessGates") or []
    if not gates:
        return "<none>"
    conditions = {each.get("type"): each.get("status") for each in status.get("conditions") or []}
    passed = sum(1 for gate in gates if conditions.get(gate.get("conditionType")) == "True")
    return f"{passed}/{len(gates)}"


def _condition(status: Object, kind: str) -> Object:
    for each in status.get("conditions") or []:
        if each.get("type") == kind:
            return each  # type: ignore[no-any-return]
    return {}


def _tally(pod: Object) -> _Tally:
    spec, status = pod.get("spec") or {}, pod.get("status") or {}
    phase = status.get("phase", "")
    tally = _Tally(status.get("reason") or phase)
    if _condition(status, "PodScheduled").get("reason") == "SchedulingGated":
        tally.reason = "SchedulingGated"
    restartable = {c["name"] for c in spec.get("initContainers") or [] if c.get("restartPolicy") == "Always"}
    sidecars = _Tally("")
    initializing = _init(spec, status, restartable, tally, sidecars)
    if not initializing or _condition(status, "Initialized").get("status") == "True":
        tally.restarts, tally.last_restart = sidecars.restarts, sidecars.last_restart
        _main(status, tally)
    if pod["metadata"].get("deletionTimestamp"):
        if status.get("reason") == "NodeLost":
            tally.reason = "Unknown"
        elif phase not in ("Succeeded", "Failed"):
            tally.reason = "Terminating"
    return tally


def _ended(terminated: Object) -> str:
    """The word for a container that ended: its reason, else its signal or exit code."""
    if terminated.get("reason"):
        return str(terminated["reason"])
    if terminated.get("signal"):
        return f"Signal:{terminated['signal']}"
    return f"ExitCode:{terminated.get('exitCode', 0)}"


def _init(spec: Object, status: Object, restartable: set[str], tally: _Tally, sidecars: _Tally) -> bool:
    """Walk the init containers until one is not done; True when there is one."""
    for position, container in enumerate(status.get("initContainerStatuses") or []):
        tally.count(container)
        state = container.get("state") or {}
        terminated, waiting = state.get("terminated"), state.get("waiting") or {}
        sidecar = container.get("name") in restartable
        if sidecar:
            sidecars.count(container)
        if terminated is not None and not terminated.get("exitCode"):
            continue
        if sidecar and container.get("started"):
            tally.ready += 1 if container.get("ready") else 0
            continue
        if terminated is not None:
            tally.reason = "Init:" + _ended(terminated)
        elif waiting.get("reason") and waiting["reason"] != "PodInitializing":
            tally.reason = "Init:" + waiting["reason"]
        else:
            tally.reason = f"Init:{position}/{len(spec.get('initContainers') or [])}"
        return True
    return False


def _main(status: Object, tally: _Tally) -> None:
    running = False
    for container in reversed(status.get("containerStatuses") or []):
        tally.count(container)
        state = container.get("state") or {}
        if (state.get("waiting") or {}).get("reason"):
            tally.reason = state["waiting"]["reason"]
        elif state.get("terminated") is not None:
            tally.reason = _ended(state["terminated"])
        elif container.get("ready") and state.get("running") is not None:
            running = True
            tally.ready += 1
    if tally.reason == "Completed" and running:
        tally.reason = "Running" if _condition(status, "Ready").get("status") == "True" else "NotReady"


def node_row(node: Object, now: float) -> list[Any]:
    spec, status, metadata = node.get("spec") or {}, node.get("status") or {}, node["metadata"]
    ready = _condition(status, "Ready")
    words = [("Ready" if ready["status"] == "True" else "NotReady") if ready else "Unknown"]
    if spec.get("unschedulable"):
        words.append("SchedulingDisabled")
    facts = status.get("nodeInfo") or {}
    addresses = {each.get("type"): each.get("address") for each in reversed(status.get("addresses") or [])}
    return [
        metadata.get("name", ""),
        ",".join(words),
        ",".join(_roles(metadata.get("labels") or {})) or "<none>",
        age(metadata.get("creationTimestamp"), now),
        facts.get("kubeletVersion", ""),
        addresses.get("InternalIP") or "<none>",
        addresses.get("ExternalIP") or "<none>",
        facts.get("osImage") or "<unknown>",
        facts.get("kernelVersion") or "<unknown>",
        facts.get("containerRuntimeVersion") or "<unknown>",
    ]


def _roles(labels: dict[str, str]) -> list[str]:
    prefix = "node-role.kubernetes.io/"
    roles = {key.removeprefix(prefix) for key in labels if key.startswith(prefix) and key != prefix}
    if labels.get("kubernetes.io/role"):
        roles.add(labels["kubernetes.io/role"])
    return sorted(roles)
