"""Reading Kubernetes objects: metadata, owners, conditions, times. Nothing here changes what it is given."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from podwire.model.gvr import GVR

Object = dict[str, Any]


def meta(obj: Object) -> Object:
    """metadata, {} when there is none."""
    return obj.get("metadata") or {}


def spec(obj: Object) -> Object:
    return obj.get("spec") or {}


def status(obj: Object) -> Object:
    return obj.get("status") or {}


def name_of(obj: Object) -> str:
    return str(meta(obj).get("name", ""))


def uid_of(obj: Object) -> str:
    return str(meta(obj).get("uid", ""))


def labels(obj: Object) -> dict[str, str]:
    return meta(obj).get("labels") or {}


def notes(obj: Object) -> dict[str, str]:
    """The annotations (that name belongs to the language)."""
    return meta(obj).get("annotations") or {}


def owners(obj: Object) -> list[Object]:
    return meta(obj).get("ownerReferences") or []


def controller_of(obj: Object) -> Object | None:
    """The one owner reference with controller: true."""
    return next((ref for ref in owners(obj) if ref.get("controller")), None)


def controlled_by(obj: Object, owner: Object) -> bool:
    ref = controller_of(obj)
    return ref is not None and ref.get("uid") == uid_of(owner)


def owner_reference(gvr: GVR, owner: Object) -> Object:
    """How a controller marks what it makes."""
    return {
        "apiVersion": gvr.api_version,
        "kind": gvr.kind,
        "name": name_of(owner),
        "uid": uid_of(owner),
        "controller": True,
        "blockOwnerDeletion": True,
    }


def clone(value: Any) -> Any:
    """A deep copy of JSON (much cheaper than copy.deepcopy)."""
    if isinstance(value, dict):
        return {key: clone(item) for key, item in value.items()}
    if isinstance(value, list):
        return [clone(item) for item in value]
    return value


def without_none(value: Any) -> Any:
    """JSON with explicit nulls left out, as two writers of the same object differ in them."""
    if isinstance(value, dict):
        return {key: without_none(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [without_none(item) for item in value]
    return value


def condition(obj: Object, kind: str) -> Object | None:
    return next((found for found in status(obj).get("conditions") or [] if found.get("type") == kind), None)


def condition_is(obj: Object, kind: str, value: str = "True") -> bool:
    found = condition(obj, kind)
    return found is not None and found.get("status") == value


def with_condition(conditions: Iterable[Object], new: Object) -> list[Object]:
    """The list with `new` in place of the one of its type; order is kept."""
    result, placed = [], False
    for old in conditions:
        if old.get("type") == new["type"]:
            result.append(new)
            placed = True
        else:
            result.append(old)
    return result if placed else [*result, new]


def stamp(moment: datetime, *, micro: bool = False) -> str:
    """metav1.Time (seconds), or MicroTime."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ" if micro else "%Y-%m-%dT%H:%M:%SZ")


def moment(text: str | None) -> datetime | None:
    """A timestamp of the API, None when absent or unreadable."""
    if not text:
        return None
    try:
        found = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def template_pod(template: Object, namespace: str, *, prefix: str, owner: Object) -> Object:
    """A pod to create from a pod template, with a generated name. Finalizers come along, as upstream does it."""
    made: Object = {"generateName": prefix, "namespace": namespace, "ownerReferences": [owner]}
    for field in ("labels", "annotations", "finalizers"):
        if meta(template).get(field):
            made[field] = clone(meta(template)[field])
    return {"apiVersion": "v1", "kind": "Pod", "metadata": made, "spec": clone(spec(template))}


def pod_prefix(owner: str) -> str:
    """What generated pod names begin with. A pod's name has at most 63 characters, five of them generated."""
    return f"{owner}-" if len(owner) <= 57 else owner[:57] + "-"
