"""Sets of field paths as trees, and the walks that make them: what a value consists of, and how two values differ.

A tree maps path elements to trees; the key `.` says that the path so far is itself in the set. Elements are written
as in FieldsV1: `f:name`, `k:{"name":"x"}`, `v:"x"`. Source: the fieldsV1 format of meta/v1 and the comparison rules
of structured-merge-diff.
"""

from __future__ import annotations

from typing import Any

import msgspec

from podwire.apiserver.fields import Schema

Tree = dict[str, Any]
MEMBER = "."
FREE = Schema("any")
_ENCODER = msgspec.json.Encoder(order="sorted")
_LEAF: Tree = {MEMBER: {}}  # shared by all leaves: trees are never changed in place


class ListKeyError(ValueError):
    """A keyed list has items without their keys, or the same key twice."""


def text(value: Any) -> str:
    return _ENCODER.encode(value).decode()


def from_fields(fields: Tree | None) -> Tree:
    """FieldsV1 as a tree."""
    return {key: {MEMBER: {}} if not sub else from_fields(sub) for key, sub in (fields or {}).items() if key != "."} | (
        {MEMBER: {}} if fields and MEMBER in fields else {}
    )


def to_fields(tree: Tree) -> Tree:
    """A tree as FieldsV1: a path without anything below is written as an empty object."""
    out: Tree = {}
    for key, sub in sorted(tree.items()):  # the member comes first: "." sorts before every element
        out[key] = {} if key == MEMBER or sub is _LEAF or (len(sub) == 1 and MEMBER in sub) else to_fields(sub)
    return out


def union(left: Tree, right: Tree) -> Tree:
    if not left or not right:
        return left or right
    merged = dict(left)
    for key, sub in right.items():
        merged[key] = union(merged[key], sub) if key in merged and key != MEMBER else sub
    return merged


def difference(left: Tree, right: Tree) -> Tree:
    """Paths of `left` that are not in `right`."""
    if not right:
        return left
    kept: Tree = {}
    for key, sub in left.items():
        if key not in right:
            kept[key] = sub
        elif key != MEMBER:
            rest = difference(sub, right[key])
            if rest:
                kept[key] = rest
    return kept


def intersection(left: Tree, right: Tree) -> Tree:
    kept: Tree = {}
    for key, sub in left.items():
        if key in right:
            rest = {} if key == MEMBER else intersection(sub, right[key])
            if rest or key == MEMBER:
                kept[key] = rest
    return kept


