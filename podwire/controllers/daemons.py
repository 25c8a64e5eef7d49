"""On which nodes a DaemonSet's pods belong, and which to make or delete now: decisions only.

Source: k8s.io/kubernetes pkg/controller/daemon.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from podwire.controllers import pods
from podwire.controllers.fit import node_matches
from podwire.controllers.needs import NodeRoom, PodNeeds, tolerates
from podwire.controllers.objects import Object, clone, labels, meta, name_of, spec
from podwire.controllers.rollout import resolve

HASH = "controller-revision-hash"
GENERATION = "pod-template-generation"

# What every daemon lives with: it belongs to the node and not to the workload.
_TOLERATED = [
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
]
_TOLERATED_ON_HOST = [("node.kubernetes.io/network-unavailable", "NoSchedule")]


@dataclass(frozen=True)
class Placement:
    """`run`: the pod may start on the node. `stay`: one that runs there may go on."""

    run: bool
    stay: bool


@dataclass(frozen=True)
class Work:
    """Names of nodes that get a pod, and pods to delete."""

    create: tuple[str, ...]
    delete: tuple[Object, ...]


def tolerations(pod_spec: Mapping[str, Any]) -> list[Object]:
    """The template's tolerations with those of every daemon."""
    wanted = list(pod_spec.get("tolerations") or [])
    added = _TOLERATED + (_TOLERATED_ON_HOST if pod_spec.get("hostNetwork") else [])
    for key, effect in added:
        toleration = {"key": key, "operator": "Exists", "effect": effect}
        if toleration not in wanted:
            wanted.append(toleration)
    return wanted


def pinned(pod_spec: Object, node: str) -> Object:
    """The pod's spec, bound to one node by affinity: the scheduler still has the last word on room."""
    result: Object = clone(pod_spec)
    field = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}
    affinity = result.setdefault("affinity", {}).setdefault("nodeAffinity", {})
    # Upstream replaces the terms too: they were weighed when the node was chosen.
    affinity["requiredDuringSchedulingIgnoredDuringExecution"] = {"nodeSelectorTerms": [field]}
    result["tolerations"] = tolerations(pod_spec)
    return result


def pinned_to(pod: Object) -> str:
    """The node of a daemon's pod, also before it is scheduled."""
    if spec(pod).get("nodeName"):
        return str(spec(pod)["nodeName"])
    affinity = (spec(pod).get("affinity") or {}).get("nodeAffinity") or {}
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution") or {}
    for term in required.get("nodeSelectorTerms") or []:
        for field in term.get("matchFields") or []:
            if field.get("key") == "metadata.name" and len(field.get("values") or []) == 1:
                return str(field["values"][0])
    return ""


def placement(daemon: PodNeeds, node: NodeRoom) -> Placement:
    """`daemon` is the template with its tolerations; the readiness of the node does not matter, its taints do."""
    if not node_matches(daemon, node):
        return Placement(False, False)
    bad = [taint for taint in node.taints if not tolerates(daemon.tolerations, taint)]
    run = all(taint.get("effect") not in ("NoSchedule", "NoExecute") for taint in bad)
    return Placement(run, all(taint.get("effect") != "NoExecute" for taint in bad))


def missing_and_surplus(
    places: Mapping[str, Placement], by_node: Mapping[str, Sequence[Object]], *, surge: bool
) -> Work:
    """One living pod on each node where one belongs; failed ones are replaced. With surge a node may hold two for the
    time of an update."""
    create, delete = [], []
    for node, place in places.items():
        here = [pod for pod in by_node.get(node, []) if "deletionTimestamp" not in meta(pod)]
        failed = [pod for pod in here if pods.phase(pod) in ("Failed", "Succeeded")]
        alive = [pod for pod in here if pod not in failed]
        if place.run or (place.stay and here):
            delete += failed
            # A pod on its way out still holds ports and files: its place is free once it is gone.
            if place.run and (not by_node.get(node) or (surge and not here)):
                create.append(node)
            if not surge and len(alive) > 1:
                delete += sorted(alive, key=_first_placed)[1:]
        elif not place.stay:
            delete += here
    for node, found in by_node.items():
        if node and node not in places:
            delete += [pod for pod in found if "deletionTimestamp" not in meta(pod) and not spec(pod).get("nodeName")]
    return Work(tuple(create), tuple(delete))


