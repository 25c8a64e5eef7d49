"""OpenAPI schemas of CustomResourceDefinitions, read off the record types that decode the resources.

What a type cannot say (limits, enumerations, defaults, CEL rules) is given beside it. The rules are structural schemas'
(apiextensions.k8s.io/v1).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
from msgspec import inspect

from podwire.model.gvr import GVR

Schema = dict[str, Any]


@dataclass(frozen=True, slots=True)
class More:
    """What a record's schema says beyond its types: `fields` are added to the properties' schemas (under `items.` to
    those of a list's items), `rest` to its own."""

    required: tuple[str, ...] = ()
    rules: tuple[Schema, ...] = ()
    fields: Mapping[str, Schema] = field(default_factory=dict)
    rest: Schema = field(default_factory=dict)


Table = Mapping[type, More]


def rule(cel: str, message: str, reason: str = "FieldValueInvalid") -> Schema:
    """A validation rule in CEL."""
    return {"rule": cel, "message": message, "reason": reason}


def listed(kind: str = "atomic", **more: Any) -> Schema:
    """Of a list; `kind` is atomic or set."""
    return {**more, "x-kubernetes-list-type": kind}


def words(*values: str, **more: Any) -> Schema:
    """Of a text that is one of these."""
    return {**more, "enum": list(values)}


def schema(kind: type[msgspec.Struct], table: Table) -> Schema:
    """The schema of a record."""
    found = _schema(inspect.type_info(kind), table)
    assert found is not None
    return found


def _schema(kind: inspect.Type, table: Table) -> Schema:
    match kind:
        case inspect.StructType(cls):
            return _record(kind, table.get(cls, More()), table)
        case inspect.ListType(item_type=item):
            return {"type": "array", "items": _schema(item, table)}
        case inspect.DictType(value_type=value):
            return {"type": "object", "additionalProperties": _schema(value, table)}
        case inspect.UnionType(types=types):
            left = [each for each in types if not isinstance(each, inspect.NoneType)]
            if len(left) == 1:
                return _schema(left[0], table)
            return {"anyOf": [{"type": "integer"}, {"type": "string"}], "x-kubernetes-int-or-string": True}
        case inspect.BoolType():
            return {"type": "boolean"}
        case inspect.IntType():
            return {"type": "integer"}
        case inspect.FloatType():
            return {"type": "number"}
        case inspect.StrType():
            return {"type": "string"}
    raise TypeError(f"{kind} has no place in a schema")


def _record(kind: inspect.StructType, more: More, table: Table) -> Schema:
    properties: dict[str, Schema] = {}
    for each in kind.fields:
        found = _schema(each.type, table)
        for name, value in more.fields.get(each.encode_name, {}).items():
            target, _, last = name.rpartition(".")
            (found[target] if target else found)[last] = value
        properties[each.encode_name] = found
    unknown = set(more.fields) - set(properties)
    assert not unknown, f"{kind.cls.__name__} has no {unknown}"
    made: Schema = {"type": "object", "properties": properties}
    if more.required:
        made["required"] = list(more.required)
    if more.rules:
        made["x-kubernetes-validations"] = [dict(each) for each in more.rules]
    return {**made, **more.rest}


@dataclass(frozen=True, slots=True)
class Definition:
    """A kind, and what its CustomResourceDefinition says of it. `columns` are (name, type, path) for kubectl, before
    the age; `annotations` are the definition's own."""

    gvr: GVR
    spec: Schema
    short: tuple[str, ...] = ()
    columns: tuple[tuple[str, str, str], ...] = ()
    status: Schema | None = None
    rules: tuple[Schema, ...] = ()
    selectable: tuple[str, ...] = ()
    annotations: Mapping[str, str] = field(default_factory=dict)
    required: tuple[str, ...] = ("metadata", "spec")


def crd(of: Definition) -> Schema:
    """The CustomResourceDefinition; a new object each time."""
    gvr, text = of.gvr, {"type": "string"}
    properties: dict[str, Schema] = {"apiVersion": text, "kind": text, "metadata": {"type": "object"}, "spec": of.spec}
    version: Schema = {"name": gvr.version, "served": True, "storage": True}
    if of.status is not None:
        properties["status"] = of.status
        version["subresources"] = {"status": {}}
    whole: Schema = {"type": "object", "properties": properties, "required": list(of.required)}
    if of.rules:
        whole["x-kubernetes-validations"] = [dict(each) for each in of.rules]
    version["schema"] = {"openAPIV3Schema": whole}
    if of.selectable:
        version["selectableFields"] = [{"jsonPath": path} for path in of.selectable]
    age = ("Age", "date", ".metadata.creationTimestamp")
    version["additionalPrinterColumns"] = [
        {"name": name, "type": kind, "jsonPath": path} for name, kind, path in (*of.columns, age)
    ]
    names = {"kind": gvr.kind, "listKind": f"{gvr.kind}List", "plural": gvr.plural, "singular": gvr.kind.lower()}
    head: Schema = {"name": f"{gvr.plural}.{gvr.group}"}
    if of.annotations:
        head["annotations"] = dict(of.annotations)
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": head,
        "spec": {
            "group": gvr.group,
            "names": {**names, "shortNames": list(of.short)} if of.short else names,
            "scope": "Namespaced" if gvr.namespaced else "Cluster",
            "versions": [version],
        },
    }
