"""The protobuf form of the OpenAPI v2 document, read back by an independent reader of the wire format."""

from __future__ import annotations

import json

from podwire.apiserver.openapi_protobuf import encode

Fields = list[tuple[int, int | bytes]]


def read(data: bytes) -> Fields:
    """All fields of a message, in order: (number, integer or bytes)."""
    found: Fields = []
    at = 0

    def varint() -> int:
        nonlocal at
        value, shift = 0, 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(data):
        tag = varint()
        if tag & 7 == 0:
            found.append((tag >> 3, varint()))
        else:
            assert tag & 7 == 2
            length = varint()
            found.append((tag >> 3, data[at : at + length]))
            at += length
    return found


def at(data: bytes, *path: int) -> bytes:
    """The first field at a path of numbers."""
    for number in path:
        data = next(value for field, value in read(data) if field == number)  # type: ignore[assignment]
    return data


GVK = {"group": "", "version": "v1", "kind": "Pod"}
DOCUMENT = {
    "swagger": "2.0",
    "info": {"title": "Kubernetes", "version": "unversioned"},
    "paths": {
        "/api/v1/pods/{name}": {
            "patch": {
                "operationId": "patchPod",
                "consumes": ["application/json-patch+json"],
                "parameters": [{"name": "fieldValidation", "in": "query", "type": "string"}],
                "x-kubernetes-group-version-kind": GVK,
                "responses": {},
            },
            "parameters": [{"name": "name", "in": "path", "required": True, "type": "string"}],
        }
    },
    "definitions": {
        "Pod": {
            "type": "object",
            "required": ["spec"],
            "properties": {
                "spec": {"$ref": "#/definitions/Spec"},
                "labels": {"type": "object", "additionalProperties": {"type": "string"}},
                "items": {"type": "array", "items": {"type": "string"}, "x-kubernetes-patch-merge-key": "name"},
            },
            "x-kubernetes-group-version-kind": [GVK],
        }
    },
}


def test_paths_carry_what_kubectl_looks_for() -> None:
    data = encode(DOCUMENT)
    assert at(data, 8, 2, 1) == b"/api/v1/pods/{name}"
    patch = at(data, 8, 2, 2, 8)
    assert at(patch, 5) == b"patchPod"
    query = at(patch, 8, 1, 2, 3)
    assert dict(read(query)) == {2: b"query", 4: b"fieldValidation", 6: b"string"}
    assert at(patch, 13, 1) == b"x-kubernetes-group-version-kind"
    assert json.loads(at(patch, 13, 2, 2)) == GVK
    name = at(data, 8, 2, 2, 9, 1, 2, 4)
    assert dict(read(name)) == {1: 1, 2: b"path", 4: b"name", 5: b"string"}


def test_definitions_keep_types_references_and_merge_keys() -> None:
    pod = at(encode(DOCUMENT), 9, 1, 2)
    assert at(pod, 22, 1) == b"object"
    assert at(pod, 19) == b"spec"
    properties = {at(each, 1): at(each, 2) for _, each in read(at(pod, 25)) if isinstance(each, bytes)}
    assert at(properties[b"spec"], 1) == b"#/definitions/Spec"
    assert at(properties[b"labels"], 21, 1, 22, 1) == b"string"
    assert at(properties[b"items"], 23, 1, 22, 1) == b"string"
    assert json.loads(at(properties[b"items"], 31, 2, 2)) == "name"
    assert json.loads(at(pod, 31, 2, 2)) == [GVK]


def test_long_texts_have_long_lengths() -> None:
    document = {**DOCUMENT, "definitions": {"A": {"description": "x" * 300}}}
    assert at(encode(document), 9, 1, 2, 4) == b"x" * 300
