"""Checks decoded JSON against the field table, as the typed decoder of a real API server does.

`unknown_fields` answers fieldValidation=Warn and Strict; `conform` drops what a typed decoder would drop and refuses
values of the wrong type; `duplicate_keys` reads raw JSON for keys given twice.
"""

from __future__ import annotations

import json
import re
from typing import Any

from podwire.apiserver.fields import Schema
from podwire.apiserver.quantities import NOT_A_QUANTITY, canonical_quantity, is_quantity
from podwire.apiserver.zeros import always, fresh, vanishes

_WORDS = {dict: "object", list: "array", str: "string", bool: "bool", int: "number", float: "number"}
_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "bytes": (str,),
    "time": (str,),
    "microtime": (str,),
    "boolean": (bool,),
    "int32": (int,),
    "int64": (int,),
    "number": (int, float),
    "quantity": (str, int, float),
    "int-or-string": (str, int),
}
_GO = {"boolean": "bool", "number": "float64", "bytes": "[]uint8", "time": "string", "microtime": "string"}
_READ, _PARTIAL, _WHOLE = 0, 1, 2  # what a walk may change
_CHECKED = frozenset(("int32", "quantity", "bytes"))
_WRONG_BASE64 = re.compile(r"[^A-Za-z0-9+/=\r\n]").search
_INT32 = 2**31
_KEY_END = re.compile(rb'"[ \t\r\n]*:')


class TypeMismatch(ValueError):
    """A value has the wrong JSON type for its field; the message names the field."""


def unknown_fields(obj: Any, schema: Schema) -> list[str]:
    """Messages for fields that the schema does not have: `unknown field "spec.foo"`."""
    found: list[str] = []
    _walk(obj, schema, "", found, prune=_READ)
    return found


def conform(obj: Any, schema: Schema, *, partial: bool = False) -> list[str]:
    """Drop unknown fields and nulls in place, write quantities and zero values as a typed server does, and return the
    messages of `unknown_fields`. In a `partial` object, such as an applied configuration, zeros mean something.

    Raises TypeMismatch where a typed decoder would refuse a value.
    """
    found: list[str] = []
    _walk(obj, schema, "", found, prune=_PARTIAL if partial else _WHOLE)
    return found


def _walk(value: Any, schema: Schema, path: str, found: list[str], *, prune: int) -> None:
    kind = schema.kind
    allowed = _TYPES.get(kind)
    if allowed is not None:
        if prune and not schema.structural:
            _check(value, schema, allowed, path)
        return
    if kind == "object":
        if isinstance(value, dict):
            _walk_object(value, schema, path, found, prune=prune)
        elif prune and value is not None and schema.fields and not schema.structural:
            raise TypeMismatch(_mismatch(value, schema, path))
    elif kind == "array":
        _walk_array(value, schema, path, found, prune=prune)
    elif kind == "map":
        _walk_map(value, schema, path, found, prune=prune)


def _walk_object(value: dict[str, Any], schema: Schema, path: str, found: list[str], *, prune: int) -> None:
    fields = schema.fields
    drop = []
    for key, item in value.items():
        sub = fields.get(key)
        if sub is None:
            if schema.preserve or schema.free or (schema.embedded and key in ("apiVersion", "kind", "metadata")):
                continue
            found.append(f'unknown field "{path}{key}"')
            drop.append(key)
        elif item is None:
            if not sub.structural:  # a custom resource's nulls are for its defaults and its validation
                drop.append(key)
        else:
            allowed = _TYPES.get(sub.kind)
            if allowed is None:
                _walk(item, sub, f"{path}{key}.", found, prune=prune)
            elif prune and not sub.structural and (type(item) not in allowed or sub.kind in _CHECKED):
                _check(item, sub, allowed, f"{path}{key}")
                if sub.kind == "quantity":
                    value[key] = canonical_quantity(item)
            if prune == _WHOLE and not item:
                if vanishes(sub):
                    drop.append(key)
                elif sub.kind == "array" and not sub.structural:
                    value[key] = None  # storage does not tell an empty list from none
    if prune:
        for key in drop:
            del value[key]
        if prune == _WHOLE:
            for key, zero in always(schema):
                if key not in value:
                    value[key] = fresh(zero)


