#!/usr/bin/env python3
"""Writes podwire/apiserver/fields.json from the published API definitions. A developer's script, never run by Podwire.

It reads two sources from the Go module cache: the structs of `types.go` (JSON and protobuf names, field numbers,
pointers, omitempty) and the OpenAPI v3 documents (types, required, defaults, list types, merge keys). Only facts are
kept; descriptions are not. Usage: tools/generate_fields.py [MODULE_CACHE]   (default: `go env GOMODCACHE`)
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

KUBERNETES = "k8s.io/kubernetes@v1.36.3"
MODULES = ["k8s.io/api@v0.36.3", "k8s.io/apimachinery@v0.36.3", "k8s.io/apiextensions-apiserver@v0.36.3"]
OUTPUT = Path(__file__).resolve().parent.parent / "podwire/apiserver/fields.json"

# Group/version -> its OpenAPI document, the package that holds its kinds, and the kinds kept.
GROUPS: dict[str, tuple[str, str, str]] = {
    "v1": (
        "api__v1",
        "api.core.v1",
        "Binding ComponentStatus ConfigMap Endpoints Event LimitRange Namespace Node PersistentVolume"
        " PersistentVolumeClaim Pod PodTemplate ReplicationController ResourceQuota Secret Service ServiceAccount",
    ),
    "apps/v1": ("apis__apps__v1", "api.apps.v1", "ControllerRevision DaemonSet Deployment ReplicaSet StatefulSet"),
    "authentication.k8s.io/v1": (
        "apis__authentication.k8s.io__v1",
        "api.authentication.v1",
        "SelfSubjectReview TokenRequest TokenReview",
    ),
    "authorization.k8s.io/v1": (
        "apis__authorization.k8s.io__v1",
        "api.authorization.v1",
        "LocalSubjectAccessReview SelfSubjectAccessReview SelfSubjectRulesReview SubjectAccessReview",
    ),
    "autoscaling/v1": ("apis__autoscaling__v1", "api.autoscaling.v1", "HorizontalPodAutoscaler Scale"),
    "batch/v1": ("apis__batch__v1", "api.batch.v1", "CronJob Job"),
    "coordination.k8s.io/v1": ("apis__coordination.k8s.io__v1", "api.coordination.v1", "Lease"),
    "discovery.k8s.io/v1": ("apis__discovery.k8s.io__v1", "api.discovery.v1", "EndpointSlice"),
    "events.k8s.io/v1": ("apis__events.k8s.io__v1", "api.events.v1", "Event"),
    "networking.k8s.io/v1": (
        "apis__networking.k8s.io__v1",
        "api.networking.v1",
        "Ingress IngressClass IPAddress NetworkPolicy ServiceCIDR",
    ),
    "policy/v1": ("apis__policy__v1", "api.policy.v1", "Eviction PodDisruptionBudget"),
    "rbac.authorization.k8s.io/v1": (
        "apis__rbac.authorization.k8s.io__v1",
        "api.rbac.v1",
        "ClusterRole ClusterRoleBinding Role RoleBinding",
    ),
    "scheduling.k8s.io/v1": ("apis__scheduling.k8s.io__v1", "api.scheduling.v1", "PriorityClass"),
    "storage.k8s.io/v1": ("apis__storage.k8s.io__v1", "api.storage.v1", "StorageClass"),
    "apiextensions.k8s.io/v1": (
        "apis__apiextensions.k8s.io__v1",
        "apiextensions-apiserver.pkg.apis.apiextensions.v1",
        "CustomResourceDefinition",
    ),
}
META = "apimachinery.pkg.apis.meta.v1"
ALSO = [f"{META}.{name}" for name in ("DeleteOptions", "Status", "ListMeta", "LabelSelector", "ObjectMeta")]

# Types whose JSON form is a scalar, with the code the reader knows them by.
SPECIAL = {
    "apimachinery.pkg.api.resource.Quantity": "quantity",
    f"{META}.Time": "time",
    f"{META}.MicroTime": "microtime",
    f"{META}.FieldsV1": "fields",
    "apimachinery.pkg.util.intstr.IntOrString": "int-or-string",
    "apimachinery.pkg.runtime.RawExtension": "raw",
    "apiextensions-apiserver.pkg.apis.apiextensions.v1.JSON": "json",
    "apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrBool": "props-or-bool",
    "apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrArray": "props-or-array",
    "apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrStringArray": "props-or-strings",
}
SCALARS = {"string": "string", "boolean": "boolean", "integer": "int64", "number": "number"}
STRUCT = re.compile(r"^type (\w+) struct \{$(.*?)^\}$", re.M | re.S)
MEMBER = re.compile(r"^\t(?:(\w+)\s+)?(\*?[\w.\[\]*]+)\s+`([^`]*)`", re.M)
TAG = re.compile(r'(\w+):"([^"]*)"')


def short(reference: str) -> str:
    """`#/components/schemas/io.k8s.api.core.v1.Pod` -> `api.core.v1.Pod`."""
    return reference.rsplit("/", 1)[-1].removeprefix("io.k8s.")


def read_structs(cache: Path) -> dict[str, list[tuple[str, str, dict[str, str]]]]:
    """Struct name (`api.core.v1.Pod`) -> its members as (Go name, Go type, tags)."""
    found: dict[str, list[tuple[str, str, dict[str, str]]]] = {}
    for module in MODULES:
        root = cache / module
        prefix = module.split("@")[0].removeprefix("k8s.io/").replace("/", ".")
        for path in root.rglob("*types*.go"):
            package = ".".join([prefix, *path.relative_to(root).parent.parts])
            for name, body in STRUCT.findall(path.read_text()):
                members = [(go, kind, dict(TAG.findall(tags))) for go, kind, tags in MEMBER.findall(body)]
                found.setdefault(f"{package}.{name}", members)
    return found


def read_schemas(cache: Path) -> dict[str, dict[str, Any]]:
    """Type name -> OpenAPI schema, of all documents in GROUPS."""
    found: dict[str, dict[str, Any]] = {}
    for document, _, _ in GROUPS.values():
        path = cache / KUBERNETES / f"api/openapi-spec/v3/{document}_openapi.json"
        for name, schema in json.loads(path.read_text())["components"]["schemas"].items():
            found.setdefault(short(name), schema)
    return found


def type_code(schema: dict[str, Any]) -> str:
    """The compact text of a field's type: `string`, `[]@api.core.v1.Container`, `{}quantity`, …"""
    if "allOf" in schema:
        return type_code(schema["allOf"][0])
    if "$ref" in schema:
        name = short(schema["$ref"])
        return SPECIAL.get(name, "@" + name)
    kind, form = schema.get("type"), schema.get("format")
    if kind == "array":
        return "[]" + type_code(schema["items"])
    if kind == "object" and "additionalProperties" in schema:
        return "{}" + type_code(schema["additionalProperties"])
    if kind == "object":
        return "object"
    if form in ("int32", "byte"):
        return {"int32": "int32", "byte": "bytes"}[form]
    return SCALARS.get(kind or "", "any")


