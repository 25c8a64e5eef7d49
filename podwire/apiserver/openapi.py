"""The OpenAPI documents that clients read: v3 by group and version, and v2 as JSON.

Made from the field table and the registry of kinds, with what kubectl needs: types with their group, version and kind,
list types and merge keys, and paths whose PATCH says that it knows `fieldValidation`. Descriptions are our own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

from podwire.apiserver.descriptions import FIELDS, KINDS
from podwire.apiserver.fields import META, Schema, type_named
from podwire.model.gvr import GVR

Object = dict[str, Any]
V3, V2 = "#/components/schemas/", "#/definitions/"
_META = f"io.k8s.{META}"
_SPECIAL: dict[str, tuple[str, Object]] = {
    "time": (f"{_META}.Time", {"type": "string", "format": "date-time"}),
    "microtime": (f"{_META}.MicroTime", {"type": "string", "format": "date-time"}),
    "quantity": ("io.k8s.apimachinery.pkg.api.resource.Quantity", {"oneOf": [{"type": "string"}, {"type": "number"}]}),
    "int-or-string": (
        "io.k8s.apimachinery.pkg.util.intstr.IntOrString",
        {"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]},
    ),
    "raw": ("io.k8s.apimachinery.pkg.runtime.RawExtension", {"type": "object"}),
    "fields": (f"{_META}.FieldsV1", {"type": "object"}),
}
_SCALARS: dict[str, Object] = {
    "string": {"type": "string"},
    "boolean": {"type": "boolean"},
    "int32": {"type": "integer", "format": "int32"},
    "int64": {"type": "integer", "format": "int64"},
    "number": {"type": "number", "format": "double"},
    "bytes": {"type": "string", "format": "byte"},
}
_PATCH_TYPES = ("application/apply-patch+yaml", "application/json-patch+json", "application/merge-patch+json")
_STRATEGIC = "application/strategic-merge-patch+json"


class Kind(Protocol):
    """What is read of a registered kind (resources.Resource)."""

    @property
    def gvr(self) -> GVR: ...
    @property
    def verbs(self) -> tuple[str, ...]: ...
    @property
    def schema(self) -> Schema | None: ...
    @property
    def is_custom(self) -> bool: ...
    @property
    def kind_of_list(self) -> str: ...
    @property
    def has_status(self) -> bool: ...


class Kinds(Protocol):
    """What is read of the registry."""

    def of(self, group: str, version: str) -> Iterable[Kind]: ...
    def groups(self) -> dict[str, list[str]]: ...


def v3_index(gvs: Iterable[tuple[str, str]], stamp: str = "") -> Object:
    """The list of v3 documents. `stamp` goes into the hashes that let clients cache: change it when kinds change."""
    found = {}
    for group, version in gvs:
        path = f"apis/{group}/{version}" if group else f"api/{version}"
        digest = hashlib.sha256(f"{path} {stamp}".encode()).hexdigest().upper()
        found[path] = {"serverRelativeURL": f"/openapi/v3/{path}?hash={digest}"}
    return {"paths": found}


def v3_document(group: str, version: str, registry: Kinds) -> Object:
    """The OpenAPI v3 document of one group version."""
    types = _Types(V3)
    paths: Object = {}
    for kind in registry.of(group, version):
        types.add_kind(kind)
        paths.update(_paths(kind, types))
    types.add(type_named(f"{META}.DeleteOptions"))
    types.add(type_named(f"{META}.Status"))
    return {
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": "unversioned"},
        "paths": paths,
        "components": {"schemas": types.finished()},
    }


def v2_document(registry: Kinds) -> Object:
    """The OpenAPI v2 document of all kinds."""
    types = _Types(V2)
    paths: Object = {}
    for group, versions in registry.groups().items():
        for version in versions:
            for kind in registry.of(group, version):
                types.add_kind(kind)
                paths.update(_paths(kind, types))
    types.add(type_named(f"{META}.DeleteOptions"))
    types.add(type_named(f"{META}.Status"))
    return {
        "swagger": "2.0",
        "info": {"title": "Kubernetes", "version": "unversioned"},
        "paths": paths,
        "definitions": types.finished(),
    }


class _Types:
    """Collects the types of a document; `prefix` is where references point."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.schemas: Object = {}

    def finished(self) -> Object:
        return dict(sorted(self.schemas.items()))

    def ref(self, name: str) -> Object:
        return {"$ref": self.prefix + name}

    def add(self, schema: Schema) -> str:
        """Make sure that a named type and all that it refers to are there; its name."""
        if schema.name not in self.schemas:
            body: Object = {"type": "object"}
            self.schemas[schema.name] = body  # first, as types may refer to themselves
            if words := KINDS.get(schema.name.rsplit(".", 1)[-1]):
                body["description"] = words
            if schema.fields:
                body["properties"] = {key: self.field(key, sub) for key, sub in schema.fields.items()}
            if schema.required:
                body["required"] = list(schema.required)
            if schema.map_type:
                body["x-kubernetes-map-type"] = schema.map_type
        return schema.name

    def field(self, key: str, schema: Schema) -> Object:
        body = self.use(schema)
        if words := FIELDS.get(key):
            body["description"] = words
        if schema.default is not None:
            body["default"] = schema.default
        elif "allOf" in body and not schema.pointer:
            body["default"] = {}
        if schema.enum:
            body["enum"] = list(schema.enum)
        if schema.kind == "array":
            _mark(body, "x-kubernetes-list-type", schema.list_type)
            _mark(body, "x-kubernetes-list-map-keys", list(schema.list_keys))
        elif schema.kind == "map":
            _mark(body, "x-kubernetes-map-type", schema.map_type)
        _mark(body, "x-kubernetes-patch-merge-key", schema.merge_key)
        _mark(body, "x-kubernetes-patch-strategy", ",".join(sorted(schema.strategies)))
        return body

    def use(self, schema: Schema) -> Object:
        """A type as it stands in a field, a list or a map."""
        special = _SPECIAL.get(schema.kind)
        if special is not None:
            name, body = special
            self.schemas.setdefault(name, dict(body))
            return {"allOf": [self.ref(name)]} if self.prefix == V3 else self.ref(name)
        if schema.kind in _SCALARS:
            return dict(_SCALARS[schema.kind])
        if schema.kind == "array" and schema.element is not None:
            return {"type": "array", "items": self.use(schema.element)}
        if schema.kind == "map" and schema.element is not None:
            return {"type": "object", "additionalProperties": self.use(schema.element)}
        if schema.kind == "object" and schema.name:
            name = self.add(schema)
            return {"allOf": [self.ref(name)]} if self.prefix == V3 else self.ref(name)
        return {"x-kubernetes-preserve-unknown-fields": True}

    def add_kind(self, kind: Kind) -> None:
        """A kind with its list, both marked with group, version and kind."""
        schema, name = kind.schema, type_name(kind)
        gvk = {"group": kind.gvr.group, "version": kind.gvr.version, "kind": kind.gvr.kind}
        if schema is None:
            self.schemas[name] = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
        elif kind.is_custom:
            self.schemas[name] = self._custom(schema)
        else:
            self.add(schema)
        self.schemas[name] = {**self.schemas[name], "x-kubernetes-group-version-kind": [gvk]}
        if "list" in kind.verbs:
            meta = type_named(f"{META}.ListMeta")
            self.schemas[f"{name.removesuffix(kind.gvr.kind)}{kind.kind_of_list}"] = {
                "type": "object",
                "properties": {
                    "apiVersion": {"type": "string", "description": FIELDS["apiVersion"]},
                    "items": {"type": "array", "items": self.ref(name), "description": "The objects."},
                    "kind": {"type": "string", "description": FIELDS["kind"]},
                    "metadata": self.ref(self.add(meta)),
                },
                "required": ["items"],
                "x-kubernetes-group-version-kind": [{**gvk, "kind": kind.kind_of_list}],
            }

    def _custom(self, schema: Schema) -> Object:
        """A custom resource's own schema, with metadata as everywhere."""
        body = dict(schema.rules.get("openapi") or {"type": "object"})
        meta = self.use(type_named(f"{META}.ObjectMeta"))
        body["properties"] = {
            **(body.get("properties") or {}),
            "apiVersion": {"type": "string", "description": FIELDS["apiVersion"]},
            "kind": {"type": "string", "description": FIELDS["kind"]},
            "metadata": {**meta, "description": FIELDS["metadata"]},
        }
        return body


