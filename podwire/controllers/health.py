"""What a node's state means: conditions when it falls silent, taints by condition, pods that must leave.

Decisions only. Source: k8s.io/kubernetes pkg/controller/nodelifecycle and pkg/controller/tainteviction.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from podwire.controllers.needs import toleration_matches
from podwire.controllers.objects import Object, condition, moment, spec, stamp, status, with_condition

GRACE_SECONDS = 40.0
NOT_READY = "node.kubernetes.io/not-ready"
UNREACHABLE = "node.kubernetes.io/unreachable"
UNSCHEDULABLE = "node.kubernetes.io/unschedulable"
_CONDITIONS = ("Ready", "MemoryPressure", "DiskPressure", "PIDPressure")
_PRESSURE = {
    "MemoryPressure": "node.kubernetes.io/memory-pressure",
    "DiskPressure": "node.kubernetes.io/disk-pressure",
    "PIDPressure": "node.kubernetes.io/pid-pressure",
    "NetworkUnavailable": "node.kubernetes.io/network-unavailable",
}
OURS = {NOT_READY, UNREACHABLE, UNSCHEDULABLE, *_PRESSURE.values()}


def silent_conditions(node: Object, now: datetime) -> list[Object]:
    """The conditions of a node whose heartbeats stopped: everything it said is unknown now."""
    conditions = list(status(node).get("conditions") or [])
    for kind in _CONDITIONS:
        old = condition(node, kind)
        if old is not None and old.get("status") == "Unknown":
            continue
        if old is None:
            told = {"reason": "NodeStatusNeverUpdated", "message": "Kubelet never posted node status."}
        else:
            told = {"reason": "NodeStatusUnknown", "message": "Kubelet stopped posting node status."}
        new = {**(old or {}), "type": kind, "status": "Unknown", **told, "lastTransitionTime": stamp(now)}
        conditions = with_condition(conditions, new)
    return conditions


def ready_state(node: Object) -> str:
    """True, False or Unknown; a node that never said anything is Unknown."""
    return str((condition(node, "Ready") or {}).get("status") or "Unknown")


def taints(node: Object, now: datetime, *, evict: bool) -> list[Object]:
    """All taints that the node should have: those that are not ours stay as they are. `evict` is false while no node
    at all is ready: then it is more likely that we are cut off than that all nodes died."""
    wanted: list[tuple[str, str]] = []
    state = ready_state(node)
    if state != "True":
        key = NOT_READY if state == "False" else UNREACHABLE
        wanted.append((key, "NoSchedule"))
        if evict:
            wanted.append((key, "NoExecute"))
    wanted += [
        (key, "NoSchedule") for kind, key in _PRESSURE.items() if (condition(node, kind) or {}).get("status") == "True"
    ]
    if spec(node).get("unschedulable"):
        wanted.append((UNSCHEDULABLE, "NoSchedule"))
    present = list(spec(node).get("taints") or [])
    result = [one for one in present if one.get("key") not in OURS or (one.get("key"), one.get("effect")) in wanted]
    have = {(one.get("key"), one.get("effect")) for one in result}
    for key, effect in wanted:
        if (key, effect) not in have:
            added: Object = {"key": key, "effect": effect}
            if effect == "NoExecute" or key == UNSCHEDULABLE:
                added["timeAdded"] = stamp(now)
            result.append(added)
    return result


def leaves_in(
    tolerations: Iterable[Mapping[str, Any]], node_taints: Sequence[Mapping[str, Any]], now: datetime
) -> float | None:
    """Seconds until a pod must leave a node with these taints (0: now), None when it may stay."""
    tolerated = list(tolerations)
    soonest: float | None = None
    for taint in node_taints:
        if taint.get("effect") != "NoExecute":
            continue
        matching = [one for one in tolerated if toleration_matches(one, taint)]
        if not matching:
            return 0.0
        limits = [float(one["tolerationSeconds"]) for one in matching if one.get("tolerationSeconds") is not None]
        if not limits:
            continue
        since = moment(taint.get("timeAdded")) or now
        left = max(0.0, (since + timedelta(seconds=max(0.0, min(limits))) - now).total_seconds())
        soonest = left if soonest is None else min(soonest, left)
    return soonest
