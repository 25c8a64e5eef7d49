"""What a Deployment says about itself: counts, and the conditions Available, Progressing and ReplicaFailure.

Source: k8s.io/kubernetes pkg/controller/deployment/progress.go and sync.go.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from podwire.controllers.objects import Object, condition, meta, moment, name_of, spec, stamp, status, with_condition

NO_DEADLINE = 2**31 - 1


def replicas_of(rs: Object) -> int:
    return int(spec(rs).get("replicas", 1))


def counted(rs: Object, field: str) -> int:
    return int(status(rs).get(field) or 0)


def counts(deployment: Object, new: Object | None, sets: Sequence[Object]) -> Object:
    """The numbers of the status; zeros are left out, as the API writes them."""
    available = sum(counted(rs, "availableReplicas") for rs in sets)
    found = {
        "replicas": sum(counted(rs, "replicas") for rs in sets),
        "updatedReplicas": counted(new, "replicas") if new else 0,
        "readyReplicas": sum(counted(rs, "readyReplicas") for rs in sets),
        "availableReplicas": available,
        "unavailableReplicas": max(0, sum(replicas_of(rs) for rs in sets) - available),
    }
    result: Object = {name: count for name, count in found.items() if count}
    result["observedGeneration"] = meta(deployment).get("generation", 0)
    if "collisionCount" in status(deployment):
        result["collisionCount"] = status(deployment)["collisionCount"]
    return result


def made_condition(kind: str, value: str, reason: str, message: str, now: datetime) -> Object:
    return {
        "type": kind,
        "status": value,
        "reason": reason,
        "message": message,
        "lastUpdateTime": stamp(now),
        "lastTransitionTime": stamp(now),
    }


def set_condition(conditions: list[Object], new: Object) -> list[Object]:
    """Nothing changes when status and reason are the same; the time of transition is kept when the status is."""
    old = next((found for found in conditions if found.get("type") == new["type"]), None)
    if old is not None and old.get("status") == new["status"]:
        if old.get("reason") == new["reason"]:
            return conditions
        new = {**new, "lastTransitionTime": old.get("lastTransitionTime", new["lastTransitionTime"])}
    return with_condition(conditions, new)


def complete(deployment: Object, found: Object) -> bool:
    """Everything asked for is of the new kind and available, and nothing old is left."""
    wanted = replicas_of(deployment)
    return bool(
        found.get("updatedReplicas", 0) == wanted
        and found.get("replicas", 0) == wanted
        and found.get("availableReplicas", 0) == wanted
        and found.get("observedGeneration", 0) >= meta(deployment).get("generation", 0)
    )


def progressing(deployment: Object, found: Object) -> bool:
    """More new, fewer old, more ready or more available pods than the status told before."""
    old = status(deployment)
    old_old = old.get("replicas", 0) - old.get("updatedReplicas", 0)
    return bool(
        found.get("updatedReplicas", 0) > old.get("updatedReplicas", 0)
        or found.get("replicas", 0) - found.get("updatedReplicas", 0) < old_old
        or found.get("readyReplicas", 0) > old.get("readyReplicas", 0)
        or found.get("availableReplicas", 0) > old.get("availableReplicas", 0)
    )


def has_deadline(deployment: Object) -> bool:
    deadline = spec(deployment).get("progressDeadlineSeconds")
    return deadline is not None and deadline != NO_DEADLINE


def deadline_in(deployment: Object, found: Object, now: datetime) -> float | None:
    """Seconds until the roll-out counts as stuck (<= 0: it is), None when that does not apply."""
    told = next((one for one in found.get("conditions") or [] if one.get("type") == "Progressing"), None)
    if not has_deadline(deployment) or told is None or told.get("reason") == "NewReplicaSetAvailable":
        return None
    if told.get("reason") == "ProgressDeadlineExceeded":
        return 0.0
    since = moment(told.get("lastUpdateTime"))
    if since is None:
        return None
    return (since + timedelta(seconds=spec(deployment)["progressDeadlineSeconds"]) - now).total_seconds()


def with_availability(conditions: list[Object], available: int, least: int, now: datetime) -> list[Object]:
    if available >= least:
        said = ("True", "MinimumReplicasAvailable", "Deployment has minimum availability.")
    else:
        said = ("False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability.")
    return set_condition(conditions, made_condition("Available", *said, now))


def with_progress(
    deployment: Object, conditions: list[Object], found: Object, new: Object | None, now: datetime
) -> list[Object]:
    """The Progressing condition after a sync that was not a pause or a scale."""
    subject = f'ReplicaSet "{name_of(new)}"' if new else f'Deployment "{name_of(deployment)}"'
    old = condition(deployment, "Progressing")
    done_before = (
        counted(deployment, "replicas") == counted(deployment, "updatedReplicas")
        and old is not None
        and old.get("reason") == "NewReplicaSetAvailable"
    )
    if not has_deadline(deployment) or done_before:
        return conditions
    if complete(deployment, found):
        words = f"{subject} has successfully progressed."
        return set_condition(conditions, made_condition("Progressing", "True", "NewReplicaSetAvailable", words, now))
    if progressing(deployment, found):
        made = made_condition("Progressing", "True", "ReplicaSetUpdated", f"{subject} is progressing.", now)
        told = next((one for one in conditions if one.get("type") == "Progressing"), None)
        if told is None:
            return [*conditions, made]
        if told.get("status") == "True":
            made["lastTransitionTime"] = told.get("lastTransitionTime", made["lastTransitionTime"])
        return with_condition(conditions, made)
    left = deadline_in(deployment, {"conditions": conditions}, now)
    if left is not None and left <= 0:
        words = f"{subject} has timed out progressing."
        return set_condition(conditions, made_condition("Progressing", "False", "ProgressDeadlineExceeded", words, now))
    return conditions


def with_failures(conditions: list[Object], sets: Sequence[Object], now: datetime) -> list[Object]:
    """ReplicaFailure, copied from the first set that has one."""
    failures = [found for rs in sets if (found := condition(rs, "ReplicaFailure")) and found.get("status") == "True"]
    if not failures:
        return [found for found in conditions if found.get("type") != "ReplicaFailure"]
    first = failures[0]
    said = (first.get("reason", ""), first.get("message", ""))
    return set_condition(conditions, made_condition("ReplicaFailure", "True", *said, now))
