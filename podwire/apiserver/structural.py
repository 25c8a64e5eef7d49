"""Structural schemas of custom resources: reading them, defaulting, and checking values.

`build` gives the same `Schema` as for built-in kinds, so that pruning, patches and apply work alike; `check` validates
values against the OpenAPI text itself. CEL rules (x-kubernetes-validations) are not evaluated.
Source: apiextensions.k8s.io/v1 structural schemas; messages as kube-openapi words them.
"""

from __future__ import annotations

import datetime
import ipaddress
import json
import re
import uuid
from functools import lru_cache
from typing import Any

from podwire.apiserver.fields import Schema
from podwire.apiserver.strategic import clone
from podwire.apiserver.validation_meta import Cause, Errors, quoted

Object = dict[str, Any]
_KINDS = {"string": "string", "integer": "int64", "number": "number", "boolean": "boolean"}
_JSON_TYPES = {dict: "object", list: "array", str: "string", bool: "boolean", int: "integer", float: "number"}


def build(props: Object) -> Schema:
    """A schema node from an OpenAPI v3 (structural) schema."""
    schema = Schema(
        _kind(props),
        preserve=bool(props.get("x-kubernetes-preserve-unknown-fields")),
        embedded=bool(props.get("x-kubernetes-embedded-resource")),
        nullable=bool(props.get("nullable")),
        default=props.get("default"),
        required=tuple(props.get("required") or ()),
        list_type=props.get("x-kubernetes-list-type", ""),
        list_keys=tuple(props.get("x-kubernetes-list-map-keys") or ()),
        map_type=props.get("x-kubernetes-map-type", ""),
        structural=True,
    )
    for name, inner in (props.get("properties") or {}).items():
        schema.fields[name] = build(inner)
    if schema.kind == "map":
        inner = props.get("additionalProperties")
        schema.element = build(inner) if isinstance(inner, dict) else Schema("any", structural=True)
    if schema.kind == "array":
        schema.element = build(props.get("items") or {})
    return schema


def _kind(props: Object) -> str:
    if props.get("x-kubernetes-int-or-string"):
        return "int-or-string"
    kind = props.get("type", "")
    if kind == "object":
        return "map" if props.get("additionalProperties") and not props.get("properties") else "object"
    return "array" if kind == "array" else _KINDS.get(kind, "any")


def fill(value: Any, schema: Schema) -> None:
    """Write the schema's defaults into a value, in place."""
    if schema.kind == "object" and isinstance(value, dict):
        for name, sub in schema.fields.items():
            if sub.default is not None and (name not in value or (value[name] is None and not sub.nullable)):
                value[name] = clone(sub.default)
            if name in value:
                fill(value[name], sub)
    elif schema.element is not None and isinstance(value, dict) and schema.kind == "map":
        for item in value.values():
            fill(item, schema.element)
    elif schema.element is not None and isinstance(value, list):
        for item in value:
            fill(item, schema.element)


def check(errors: Errors, path: str, value: Any, props: Object) -> None:
    """Add a cause for everything in `value` that the schema does not allow."""
    if value is None:
        if not props.get("nullable") and props.get("type"):
            _wrong_type(errors, path, props["type"], "null")
        return
    typed = _typed(errors, path, value, props)
    _enum(errors, path, value, props)
    if not typed:
        return
    if isinstance(value, str):
        _string(errors, path, value, props)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        _number(errors, path, value, props)
    elif isinstance(value, list):
        _list(errors, path, value, props)
    elif isinstance(value, dict):
        _map(errors, path, value, props)
    _combined(errors, path, value, props)


def _wrong_type(errors: Errors, path: str, wanted: str, have: str) -> None:
    message = f"Invalid value: {quoted(have)}: {path} in body must be of type {wanted}: {quoted(have)}"
    errors.append(Cause(path, "FieldValueTypeInvalid", message))


def _typed(errors: Errors, path: str, value: Any, props: Object) -> bool:
    have = _JSON_TYPES.get(type(value), "null")
    if props.get("x-kubernetes-int-or-string"):
        if have not in ("integer", "string"):
            _wrong_type(errors, path, "integer,string", have)
            return False
        return True
    wanted = props.get("type")
    whole = have == "number" and wanted == "integer" and float(value).is_integer()
    if not wanted or have == wanted or whole or (have, wanted) == ("integer", "number"):
        return True
    _wrong_type(errors, path, wanted, have)
    return False


def _enum(errors: Errors, path: str, value: Any, props: Object) -> None:
    allowed = props.get("enum")
    if allowed is not None and value not in allowed:
        errors.unsupported(path, value, [each if isinstance(each, str) else json.dumps(each) for each in allowed])


@lru_cache(maxsize=512)
def _pattern(text: str) -> re.Pattern[str] | None:
    try:
        return re.compile(text.replace(r"\z", r"\Z"))
    except re.error:
        return None


def _string(errors: Errors, path: str, value: str, props: Object) -> None:
    most, least, pattern = props.get("maxLength"), props.get("minLength"), props.get("pattern")
    if most is not None and len(value) > most:
        errors.too_long(path, most)
    elif least is not None and len(value) < least:
        errors.invalid(path, value, f"{path} in body should be at least {least} chars long")
    elif pattern:
        compiled = _pattern(pattern)
        if compiled is not None and not compiled.search(value):
            errors.invalid(path, value, f"{path} in body should match '{pattern}'")
    form = props.get("format")
    if form and not well_formed(form, value):
        words = f"Invalid value: {quoted(value)}: {path} in body must be of type {form}: {quoted(value)}"
        errors.append(Cause(path, "FieldValueTypeInvalid", words))


