"""Validation of ConfigMaps, Secrets, Namespaces, Nodes and RBAC objects.

Source: pkg/apis/core/validation and pkg/apis/rbac/validation of Kubernetes.
"""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any

from podwire.apiserver.validation_meta import (
    Errors,
    Object,
    cidr,
    config_key,
    dns_subdomain,
    immutable,
    label_value,
    qualified_name,
    quantity,
)

_DATA_LIMIT = 1024 * 1024
_IMMUTABLE = "field is immutable when `immutable` is set"
_EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")


def config_map(errors: Errors, obj: Object, old: Object | None) -> None:
    data, binary = obj.get("data") or {}, obj.get("binaryData") or {}
    size = 0
    for key, value in data.items():
        errors.check(f"data[{key}]", key, config_key)
        if key in binary:
            errors.invalid(f"data[{key}]", key, "duplicate of key present in binaryData")
        size += len(value)
    for key, value in binary.items():
        errors.check(f"binaryData[{key}]", key, config_key)
        size += len(value) * 3 // 4
    if size > _DATA_LIMIT:
        errors.too_long("", _DATA_LIMIT)
    _frozen(errors, obj, old, ("data", "binaryData"))


def _frozen(errors: Errors, obj: Object, old: Object | None, keys: tuple[str, ...]) -> None:
    if old is None or not old.get("immutable"):
        return
    if not obj.get("immutable"):
        errors.forbidden("immutable", _IMMUTABLE)
    for key in keys:
        if (obj.get(key) or {}) != (old.get(key) or {}):
            errors.forbidden(key, _IMMUTABLE)


_REQUIRED_DATA: dict[str, tuple[str, ...]] = {
    "kubernetes.io/dockercfg": (".dockercfg",),
    "kubernetes.io/dockerconfigjson": (".dockerconfigjson",),
    "kubernetes.io/ssh-auth": ("ssh-privatekey",),
    "kubernetes.io/tls": ("tls.crt", "tls.key"),
}


def secret(errors: Errors, obj: Object, old: Object | None) -> None:
    data, kind = obj.get("data") or {}, obj.get("type") or ""
    size = 0
    for key, value in data.items():
        errors.check(f"data[{key}]", key, config_key)
        try:
            size += len(base64.b64decode(value or "", validate=True))
        except (binascii.Error, ValueError):
            errors.invalid(f"data[{key}]", "<secret contents redacted>", "must be base64")
    if size > _DATA_LIMIT:
        errors.too_long("data", _DATA_LIMIT)
    for key in _REQUIRED_DATA.get(kind, ()):
        if key not in data:
            errors.required(f"data[{key}]")
        elif kind.startswith("kubernetes.io/dockerc"):
            _json_secret(errors, f"data[{key}]", data[key])
    if kind == "kubernetes.io/basic-auth" and not data.keys() & {"username", "password"}:
        errors.required("data[username]")
        errors.required("data[password]")
    if kind == "kubernetes.io/service-account-token":
        name = "kubernetes.io/service-account.name"
        if not ((obj.get("metadata") or {}).get("annotations") or {}).get(name):
            errors.required(f"metadata.annotations[{name}]")
    if old is not None:
        immutable(errors, "type", kind, old.get("type") or "")
    _frozen(errors, obj, old, ("data",))


def _json_secret(errors: Errors, path: str, text: str) -> None:
    try:
        json.loads(base64.b64decode(text))
    except ValueError as error:
        errors.invalid(path, "<secret contents redacted>", str(error))


def namespace(errors: Errors, obj: Object, old: Object | None) -> None:
    del old
    for i, text in enumerate((obj.get("spec") or {}).get("finalizers") or []):
        errors.check(f"spec.finalizers[{i}]", text, qualified_name)


def node(errors: Errors, obj: Object, old: Object | None) -> None:
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    _taints(errors, "metadata.taints", spec.get("taints") or [])
    for kind in ("capacity", "allocatable"):
        for name, amount in (status.get(kind) or {}).items():
            errors.check(f"status.{kind}[{name}]", amount, quantity)
    networks = spec.get("podCIDRs") or []
    for i, text in enumerate(networks):
        errors.check(f"spec.podCIDRs[{i}]", text, cidr)
    if len(networks) > 1 and len({":" in text for text in networks}) != len(networks):
        errors.invalid("spec.podCIDRs", networks, "may specify no more than one CIDR for each IP family")
    if old is None:
        return
    before = old.get("spec") or {}
    if before.get("podCIDRs") and before["podCIDRs"] != networks:
        errors.forbidden("spec.podCIDRs", 'node updates may not change podCIDR except from "" to valid')
    if before.get("providerID") and before["providerID"] != spec.get("providerID"):
        errors.forbidden("spec.providerID", 'node updates may not change providerID except from "" to valid')
    seen: list[Any] = []
    for i, address in enumerate(status.get("addresses") or []):
        if address in seen:
            errors.duplicate(f"status.addresses[{i}]", address)
        seen.append(address)