def _mark(body: Object, key: str, value: Any) -> None:
    if value:
        body[key] = value


def type_name(kind: Kind) -> str:
    """The name of a kind's type: upstream's for built-in kinds, the reversed group for custom resources."""
    schema, gvr = kind.schema, kind.gvr
    if schema is not None and schema.name:
        return schema.name
    return ".".join([*reversed(gvr.group.split(".")), gvr.version, gvr.kind])


def _paths(kind: Kind, types: _Types) -> Iterator[tuple[str, Object]]:
    """The collection's and the object's path, with the operations that the kind has."""
    gvr, ref = kind.gvr, types.ref(type_name(kind))
    listed = types.ref(f"{type_name(kind).removesuffix(gvr.kind)}{kind.kind_of_list}")
    collection = gvr.path("{namespace}")
    v3 = types.prefix == V3
    where = [_path_parameter("namespace", v3=v3)] if gvr.namespaced else []
    operations: Object = {}
    for verb, method, answer in (("list", "get", listed), ("create", "post", ref)):
        if verb in kind.verbs:
            operations[method] = _operation(types, gvr, verb, answer, kind.is_custom)
    if operations:
        yield collection, {**operations, "parameters": where}
    if gvr.namespaced and "list" in kind.verbs:
        yield gvr.path(), {"get": _operation(types, gvr, "list", listed, kind.is_custom)}
    single: Object = {}
    for verb, method in (("get", "get"), ("update", "put"), ("patch", "patch"), ("delete", "delete")):
        if verb in kind.verbs:
            single[method] = _operation(types, gvr, verb, ref, kind.is_custom)
    if not single:
        return
    parameters = [_path_parameter("name", v3=v3), *where]
    yield f"{collection}/{{name}}", {**single, "parameters": parameters}
    if kind.has_status:
        status = {method: body for method, body in single.items() if method in ("get", "put", "patch")}
        yield f"{collection}/{{name}}/status", {**status, "parameters": parameters}


