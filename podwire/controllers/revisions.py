"""A Deployment's ReplicaSets as its history: template hash, which one is the new one, revision numbers.

Source: k8s.io/kubernetes pkg/controller/deployment/util. The hash is our own number in upstream's letters: upstream
hashes a dump of Go structs, and nobody may rely on its value.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from podwire.controllers.objects import (
    Object,
    clone,
    labels,
    meta,
    name_of,
    notes,
    owner_reference,
    spec,
    without_none,
)
from podwire.model.gvr import DEPLOYMENTS

HASH = "pod-template-hash"
REVISION = "deployment.kubernetes.io/revision"
HISTORY = "deployment.kubernetes.io/revision-history"
DESIRED = "deployment.kubernetes.io/desired-replicas"
MAX = "deployment.kubernetes.io/max-replicas"
NOT_COPIED = {
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    HISTORY,
    DESIRED,
    MAX,
    "deprecated.deployment.rollback.to",
}
_LETTERS = "bcdfghjklmnpqrstvwxz2456789"  # no vowels, so no words
HISTORY_LIMIT = 2000  # characters


def fnv32a(data: bytes) -> int:
    """The FNV-1a hash, 32 bits."""
    value = 0x811C9DC5
    for byte in data:
        value = (value ^ byte) * 0x01000193 & 0xFFFFFFFF
    return value


def template_hash(template: Any, collisions: int = 0) -> str:
    """A short name for a pod template; `collisions` gives another when two templates meet in one."""
    text = json.dumps(without_none(template), sort_keys=True, separators=(",", ":"))
    number = fnv32a(text.encode() + (str(collisions).encode() if collisions else b""))
    return "".join(_LETTERS[ord(digit) % len(_LETTERS)] for digit in str(number))


def bare(template: Object) -> Any:
    """A template as it is compared: without the hash label and what servers add."""
    copy: Any = without_none(template)
    metadata = dict(copy.get("metadata") or {})
    metadata.pop("creationTimestamp", None)
    metadata["labels"] = {key: value for key, value in (metadata.get("labels") or {}).items() if key != HASH}
    return {**copy, "metadata": {key: value for key, value in metadata.items() if value}}


def age(rs: Object) -> tuple[str, str]:
    """Sorts sets from the oldest to the youngest."""
    return meta(rs).get("creationTimestamp") or "", name_of(rs)


def find_new(deployment: Object, sets: Sequence[Object]) -> Object | None:
    """The set that has the deployment's template; of several, the oldest."""
    wanted = bare(spec(deployment).get("template") or {})
    return next((rs for rs in sorted(sets, key=age) if bare(spec(rs).get("template") or {}) == wanted), None)


def revision(obj: Object) -> int:
    """0 when it has none."""
    try:
        return int(notes(obj).get(REVISION, "0"))
    except ValueError:
        return 0


def next_revision(olds: Sequence[Object]) -> int:
    return max((revision(rs) for rs in olds), default=0) + 1


def set_annotations(deployment: Object, rs: Object, number: int, *, desired: int, most: int) -> dict[str, str]:
    """The annotations that the new set should have: the deployment's own, the revision, the wanted sizes."""
    wanted = dict(notes(rs))
    wanted.update({key: value for key, value in notes(deployment).items() if key not in NOT_COPIED})
    before = revision(rs)
    if before < number:
        if before:
            past = [*filter(None, wanted.get(HISTORY, "").split(",")), str(before)]
            while len(",".join(past)) > HISTORY_LIMIT:
                past.pop(0)
            wanted[HISTORY] = ",".join(past)
        wanted[REVISION] = str(number)
    return {**wanted, **sizes(desired, most)}


def sizes(desired: int, most: int) -> dict[str, str]:
    return {DESIRED: str(desired), MAX: str(most)}


def new_set(deployment: Object, number: int, replicas: int, most: int) -> Object:
    """The ReplicaSet to create for the deployment's template."""
    collisions = int((deployment.get("status") or {}).get("collisionCount") or 0)
    template = clone(spec(deployment).get("template") or {})
    number_name = template_hash(bare(template), collisions)
    metadata = template.setdefault("metadata", {})
    metadata["labels"] = {**(metadata.get("labels") or {}), HASH: number_name}
    selector = clone(spec(deployment).get("selector") or {})
    selector["matchLabels"] = {**(selector.get("matchLabels") or {}), HASH: number_name}
    rs: Object = {
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "metadata": {
            "name": f"{name_of(deployment)}-{number_name}",
            "namespace": meta(deployment).get("namespace", ""),
            "labels": {**labels({"metadata": metadata})},
            "ownerReferences": [owner_reference(DEPLOYMENTS, deployment)],
        },
        "spec": {"replicas": replicas, "selector": selector, "template": template},
    }
    if seconds := spec(deployment).get("minReadySeconds"):
        rs["spec"]["minReadySeconds"] = seconds
    wanted = spec(deployment).get("replicas", 1)
    rs["metadata"]["annotations"] = set_annotations(deployment, rs, number, desired=wanted, most=most)
    return rs


def superfluous(deployment: Object, olds: Sequence[Object]) -> list[Object]:
    """Old sets without pods beyond revisionHistoryLimit, lowest revision first."""
    limit = spec(deployment).get("revisionHistoryLimit")
    if limit is None:
        limit = 10
    settled = [rs for rs in olds if "deletionTimestamp" not in meta(rs)]
    over = max(0, len(settled) - int(limit))
    oldest = sorted(settled, key=lambda rs: (revision(rs), age(rs)))[:over]
    return [
        rs
        for rs in oldest
        if int(spec(rs).get("replicas", 1)) == 0
        and not (rs.get("status") or {}).get("replicas")
        and meta(rs).get("generation", 0) <= (rs.get("status") or {}).get("observedGeneration", 0)
    ]