def _taints(errors: Errors, path: str, taints: list[Object]) -> None:
    seen: set[tuple[Any, Any]] = set()
    for i, taint in enumerate(taints):
        key, effect = taint.get("key") or "", taint.get("effect") or ""
        errors.check(f"{path}[{i}].key", key, qualified_name)
        wrong = label_value(taint.get("value") or "")
        if wrong:
            errors.invalid(f"{path}[{i}].value", taint["value"], ";".join(wrong))
        if not effect:
            errors.required(f"{path}[{i}].effect")
        else:
            errors.one_of(f"{path}[{i}].effect", effect, _EFFECTS)
        if (key, effect) in seen:
            errors.duplicate(f"{path}[{i}]", taint, "taints must be unique by key and effect pair")
        seen.add((key, effect))


def role(errors: Errors, obj: Object, old: Object | None) -> None:
    del old
    for i, rule in enumerate(obj.get("rules") or []):
        if not rule.get("verbs"):
            errors.required(f"rules[{i}].verbs", "verbs must contain at least one value")
        if rule.get("nonResourceURLs"):
            if obj.get("kind") == "Role":
                errors.invalid(
                    f"rules[{i}].nonResourceURLs",
                    rule["nonResourceURLs"],
                    "namespaced rules cannot apply to non-resource URLs",
                )
            if rule.get("apiGroups") or rule.get("resources"):
                errors.invalid(
                    f"rules[{i}].nonResourceURLs",
                    rule["nonResourceURLs"],
                    "rules cannot apply to both regular resources and non-resource URLs",
                )
            continue
        for key, words in (
            ("apiGroups", "resource rules must supply at least one api group"),
            ("resources", "resource rules must supply at least one resource"),
        ):
            if not rule.get(key):
                errors.required(f"rules[{i}].{key}", words)


def role_binding(errors: Errors, obj: Object, old: Object | None) -> None:
    reference = obj.get("roleRef") or {}
    errors.one_of("roleRef.apiGroup", reference.get("apiGroup", ""), ("rbac.authorization.k8s.io",))
    kinds = ("Role", "ClusterRole") if obj.get("kind") == "RoleBinding" else ("ClusterRole",)
    errors.one_of("roleRef.kind", reference.get("kind", ""), kinds)
    if not reference.get("name"):
        errors.required("roleRef.name")
    for i, subject in enumerate(obj.get("subjects") or []):
        kind, name = subject.get("kind", ""), subject.get("name", "")
        if not name:
            errors.required(f"subjects[{i}].name")
        errors.one_of(f"subjects[{i}].kind", kind, ("ServiceAccount", "User", "Group"))
        if kind == "ServiceAccount":
            if name:
                errors.check(f"subjects[{i}].name", name, dns_subdomain)
            if not subject.get("namespace") and obj.get("kind") == "ClusterRoleBinding":
                errors.required(f"subjects[{i}].namespace")
    if old is not None and old.get("roleRef") != reference:
        names = (("APIGroup", "apiGroup"), ("Kind", "kind"), ("Name", "name"))
        errors.invalid("roleRef", {word: reference.get(key, "") for word, key in names}, "cannot change roleRef")


def event(errors: Errors, obj: Object, old: Object | None) -> None:
    """Events of the core group."""
    wanted = (obj.get("metadata") or {}).get("namespace") or ""
    about = (obj.get("involvedObject") or {}).get("namespace") or ""
    if wanted != (about or "default"):
        errors.invalid("involvedObject.namespace", about, "does not match event.namespace")


def new_event(errors: Errors, obj: Object, old: Object | None) -> None:
    """Events of events.k8s.io/v1."""
    wanted = (obj.get("metadata") or {}).get("namespace") or ""
    about = (obj.get("regarding") or {}).get("namespace") or ""
    if wanted != (about or "default"):
        errors.invalid("involvedObject.namespace", about, "does not match event.namespace")
    if old is not None:
        return
    if not obj.get("eventTime"):
        errors.required("eventTime")
    for key, value in (("type", obj.get("type") or ""),):
        if value not in ("Normal", "Warning"):
            errors.invalid(key, value, f"has invalid value: {value}")


def priority_class(errors: Errors, obj: Object, old: Object | None) -> None:
    if old is None:
        return
    for key in ("value", "preemptionPolicy"):
        if obj.get(key) != old.get(key):
            errors.forbidden(key, "may not be changed in an update.")
