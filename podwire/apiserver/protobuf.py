"""Reads the protobuf bodies that kubectl's typed clients send, into the JSON form of the same object.

The frame is `k8s\\0` followed by a runtime.Unknown message; the object inside is decoded by the field table. What Go
would leave out of JSON (zero values of plain omitempty fields, zero times) is left out here too.
Source: k8s.io/apimachinery runtime/serializer/protobuf; the types' field numbers.
"""

from __future__ import annotations

import base64
import datetime
import struct
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from podwire.apiserver.fields import Schema, schema_for

MAGIC = b"k8s\x00"
_DEPTH = 64  # messages within messages; the deepest real kind has fewer than 20


class ProtobufError(ValueError):
    """The body is not a protobuf object that this server knows; the message says where."""


def _varint(data: bytes, at: int) -> tuple[int, int]:
    shift = value = 0
    while True:
        if at >= len(data) or shift > 63:
            raise ProtobufError("a varint is cut short or too long")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, at
        shift += 7


def records(data: bytes) -> Iterator[tuple[int, int, Any]]:
    """The (field number, wire type, value) records of a message; values are int or bytes."""
    at, end = 0, len(data)
    while at < end:
        key, at = _varint(data, at)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, at = _varint(data, at)
            yield number, wire, value
            continue
        if wire == 2:
            size, at = _varint(data, at)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise ProtobufError(f"field {number} has wire type {wire}, which is not in use")
        if at + size > end or number == 0:
            raise ProtobufError(f"field {number} is cut short")
        yield number, wire, data[at : at + size]
        at += size


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


def _text(value: Any) -> str:
    try:
        return str(value, "utf-8")
    except (UnicodeDecodeError, TypeError) as error:
        raise ProtobufError("a string is not valid UTF-8") from error


def _time(data: bytes, micro: bool) -> str | None:
    parts = {number: value for number, _, value in records(data)}
    if not parts:
        return None
    seconds, nanos = _signed(parts.get(1, 0)), parts.get(2, 0)
    try:
        moment = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    except (ValueError, OverflowError, OSError) as error:
        raise ProtobufError(f"{seconds} is not a time") from error
    text = moment.strftime("%Y-%m-%dT%H:%M:%S")
    return f"{text}.{nanos // 1000:06d}Z" if micro else text + "Z"


def _single(data: bytes, default: Any) -> Any:
    for number, _, value in records(data):
        if number == 1:
            return value
    return default


def _int_or_string(data: bytes) -> int | str:
    parts = {number: value for number, _, value in records(data)}
    if parts.get(1, 0):
        return _text(parts.get(3, b""))
    return _signed(parts.get(2, 0))


def _json(data: bytes) -> Any:
    raw = _single(data, b"")
    try:
        return msgspec.json.decode(raw) if raw else None
    except msgspec.DecodeError as error:
        raise ProtobufError(f"embedded JSON: {error}") from error


def _props_or(name: str, data: bytes) -> Any:
    """The either-or types of JSONSchemaProps: (bool|schema), (schema|schemas), (schema|strings)."""
    schema = schema_for("apiextensions.k8s.io/v1", "CustomResourceDefinition")
    assert schema is not None
    props = _json_schema_props()
    parts = list(records(data))
    if name == "props-or-bool":
        inner = [value for number, _, value in parts if number == 2]
        return _message(inner[0], props, 1) if inner else any(value for number, _, value in parts if number == 1)
    single = [value for number, _, value in parts if number == 1]
    if single:
        return _message(single[0], props, 1)
    rest = [value for number, _, value in parts if number == 2]
    return [_text(value) for value in rest] if name == "props-or-strings" else [_message(v, props, 1) for v in rest]


def _json_schema_props() -> Schema:
    from podwire.apiserver.fields import type_named

    return type_named("apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps")