def _first_placed(pod: Object) -> tuple[bool, bool, str, str]:
    return not spec(pod).get("nodeName"), not pods.ready(pod), meta(pod).get("creationTimestamp") or "", name_of(pod)


def current(pod: Object, revision: str) -> bool:
    """Made from the present template."""
    return labels(pod).get(HASH) == revision


def update_bounds(daemonset: Object, desired: int) -> tuple[int, int]:
    """(surge, unavailable) in nodes; exactly one of them is above zero."""
    update = (spec(daemonset).get("updateStrategy") or {}).get("rollingUpdate") or {}
    surge = resolve(update.get("maxSurge"), desired, up=True, default=0)
    unavailable = resolve(update.get("maxUnavailable"), desired, up=True, default=1)
    if surge:
        return surge, 0
    return 0, max(1, unavailable)


def rolling(
    daemonset: Object,
    places: Mapping[str, Placement],
    by_node: Mapping[str, Sequence[Object]],
    revision: str,
    now: datetime,
) -> Work:
    """The next step of an update: old pods that may go now; with surge, nodes that get the new pod beside the old."""
    nodes = sorted(node for node, place in places.items() if place.run)
    surge, unavailable = update_bounds(daemonset, len(nodes))
    seconds = int(spec(daemonset).get("minReadySeconds") or 0)
    down, surging = 0, 0
    free: list[Object] = []  # old and not available: may go at once
    candidates: list[Object] = []
    grow: list[str] = []
    for node in nodes:
        here = [pod for pod in by_node.get(node, []) if "deletionTimestamp" not in meta(pod) and not pods.finished(pod)]
        old = [pod for pod in here if not current(pod, revision)]
        new = [pod for pod in here if current(pod, revision)]
        up = [pod for pod in here if pods.available(pod, seconds, now)]
        if not up:
            down += 1
        if surge:
            if old and new:
                surging += 1
                if any(pod in up for pod in new) or not any(pod in up for pod in old):
                    free += old
            elif old:
                if any(pod in up for pod in old):
                    grow.append(node)
                else:
                    free += old
            continue
        for pod in old:
            (candidates if pod in up else free).append(pod)
    if surge:
        return Work(tuple(grow[: max(0, surge - surging)]), tuple(free))
    return Work((), (*free, *candidates[: max(0, unavailable - down)]))


def new_status(
    daemonset: Object,
    places: Mapping[str, Placement],
    by_node: Mapping[str, Sequence[Object]],
    revision: str,
    now: datetime,
) -> Object:
    """The counts that `kubectl rollout status` and `get` show. Unlike other kinds, zeros of the required ones stay."""
    seconds = int(spec(daemonset).get("minReadySeconds") or 0)
    counts = dict.fromkeys(("scheduled", "desired", "misscheduled", "ready", "updated", "available"), 0)
    for node, place in places.items():
        here = [pod for pod in by_node.get(node, []) if "deletionTimestamp" not in meta(pod) and not pods.finished(pod)]
        if not place.run:
            counts["misscheduled"] += bool(here)
            continue
        counts["desired"] += 1
        counts["scheduled"] += bool(here)
        counts["ready"] += any(pods.ready(pod) for pod in here)
        counts["available"] += any(pods.available(pod, seconds, now) for pod in here)
        counts["updated"] += any(current(pod, revision) for pod in here)
    result: Object = {
        "currentNumberScheduled": counts["scheduled"],
        "numberMisscheduled": counts["misscheduled"],
        "desiredNumberScheduled": counts["desired"],
        "numberReady": counts["ready"],
        "observedGeneration": meta(daemonset).get("generation", 0),
    }
    optional = {
        "updatedNumberScheduled": counts["updated"],
        "numberAvailable": counts["available"],
        "numberUnavailable": counts["desired"] - counts["available"],
    }
    result.update({name: count for name, count in optional.items() if count})
    for kept in ("collisionCount", "conditions"):
        if kept in (daemonset.get("status") or {}):
            result[kept] = daemonset["status"][kept]
    return result
