"""PATCH: the four patch types over one object or subresource.

Source: behaviour of k8s.io/apiserver endpoints/handlers/patch.go.
"""

from __future__ import annotations

from typing import Any

from podwire.apiserver import shape
from podwire.apiserver.apply import ApplyConflict, ApplyError, apply
from podwire.apiserver.durations import timestamp
from podwire.apiserver.errors import StatusError, bad_request, not_found, unsupported_media_type
from podwire.apiserver.patches import PatchError, json_patch, merge_patch, strategic_merge
from podwire.apiserver.questions import undeclared
from podwire.apiserver.resources import Resource
from podwire.apiserver.rest import Rest
from podwire.apiserver.shape import Object, Options
from podwire.apiserver.store import Stored
from podwire.apiserver.strict import conform, unknown_fields

KINDS = {
    "application/json-patch+json": "json",
    "application/merge-patch+json": "merge",
    "application/strategic-merge-patch+json": "strategic",
    "application/apply-patch+yaml": "apply",
}
_REASONS = {400: "BadRequest", 413: "RequestEntityTooLarge", 415: "UnsupportedMediaType", 422: "Invalid"}


def patched(resource: Resource, kind: str, current: Object, patch: Any) -> Object:
    """A new object from the current one. Raises StatusError."""
    try:
        if kind == "json":
            result = json_patch(current, patch)
        elif kind == "merge":
            result = merge_patch(current, _object(patch))
        else:
            schema = resource.schema
            if resource.is_custom or schema is None:
                raise unsupported_media_type([media for media in KINDS if "strategic" not in media])
            result = strategic_merge(current, _object(patch), schema)
    except PatchError as error:
        raise StatusError(error.status, _REASONS.get(error.status, "Invalid"), str(error)) from error
    if not isinstance(result, dict):
        raise bad_request("the patch does not leave an object")
    return result


def _object(patch: Any) -> Object:
    if not isinstance(patch, dict):
        raise bad_request("error decoding patch: the patch is not an object")
    return patch


async def patch_object(
    rest: Rest,
    resource: Resource,
    namespace: str,
    name: str,
    kind: str,
    patch: Any,
    options: Options,
    subresource: str = "",
) -> tuple[Stored, bool]:
    """The patched object, and whether it was created (by apply)."""
    if kind == "apply":
        return await _apply(rest, resource, namespace, name, _object(patch), options, subresource)

    options.patching = True

    def change(current: Object) -> Object:
        return patched(resource, kind, current, patch)

    return await rest.patch(resource, namespace, name, change, options, subresource), False


async def _apply(
    rest: Rest, resource: Resource, namespace: str, name: str, config: Object, options: Options, subresource: str
) -> tuple[Stored, bool]:
    if not options.manager:
        raise shape.missing_manager()
    if not config.get("apiVersion") or not config.get("kind"):
        raise bad_request(f"invalid object type: {config.get('apiVersion', '/')}, Kind={config.get('kind', '')}")
    given = config["metadata"].get("namespace") or "" if isinstance(config.get("metadata"), dict) else ""
    config = shape.check_identity(resource, config, namespace, name)
    if not resource.is_custom and resource.schema and (unknown := unknown_fields(config, resource.schema)):
        raise undeclared(given, name, config["apiVersion"], config["kind"], unknown)
    shape.read_fields(resource, config, options, partial=True)
    if config["metadata"].get("managedFields"):
        raise bad_request("metadata.managedFields must be nil")
    stored = rest.collection(resource).latest((namespace, name))
    if stored is None and subresource:
        raise not_found(resource.gvr, name)
    live = rest.versioned(resource, stored).copy() if stored else None
    try:
        result = apply(
            live, config, options.manager, options.force, resource.schema, timestamp(options.now), subresource
        )
    except ApplyConflict as error:
        raise StatusError(409, "Conflict", str(error), {"causes": error.causes}) from error
    except ApplyError as error:
        raise StatusError(error.status, _REASONS.get(error.status, "Invalid"), str(error)) from error
    if resource.schema is not None:
        conform(result, resource.schema)
    if stored is None:
        return await rest.create_read(resource, namespace, result, options, applied=True), True
    return await rest.change(resource, stored, result, options, subresource, applied=True), False
