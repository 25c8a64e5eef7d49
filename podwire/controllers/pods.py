"""What controllers ask of a pod: is it active, ready, available, and which of several goes first."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from podwire.controllers.objects import (
    Object,
    condition,
    condition_is,
    meta,
    moment,
    name_of,
    notes,
    spec,
    status,
)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
DELETION_COST = "controller.kubernetes.io/pod-deletion-cost"


def phase(pod: Object) -> str:
    return str(status(pod).get("phase") or "Pending")


def finished(pod: Object) -> bool:
    """Ran to its end; holds no resources any more."""
    return phase(pod) in ("Succeeded", "Failed")


def active(pod: Object) -> bool:
    """Counts as a replica: neither finished nor on its way out."""
    return not finished(pod) and "deletionTimestamp" not in meta(pod)


def ready(pod: Object) -> bool:
    return condition_is(pod, "Ready")


def ready_since(pod: Object) -> datetime | None:
    found = condition(pod, "Ready")
    if found is None or found.get("status") != "True":
        return None
    return moment(found.get("lastTransitionTime")) or _EPOCH


def available_in(pod: Object, min_ready_seconds: int, now: datetime) -> float | None:
    """Seconds until the pod counts as available: 0 when it does, None while it is not ready."""
    since = ready_since(pod)
    if since is None:
        return None
    return max(0.0, (since + timedelta(seconds=min_ready_seconds) - now).total_seconds())


def available(pod: Object, min_ready_seconds: int, now: datetime) -> bool:
    return ready(pod) and (min_ready_seconds == 0 or available_in(pod, min_ready_seconds, now) == 0.0)


def restarts(pod: Object) -> int:
    return sum(int(found.get("restartCount") or 0) for found in status(pod).get("containerStatuses") or [])


def deletion_cost(pod: Object) -> int:
    """Lower goes first; 0 when unset or not a number."""
    try:
        return int(notes(pod).get(DELETION_COST, "0"))
    except ValueError:
        return 0


def deletion_rank(pod: Object, together: int) -> tuple[Any, ...]:
    """Sorts the pods that are best deleted first to the front. `together`: how many pods of the same set run on its
    node. Source: the order of k8s.io/kubernetes controller.ActivePodsWithRanks."""
    is_ready = ready(pod)
    since, born = ready_since(pod) or _EPOCH, moment(meta(pod).get("creationTimestamp")) or _EPOCH
    return (
        bool(spec(pod).get("nodeName")),
        {"Pending": 0, "Unknown": 1}.get(phase(pod), 2),
        is_ready,
        deletion_cost(pod),
        -together,
        -since.timestamp() if is_ready else 0.0,
        -restarts(pod),
        -born.timestamp(),
        name_of(pod),
    )
