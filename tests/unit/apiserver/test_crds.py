"""Custom resources: definitions, schemas, printer columns, and their place in OpenAPI."""

from __future__ import annotations

from typing import Any

import pytest

from podwire.apiserver import crds
from podwire.apiserver.apply import apply
from podwire.apiserver.jsonpath import JsonPathError, find
from podwire.apiserver.openapi import v2_document, v3_document, v3_index
from podwire.apiserver.patches import clone, merge_patch
from podwire.apiserver.resources import Registry, Resource
from podwire.apiserver.strict import conform
from podwire.apiserver.structural import valid
from podwire.apiserver.validation import validate
from podwire.model.gvr import CRDS, DEPLOYMENTS, NAMESPACES, PODS

SPEC_SCHEMA = {
    "type": "object",
    "required": ["size"],
    "properties": {
        "size": {"type": "integer", "minimum": 1, "maximum": 9},
        "mode": {"type": "string", "enum": ["A", "B"], "default": "A"},
        "cidr": {"type": "string", "format": "cidr"},
        "port": {"x-kubernetes-int-or-string": True},
        "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
        "names": {"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "set"},
        "parts": {
            "type": "array",
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["id"],
            "items": {
                "type": "object",
                "properties": {"id": {"type": "string"}, "n": {"type": "integer", "default": 1}},
            },
        },
        "labels": {"type": "object", "additionalProperties": {"type": "string", "maxLength": 3}},
    },
}
CRD: dict[str, Any] = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "widgets.example.com"},
    "spec": {
        "group": "example.com",
        "scope": "Namespaced",
        "names": {
            "plural": "widgets",
            "singular": "widget",
            "kind": "Widget",
            "listKind": "WidgetList",
            "shortNames": ["wd"],
        },
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": SPEC_SCHEMA}}},
                "subresources": {
                    "status": {},
                    "scale": {"specReplicasPath": ".spec.size", "statusReplicasPath": ".status.size"},
                },
                "additionalPrinterColumns": [
                    {"name": "Size", "type": "integer", "jsonPath": ".spec.size"},
                    {"name": "Ready", "type": "string", "jsonPath": '.status.conditions[?(@.type=="Ready")].status'},
                ],
            }
        ],
    },
}


def widget() -> Resource:
    (resource,) = crds.resource_from_crd(CRD)
    return resource


def wrong(spec: dict[str, Any]) -> list[tuple[str, str]]:
    obj = {"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "w"}, "spec": spec}
    return [
        (cause.field, cause.type.removeprefix("FieldValue"))
        for cause in crds.validate_object(obj, None, widget().custom)
    ]


def test_a_definition_becomes_a_resource() -> None:
    resource = widget()
    assert (resource.gvr.api_version, resource.gvr.plural, resource.gvr.namespaced) == (
        "example.com/v1",
        "widgets",
        True,
    )
    assert resource.has_status
    assert resource.scale is not None and resource.scale.replicas == "spec.size"
    obj = {
        "metadata": {"name": "w"},
        "spec": {"size": 3},
        "status": {"conditions": [{"type": "Ready", "status": "True"}]},
    }
    assert resource.row(obj, 0.0) == ["w", 3, "True"]
    assert resource.row({"metadata": {"name": "w"}}, 0.0) == ["w", None, None]


def test_pruning_and_defaulting() -> None:
    schema = widget().custom
    assert schema is not None
    obj = {"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "w"}, "extra": 1}
    obj["spec"] = {"size": 1, "x": 2, "free": {"kept": {"y": 1}}, "parts": [{"id": "a", "z": 0}], "mode": None}
    assert sorted(conform(obj, schema)) == [
        'unknown field "extra"',
        'unknown field "spec.parts[0].z"',
        'unknown field "spec.x"',
    ]
    crds.default_object(obj, schema)
    assert obj["spec"] == {"size": 1, "mode": "A", "free": {"kept": {"y": 1}}, "parts": [{"id": "a", "n": 1}]}


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({"size": 1, "port": "http", "cidr": "10.0.0.0/8"}, []),
        ({}, [("spec.size", "Required")]),
        ({"size": 0}, [("spec.size", "Invalid")]),
        ({"size": "3"}, [("spec.size", "TypeInvalid")]),
        ({"size": 1, "mode": "C"}, [("spec.mode", "NotSupported")]),
        ({"size": 1, "cidr": "10.0.0.0"}, [("spec.cidr", "TypeInvalid")]),
        ({"size": 1, "port": True}, [("spec.port", "TypeInvalid")]),
        ({"size": 1, "names": ["a", "a"]}, [("spec.names[1]", "Duplicate")]),
        ({"size": 1, "parts": [{"id": "a"}, {"id": "a"}]}, [("spec.parts[1]", "Duplicate")]),
        ({"size": 1, "labels": {"k": "long"}}, [("spec.labels.k", "TooLong")]),
        ({"size": 1, "labels": []}, [("spec.labels", "TypeInvalid")]),
    ],
)
def test_validation_of_objects(spec: dict[str, Any], expected: list[tuple[str, str]]) -> None:
    assert wrong(spec) == expected


