"""CustomResourceDefinitions: what makes one valid, and the kinds that it declares.

`resource_from_crd` turns a definition into `Resource` declarations, one for each served version; `default_object` and
`validate_object` do for custom resources what defaults.py and validation.py do for built-in kinds. Pruning is
strict.conform with the version's schema. Source: apiextensions.k8s.io/v1.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from podwire.apiserver import policies
from podwire.apiserver.durations import age
from podwire.apiserver.fields import OBJECT_META, Schema, type_named
from podwire.apiserver.jsonpath import JsonPathError, find, steps
from podwire.apiserver.resources import NAME, Column, Resource, Scale
from podwire.apiserver.structural import build, cel_paths, check, fill, valid
from podwire.apiserver.validation_meta import (
    Cause,
    Errors,
    dns_subdomain,
    object_meta,
    object_meta_update,
)
from podwire.model.gvr import GVR

Object = dict[str, Any]
OPENAPI = "openapi"  # key in Schema.rules: the version's OpenAPI text
_LABEL = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
_LABEL_WORDS = (
    "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character,"
    " and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is"
    " '[a-z]([-a-z0-9]*[a-z0-9])?')"
)
_COLUMN_TYPES = ("integer", "number", "string", "boolean", "date")
_AGE = Object(name="Age", type="date", jsonPath=".metadata.creationTimestamp")


def schema_of(version: Object) -> Schema:
    """The schema of one version of a definition, with the parts that every object has."""
    props = (version.get("schema") or {}).get("openAPIV3Schema") or {}
    schema = build(props)
    for name in ("apiVersion", "kind"):
        schema.fields[name] = Schema("string")
    schema.fields["metadata"] = type_named(OBJECT_META)
    schema.rules[OPENAPI] = props
    schema.rules["statusSubresource"] = "status" in (version.get("subresources") or {})
    return schema


def resource_from_crd(crd: Object) -> list[Resource]:
    """The kinds that a definition declares: one for each served version."""
    spec = crd["spec"]
    return [policies.hooked(_resource(spec, version)) for version in spec["versions"] if version.get("served")]


def _resource(spec: Object, version: Object) -> Resource:
    names, subresources = spec["names"], version.get("subresources") or {}
    scale = subresources.get("scale")
    api_version, stored = (f"{spec['group']}/{each}" for each in (version["name"], _storage_version(spec)))
    columns, row = _printer(version.get("additionalPrinterColumns") or [_AGE])
    return Resource(
        GVR(spec["group"], version["name"], names["plural"], names["kind"], spec.get("scope") == "Namespaced"),
        short_names=tuple(names.get("shortNames") or ()),
        categories=tuple(names.get("categories") or ()),
        singular=names.get("singular") or names["kind"].lower(),
        columns=columns,
        row=row,
        has_status="status" in subresources,
        scale=None
        if scale is None
        else Scale(
            scale["specReplicasPath"].lstrip("."),
            scale["statusReplicasPath"].lstrip("."),
            (scale.get("labelSelectorPath") or "").lstrip("."),
        ),
        generation=True,
        fields=tuple(each["jsonPath"].lstrip(".") for each in version.get("selectableFields") or ()),
        custom=schema_of(version),
        is_custom=True,
        to_storage=None if api_version == stored else lambda obj: {**obj, "apiVersion": stored},
        from_storage=lambda obj: obj if obj.get("apiVersion") == api_version else {**obj, "apiVersion": api_version},
        list_kind=names.get("listKind") or f"{names['kind']}List",
    )


def _storage_version(spec: Object) -> str:
    return next((str(version["name"]) for version in spec["versions"] if version.get("storage")), "")


def _printer(columns: list[Object]) -> tuple[tuple[Column, ...], Callable[[Object, float], list[Any]]]:
    """Table columns and the function that makes a row, from additionalPrinterColumns."""
    declared = tuple(
        Column(each["name"], each["type"], each.get("description", ""), each.get("format", ""), each.get("priority", 0))
        for each in columns
    )
    sources = [(each["type"], each["jsonPath"]) for each in columns]

    def row(obj: Object, now: float) -> list[Any]:
        return [obj["metadata"].get("name", ""), *(_cell(obj, kind, path, now) for kind, path in sources)]

    return (NAME, *declared), row


def _cell(obj: Object, kind: str, path: str, now: float) -> Any:
    found = find(obj, path)
    if not found or found[0] is None:
        return None
    value = found[0]
    match kind:
        case "date":
            return age(value, now) if isinstance(value, str) else "<unknown>"
        case "integer":
            return value if isinstance(value, int) else None
        case "number":
            return value if isinstance(value, (int, float)) else None
        case "boolean":
            return value if isinstance(value, bool) else None
    if isinstance(value, (dict, list)):
        return str(value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def default_object(obj: Object, schema: Schema) -> None:
    """Defaults of a custom resource, in place."""
    fill(obj, schema)


def validate_object(obj: Object, old: Object | None, schema: Schema | None) -> list[Cause]:
    """Everything wrong with a custom resource, or with the change from `old` to it."""
    errors = Errors()
    metadata = obj.get("metadata") or {}
    object_meta(errors, metadata, dns_subdomain)
    if old is not None:
        object_meta_update(errors, metadata, old.get("metadata") or {})
    if schema is not None:
        check(errors, "", obj, schema.rules.get(OPENAPI) or {})
    return errors


def not_evaluated(crd: Object) -> list[str]:
    """Warnings for what a definition asks that this server does not do."""
    found = []
    for version in crd["spec"].get("versions") or []:
        places = cel_paths((version.get("schema") or {}).get("openAPIV3Schema") or {})
        if places and not policies.is_checked(
            crd["spec"]["group"], version.get("name", ""), crd["spec"]["names"]["kind"]
        ):
            found.append(
                f"version {version.get('name')}: x-kubernetes-validations (CEL) is not evaluated,"
                f" at {', '.join(places)}"
            )
    if (crd["spec"].get("conversion") or {}).get("strategy") == "Webhook":
        found.append("spec.conversion: webhooks are not called; versions are served without conversion")
    return found


def accept(crd: Object, now: str, conflict: str = "") -> None:
    """Write the status that makes a definition live, or that says which name is taken (`conflict`)."""
    spec, status = crd["spec"], crd.setdefault("status", {})
    stored = status.setdefault("storedVersions", [])
    for version in spec["versions"]:
        if version.get("storage") and version["name"] not in stored:
            stored.append(version["name"])
    if conflict:
        status.setdefault("acceptedNames", {"plural": "", "kind": ""})
    else:
        status["acceptedNames"] = dict(spec["names"])
    good = "False" if conflict else "True"
    _condition(
        status,
        "NamesAccepted",
        good,
        now,
        "PluralConflict" if conflict else "NoConflicts",
        conflict or "no conflicts found",
    )
    reason, words = (
        ("NotAccepted", "not all names are accepted")
        if conflict
        else (
            "InitialNamesAccepted",
            "the initial names have been accepted",
        )
    )
    _condition(status, "Established", good, now, reason, words)


def _condition(status: Object, kind: str, value: str, now: str, reason: str, message: str) -> None:
    conditions = status.setdefault("conditions", [])
    new = {"type": kind, "status": value, "lastTransitionTime": now, "reason": reason, "message": message}
    for i, old in enumerate(conditions):
        if old["type"] == kind:
            if old["status"] == value:
                new["lastTransitionTime"] = old["lastTransitionTime"]
            conditions[i] = new
            return
    conditions.append(new)


def validate_crd(errors: Errors, obj: Object, old: Object | None) -> None:
    """The rules of a definition itself."""
    spec = obj.get("spec") or {}
    names, group = spec.get("names") or {}, spec.get("group") or ""
    if not group:
        errors.required("spec.group")
    else:
        errors.check("spec.group", group, dns_subdomain)
        if "." not in group:
            errors.invalid("spec.group", group, "should be a domain with at least one dot")
    wanted, have = f"{names.get('plural', '')}.{group}", (obj.get("metadata") or {}).get("name", "")
    if have != wanted:
        errors.invalid("metadata.name", have, 'must be spec.names.plural+"."+spec.group')
    if not spec.get("scope"):
        errors.required("spec.scope")
    else:
        errors.one_of("spec.scope", spec["scope"], ("Cluster", "Namespaced"))
    _names(errors, names)
    _versions(errors, spec.get("versions") or [])
    if old is not None:
        before = old.get("spec") or {}
        for key in ("group", "scope"):
            if spec.get(key) != before.get(key):
                errors.invalid(f"spec.{key}", spec.get(key), "field is immutable")


def _names(errors: Errors, names: Object) -> None:
    for key in ("plural", "singular", "kind", "listKind"):
        value = names.get(key) or ""
        if not value:
            errors.required(f"spec.names.{key}")
        elif not _LABEL.fullmatch(value.lower()) or (key in ("plural", "singular") and value != value.lower()):
            errors.invalid(f"spec.names.{key}", value, _LABEL_WORDS)
    for i, text in enumerate(names.get("shortNames") or []):
        if not _LABEL.fullmatch(text):
            errors.invalid(f"spec.names.shortNames[{i}]", text, _LABEL_WORDS)
    if names.get("kind") and names.get("kind") == names.get("listKind"):
        errors.invalid("spec.names.listKind", names["listKind"], "kind and listKind may not be the same")


def _versions(errors: Errors, versions: list[Object]) -> None:
    if not versions:
        errors.required("spec.versions")
        return
    seen: set[str] = set()
    for i, version in enumerate(versions):
        where, name = f"spec.versions[{i}]", version.get("name") or ""
        if not _LABEL.fullmatch(name):
            errors.invalid(f"{where}.name", name, _LABEL_WORDS)
        if name in seen:
            errors.invalid("spec.versions", name, "must contain unique version names")
        seen.add(name)
        _version(errors, where, version)
    if sum(bool(version.get("storage")) for version in versions) != 1:
        errors.invalid("spec.versions", versions, "must have exactly one version marked as storage version")


def _version(errors: Errors, path: str, version: Object) -> None:
    props = (version.get("schema") or {}).get("openAPIV3Schema")
    where = f"{path}.schema.openAPIV3Schema"
    if props is None:
        errors.required(where)
    else:
        if props.get("type") != "object":
            if props.get("type"):
                errors.invalid(f"{where}.type", props["type"], "must be object at the root")
            else:
                errors.required(f"{where}.type", "must not be empty at the root")
        _structural(errors, where, props)
    for i, column in enumerate(version.get("additionalPrinterColumns") or []):
        _column(errors, f"{path}.additionalPrinterColumns[{i}]", column)
    scale = (version.get("subresources") or {}).get("scale")
    if scale is not None:
        for key, prefix in (("specReplicasPath", ".spec."), ("statusReplicasPath", ".status.")):
            text = scale.get(key) or ""
            if not text:
                errors.required(f"{path}.subresources.scale.{key}")
            elif not text.startswith(prefix):
                errors.invalid(f"{path}.subresources.scale.{key}", text, f"should be a json path under {prefix[:-1]}")


def _column(errors: Errors, path: str, column: Object) -> None:
    if not column.get("name"):
        errors.required(f"{path}.name")
    if not column.get("type"):
        errors.required(f"{path}.type", "must be one of " + ",".join(_COLUMN_TYPES))
    elif column["type"] not in _COLUMN_TYPES:
        errors.invalid(f"{path}.type", column["type"], "must be one of " + ",".join(_COLUMN_TYPES))
    text = column.get("jsonPath") or ""
    if not text:
        errors.required(f"{path}.jsonPath")
        return
    try:
        steps(text)
    except JsonPathError as error:
        errors.invalid(f"{path}.jsonPath", text, f"must be a valid JSONPath: {error}")


_TYPES = ("array", "boolean", "integer", "number", "object", "string")
_REFUSED = (
    "$ref",
    "definitions",
    "dependencies",
    "deprecated",
    "discriminator",
    "id",
    "patternProperties",
    "readOnly",
    "writeOnly",
    "xml",
)


def _structural(errors: Errors, path: str, props: Object) -> None:
    """Types everywhere, no references, sound list types, defaults that fit."""
    kind = props.get("type") or ""
    loose = props.get("x-kubernetes-int-or-string") or props.get("x-kubernetes-preserve-unknown-fields")
    if kind and kind not in _TYPES:
        errors.unsupported(f"{path}.type", kind, _TYPES)
    for key in _REFUSED:
        if props.get(key):
            errors.forbidden(f"{path}.{key}", f"{key} is not supported")
    if props.get("uniqueItems"):
        errors.forbidden(
            f"{path}.uniqueItems", "uniqueItems cannot be set to true since the runtime complexity becomes quadratic"
        )
    if props.get("properties") and props.get("additionalProperties"):
        errors.forbidden(f"{path}.additionalProperties", "additionalProperties and properties are mutual exclusive")
    for name, inner in (props.get("properties") or {}).items():
        _nested(errors, f"{path}.properties[{name}]", inner, "must not be empty for specified object fields")
    if isinstance(props.get("additionalProperties"), dict):
        _nested(
            errors,
            f"{path}.additionalProperties",
            props["additionalProperties"],
            "must not be empty for specified object fields",
        )
    if kind == "array" and not isinstance(props.get("items"), dict):
        errors.required(f"{path}.items", "must be specified")
    elif isinstance(props.get("items"), dict):
        _nested(errors, f"{path}.items", props["items"], "must not be empty for specified array items")
    _list_type(errors, path, props, kind)
    if props.get("pattern"):
        try:
            re.compile(props["pattern"].replace(r"\z", r"\Z"))
        except re.error as error:
            errors.invalid(
                f"{path}.pattern", props["pattern"], f"must be a valid regular expression, but isn't: {error}"
            )
    if props.get("default") is not None and not loose and not valid(props["default"], props):
        errors.invalid(f"{path}.default", props["default"], "must validate against the schema")


def _nested(errors: Errors, path: str, props: Any, words: str) -> None:
    if not isinstance(props, dict):
        errors.invalid(path, props, "must be a schema")
        return
    loose = props.get("x-kubernetes-int-or-string") or props.get("x-kubernetes-preserve-unknown-fields")
    if not props.get("type") and not loose:
        errors.required(f"{path}.type", words)
    _structural(errors, path, props)


def _list_type(errors: Errors, path: str, props: Object, kind: str) -> None:
    listed, keys = props.get("x-kubernetes-list-type"), props.get("x-kubernetes-list-map-keys") or []
    if listed and listed not in ("atomic", "set", "map"):
        errors.unsupported(f"{path}.x-kubernetes-list-type", listed, ("atomic", "map", "set"))
    if listed and kind != "array":
        errors.invalid(f"{path}.type", kind, "must be array if x-kubernetes-list-type is specified")
    if listed == "map":
        if not keys:
            errors.required(f"{path}.x-kubernetes-list-map-keys", "must not be empty if x-kubernetes-list-type is map")
        known = (props.get("items") or {}).get("properties") or {}
        for i, key in enumerate(keys):
            if key not in known:
                errors.invalid(
                    f"{path}.x-kubernetes-list-map-keys[{i}]", key, "entries must all be names of item properties"
                )
