"""DELETE: preconditions, grace periods, finalizers, propagation, whole collections, and the life of namespaces.

Source: behaviour of k8s.io/apiserver registry/generic (BeforeDelete, deletionFinalizersForGarbageCollection), of the
pod and namespace strategies, and of the NamespaceLifecycle admission plugin.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from podwire.apiserver.durations import timestamp
from podwire.apiserver.errors import StatusError, bad_request, conflict, forbidden, success
from podwire.apiserver.questions import refused
from podwire.apiserver.resources import Resource
from podwire.apiserver.rest import Rest
from podwire.apiserver.selection import Selection
from podwire.apiserver.shape import Object, Options
from podwire.apiserver.store import Stored, encode
from podwire.apiserver.validation_meta import Errors
from podwire.model.gvr import CRDS, NAMESPACES, PODS

ORPHAN, FOREGROUND = "orphan", "foregroundDeletion"
CRD_CLEANUP = "customresourcecleanup.apiextensions.k8s.io"
_KEPT = ("default", "kube-system", "kube-public")
_POLICIES = ("Foreground", "Background", "Orphan")


@dataclass(frozen=True, slots=True)
class DeleteOptions:
    """DeleteOptions of meta/v1. `grace` in seconds, None for the object's own."""

    grace: int | None = None
    propagation: str = ""
    uid: str = ""
    resource_version: str = ""


def read_options(body: Object, query: Object) -> DeleteOptions:
    """From the body, where query parameters of the same name fill in. Raises 400."""
    conditions = body.get("preconditions") or {}
    grace = body.get("gracePeriodSeconds", query.get("gracePeriodSeconds"))
    propagation = body.get("propagationPolicy") or query.get("propagationPolicy") or ""
    orphan = body.get("orphanDependents", query.get("orphanDependents"))
    if orphan is not None and not propagation:
        propagation = "Orphan" if orphan in (True, "true") else "Background"
    if propagation and propagation not in _POLICIES:
        errors = Errors()
        errors.unsupported("propagationPolicy", propagation, (*_POLICIES, "nil"))
        raise refused("DeleteOptions", errors)
    try:
        seconds = int(grace) if grace is not None else None
    except (TypeError, ValueError):
        raise bad_request(f"gracePeriodSeconds: {grace!r} is not a number") from None
    return DeleteOptions(seconds, propagation, conditions.get("uid", ""), conditions.get("resourceVersion", ""))


async def delete(
    rest: Rest,
    resource: Resource,
    namespace: str,
    name: str,
    wanted: DeleteOptions,
    options: Options,
    *,
    with_kind: bool = False,
) -> Object | Stored:
    """Delete, or mark for deletion; `with_kind`: because its kind goes. Gives the Status or the object that answers.
    Raises StatusError."""
    stored = rest.latest(resource, namespace, name)
    _check_conditions(resource, stored, wanted)
    if resource.gvr == NAMESPACES and name in _KEPT:
        raise forbidden(NAMESPACES, name, "this namespace may not be deleted")
    if resource.delete and not with_kind:
        resource.delete(rest.admission(options), stored.object)
    obj = stored.copy()
    metadata = obj["metadata"]
    _propagate(metadata, wanted.propagation)
    if resource.gvr == CRDS and _has_instances(rest, obj):
        metadata["finalizers"] = list(dict.fromkeys([*(metadata.get("finalizers") or []), CRD_CLEANUP]))
    grace = _grace(resource, obj, wanted)
    if grace or metadata.get("finalizers") or (resource.gvr == NAMESPACES and obj["spec"].get("finalizers")):
        return await _mark(rest, resource, stored, obj, grace, options)
    if not options.dry_run:
        await rest.store.remove(resource.storage, (namespace, name))
    if resource.gvr == PODS:
        _note_deletion(obj, 0, options)
        return Stored(obj, encode(obj), stored.revision)
    if resource.returns_deleted:
        return rest.versioned(resource, stored)
    return success(resource.gvr, name, metadata.get("uid", ""))


def _check_conditions(resource: Resource, stored: Stored, wanted: DeleteOptions) -> None:
    metadata = stored.object["metadata"]
    for label, asked, have, end in (
        ("UID", wanted.uid, metadata["uid"], "deleted and then recreated"),
        ("ResourceVersion", wanted.resource_version, metadata["resourceVersion"], "modified"),
    ):
        if asked and asked != have:
            why = (
                f"the {label} in the precondition ({asked}) does not match the {label} in record ({have}). "
                f"The object might have been {end}"
            )
            kind, name, group = resource.gvr.kind, metadata["name"], resource.gvr.group
            message = f'Operation cannot be fulfilled on {kind}{"." + group if group else ""} "{name}": {why}'
            details = {"name": name, "kind": kind, **({"group": group} if group else {})}
            raise StatusError(409, "Conflict", message, details)


