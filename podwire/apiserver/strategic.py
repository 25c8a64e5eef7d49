"""Strategic merge patch: a merge patch that knows which lists are keyed, with `$patch`, `$retainKeys`,
`$deleteFromPrimitiveList/…` and `$setElementOrder/…` directives.

Source of the rules: k8s.io/apimachinery util/strategicpatch (behaviour of StrategicMergeMapPatch).
"""

from __future__ import annotations

from typing import Any

from podwire.apiserver.fields import Schema

PATCH, RETAIN = "$patch", "$retainKeys"
DELETE_LIST, ORDER = "$deleteFromPrimitiveList/", "$setElementOrder/"
_FREE = Schema("any")


class PatchError(ValueError):
    """The patch cannot be applied. `status` is the HTTP status that upstream answers with."""

    def __init__(self, message: str, status: int = 422) -> None:
        super().__init__(message)
        self.status = status


def clone(value: Any) -> Any:
    """A deep copy of a JSON value."""
    if isinstance(value, dict):
        return {key: clone(item) for key, item in value.items()}
    if isinstance(value, list):
        return [clone(item) for item in value]
    return value


def strategic_merge(obj: dict[str, Any], patch: dict[str, Any], schema: Schema) -> dict[str, Any]:
    """`patch` merged into a copy of `obj` by the merge keys and strategies of `schema`. Raises PatchError."""
    if not isinstance(patch, dict):
        raise PatchError("invalid JSON document", status=400)
    return _merge_map(clone(obj), clone(patch), schema)


def _sub(schema: Schema, key: str) -> Schema:
    return schema.child(key) or _FREE


def _strategy(schema: Schema) -> str:
    """replace or merge, or ''; retainKeys only permits its directive."""
    rest = schema.strategies - {"retainKeys"}
    return next(iter(rest), "")


def _merge_map(original: dict[str, Any], patch: dict[str, Any], schema: Schema) -> dict[str, Any]:
    if PATCH in patch:
        return _directed(patch)
    _retain(original, patch)
    _ordered_lists(original, patch, schema)
    for key, value in patch.items():
        name, deleting = (key[len(DELETE_LIST) :], True) if key.startswith(DELETE_LIST) else (key, False)
        if value is None:
            original.pop(name, None)
        elif name not in original or type(original[name]) is not type(value):
            if not deleting:
                original[name] = _without_directives(_without_nulls(value))
        elif isinstance(value, dict):
            sub = _sub(schema, name)
            original[name] = value if _strategy(sub) == "replace" else _merge_map(original[name], value, sub)
        elif isinstance(value, list):
            original[name] = _merge_list_by_strategy(original[name], value, _sub(schema, name), deleting)
        else:
            original[name] = value
    return original


def _directed(patch: dict[str, Any]) -> dict[str, Any]:
    directive = patch.pop(PATCH)
    if directive == "replace":
        return patch
    if directive == "delete":
        return {}
    raise PatchError(f"unknown patch type: {directive} in map: {patch}", status=500)


def _retain(original: dict[str, Any], patch: dict[str, Any]) -> None:
    if RETAIN not in patch:
        return
    kept = patch.pop(RETAIN)
    if not isinstance(kept, list):
        raise PatchError("invalid patch format of retainKeys", status=400)
    for key in patch:
        if key.startswith((DELETE_LIST, ORDER)):
            continue
        if key not in kept:
            raise PatchError("patch content doesn't match retainKeys list")
    for key in [key for key in original if key not in kept]:
        del original[key]


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_nulls(item) for item in value]
    return value


def _without_directives(value: Any) -> Any:
    """A patch value as a plain one, for a place where there is nothing to merge with."""
    if isinstance(value, dict):
        if PATCH in value:
            value = _directed(dict(value))
        return {
            key: _without_directives(item)
            for key, item in value.items()
            if key != RETAIN and not key.startswith((DELETE_LIST, ORDER))
        }
    if isinstance(value, list):
        kept = []
        for item in value:
            if isinstance(item, dict) and PATCH in item and len(item) == 1:
                continue
            if isinstance(item, dict) and item.get(PATCH) == "delete":
                continue
            kept.append(_without_directives(item))
        return kept
    return value


def _merge_list_by_strategy(original: list[Any], patch: list[Any], schema: Schema, deleting: bool) -> list[Any]:
    if deleting or _strategy(schema) == "merge":
        return _merge_list(original, patch, schema, deleting)
    return patch


def _of_maps(*lists: list[Any]) -> bool:
    """Whether the elements are objects. Raises PatchError for lists of lists and for mixed elements."""
    kinds = {"object" if isinstance(item, dict) else type(item).__name__ for items in lists for item in items}
    if "list" in kinds:
        raise PatchError("lists of lists are not supported")
    if len(kinds) > 1 and "object" in kinds:
        raise PatchError(f"list element types are not identical: {sorted(kinds)}", status=500)
    return kinds == {"object"}