@pytest.mark.parametrize(
    ("props", "good", "bad"),
    [
        ({"anyOf": [{"type": "string"}, {"minimum": 5, "type": "integer"}]}, ["x", 7], [3, True]),
        ({"oneOf": [{"required": ["a"]}, {"required": ["b"]}]}, [{"a": 1}], [{}, {"a": 1, "b": 2}]),
        ({"not": {"enum": ["x"]}}, ["y"], ["x"]),
        ({"allOf": [{"minimum": 1}, {"maximum": 3}]}, [2], [0, 4]),
        ({"type": "string", "nullable": True}, [None, "a"], [1]),
        ({"type": "string", "pattern": "^a+$"}, ["aa"], ["b", ""]),
        ({"type": "string", "format": "date-time"}, ["2026-01-02T03:04:05Z"], ["yesterday"]),
        ({"type": "string", "format": "ipv4"}, ["10.0.0.1"], ["10.0.0.256", "::1"]),
        ({"type": "array", "minItems": 1, "maxItems": 2, "items": {"type": "integer"}}, [[1]], [[], [1, 2, 3], ["a"]]),
        ({"type": "object", "minProperties": 1}, [{"a": 1}], [{}]),
        ({"type": "number", "multipleOf": 2, "exclusiveMaximum": True, "maximum": 6}, [2, 4.0], [3, 6]),
    ],
)
def test_value_rules(props: dict[str, Any], good: list[Any], bad: list[Any]) -> None:
    assert [value for value in good if not valid(value, props)] == []
    assert [value for value in bad if valid(value, props)] == []


VERSION = CRD["spec"]["versions"][0]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, None),
        ({"metadata": {"name": "other"}}, "metadata.name"),
        ({"spec": {"scope": "Galaxy"}}, "spec.scope"),
        ({"spec": {"names": {"plural": "Widgets"}}}, "spec.names.plural"),
        ({"spec": {"versions": []}}, "spec.versions"),
        ({"spec": {"versions": [{**VERSION, "storage": False}]}}, "spec.versions"),
        ({"spec": {"versions": [{**VERSION, "schema": None}]}}, "spec.versions[0].schema.openAPIV3Schema"),
        (
            {
                "spec": {
                    "versions": [
                        {**VERSION, "schema": {"openAPIV3Schema": {"type": "object", "properties": {"a": {}}}}}
                    ]
                }
            },
            "spec.versions[0].schema.openAPIV3Schema.properties[a].type",
        ),
        (
            {
                "spec": {
                    "versions": [
                        {**VERSION, "additionalPrinterColumns": [{"name": "X", "type": "string", "jsonPath": "x y"}]}
                    ]
                }
            },
            "spec.versions[0].additionalPrinterColumns[0].jsonPath",
        ),
    ],
)
def test_validation_of_definitions(change: dict[str, Any], expected: str | None) -> None:
    found = [cause.field for cause in validate(merge_patch(CRD, change))]
    assert found == ([] if expected is None else found) and (expected is None or expected in found)


