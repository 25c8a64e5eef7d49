"""The options of a request's query, refused as upstream refuses them.

Source: apimachinery meta/v1 and internalversion validation (ValidateListOptions, ValidateCreateOptions and its kin).
"""

from __future__ import annotations

from collections.abc import Sequence

from podwire.apiserver.errors import StatusError
from podwire.apiserver.validation_meta import Errors
from podwire.http.server import Request

_VALIDATIONS = ("Strict", "Warn", "Ignore")
_WRITES = {"POST": "CreateOptions", "PUT": "UpdateOptions", "PATCH": "PatchOptions", "DELETE": "DeleteOptions"}
_NOT_OLDER, _EXACT = "NotOlderThan", "Exact"


def refused(kind: str, errors: Errors) -> StatusError:
    """422 about options."""
    said = [f"{each.field}: {each.message}" for each in errors]
    text = said[0] if len(said) == 1 else "[" + ", ".join(said) + "]"
    causes = [{"reason": each.type, "message": each.message, "field": each.field} for each in errors]
    details = {"group": "meta.k8s.io", "kind": kind, "causes": causes}
    return StatusError(422, "Invalid", f'{kind}.meta.k8s.io "" is invalid: {text}', details)


def check_write(method: str, dry: Sequence[str], validation: str) -> None:
    """dryRun and fieldValidation of a write. Raises 422."""
    errors = Errors()
    if any(each not in ("All", "") for each in dry):
        errors.unsupported("dryRun", list(dry), ("All",))
    if validation not in _VALIDATIONS:
        errors.unsupported("fieldValidation", validation, ("", *sorted(_VALIDATIONS)))
    if errors:
        raise refused(_WRITES.get(method, "CreateOptions"), errors)


def check_list(request: Request, *, watch: bool) -> None:
    """resourceVersionMatch and sendInitialEvents of a list or watch. Raises 422."""
    match, initial = request.argument("resourceVersionMatch"), request.argument("sendInitialEvents")
    if not match and not initial:
        return
    errors = Errors()
    if watch:
        _check_watch(errors, match, bool(initial), bool(request.argument("continue")))
    else:
        _check_list(errors, request, match, bool(initial))
    if errors:
        raise refused("ListOptions", errors)


def _check_watch(errors: Errors, match: str, initial: bool, continued: bool) -> None:
    path = "resourceVersionMatch"
    if initial and match != _NOT_OLDER:
        errors.forbidden(path, f"sendInitialEvents requires setting resourceVersionMatch to {_NOT_OLDER}")
    if not match:
        return
    if not initial:
        errors.forbidden(path, "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided")
    if match != _NOT_OLDER:
        errors.unsupported(path, match, (_NOT_OLDER,))
    if continued:
        errors.forbidden(path, "resourceVersionMatch is forbidden when continue is provided")


def _check_list(errors: Errors, request: Request, match: str, initial: bool) -> None:
    path, version = "resourceVersionMatch", request.argument("resourceVersion")
    if match:
        if not version:
            errors.forbidden(path, "resourceVersionMatch is forbidden unless resourceVersion is provided")
        if request.argument("continue"):
            errors.forbidden(path, "resourceVersionMatch is forbidden when continue is provided")
        if match not in (_EXACT, _NOT_OLDER):
            errors.unsupported(path, match, (_EXACT, _NOT_OLDER, ""))
        if match == _EXACT and version == "0":
            errors.forbidden(path, 'resourceVersionMatch "exact" is forbidden for resourceVersion "0"')
    if initial:
        errors.forbidden("sendInitialEvents", "sendInitialEvents is forbidden for list")


def undeclared(namespace: str, name: str, api_version: str, kind: str, unknown: Sequence[str]) -> StatusError:
    """What server-side apply says of fields that the type does not have: `unknown` are messages of conform."""
    said = [f".{each.split(chr(34))[1]}: field not declared in schema" for each in unknown]
    text = said[0] if len(said) == 1 else "errors:\n" + "\n".join(f"  {each}" for each in said)
    version = api_version if "/" in api_version else f"/{api_version}"
    return StatusError(
        500, "", f"failed to create typed patch object ({namespace}/{name}; {version}, Kind={kind}): {text}"
    )