def _propagate(metadata: Object, propagation: str) -> None:
    """The finalizers that the garbage collector looks for; a policy replaces what an earlier request asked."""
    finalizers = list(metadata.get("finalizers") or [])
    if propagation:
        finalizers = [each for each in finalizers if each not in (ORPHAN, FOREGROUND)]
    if propagation == "Orphan":
        finalizers.append(ORPHAN)
    elif propagation == "Foreground":
        finalizers.append(FOREGROUND)
    if finalizers:
        metadata["finalizers"] = finalizers
    else:
        metadata.pop("finalizers", None)


def _grace(resource: Resource, obj: Object, wanted: DeleteOptions) -> int:
    """Seconds that the object may live on; only a pod on a node gets any."""
    if resource.gvr != PODS:
        return 0
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    if not spec.get("nodeName") or status.get("phase") in ("Succeeded", "Failed"):
        return 0
    grace = wanted.grace if wanted.grace is not None else spec.get("terminationGracePeriodSeconds", 30)
    return max(int(grace), 1) if grace < 0 else int(grace)


def _note_deletion(obj: Object, grace: int, options: Options) -> None:
    """What a pod that goes at once looks like in the answer."""
    metadata = obj["metadata"]
    if not metadata.get("deletionTimestamp"):
        metadata["deletionTimestamp"] = timestamp(options.now + grace)
        metadata["generation"] = metadata.get("generation", 0) + 1
    metadata["deletionGracePeriodSeconds"] = grace


async def _mark(rest: Rest, resource: Resource, stored: Stored, obj: Object, grace: int, options: Options) -> Stored:
    metadata = obj["metadata"]
    before = metadata.get("deletionGracePeriodSeconds")
    if metadata.get("deletionTimestamp") and before is not None and before <= grace:
        grace = before  # a grace period only ever becomes shorter
    elif resource.gvr == PODS or not metadata.get("deletionTimestamp"):
        metadata["deletionTimestamp"] = timestamp(options.now + grace)
    metadata["deletionGracePeriodSeconds"] = grace
    if resource.gvr == NAMESPACES:
        del metadata["deletionGracePeriodSeconds"]
        obj["status"] = {**(obj.get("status") or {}), "phase": "Terminating"}
    if resource.gvr == CRDS:
        _say_terminating(obj, options)
    if obj == stored.object:
        return rest.versioned(resource, stored)
    if metadata.get("generation") and not stored.object["metadata"].get("deletionTimestamp"):
        metadata["generation"] += 1
    if options.dry_run:
        return Stored(obj, encode(obj), stored.revision)
    key = (metadata.get("namespace", ""), metadata["name"])
    marked = await rest.store.put(resource.storage, key, obj)
    assert marked is not None
    return rest.versioned(resource, marked)


def _say_terminating(crd: Object, options: Options) -> None:
    conditions = (crd.get("status") or {}).get("conditions") or []
    if any(each.get("type") == "Terminating" for each in conditions):
        return
    said = {
        "type": "Terminating",
        "status": "True",
        "lastTransitionTime": timestamp(options.now),
        "reason": "InstanceDeletionPending",
        "message": "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon",
    }
    crd["status"] = {**(crd.get("status") or {}), "conditions": [*conditions, said]}


def _has_instances(rest: Rest, crd: Object) -> bool:
    spec = crd.get("spec") or {}
    name = f"{(spec.get('names') or {}).get('plural', '')}.{spec.get('group', '')}"
    return any(True for _ in rest.store.collection(name).all_latest())


async def delete_collection(
    rest: Rest, resource: Resource, selection: Selection, wanted: DeleteOptions, options: Options
) -> list[Stored]:
    """Delete everything that is selected; gives what was there. Raises the first real failure."""
    items = rest.list(resource, selection).items
    results = await asyncio.gather(
        *(_delete_listed(rest, resource, each, wanted, options) for each in items), return_exceptions=True
    )
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return items


async def _delete_listed(
    rest: Rest, resource: Resource, stored: Stored, wanted: DeleteOptions, options: Options
) -> Any:
    metadata = stored.object["metadata"]
    try:
        await delete(rest, resource, metadata.get("namespace", ""), metadata["name"], wanted, options)
    except StatusError as error:
        if error.code != 404:
            raise


async def finalize_namespace(rest: Rest, resource: Resource, name: str, obj: Any, options: Options) -> Stored:
    """PUT namespaces/NAME/finalize: replaces spec.finalizers, and removes the namespace when none is left."""
    stored = rest.latest(resource, "", name)
    if not isinstance(obj, dict):
        raise bad_request("the body is not a Namespace")
    changed = stored.copy()
    asked = (obj.get("metadata") or {}).get("resourceVersion")
    if asked and asked != changed["metadata"]["resourceVersion"]:
        raise conflict(resource.gvr, name)
    changed["spec"] = {"finalizers": (obj.get("spec") or {}).get("finalizers") or []}
    if not changed["spec"]["finalizers"]:
        changed["spec"] = {}
    return await rest.change(resource, stored, changed, options, "finalize")