def test_acceptance_and_what_is_not_evaluated() -> None:
    crd = clone(CRD)
    crds.accept(crd, "2026-01-01T00:00:00Z")
    assert {each["type"]: each["status"] for each in crd["status"]["conditions"]} == {
        "NamesAccepted": "True",
        "Established": "True",
    }
    assert crd["status"]["storedVersions"] == ["v1"]
    crds.accept(crd, "2026-01-02T00:00:00Z")
    assert crd["status"]["conditions"][0]["lastTransitionTime"] == "2026-01-01T00:00:00Z"
    assert crds.not_evaluated(crd) == []
    crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["x-kubernetes-validations"] = [{"rule": "true"}]
    assert "CEL" in crds.not_evaluated(crd)[0]


def test_apply_knows_the_lists_of_custom_resources() -> None:
    schema = widget().custom
    base = {"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "w"}}
    one = apply(None, {**base, "spec": {"parts": [{"id": "a", "n": 1}]}}, "one", False, schema, "t1")
    two = apply(one, {**base, "spec": {"parts": [{"id": "b", "n": 2}]}}, "two", False, schema, "t2")
    assert two["spec"]["parts"] == [{"id": "a", "n": 1}, {"id": "b", "n": 2}]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (".a.b", [1]),
        (".l[*].n", [1, 2]),
        (".l[1].n", [2]),
        (".l[-1].n", [2]),
        ('.l[?(@.t=="x")].n', [1]),
        ("['a'].b", [1]),
        (".x\\.y/z", [3]),
        (".gone.b", []),
    ],
)
def test_jsonpath(path: str, expected: list[Any]) -> None:
    obj = {"a": {"b": 1}, "l": [{"t": "x", "n": 1}, {"t": "y", "n": 2}], "x.y/z": 3}
    assert find(obj, path) == expected


def test_jsonpath_says_where_it_is_wrong() -> None:
    with pytest.raises(JsonPathError, match="expected a"):
        find({}, ".a b[")


def references(value: Any) -> set[str]:
    if isinstance(value, dict):
        own = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
        return own.union(*(references(each) for each in value.values()))
    return set().union(*(references(each) for each in value)) if isinstance(value, list) else set()


def test_openapi_documents_are_closed_and_carry_what_kubectl_asks_for() -> None:
    registry = Registry([Resource(gvr) for gvr in (PODS, NAMESPACES, DEPLOYMENTS, CRDS)] + [widget()])
    for group, version in (("", "v1"), ("apps", "v1"), ("example.com", "v1")):
        document = v3_document(group, version, registry)
        known = {"#/components/schemas/" + name for name in document["components"]["schemas"]}
        assert references(document) <= known
        for path in document["paths"].values():
            if "patch" in path:
                assert "fieldValidation" in {each["name"] for each in path["patch"]["parameters"]}
    two = v2_document(registry)
    assert references(two) <= {"#/definitions/" + name for name in two["definitions"]}
    pod = v3_document("", "v1", registry)["components"]["schemas"]["io.k8s.api.core.v1.PodSpec"]
    assert pod["properties"]["containers"]["x-kubernetes-patch-merge-key"] == "name"
    assert pod["properties"]["containers"]["x-kubernetes-list-map-keys"] == ["name"]
    custom = v3_document("example.com", "v1", registry)["components"]["schemas"]["com.example.v1.Widget"]
    assert custom["x-kubernetes-group-version-kind"] == [{"group": "example.com", "version": "v1", "kind": "Widget"}]
    assert custom["properties"]["spec"] == SPEC_SCHEMA
    paths = v3_index([("", "v1"), ("example.com", "v1")], "1")["paths"]
    assert set(paths) == {"api/v1", "apis/example.com/v1"}