_ACTIONS = {"create": "post", "update": "put"}
_QUERIES: dict[str, tuple[tuple[str, str], ...]] = {
    "list": (
        ("allowWatchBookmarks", "boolean"),
        ("continue", "string"),
        ("fieldSelector", "string"),
        ("labelSelector", "string"),
        ("limit", "integer"),
        ("resourceVersion", "string"),
        ("timeoutSeconds", "integer"),
        ("watch", "boolean"),
    ),
    "create": (("dryRun", "string"), ("fieldManager", "string"), ("fieldValidation", "string")),
    "update": (("dryRun", "string"), ("fieldManager", "string"), ("fieldValidation", "string")),
    "patch": (("dryRun", "string"), ("fieldManager", "string"), ("fieldValidation", "string"), ("force", "boolean")),
    "delete": (("dryRun", "string"), ("gracePeriodSeconds", "integer"), ("propagationPolicy", "string")),
    "get": (),
}


def _operation(types: _Types, gvr: GVR, verb: str, answer: Object, custom: bool) -> Object:
    v3 = types.prefix == V3
    scope = "Namespaced" if gvr.namespaced else ""
    name = "".join(part.capitalize() for part in gvr.group.split(".")[:1]) or "Core"
    body: Object = {
        "operationId": f"{verb}{name}{gvr.version.capitalize()}{scope}{gvr.kind}",
        "parameters": [_query_parameter(key, kind, v3=v3) for key, kind in _QUERIES[verb]],
        "x-kubernetes-action": _ACTIONS.get(verb, verb),
        "x-kubernetes-group-version-kind": {"group": gvr.group, "version": gvr.version, "kind": gvr.kind},
    }
    if v3:
        body["responses"] = {"200": {"description": "OK", "content": {"application/json": {"schema": answer}}}}
        if verb == "patch":
            media = _PATCH_TYPES if custom else (*_PATCH_TYPES, _STRATEGIC)
            body["requestBody"] = {"content": {each: {"schema": {"type": "object"}} for each in media}}
        elif verb in ("create", "update"):
            body["requestBody"] = {"content": {"*/*": {"schema": answer}}, "required": True}
    else:
        body["responses"] = {"200": {"description": "OK", "schema": answer}}
        if verb == "patch":
            body["consumes"] = list(_PATCH_TYPES if custom else (*_PATCH_TYPES, _STRATEGIC))
    return body


def _query_parameter(name: str, kind: str, *, v3: bool) -> Object:
    return {"name": name, "in": "query", **({"schema": {"type": kind}} if v3 else {"type": kind})}


def _path_parameter(name: str, *, v3: bool) -> Object:
    return {**_query_parameter(name, "string", v3=v3), "in": "path", "required": True}