def attributes(schema: dict[str, Any]) -> dict[str, Any]:
    """What a field's schema says beyond its type, under short names."""
    names = {
        "x-kubernetes-list-type": "list",
        "x-kubernetes-list-map-keys": "keys",
        "x-kubernetes-patch-merge-key": "merge",
        "x-kubernetes-patch-strategy": "strategy",
        "x-kubernetes-map-type": "map",
        "enum": "enum",
    }
    found = {mine: schema[theirs] for theirs, mine in names.items() if theirs in schema}
    if schema.get("default") not in (None, "", {}, 0, False):
        found["default"] = schema["default"]
    return found


def protobuf_names(structs: dict[str, Any], name: str) -> dict[str, tuple[int, str, str, str]]:
    """JSON name (`=Go type` for an inlined struct) -> (number, wire word, Go type, flags: p pointer, o omitempty)."""
    found = {}
    for _, kind, tags in structs.get(name, []):
        if "protobuf" not in tags or "json" not in tags:
            continue
        words, parts = tags["protobuf"].split(","), tags["json"].split(",")
        inline = not parts[0] or "inline" in parts[1:]
        flags = ("p" if kind.startswith("*") else "") + ("o" if "omitempty" in parts or "omitzero" in parts else "")
        found[f"={kind.lstrip('*')}" if inline else parts[0]] = (int(words[1]), words[0], kind, flags)
    return found


