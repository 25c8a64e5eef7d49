"""Patches as the fake API applies them: RFC 7386, RFC 6902, and strategic merge by the usual merge keys.

The lab's API server has the real thing with every type's own merge keys; this is enough for tests of what calls it.
"""

from __future__ import annotations

import copy
from typing import Any

_MERGE_KEYS = ("name", "type", "uid", "ip", "containerPort", "port", "key", "mountPath")


class PatchError(ValueError):
    """The patch cannot be applied; the message says where."""


def merge_patch(target: Any, patch: Any) -> Any:
    """RFC 7386."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merge_patch(result.get(key), value)
    return result


def strategic_merge(target: Any, patch: Any) -> Any:
    """Like merge_patch, but lists of objects merge by the first usual key that all their members have."""
    if isinstance(patch, dict):
        if patch.get("$patch") == "replace":
            return {key: copy.deepcopy(value) for key, value in patch.items() if key != "$patch"}
        result = dict(target) if isinstance(target, dict) else {}
        for key, value in patch.items():
            if key.startswith("$"):
                continue
            if value is None:
                result.pop(key, None)
            else:
                result[key] = strategic_merge(result.get(key), value)
        return result
    if isinstance(patch, list) and isinstance(target, list):
        return _merge_lists(target, patch)
    return copy.deepcopy(patch)


def _merge_lists(target: list[Any], patch: list[Any]) -> list[Any]:
    if not all(isinstance(item, dict) for item in [*target, *patch]):
        return list(patch)
    key = next((name for name in _MERGE_KEYS if all(name in item for item in [*target, *patch])), "")
    if not key:
        return list(patch)
    result = list(target)
    for item in patch:
        at = next((n for n, old in enumerate(result) if old[key] == item[key]), None)
        if item.get("$patch") == "delete":
            if at is not None:
                del result[at]
        elif at is None:
            result.append(copy.deepcopy(item))
        else:
            result[at] = strategic_merge(result[at], item)
    return result


def json_patch(target: Any, operations: Any) -> Any:
    """RFC 6902. Raises PatchError."""
    document = {"": copy.deepcopy(target)}
    if not isinstance(operations, list):
        raise PatchError("a JSON patch is a list of operations")
    for operation in operations:
        _operate(document, operation)
    return document[""]


def _operate(document: dict[str, Any], operation: dict[str, Any]) -> None:
    name, path = operation.get("op"), "" + operation.get("path", "")
    if name in ("add", "replace"):
        _put(document, path, copy.deepcopy(operation.get("value")), replace=name == "replace")
    elif name == "remove":
        _remove(document, path)
    elif name == "test":
        if _at(document, path) != operation.get("value"):
            raise PatchError(f"testing value {path} failed")
    elif name in ("move", "copy"):
        value = copy.deepcopy(_at(document, operation.get("from", "")))
        if name == "move":
            _remove(document, operation.get("from", ""))
        _put(document, path, value, replace=False)
    else:
        raise PatchError(f"{name!r} is not an operation")


def _steps(path: str) -> list[str]:
    return [part.replace("~1", "/").replace("~0", "~") for part in path.split("/")]


def _parent(document: dict[str, Any], path: str) -> tuple[Any, str]:
    *above, last = _steps(path)
    here: Any = document
    for step in above:
        here = _child(here, step, path)
    return here, last


def _child(here: Any, step: str, path: str) -> Any:
    try:
        return here[int(step)] if isinstance(here, list) else here[step]
    except (KeyError, IndexError, ValueError, TypeError):
        raise PatchError(f"path {path} does not exist") from None


def _at(document: dict[str, Any], path: str) -> Any:
    parent, last = _parent(document, path)
    return _child(parent, last, path)


def _put(document: dict[str, Any], path: str, value: Any, *, replace: bool) -> None:
    parent, last = _parent(document, path)
    if replace:
        _child(parent, last, path)
    if isinstance(parent, list):
        if replace:
            parent[int(last)] = value
        else:
            at = len(parent) if last == "-" else int(last)
            if at > len(parent):
                raise PatchError(f"path {path} is beyond the list's end")
            parent.insert(at, value)
    elif isinstance(parent, dict):
        parent[last] = value
    else:
        raise PatchError(f"path {path} does not exist")


def _remove(document: dict[str, Any], path: str) -> None:
    parent, last = _parent(document, path)
    _child(parent, last, path)
    if isinstance(parent, list):
        del parent[int(last)]
    else:
        del parent[last]