_SCALARS: dict[str, Callable[[Any], Any]] = {
    "string": _text,
    "boolean": bool,
    "int32": _signed,
    "int64": _signed,
    "bytes": lambda value: base64.b64encode(value).decode(),
    "number": lambda value: struct.unpack("<d", value)[0],
    "time": lambda value: _time(value, micro=False),
    "microtime": lambda value: _time(value, micro=True),
    "quantity": lambda value: _text(_single(value, b"")),
    "int-or-string": _int_or_string,
    "raw": _json,
    "json": _json,
    "fields": _json,
    "props-or-bool": lambda value: _props_or("props-or-bool", value),
    "props-or-array": lambda value: _props_or("props-or-array", value),
    "props-or-strings": lambda value: _props_or("props-or-strings", value),
}
_OMITTED = frozenset(("string", "boolean", "int32", "int64", "number", "bytes"))  # Go's omitempty acts on these
_WIRE = {"boolean": 0, "int32": 0, "int64": 0, "number": 1}  # every other kind is length-delimited


def _value(data: Any, wire: int, schema: Schema, depth: int) -> Any:
    if wire != _WIRE.get(schema.kind, 2):
        raise ProtobufError(f"wire type {wire} does not fit a {schema.kind}")
    read = _SCALARS.get(schema.kind)
    if read is not None:
        return read(data)
    if schema.kind == "array":  # a named list is a message with one repeated field
        assert schema.element is not None
        return [_value(item, kind, schema.element, depth) for number, kind, item in records(data) if number == 1]
    return _message(data, schema, depth + 1)


def _entry(data: bytes, element: Schema, depth: int) -> tuple[str, Any]:
    key, value = "", None
    for number, wire, part in records(data):
        if number == 1:
            key = _text(part)
        elif number == 2:
            value = _value(part, wire, element, depth)
    if value is None:
        value = {"string": "", "array": [], "bytes": ""}.get(element.kind)
    return key, value


def _packed(data: bytes) -> Iterator[int]:
    at = 0
    while at < len(data):
        value, at = _varint(data, at)
        yield value


def _message(data: bytes, schema: Schema, depth: int) -> dict[str, Any]:
    if depth > _DEPTH:
        raise ProtobufError("messages are nested too deeply")
    out: dict[str, Any] = {}
    fields = schema.wire
    for number, wire, value in records(data):
        known = fields.get(number)
        if known is None:
            inner = schema.inline.get(number)
            if inner is not None and wire == 2:
                out.update(_message(value, inner, depth + 1))
            continue
        name, sub = known
        element = sub.element
        if sub.kind == "array" and element is not None:
            items = out.setdefault(name, [])
            if wire == 2 and element.kind in ("int32", "int64"):
                items.extend(map(_signed, _packed(value)))
            else:
                items.append(_value(value, wire, element, depth))
        elif sub.kind == "map" and element is not None:
            key, item = _entry(value, element, depth)
            out.setdefault(name, {})[key] = item
        else:
            found = _value(value, wire, sub, depth)
            if found is None or (not found and sub.kind in _OMITTED and sub.omit_empty and not sub.pointer):
                continue
            out[name] = found
    return out


def decode(body: bytes) -> dict[str, Any]:
    """The object in a `k8s\\0` body, with apiVersion and kind. Raises ProtobufError."""
    if not body.startswith(MAGIC):
        raise ProtobufError("the body does not start with the k8s protobuf prefix")
    envelope = {number: value for number, _, value in records(body[4:])}
    meta = {number: _text(value) for number, _, value in records(envelope.get(1, b""))}
    api_version, kind = meta.get(1, ""), meta.get(2, "")
    schema = schema_for(api_version, kind)
    if schema is None:
        raise ProtobufError(f"no protobuf form is known for {kind or 'an object without kind'} in {api_version!r}")
    raw = envelope.get(2, b"")
    if not isinstance(raw, bytes):
        raise ProtobufError("the envelope holds no object")
    return {"apiVersion": api_version, "kind": kind, **_message(raw, schema, 0)}
