"""Pure: what a pod's status says, from its spec and what is known of its containers.

Source: the behaviour of kubelet's generateAPIPodStatus, getPhase and status/generate.go.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from podwire.model.quantity import parse_quantity

Object = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ContainerView:
    """One container as the kubelet sees it. `state` and `last_state` are API ContainerState objects."""

    name: str
    image: str
    state: Object
    last_state: Object = field(default_factory=dict)
    image_id: str = ""
    container_id: str = ""
    restarts: int = 0
    ready: bool = False
    started: bool = False


@dataclass(frozen=True, slots=True)
class PodView:
    """What is known of a pod. `now` is the API time text for conditions that change."""

    host_address: str
    start_time: str
    now: str
    addresses: tuple[str, ...] = ()
    sandbox_ready: bool = False
    containers: Sequence[ContainerView] = ()
    init: Sequence[ContainerView] = ()
    sidecars: frozenset[str] = frozenset()
    reason: str = ""
    message: str = ""
    phase: str = ""


def qos_class(spec: Mapping[str, Any]) -> str:
    """Guaranteed, Burstable or BestEffort, from cpu and memory of all containers."""
    every = [*(spec.get("containers") or []), *(spec.get("initContainers") or [])]
    any_set, guaranteed = False, True
    for container in every:
        resources = container.get("resources") or {}
        limits, requests = resources.get("limits") or {}, resources.get("requests") or {}
        for name in ("cpu", "memory"):
            limit, request = limits.get(name), requests.get(name, limits.get(name))
            any_set = any_set or bool(limit or request)
            if not limit or not request or parse_quantity(limit) != parse_quantity(request):
                guaranteed = False
    if not any_set:
        return "BestEffort"
    return "Guaranteed" if guaranteed else "Burstable"


def phase(restart_policy: str, view: PodView) -> str:
    """Pending, Running, Succeeded or Failed."""
    if view.phase:
        return view.phase
    for one in view.init:
        if one.name in view.sidecars:
            if not one.started:
                return "Pending"
            continue
        ended = one.state.get("terminated")
        if ended is None:
            return "Pending"
        if ended["exitCode"] != 0:
            return "Failed" if restart_policy == "Never" else "Pending"
    waiting = running = stopped = succeeded = 0
    for one in view.containers:
        ended = one.state.get("terminated")
        if "running" in one.state:
            running += 1
        elif ended is not None:
            stopped += 1
            succeeded += ended["exitCode"] == 0
        elif one.last_state.get("terminated"):
            stopped += 1
        else:
            waiting += 1
    if waiting:
        return "Pending"
    if running or not stopped or restart_policy == "Always":
        return "Running" if running or stopped else "Pending"
    if stopped == succeeded:
        return "Succeeded"
    return "Failed" if restart_policy == "Never" else "Running"


def _condition(kind: str, ok: bool, reason: str = "", message: str = "") -> Object:
    found: Object = {"type": kind, "status": "True" if ok else "False"}
    if reason:
        found["reason"] = reason
    if message:
        found["message"] = message
    return found


def _initialized(pod_phase: str, view: PodView) -> Object:
    undone = [
        one.name
        for one in view.init
        if not (one.started if one.name in view.sidecars else (one.state.get("terminated") or {}).get("exitCode") == 0)
    ]
    if pod_phase == "Succeeded":
        return _condition("Initialized", True, "PodCompleted")
    if undone:
        words = f"containers with incomplete status: [{' '.join(undone)}]"
        return _condition("Initialized", False, "ContainersNotInitialized", words)
    return _condition("Initialized", True)


def _containers_ready(pod_phase: str, view: PodView) -> Object:
    if pod_phase in ("Succeeded", "Failed"):
        return _condition("ContainersReady", False, "PodCompleted" if pod_phase == "Succeeded" else "PodFailed")
    lasting = [one for one in view.init if one.name in view.sidecars] + list(view.containers)
    unready = [one.name for one in lasting if not one.ready]
    if unready:
        words = f"containers with unready status: [{' '.join(unready)}]"
        return _condition("ContainersReady", False, "ContainersNotReady", words)
    return _condition("ContainersReady", True)


def _ready(spec: Mapping[str, Any], containers_ready: Object, existing: Mapping[str, Object]) -> Object:
    if containers_ready["status"] != "True":
        return {**containers_ready, "type": "Ready"}
    problems = []
    for gate in spec.get("readinessGates") or []:
        name = gate["conditionType"]
        if name not in existing:
            problems.append(f'corresponding condition of pod readiness gate "{name}" does not exist.')
        elif existing[name]["status"] != "True":
            status = existing[name]["status"]
            problems.append(f'the status of pod readiness gate "{name}" is not "True", but {status}')
    if problems:
        return _condition("Ready", False, "ReadinessGatesNotReady", ", ".join(problems))
    return _condition("Ready", True)


def conditions(pod: Mapping[str, Any], pod_phase: str, view: PodView) -> list[Object]:
    """The kubelet's own conditions; times of those that did not change are kept."""
    existing = {one["type"]: one for one in (pod.get("status") or {}).get("conditions") or []}
    together = _containers_ready(pod_phase, view)
    fresh = [
        _condition("PodReadyToStartContainers", view.sandbox_ready),
        _initialized(pod_phase, view),
        _ready(pod["spec"], together, existing),
        together,
        _condition("PodScheduled", True),
    ]
    for one in fresh:
        old = existing.get(one["type"])
        same = old is not None and old.get("status") == one["status"] and old.get("lastTransitionTime")
        one["lastProbeTime"] = None
        one["lastTransitionTime"] = old["lastTransitionTime"] if same and old else view.now
    return fresh


