"""Go's zero values on the wire: what a typed server writes although nobody set it, and what it does not write although
somebody did.

Fields that are neither pointers nor omitted when empty are always there; empty lists, empty text, 0 and false of
fields that are omitted when empty vanish. Source: encoding/json's rules for the types in k8s.io/api.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from podwire.apiserver.fields import Schema

Object = dict[str, Any]
_SCALARS: dict[str, Any] = {"string": "", "boolean": False, "int32": 0, "int64": 0, "number": 0}
_TIMES = ("time", "microtime")
_FALSE = ("string", "boolean", "int32", "int64", "number", "array", "map", "bytes")
_WHERE_ABSENT_IS_ABSENT = ("metadata", "creationTimestamp")  # these are omitted when zero
_MISSING = object()


def vanishes(field: Schema) -> bool:
    """Whether a zero in this field is not written."""
    return field.omit_empty and not field.pointer and field.kind in _FALSE and not field.structural


@cache
def always(schema: Schema) -> tuple[tuple[str, Any], ...]:
    """The fields of a type that are always written, with their zero; a dict stands for a nested object."""
    found = []
    for name, field in schema.fields.items():
        zero = _MISSING if name in _WHERE_ABSENT_IS_ABSENT or field.structural else _zero(field)
        if zero is not _MISSING:
            found.append((name, zero))
    return tuple(found)


def _zero(field: Schema) -> Any:
    if field.pointer:
        return _MISSING if field.omit_empty else None
    if field.kind == "object" and field.fields:
        return dict(always(field))
    if field.kind in _TIMES:
        return None
    if field.omit_empty or field.kind in ("object", "int-or-string", "quantity"):
        return _MISSING
    return _SCALARS.get(field.kind)


def fresh(zero: Any) -> Any:
    """A zero to put into an object: nested objects are not shared."""
    return {key: fresh(each) for key, each in zero.items()} if isinstance(zero, dict) else zero


def only_news(fields: Object, value: Object, schema: Schema) -> None:
    """Take out of the FieldsV1 of a new object what an empty object of its type has as well."""
    _only_news(fields, value, dict(always(schema)))


def _only_news(fields: Object, value: Object, zeros: Object) -> None:
    for key, zero in (("metadata", {}), *zeros.items()):
        element, item = "f:" + key, value.get(key)
        below = fields.get(element)
        if below is None:
            continue
        if item == zero or not (item or zero):
            del fields[element]
        elif below:
            below.pop(".", None)
            if isinstance(zero, dict) and isinstance(item, dict):
                _only_news(below, item, zero)
            if not below:
                del fields[element]
