"""What a pod asks of a node, and what a node has: values for the scheduler, read once from objects.

Amounts are whole numbers: cpu in thousandths of a core, everything else in its unit (bytes, pieces).
Source: k8s.io/kubernetes pkg/scheduler/framework/types.go and component-helpers/resource.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import ceil
from typing import Any

from podwire.controllers.objects import Object, condition_is, controller_of, labels, meta, name_of, spec, status, uid_of
from podwire.model.quantity import parse_quantity

Amounts = Mapping[str, int]
Port = tuple[str, str, int]  # host address, protocol, port

# What a container that asks for nothing is taken to use when nodes are compared (never when they are ruled out).
ASSUMED_CPU, ASSUMED_MEMORY = 100, 200 * 1024 * 1024
NOT_READY = {"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}


@dataclass(frozen=True)
class PodNeeds:
    """A pod, as the scheduler sees it. `asked` counts against allocatable; `likely` also what was not said."""

    key: tuple[str, str]
    uid: str
    labels: Mapping[str, str]
    node: str
    owner: str
    asked: Amounts
    likely: Amounts
    ports: frozenset[Port]
    selector: Mapping[str, str]
    affinity: Mapping[str, Any]
    tolerations: tuple[Mapping[str, Any], ...]
    spread: tuple[Mapping[str, Any], ...]
    leaving: bool
    priority: int = 0

    @property
    def namespace(self) -> str:
        return self.key[0]


@dataclass
class NodeRoom:
    """A node and the pods on it."""

    name: str
    labels: Mapping[str, str]
    taints: tuple[Mapping[str, Any], ...]
    unschedulable: bool
    allocatable: Amounts
    pods: list[PodNeeds] = field(default_factory=list)

    def used(self) -> Counter[str]:
        """What the pods asked for, and how many there are (`pods`)."""
        total: Counter[str] = Counter()
        for pod in self.pods:
            for name, amount in pod.asked.items():
                total[name] += amount
        total["pods"] = len(self.pods)
        return total

    def likely(self) -> Counter[str]:
        total: Counter[str] = Counter()
        for pod in self.pods:
            for name, amount in pod.likely.items():
                total[name] += amount
        return total


def amount(name: str, text: Any) -> int:
    """A quantity as a whole number, rounded up. Raises ValueError."""
    value = parse_quantity(text)
    return ceil(value * 1000) if name == "cpu" else ceil(value)


def amounts(found: Mapping[str, Any] | None) -> dict[str, int]:
    return {name: amount(name, text) for name, text in (found or {}).items()}


def _requests(container: Mapping[str, Any]) -> dict[str, int]:
    return amounts((container.get("resources") or {}).get("requests"))


def _likely(container: Mapping[str, Any]) -> dict[str, int]:
    return {"cpu": ASSUMED_CPU, "memory": ASSUMED_MEMORY} | _requests(container)


def _plus(left: Amounts, right: Amounts) -> dict[str, int]:
    return {name: left.get(name, 0) + right.get(name, 0) for name in {*left, *right}}


def _most(left: Amounts, right: Amounts) -> dict[str, int]:
    return {name: max(left.get(name, 0), right.get(name, 0)) for name in {*left, *right}}


def total(pod_spec: Mapping[str, Any], read: Any = _requests) -> dict[str, int]:
    """What a pod asks for: its containers together, or the largest moment of its initialisation if that is more.
    Init containers that restart always (sidecars) stay, so they count with everything after them."""
    running: dict[str, int] = {}
    for container in pod_spec.get("containers") or []:
        running = _plus(running, read(container))
    sidecars: dict[str, int] = {}
    starting: dict[str, int] = {}
    for container in pod_spec.get("initContainers") or []:
        if container.get("restartPolicy") == "Always":
            sidecars = _plus(sidecars, read(container))
            starting = _most(starting, sidecars)
        else:
            starting = _most(starting, _plus(sidecars, read(container)))
    found = _most(_plus(running, sidecars), starting)
    found.update(amounts((pod_spec.get("resources") or {}).get("requests")))  # said for the pod as a whole
    return _plus(found, amounts(pod_spec.get("overhead")))


def host_ports(pod_spec: Mapping[str, Any]) -> Iterable[Port]:
    sidecars = [one for one in pod_spec.get("initContainers") or [] if one.get("restartPolicy") == "Always"]
    for container in [*(pod_spec.get("containers") or []), *sidecars]:
        for port in container.get("ports") or []:
            number = port.get("hostPort") or (port.get("containerPort") if pod_spec.get("hostNetwork") else 0)
            if number:
                yield port.get("hostIP") or "0.0.0.0", port.get("protocol") or "TCP", int(number)


def pod_needs(pod: Object) -> PodNeeds:
    """Raises ValueError when a quantity is not one."""
    wanted, owner = spec(pod), controller_of(pod)
    affinity = wanted.get("affinity") or {}
    return PodNeeds(
        key=(meta(pod).get("namespace", ""), name_of(pod)),
        uid=uid_of(pod),
        labels=labels(pod),
        node=wanted.get("nodeName", ""),
        owner=owner.get("uid", "") if owner else "",
        asked=total(wanted),
        likely=total(wanted, _likely),
        ports=frozenset(host_ports(wanted)),
        selector=wanted.get("nodeSelector") or {},
        affinity=affinity,
        tolerations=tuple(wanted.get("tolerations") or ()),
        spread=tuple(wanted.get("topologySpreadConstraints") or ()),
        leaving="deletionTimestamp" in meta(pod),
        priority=int(wanted.get("priority") or 0),
    )


def node_room(node: Object) -> NodeRoom:
    """Raises ValueError when a quantity is not one. A node that is not ready counts as tainted so, even in the moment
    before the taint is written."""
    taints = tuple(spec(node).get("taints") or ())
    if not condition_is(node, "Ready") and all(taint.get("key") != NOT_READY["key"] for taint in taints):
        taints = (*taints, NOT_READY)
    return NodeRoom(
        name=name_of(node),
        labels=labels(node),
        taints=taints,
        unschedulable=bool(spec(node).get("unschedulable")),
        allocatable=amounts(status(node).get("allocatable") or status(node).get("capacity")),
    )


def tolerates(tolerations: Iterable[Mapping[str, Any]], taint: Mapping[str, Any]) -> bool:
    return any(toleration_matches(one, taint) for one in tolerations)


def toleration_matches(toleration: Mapping[str, Any], taint: Mapping[str, Any]) -> bool:
    """An empty effect or key matches all; Exists asks for no value."""
    if toleration.get("effect") and toleration["effect"] != taint.get("effect"):
        return False
    if toleration.get("key") and toleration["key"] != taint.get("key"):
        return False
    if toleration.get("operator") == "Exists":
        return True
    return bool(toleration.get("key")) and (toleration.get("value") or "") == (taint.get("value") or "")