def _container_status(view: ContainerView, scheme: str = "podwire") -> Object:
    return {
        "name": view.name,
        "state": view.state,
        "lastState": view.last_state,
        "ready": view.ready,
        "restartCount": view.restarts,
        "image": view.image,
        "imageID": view.image_id,
        "containerID": f"{scheme}://{view.container_id}" if view.container_id else "",
        "started": view.started,
    }


def build(pod: Mapping[str, Any], view: PodView) -> Object:
    """The whole status. Conditions of other writers are not in it: they are merged by type."""
    spec = pod["spec"]
    pod_phase = phase(spec.get("restartPolicy") or "Always", view)
    status: Object = {
        "phase": pod_phase,
        "conditions": conditions(pod, pod_phase, view),
        "hostIP": view.host_address,
        "hostIPs": [{"ip": view.host_address}],
        "startTime": view.start_time,
        "qosClass": (pod.get("status") or {}).get("qosClass") or qos_class(spec),
    }
    if view.addresses:
        status["podIP"] = view.addresses[0]
        status["podIPs"] = [{"ip": address} for address in view.addresses]
    if view.containers:
        status["containerStatuses"] = [_container_status(one) for one in sorted(view.containers, key=lambda v: v.name)]
    if view.init:
        status["initContainerStatuses"] = [_container_status(one) for one in view.init]
    for key in ("reason", "message"):
        if getattr(view, key):
            status[key] = getattr(view, key)
    return status


def patch(status: Object, old: Mapping[str, Any]) -> Object:
    """A strategic merge patch that leads from `old` to `status`; empty when nothing differs."""
    changed: Object = {}
    before = {one["type"]: one for one in old.get("conditions") or []}
    for key, value in status.items():
        if key == "conditions":
            differing = [one for one in value if _essence(before.get(one["type"])) != _essence(one)]
            if differing:
                changed[key] = [{**_dropped(before.get(one["type"]), one), **one} for one in differing]
        elif key in ("podIPs", "hostIPs"):
            if old.get(key) != value:  # merged by address: a former one would stay
                changed[key] = [{"$patch": "replace"}, *value] if old.get(key) else value
        elif old.get(key) != value:
            changed[key] = value
    return changed


def _dropped(old: Mapping[str, Any] | None, new: Object) -> Object:
    """Nulls for what a condition said and does not say any more: merging alone would keep it."""
    return {key: None for key in ("reason", "message") if (old or {}).get(key) and key not in new}


def _essence(condition: Mapping[str, Any] | None) -> tuple[str, ...] | None:
    if condition is None:
        return None
    return tuple(str(condition.get(key) or "") for key in ("status", "reason", "message"))