def fields_of(name: str, schema: dict[str, Any], structs: dict[str, Any]) -> dict[str, Any]:
    """One type's record: `f` fields, `r` required, `i` inlined messages, `m` map type."""
    wire = protobuf_names(structs, name)
    flat = dict(wire)
    record: dict[str, Any] = {"f": {}}
    package = name.rsplit(".", 1)[0]
    for key, (number, *_rest) in wire.items():
        if key.startswith("="):
            inner = key[1:] if "." in key else f"{package}.{key[1:]}"
            inner = inner.replace("metav1.", META + ".")
            flat.update({json_name: (0, *rest[1:]) for json_name, rest in protobuf_names(structs, inner).items()})
            record.setdefault("i", {})[str(number)] = inner
    for field, sub in schema.get("properties", {}).items():
        number, _, _, flags = flat.get(field, (0, "", "", "o"))
        row: list[Any] = [type_code(sub), number, flags]
        if extra := attributes(sub):
            row.append(extra)
        record["f"][field] = row
    if schema.get("required"):
        record["r"] = schema["required"]
    if "x-kubernetes-map-type" in schema:
        record["m"] = schema["x-kubernetes-map-type"]
    return record


def inlined(name: str, structs: dict[str, Any], schemas: dict[str, Any], owner: dict[str, Any]) -> dict[str, Any]:
    """An inlined message that has no OpenAPI schema of its own: its fields' types are looked up in its owner."""
    del schemas
    record: dict[str, Any] = {"f": {}}
    for field, (number, _, _, flags) in protobuf_names(structs, name).items():
        if field in owner["f"]:
            record["f"][field] = [owner["f"][field][0], number, flags]
    return record


def main() -> None:
    where = (
        sys.argv[1] if len(sys.argv) > 1 else subprocess.check_output(["go", "env", "GOMODCACHE"], text=True).strip()
    )
    structs, schemas = read_structs(Path(where)), read_schemas(Path(where))
    kinds = {
        f"{group}/{kind}": f"{package}.{kind}"
        for group, (_, package, words) in GROUPS.items()
        for kind in words.split()
    }
    types: dict[str, Any] = {}
    wanted = [*kinds.values(), *ALSO]
    while wanted:
        name = wanted.pop()
        if name in types or name in SPECIAL:
            continue
        if name not in schemas:
            raise SystemExit(f"no OpenAPI schema for {name}")
        types[name] = fields_of(name, schemas[name], structs)
        if not types[name]["f"]:  # a named scalar or list, or a type without fields
            code = type_code(schemas[name])
            if code != "object":
                types[name] = {"t": code}
        for inner in types[name].get("i", {}).values():
            if inner not in types:
                types[inner] = inlined(inner, structs, schemas, types[name])
        for row in types[name].get("f", {}).values():
            if "@" in row[0]:
                wanted.append(row[0].split("@", 1)[1])
    lines = [f"{json.dumps(name)}:{json.dumps(types[name], separators=(',', ':'))}" for name in sorted(types)]
    OUTPUT.write_text(
        '{"source":'
        + json.dumps([KUBERNETES, *MODULES])
        + ',\n"kinds":'
        + json.dumps(kinds, separators=(",", ":"))
        + ',\n"types":{\n'
        + ",\n".join(lines)
        + "\n}}\n"
    )
    print(
        f"{len(types)} types, {sum(len(t.get('f', {})) for t in types.values())} fields, {OUTPUT.stat().st_size} bytes"
    )


if __name__ == "__main__":
    main()