def _merge_list(original: list[Any], patch: list[Any], schema: Schema, deleting: bool) -> list[Any]:
    if not original and not patch:
        return original
    before = list(original)
    if _of_maps(original, patch):
        key = schema.merge_key
        if not key:
            raise PatchError(f"cannot merge lists without merge key for {schema.name or 'this list'}", status=500)
        merged, plain = _apply_special(original, patch, key)
        merged = _merge_items(merged, plain, key, schema.element or _FREE)
    else:
        if deleting:
            return [item for item in original if item not in patch]
        key, plain = "", patch
        merged = list(dict.fromkeys([*original, *patch]))
    return _arranged(merged, plain, before, key)


def _key_of(item: dict[str, Any], key: str) -> Any:
    if key not in item:
        raise PatchError(f"map: {item} does not contain declared merge key: {key}", status=500)
    return item[key]


def _apply_special(original: list[Any], patch: list[Any], key: str) -> tuple[list[Any], list[Any]]:
    """Act on list items that carry `$patch`; the list that remains and the items still to merge."""
    plain, replaced = [], False
    for item in patch:
        match item.get(PATCH):
            case None:
                plain.append(item)
            case "delete":
                gone = _key_of(item, key)
                original = [had for had in original if _key_of(had, key) != gone]
            case "replace":
                replaced = True
            case "merge":
                raise PatchError("merging lists cannot yet be specified in the patch", status=500)
            case other:
                raise PatchError(f"unknown patch type: {other} in map: {item}", status=500)
    return (plain, []) if replaced else (original, plain)


def _merge_items(original: list[Any], patch: list[Any], key: str, element: Schema) -> list[Any]:
    merged = list(original)
    for item in patch:
        wanted = _key_of(item, key)
        at = next((i for i, had in enumerate(merged) if _key_of(had, key) == wanted), -1)
        if at >= 0:
            merged[at] = _merge_map(merged[at], item, element)
        else:
            merged.append(_without_directives(item))
    return merged


def _ordered_lists(original: dict[str, Any], patch: dict[str, Any], schema: Schema) -> None:
    """Handle `$setElementOrder/NAME`: merge that list now, in the given order, and take it out of the patch."""
    for directive in [key for key in patch if key.startswith(ORDER)]:
        order, name = patch.pop(directive), directive[len(ORDER) :]
        sub = _sub(schema, name)
        if not isinstance(order, list):
            raise PatchError("invalid patch format of setElementOrder list", status=400)
        had, given = original.get(name), patch.get(name)
        if given is not None:
            _check_order(given, order, sub.merge_key)
        if had is None and given is None:
            continue
        if given is None:
            merged = had
        elif had is None:
            merged = _without_directives(given)
        else:
            merged = _merge_list_by_strategy(list(had), given, sub, deleting=False)
        if not isinstance(merged, list):
            raise PatchError("invalid patch format of setElementOrder list", status=400)
        original[name] = _arranged(merged, order, had or [], sub.merge_key)
        patch.pop(name, None)


def _check_order(given: Any, order: list[Any], key: str) -> None:
    """The patch's items must be in `order`, in that order."""
    if not isinstance(given, list):
        raise PatchError("invalid patch format of setElementOrder list", status=400)
    if not order or not given:
        return
    wanted = [item for item in given if not (isinstance(item, dict) and PATCH in item)]
    places = iter(_places(order, key))
    if not all(_place(item, key) in places for item in wanted):
        raise PatchError(f"The order in patch list:\n{given}\n doesn't match $setElementOrder list:\n{order}\n", 500)


def _place(item: Any, key: str) -> Any:
    return item.get(key) if key and isinstance(item, dict) else item


def _places(items: list[Any], key: str) -> list[Any]:
    return [_place(item, key) for item in items]


def _arranged(merged: list[Any], order: list[Any], before: list[Any], key: str) -> list[Any]:
    """Items named by the patch in the patch's order, the server's own in theirs, woven together by the old order."""
    wanted, old = _places(order, key), _places(before, key)
    ours = sorted((item for item in merged if _place(item, key) in wanted), key=lambda i: wanted.index(_place(i, key)))
    others = [item for item in merged if _place(item, key) not in wanted]
    others.sort(key=lambda item: old.index(_place(item, key)) if _place(item, key) in old else -1)
    woven: list[Any] = []
    while ours and others:
        left, right = _place(others[0], key), _place(ours[0], key)
        first = others if left in old and right in old and old.index(left) < old.index(right) else ours
        woven.append(first.pop(0))
    return woven + others + ours
