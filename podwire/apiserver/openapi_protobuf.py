"""The OpenAPI v2 document in the protobuf form that kubectl asks for.

kubectl turns to it when a kind is not found in the v3 documents (`kind: List`, a misspelt kind). Field numbers are
those of gnostic's OpenAPIv2.proto. Responses are left out: clients read types, parameters and the vendor extensions.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

Object = dict[str, Any]

MEDIA_TYPE = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
ASKED_FOR = (MEDIA_TYPE, MEDIA_TYPE.replace("v2.v1", "v2@v1"))  # the old name is not a valid media type: never answered

_METHODS = {"get": 2, "put": 3, "post": 4, "delete": 5, "patch": 8}
_SCHEMA_TEXT = {"$ref": 1, "format": 2, "title": 3, "description": 4, "pattern": 13}
_SCHEMA_NUMBERS = {"maxLength": 11, "minLength": 12, "maxItems": 14, "minItems": 15}
_QUERY, _PATH = 3, 4  # members of NonBodyParameter


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _bytes(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def _text(field: int, value: str) -> bytes:
    return _bytes(field, value.encode())


def _texts(field: int, values: Iterable[str]) -> bytes:
    return b"".join(_text(field, value) for value in values)


def _any(value: Any) -> bytes:
    """A message Any: its value as YAML, for which JSON will do."""
    return _text(2, msgspec.json.encode(value).decode())


def _extensions(field: int, body: Object) -> bytes:
    marks = ((key, value) for key, value in body.items() if key.startswith("x-"))
    return b"".join(_bytes(field, _text(1, key) + _bytes(2, _any(value))) for key, value in marks)


def _schema(body: Object) -> bytes:
    out = b"".join(_text(number, body[key]) for key, number in _SCHEMA_TEXT.items() if key in body)
    out += b"".join(_number(number, body[key]) for key, number in _SCHEMA_NUMBERS.items() if key in body)
    if "default" in body:
        out += _bytes(5, _any(body["default"]))
    out += _texts(19, body.get("required", ()))
    out += b"".join(_bytes(20, _any(value)) for value in body.get("enum", ()))
    extra = body.get("additionalProperties")
    if isinstance(extra, bool):
        out += _bytes(21, _number(2, int(extra)))
    elif extra is not None:
        out += _bytes(21, _bytes(1, _schema(extra)))
    if "type" in body:
        out += _bytes(22, _text(1, body["type"]))
    if "items" in body:
        out += _bytes(23, _bytes(1, _schema(body["items"])))
    out += b"".join(_bytes(24, _schema(each)) for each in body.get("allOf", ()))
    if "properties" in body:
        out += _bytes(25, _named_schemas(body["properties"]))
    return out + _extensions(31, body)


def _named_schemas(schemas: Object) -> bytes:
    return b"".join(_bytes(1, _text(1, name) + _bytes(2, _schema(body))) for name, body in schemas.items())


def _parameter(body: Object) -> bytes:
    """A ParametersItem. Query and path parameters share their first numbers, but for the type's."""
    query = body["in"] == "query"
    inner = _number(1, 1) if body.get("required") else b""
    inner += _text(2, body["in"]) + _text(4, body["name"]) + _text(6 if query else 5, body["type"])
    return _bytes(1, _bytes(2, _bytes(_QUERY if query else _PATH, inner)))


def _operation(body: Object) -> bytes:
    out = _text(5, body["operationId"]) + _texts(7, body.get("consumes", ()))
    out += b"".join(_bytes(8, _parameter(each)) for each in body.get("parameters", ()))
    return out + _extensions(13, body)


def _path(body: Object) -> bytes:
    out = b"".join(_bytes(number, _operation(body[key])) for key, number in _METHODS.items() if key in body)
    return out + b"".join(_bytes(9, _parameter(each)) for each in body.get("parameters", ()))


def encode(document: Object) -> bytes:
    """The document (as `openapi.v2_document` gives it) as a gnostic Document message."""
    info = _text(1, document["info"]["title"]) + _text(2, document["info"]["version"])
    paths = b"".join(_bytes(2, _text(1, name) + _bytes(2, _path(body))) for name, body in document["paths"].items())
    definitions = _named_schemas(document["definitions"])
    return _text(1, document["swagger"]) + _bytes(2, info) + _bytes(8, paths) + _bytes(9, definitions)
