"""Status: the one error of the Kubernetes API, with the words and details that clients know.

`StatusError` is raised anywhere in this room and becomes a `Status` object at its edge (HTTP or the in-process
client). Source: k8s.io/apimachinery api/errors and meta/v1 StatusReason.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from podwire.model.gvr import GVR


@dataclass(frozen=True, slots=True)
class StatusCause:
    """One entry of details.causes: what is wrong with one field."""

    reason: str
    message: str
    field: str = ""


@dataclass(eq=False)
class StatusError(Exception):
    """A refusal. `code` is the HTTP status, `reason` the machine-readable word; str() is the message."""

    code: int
    reason: str
    message: str
    details: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.message

    def status(self) -> dict[str, Any]:
        """The Status object to send."""
        found: dict[str, Any] = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "details": self.details,
            "code": self.code,
        }
        if not self.details:
            del found["details"]
        if not self.reason:
            del found["reason"]
        return found


def qualified(gvr: GVR) -> str:
    """`pods`, `deployments.apps`: how messages name a resource."""
    return f"{gvr.plural}.{gvr.group}" if gvr.group else gvr.plural


def _details(gvr: GVR, name: str, kind: str = "") -> dict[str, Any]:
    found = {"name": name, "group": gvr.group, "kind": kind or gvr.plural}
    return {key: value for key, value in found.items() if value}


def not_found(gvr: GVR, name: str) -> StatusError:
    return StatusError(404, "NotFound", f'{qualified(gvr)} "{name}" not found', _details(gvr, name))


def already_exists(gvr: GVR, name: str) -> StatusError:
    return StatusError(409, "AlreadyExists", f'{qualified(gvr)} "{name}" already exists', _details(gvr, name))


MODIFIED = "the object has been modified; please apply your changes to the latest version and try again"


def conflict(gvr: GVR, name: str, why: str = MODIFIED, subresource: str = "") -> StatusError:
    what = f"{qualified(gvr)}/{subresource}" if subresource else qualified(gvr)
    message = f'Operation cannot be fulfilled on {what} "{name}": {why}'
    return StatusError(
        409, "Conflict", message, _details(gvr, name, f"{gvr.plural}/{subresource}" if subresource else "")
    )


def invalid(gvr: GVR, name: str, causes: Sequence[StatusCause]) -> StatusError:
    kind = f"{gvr.kind}.{gvr.group}" if gvr.group else gvr.kind
    said = list(dict.fromkeys(f"{cause.field}: {cause.message}" if cause.field else cause.message for cause in causes))
    text = said[0] if len(said) == 1 else "[" + ", ".join(said) + "]"
    details = _details(gvr, name, gvr.kind)
    details["causes"] = [{"reason": cause.reason, "message": cause.message, "field": cause.field} for cause in causes]
    return StatusError(422, "Invalid", f'{kind} "{name}" is invalid: {text}', details)


def forbidden(gvr: GVR, name: str, why: str, causes: Sequence[StatusCause] = ()) -> StatusError:
    what = f'{qualified(gvr)} "{name}"' if name else qualified(gvr)
    details = _details(gvr, name)
    if causes:
        details["causes"] = [
            {"reason": cause.reason, "message": cause.message, "field": cause.field} for cause in causes
        ]
    return StatusError(403, "Forbidden", f"{what} is forbidden: {why}", details)


def bad_request(message: str) -> StatusError:
    return StatusError(400, "BadRequest", message)


def unauthorized() -> StatusError:
    return StatusError(401, "Unauthorized", "Unauthorized")


def method_not_allowed(why: str = "") -> StatusError:
    message = "the server does not allow this method on the requested resource"
    return StatusError(405, "MethodNotAllowed", f"{message}: {why}" if why else message)


def not_acceptable(accepted: Sequence[str]) -> StatusError:
    message = f"only the following media types are accepted: {', '.join(accepted)}"
    return StatusError(406, "NotAcceptable", message)


def unsupported_media_type(accepted: Sequence[str]) -> StatusError:
    message = f"the body of the request was in an unknown format - accepted media types include: {', '.join(accepted)}"
    return StatusError(415, "UnsupportedMediaType", message)


def expired(message: str) -> StatusError:
    """410 for a list or watch that asks for history that is no longer kept."""
    return StatusError(410, "Expired", message)


def too_large_version(asked: int, current: int) -> StatusError:
    cause = {"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}
    message = f"Timeout: Too large resource version: {asked}, current: {current}"
    return StatusError(504, "Timeout", message, {"causes": [cause], "retryAfterSeconds": 1})


def storage_failed(why: str) -> StatusError:
    """The database could not take a write; nothing of it is visible."""
    return StatusError(507, "InsufficientStorage", f"the change could not be stored and was dropped: {why}")


def internal(message: str) -> StatusError:
    return StatusError(500, "InternalError", f"Internal error occurred: {message}")


def success(gvr: GVR, name: str, uid: str) -> dict[str, Any]:
    """The Status that answers a delete."""
    details = _details(gvr, name)
    if uid:
        details["uid"] = uid
    return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}
