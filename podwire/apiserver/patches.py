"""The patch types of PATCH: JSON patch (RFC 6902), merge patch (RFC 7386) and strategic merge patch.

All functions leave their arguments alone and return a new object. Server-side apply is in apply.py, the rules of
strategic merge in strategic.py.
"""

from __future__ import annotations

import re
from typing import Any

from podwire.apiserver.strategic import PatchError, clone, strategic_merge

__all__ = ["PatchError", "clone", "json_patch", "merge_patch", "strategic_merge"]

_INDEX = re.compile(r"^(0|[1-9]\d*)$")
_OPERATIONS = ("add", "remove", "replace", "move", "copy", "test")
MAX_OPERATIONS = 10_000  # as upstream's limit for one request


def merge_patch(obj: Any, patch: Any) -> Any:
    """RFC 7386: objects merge key by key, null removes, everything else replaces."""
    if not isinstance(patch, dict):
        return clone(patch)
    merged = dict(obj) if isinstance(obj, dict) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = merge_patch(merged.get(key), value)
    return merged


def json_patch(obj: Any, ops: Any) -> Any:
    """RFC 6902. Raises PatchError: 400 for a malformed patch, 422 for one that does not apply (or whose test fails)."""
    if not isinstance(ops, list) or not all(isinstance(op, dict) for op in ops):
        raise PatchError("a JSON patch must be an array of operations", status=400)
    if len(ops) > MAX_OPERATIONS:
        raise PatchError(
            f"the allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {len(ops)}", status=413
        )
    document = clone(obj)
    for position, op in enumerate(ops):
        document = _operate(document, op, position)
    return document


def _operate(document: Any, op: dict[str, Any], position: int) -> Any:
    name = op.get("op")
    if name not in _OPERATIONS:
        raise PatchError(f"operation {position}: Unexpected kind: {name if name is not None else 'unknown'}")
    path = _pointer(op, "path", position)
    if name in ("add", "replace", "test") and "value" not in op and name != "test":
        raise PatchError(f"operation {position}: {name} operation, missing value field", status=400)
    where = f"operation {position} ({name} {op.get('path')!r})"
    match name:
        case "add":
            return _add(document, path, clone(op["value"]), where)
        case "remove":
            return _remove(document, path, where)[0]
        case "replace":
            if not path:
                return clone(op["value"])
            return _replace(document, path, clone(op["value"]), where)
        case "test":
            if not _equal(_get(document, path, where, missing_is_none=True), op.get("value")):
                raise PatchError(f"{where}: testing value {op['path']} failed: test failed")
            return document
    source = _pointer(op, "from", position)
    if name == "copy":
        return _add(document, path, clone(_get(document, source, where)), where)
    if path[: len(source)] == source and len(path) > len(source):
        raise PatchError(f"{where}: a value cannot be moved into itself")
    document, moved = _remove(document, source, where)
    return _add(document, path, moved, where)


def _pointer(op: dict[str, Any], key: str, position: int) -> list[str]:
    text = op.get(key)
    if not isinstance(text, str):
        raise PatchError(f"operation {position}: {op.get('op')} operation, missing {key} field", status=400)
    if text == "":
        return []
    if not text.startswith("/"):
        raise PatchError(f"operation {position}: {key} {text!r} does not start with a slash")
    return [part.replace("~1", "/").replace("~0", "~") for part in text[1:].split("/")]


def _equal(left: Any, right: Any) -> bool:
    """JSON equality: 1 equals 1.0 but not true."""
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(_equal(left[key], right[key]) for key in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(_equal, left, right))
    return bool(left == right)


def _index(items: list[Any], part: str, where: str, *, end: bool) -> int:
    """A list position; `end` allows one past the last and '-'."""
    if part == "-" and end:
        return len(items)
    if not _INDEX.match(part):
        raise PatchError(f"{where}: value was not a proper array index: '{part}'")
    index = int(part)
    if index >= len(items) + end:
        raise PatchError(f"{where}: Unable to access invalid index: {index}: invalid index referenced")
    return index


def _get(document: Any, path: list[str], where: str, *, missing_is_none: bool = False) -> Any:
    here = document
    for depth, part in enumerate(path):
        if isinstance(here, list):
            here = here[_index(here, part, where, end=False)]
        elif isinstance(here, dict) and part in here:
            here = here[part]
        elif isinstance(here, dict) and missing_is_none and depth == len(path) - 1:
            return None
        else:
            raise PatchError(f"{where}: doc is missing path: missing value")
    return here


def _add(document: Any, path: list[str], value: Any, where: str) -> Any:
    if not path:
        return value
    parent, last = _get(document, path[:-1], where), path[-1]
    if isinstance(parent, list):
        parent.insert(_index(parent, last, where, end=True), value)
    elif isinstance(parent, dict):
        parent[last] = value
    else:
        raise PatchError(f"{where}: doc is missing path: missing value")
    return document


def _replace(document: Any, path: list[str], value: Any, where: str) -> Any:
    parent, last = _get(document, path[:-1], where), path[-1]
    if isinstance(parent, list):
        parent[_index(parent, last, where, end=False)] = value
    elif isinstance(parent, dict) and last in parent:
        parent[last] = value
    else:
        raise PatchError(f"{where}: replace operation does not apply: doc is missing key: missing value")
    return document


def _remove(document: Any, path: list[str], where: str) -> tuple[Any, Any]:
    """The document without the value at `path`, and that value."""
    if not path:
        return None, document
    parent, last = _get(document, path[:-1], where), path[-1]
    if isinstance(parent, list):
        return document, parent.pop(_index(parent, last, where, end=False))
    if isinstance(parent, dict) and last in parent:
        return document, parent.pop(last)
    raise PatchError(f"{where}: Unable to remove nonexistent key: {last}: missing value")
