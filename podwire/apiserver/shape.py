"""From what a client sent to an object that may be stored: names, types, unknown fields, defaults, validation.

The rules of the kinds live in defaults, validation and crds; this page calls them in upstream's order and words their
answers as Status errors.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import Any

from podwire.apiserver import crds
from podwire.apiserver.admission import ADMIN, User
from podwire.apiserver.defaults import default
from podwire.apiserver.errors import StatusCause, StatusError, bad_request, invalid
from podwire.apiserver.resources import Resource
from podwire.apiserver.strict import TypeMismatch, conform
from podwire.apiserver.validation import validate

Object = dict[str, Any]


@dataclass(slots=True)
class Options:
    """How a write was asked for. `validation` is Strict, Warn or Ignore; `warnings` go back to the client; `manager`
    names the writer in managedFields; `force` takes fields over from other appliers."""

    user: User = ADMIN
    dry_run: bool = False
    manager: str = "unknown"
    validation: str = "Warn"
    force: bool = False
    warnings: list[str] = field(default_factory=list)
    duplicates: list[str] = field(default_factory=list)
    patching: bool = False  # what the decoder refuses is the patch's fault
    now: float = field(default_factory=time.time)


def check_identity(resource: Resource, obj: Any, namespace: str, name: str = "") -> Object:
    """Make sure that the body is an object of this kind, in this namespace, of this name; fill in what is left out.
    Raises StatusError 400."""
    gvr = resource.gvr
    if not isinstance(obj, dict):
        raise bad_request(f"couldn't get version/kind; json parse error: the body is not a {gvr.kind} object")
    if obj.setdefault("apiVersion", gvr.api_version) != gvr.api_version:
        raise bad_request(
            f"the API version in the data ({obj['apiVersion']}) does not match the expected API version "
            f"({gvr.api_version})"
        )
    if obj.setdefault("kind", gvr.kind) != gvr.kind and resource.is_custom:
        cause = StatusCause("FieldValueInvalid", f'Invalid value: "{obj["kind"]}": must be {gvr.kind}', "kind")
        raise invalid(replace(gvr, kind=str(obj["kind"])), str((obj.get("metadata") or {}).get("name", "")), [cause])
    if obj["kind"] != gvr.kind:
        raise bad_request(f'{obj["kind"]} in version "{gvr.version}" cannot be handled as a {gvr.kind}')
    metadata = obj.get("metadata")
    if metadata is None:
        metadata = obj["metadata"] = {}
    if not isinstance(metadata, dict):
        raise bad_request("metadata must be an object")
    if gvr.namespaced:
        if (metadata.get("namespace") or namespace) != namespace:
            raise bad_request("the namespace of the provided object does not match the namespace sent on the request")
        metadata["namespace"] = namespace
    else:
        metadata.pop("namespace", None)
    if name and (metadata.get("name") or name) != name:
        raise bad_request(f"the name of the object ({metadata['name']}) does not match the name on the URL ({name})")
    if name:
        metadata["name"] = name
    return obj


def read_fields(resource: Resource, obj: Object, options: Options, *, partial: bool = False) -> None:
    """Drop fields that the kind does not have, as a typed decoder does, and complain as fieldValidation asks.
    A `partial` object is an applied configuration. Raises StatusError 400."""
    schema = resource.schema
    if schema is None:
        return
    gvr = resource.gvr
    prefix = f'{gvr.kind} in version "{gvr.version}" cannot be handled as a {gvr.kind}: '
    try:
        found = conform(obj, schema, partial=partial)
        unknown = [*options.duplicates, *(sorted(found) if resource.is_custom else found)]
    except TypeMismatch as error:
        raise bad_request(prefix + str(error)) from error
    if not unknown or options.validation == "Ignore":
        return
    if options.validation == "Strict" and options.patching:
        message = f"Invalid value: strict decoding error: {', '.join(unknown)}"
        cause = {"reason": "FieldValueInvalid", "message": message, "field": "patch"}
        raise StatusError(422, "Invalid", f' "" is invalid: patch: {message}', {"causes": [cause]})
    if options.validation == "Strict":
        raise bad_request(prefix + "strict decoding error: " + ", ".join(unknown))
    options.warnings += [each for each in unknown if each not in options.warnings]


def fill_in(resource: Resource, obj: Object) -> None:
    """Defaults, in place."""
    if resource.is_custom:
        if resource.custom is not None:
            crds.default_object(obj, resource.custom)
    else:
        default(obj)


def check(resource: Resource, obj: Object, old: Object | None) -> None:
    """Raise 422 with every cause when the object (or the change from `old`) is not valid."""
    if resource.is_custom:
        found = crds.validate_object(obj, old, resource.custom)
    else:
        found = validate(obj, old)
    if found:
        causes = [StatusCause(each.type, each.message, each.field) for each in found]
        raise invalid(resource.gvr, obj["metadata"].get("name", ""), causes)


def same(new: Object, old: Object) -> bool:
    """Nothing that a client can see differs, but for resourceVersion and the times in managedFields."""
    for key in new.keys() | old.keys():
        if key != "metadata" and new.get(key) != old.get(key):
            return False
    ours, theirs = dict(new["metadata"]), dict(old["metadata"])
    for metadata in (ours, theirs):
        metadata.pop("resourceVersion", None)
        metadata["managedFields"] = [
            {key: value for key, value in entry.items() if key != "time"}
            for entry in metadata.get("managedFields") or []
        ]
    return ours == theirs


def missing_manager() -> StatusError:
    message = 'PatchOptions.meta.k8s.io "" is invalid: fieldManager: Required value: is required for apply patch'
    cause = {"reason": "FieldValueRequired", "message": "Required value: is required for apply patch"}
    details = {"group": "meta.k8s.io", "kind": "PatchOptions", "causes": [{**cause, "field": "fieldManager"}]}
    return StatusError(422, "Invalid", message, details)