def _number(errors: Errors, path: str, value: float, props: Object) -> None:
    low, high, step = props.get("minimum"), props.get("maximum"), props.get("multipleOf")
    if low is not None and (value < low or (props.get("exclusiveMinimum") and value == low)):
        words = "greater than" if props.get("exclusiveMinimum") else "greater than or equal to"
        errors.invalid(path, value, f"{path} in body should be {words} {low}")
    if high is not None and (value > high or (props.get("exclusiveMaximum") and value == high)):
        words = "less than" if props.get("exclusiveMaximum") else "less than or equal to"
        errors.invalid(path, value, f"{path} in body should be {words} {high}")
    if step and value % step:
        errors.invalid(path, value, f"{path} in body should be a multiple of {step}")
    if props.get("format") == "int32" and not -(2**31) <= value < 2**31:
        errors.invalid(path, value, f"{path} in body must be of type int32: {quoted(str(value))}")


def _list(errors: Errors, path: str, value: list[Any], props: Object) -> None:
    most, least = props.get("maxItems"), props.get("minItems")
    if most is not None and len(value) > most:
        errors.too_many(path, len(value), most)
    if least is not None and len(value) < least:
        errors.invalid(path, len(value), f"{path} in body should have at least {least} items")
    for i, item in enumerate(value):
        check(errors, f"{path}[{i}]", item, props.get("items") or {})
    kind, keys = props.get("x-kubernetes-list-type"), props.get("x-kubernetes-list-map-keys") or []
    if kind in ("map", "set"):
        seen: list[Any] = []
        for i, item in enumerate(value):
            key = {k: item.get(k) for k in keys if k in item} if kind == "map" and isinstance(item, dict) else item
            if key in seen:
                errors.duplicate(f"{path}[{i}]", key)
            seen.append(key)


def _map(errors: Errors, path: str, value: Object, props: Object) -> None:
    prefix = f"{path}." if path else ""
    for name in props.get("required") or []:
        if name not in value:
            errors.required(prefix + name)
    most, least = props.get("maxProperties"), props.get("minProperties")
    if most is not None and len(value) > most:
        errors.too_many(path, len(value), most)
    if least is not None and len(value) < least:
        errors.invalid(path, len(value), f"{path} in body should have at least {least} properties")
    known, rest = props.get("properties") or {}, props.get("additionalProperties")
    for name, item in value.items():
        if name in known:
            check(errors, prefix + name, item, known[name])
        elif isinstance(rest, dict):
            check(errors, prefix + name, item, rest)
    if props.get("x-kubernetes-embedded-resource"):
        for name in ("apiVersion", "kind"):
            if not value.get(name):
                errors.required(prefix + name, "must not be empty")


def valid(value: Any, props: Object) -> bool:
    errors = Errors()
    check(errors, "", value, props)
    return not errors


def _combined(errors: Errors, path: str, value: Any, props: Object) -> None:
    for part in props.get("allOf") or []:
        check(errors, path, value, part)
    name = quoted(path)
    some = props.get("anyOf")
    if some and not any(valid(value, part) for part in some):
        errors.invalid(path, value, f"{name} must validate at least one schema (anyOf)")
    one = props.get("oneOf")
    if one:
        count = sum(valid(value, part) for part in one)
        if count != 1:
            found = "Found none valid" if not count else f"Found {count} valid alternatives"
            errors.invalid(path, value, f"{name} must validate one and only one schema (oneOf). {found}")
    refused = props.get("not")
    if refused and valid(value, refused):
        errors.invalid(path, value, f"{name} must not validate the schema (not)")


_RFC3339 = re.compile(r"^\d{4}-\d{2}-\d{2}[Tt]\d{2}:\d{2}:\d{2}(\.\d+)?([Zz]|[+-]\d{2}:\d{2})$")
_DURATION = re.compile(r"^[+-]?(\d+(\.\d*)?(ns|us|µs|ms|s|m|h))+$")
_HOST = re.compile(r"^[a-zA-Z0-9]([-a-zA-Z0-9]{0,62})?(\.[a-zA-Z0-9]([-a-zA-Z0-9]{0,62})?)*\.?$")
_BASE64 = re.compile(r"^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$")
_MAC = re.compile(r"^[0-9A-Fa-f]{2}([:-][0-9A-Fa-f]{2}){5}$")


def well_formed(form: str, value: str) -> bool:
    """Whether a string has a format; formats that upstream does not check are always right."""
    try:
        match form:
            case "ipv4":
                ipaddress.IPv4Address(value)
            case "ipv6":
                ipaddress.IPv6Address(value)
            case "cidr":
                ipaddress.ip_network(value, strict=False)
                return "/" in value
            case "date":
                datetime.date.fromisoformat(value)
            case "date-time" | "datetime":
                return bool(_RFC3339.match(value))
            case "uuid" | "uuid3" | "uuid4" | "uuid5":
                uuid.UUID(value)
            case "duration":
                return value == "0" or bool(_DURATION.match(value))
            case "hostname":
                return len(value) <= 255 and bool(_HOST.match(value))
            case "byte":
                return bool(_BASE64.match(value))
            case "mac":
                return bool(_MAC.match(value))
    except ValueError:
        return False
    return True


def cel_paths(props: Object, path: str = "") -> list[str]:
    """Where the schema has CEL rules, which are not evaluated."""
    found = [path or "."] if props.get("x-kubernetes-validations") else []
    for name, inner in (props.get("properties") or {}).items():
        found += cel_paths(inner, f"{path}.{name}")
    for key, mark in (("items", "[*]"), ("additionalProperties", "[*]")):
        if isinstance(props.get(key), dict):
            found += cel_paths(props[key], path + mark)
    return found