def paths(tree: Tree, prefix: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """The members as tuples of elements, in order."""
    found = [prefix] if MEMBER in tree else []
    for key in sorted(tree):
        if key != MEMBER:
            found += paths(tree[key], (*prefix, key))
    return found


def readable(path: tuple[str, ...]) -> str:
    """`.spec.containers[name="web"].image`."""
    out = ""
    for element in path:
        kind, _, rest = element.partition(":")
        if kind == "f":
            out += "." + rest
        elif kind == "k":
            keys = msgspec.json.decode(rest)
            out += "[" + ",".join(f"{key}={text(value)}" for key, value in keys.items()) + "]"
        else:
            out += f"[={rest}]" if kind == "v" else f"[{rest}]"
    return out


def shape(schema: Schema, value: Any) -> str:
    """How a value is owned: leaf (as one), map (key by key) or list (item by item)."""
    if isinstance(value, dict):
        return "leaf" if schema.map_type == "atomic" or schema.kind == "raw" else "map"
    if isinstance(value, list):
        return "list" if schema.kind == "array" and schema.list_type in ("map", "set") else "leaf"
    return "leaf"


def below(schema: Schema, key: str) -> Schema:
    return schema.child(key) or FREE


def element(schema: Schema, item: Any) -> str:
    """The path element of an item of a keyed list or a set. Raises ListKeyError."""
    if schema.list_type == "set":
        return "v:" + text(item)
    keys = {}
    for key in schema.list_keys:
        value = item.get(key) if isinstance(item, dict) else None
        if value is None:
            value = below(schema.element or FREE, key).default
        if value is None:
            raise ListKeyError(f"associative list with keys has an element that omits key field {text(key)}")
        keys[key] = value
    return "k:" + text(keys)


def indexed(schema: Schema, items: list[Any], *, strict: bool = False) -> dict[str, Any]:
    """The items of a keyed list by their element; `strict` refuses duplicates."""
    found: dict[str, Any] = {}
    for item in items:
        key = element(schema, item)
        if strict and key in found:
            raise ListKeyError(f"duplicate entries for key {readable((key,))}")
        found.setdefault(key, item)
    return found


def owned(value: Any, schema: Schema) -> Tree:
    """The paths that an applied configuration claims."""
    kind = shape(schema, value)
    if kind == "map":
        tree: Tree = {}
        for key, item in value.items():
            sub = owned(item, below(schema, key))
            if key not in schema.fields or item is None or item == {}:
                sub = {**sub, MEMBER: {}}
            if sub:
                tree["f:" + key] = sub
        return tree
    if kind == "list":
        return {
            key: {**owned(item, schema.element or FREE), MEMBER: {}}
            for key, item in indexed(schema, value, strict=True).items()
        }
    return {MEMBER: {}}


def everything(value: Any, schema: Schema) -> Tree:
    """All paths of a value that is new: its leaves and every container on the way, but not the root."""
    kind = shape(schema, value)
    if kind == "leaf":
        return _LEAF
    tree: Tree = {MEMBER: {}}
    if kind == "map":
        for key, item in value.items():
            inside = isinstance(item, (dict, list))
            tree["f:" + key] = everything(item, below(schema, key)) if inside else _LEAF
    else:
        for key, item in indexed(schema, value).items():
            tree[key] = everything(item, schema.element or FREE)
    return tree


def written(value: Any, schema: Schema) -> Tree:
    """`to_fields(everything(value, schema))` at one go, for objects that are new."""
    out: Tree = {MEMBER: {}}
    kind = shape(schema, value)
    if kind == "map":
        for key in sorted(value):
            item = value[key]
            out["f:" + key] = written(item, below(schema, key)) if isinstance(item, (dict, list)) else {}
    elif kind == "list":
        for key, item in sorted(indexed(schema, value).items()):
            out[key] = written(item, schema.element or FREE)
    return out if len(out) > 1 else {}


def compare(old: Any, new: Any, schema: Schema) -> tuple[Tree, Tree]:
    """(added or modified paths, removed paths) on the way from `old` to `new`."""
    if old == new or (not old and not new and (old is None or new is None)):
        return {}, {}
    if new is None and shape(schema, old) != "leaf":
        new = type(old)()
    kind = shape(schema, new)
    if old is None and kind != "leaf":
        old = type(new)()  # a null has whatever form the other side has
    if kind == "leaf" or shape(schema, old) != kind or (not old and not new):
        return {MEMBER: {}}, {}
    if kind == "map":
        sides = [{"f:" + key: (item, below(schema, key)) for key, item in value.items()} for value in (old, new)]
    else:
        sub = schema.element or FREE
        sides = [{key: (item, sub) for key, item in indexed(schema, value).items()} for value in (old, new)]
    before, after = sides
    changed: Tree = {}
    removed: Tree = {}
    for key, (item, inner) in after.items():
        if key not in before:
            changed[key] = everything(item, inner)
            continue
        more, less = compare(before[key][0], item, inner)
        if more:
            changed[key] = more
        if less:
            removed[key] = less
    for key, (item, inner) in before.items():
        if key not in after:
            removed[key] = everything(item, inner)
    return changed, removed


def with_named_parents(tree: Tree, schema: Schema) -> Tree:
    """Add to the set every named field on the way to a member (map keys and list items are not named fields)."""
    out: Tree = {}
    for key, sub in tree.items():
        if key == MEMBER:
            out[key] = sub
        elif key.startswith("f:"):
            name = key[2:]
            inner = with_named_parents(sub, below(schema, name))
            out[key] = {**inner, MEMBER: {}} if name in schema.fields else inner
        else:
            out[key] = with_named_parents(sub, schema.element or FREE)
    return out


def without(value: Any, tree: Tree, schema: Schema) -> Any:
    """A copy of the value without the items at the member paths of `tree`."""
    kind = shape(schema, value)
    if kind == "map":
        out = {}
        for key, item in value.items():
            sub = tree.get("f:" + key)
            if sub is None:
                out[key] = item
            elif MEMBER not in sub:
                out[key] = without(item, sub, below(schema, key))
        return out
    if kind == "list":
        kept = []
        for item in value:
            sub = tree.get(element(schema, item))
            if sub is None:
                kept.append(item)
            elif MEMBER not in sub:
                kept.append(without(item, sub, schema.element or FREE))
        return kept
    return value