def _walk_array(value: Any, schema: Schema, path: str, found: list[str], *, prune: int) -> None:
    if not isinstance(value, list):
        if prune and not schema.structural:
            raise TypeMismatch(_mismatch(value, schema, path))
        return
    element, base = schema.element, path.removesuffix(".")
    if element is None:
        return
    for index, item in enumerate(value):
        if item is not None:
            _walk(item, element, f"{base}[{index}]" + ("" if element.kind in _TYPES else "."), found, prune=prune)


def _walk_map(value: Any, schema: Schema, path: str, found: list[str], *, prune: int) -> None:
    if not isinstance(value, dict):
        if prune and not schema.structural:
            raise TypeMismatch(_mismatch(value, schema, path))
        return
    element = schema.element
    if element is None:
        return
    for key, item in value.items():
        if item is None:
            if prune and element.kind == "string":
                value[key] = ""  # a null decodes to Go's zero string
        else:
            _walk(item, element, f"{path}{key}" + ("" if element.kind in _TYPES else "."), found, prune=prune)
            if prune and element.kind == "quantity" and not element.structural:
                value[key] = canonical_quantity(item)


def _check(value: Any, schema: Schema, allowed: tuple[type, ...], path: str) -> None:
    kind = type(value)
    if kind in allowed:
        if schema.kind == "int32" and not -_INT32 <= value < _INT32:
            raise TypeMismatch(f"cannot unmarshal number {value} into field {path} of type int32")
        if schema.kind == "quantity" and not is_quantity(value):
            raise TypeMismatch(NOT_A_QUANTITY)
        if schema.kind == "bytes" and (wrong := _WRONG_BASE64(value)):
            raise TypeMismatch(f"illegal base64 data at input byte {wrong.start()}")
        return
    if schema.kind in ("int32", "int64") and kind is float and value.is_integer():
        return
    raise TypeMismatch(_mismatch(value, schema, path))


def _mismatch(value: Any, schema: Schema, path: str) -> str:
    """Upstream's words for a wrong JSON type, with our path in place of a Go struct's name."""
    want = schema.name.rsplit(".", 1)[-1] if schema.name else _GO.get(schema.kind, schema.kind)
    if schema.kind == "array":
        want = "array"
    have = _WORDS.get(type(value), "null")
    return f"json: cannot unmarshal {have} into Go struct field {path.removesuffix('.')} of type {want}"


def duplicate_keys(body: bytes) -> list[str]:
    """Messages for keys that stand twice in one JSON object: `duplicate field "spec.replicas"`."""
    try:
        pairs = json.loads(body, object_pairs_hook=_Pairs)
    except ValueError:
        return []  # a parse error is reported by the decoder proper
    found: list[str] = []
    _walk_pairs(pairs, "", found)
    return found


def may_repeat(body: bytes, value: Any) -> bool:
    """Whether the text that `value` was read from can hold a key twice: it then has more keys than the value. Text in
    strings may look like a key, so True proves nothing."""
    return len(_KEY_END.findall(body)) != _count(value)


def _count(value: Any) -> int:
    """Members of all objects in a value."""
    if isinstance(value, dict):
        found = len(value)
        for item in value.values():
            if isinstance(item, (dict, list)):
                found += _count(item)
        return found
    return sum(_count(item) for item in value) if isinstance(value, list) else 0


class _Pairs(list[tuple[str, Any]]):
    """An object's members in the order of the text, duplicates kept."""


def _walk_pairs(value: Any, path: str, found: list[str]) -> None:
    if isinstance(value, _Pairs):
        seen: set[str] = set()
        for key, item in value:
            here = f"{path}.{key}" if path else key
            if key in seen:
                found.append(f'duplicate field "{here}"')
            seen.add(key)
            _walk_pairs(item, here, found)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _walk_pairs(item, f"{path}[{index}]", found)
