"""Validation of a pod's volumes. Source: pkg/apis/core/validation of Kubernetes."""

from __future__ import annotations

from podwire.apiserver.fields import type_named
from podwire.apiserver.validation_container import inside_path, value_source
from podwire.apiserver.validation_meta import Errors, Object, config_key, dns_label, quantity
from podwire.model.quantity import parse_quantity

_MODE = "must be a number between 0 and 0777 (octal), both inclusive"
_HOST_TYPES = (
    "",
    "DirectoryOrCreate",
    "Directory",
    "FileOrCreate",
    "File",
    "Socket",
    "CharDevice",
    "BlockDevice",
)


def volumes(errors: Errors, path: str, found: list[Object], pod_name: str) -> set[str]:
    """Check the volumes; the names of the good ones, which containers may mount."""
    names: set[str] = set()
    created = {f"{pod_name}-{volume.get('name')}" for volume in found if pod_name and volume.get("ephemeral")}
    for i, volume in enumerate(found):
        before, name = len(errors), volume.get("name") or ""
        _source(errors, f"{path}[{i}]", volume)
        if not name:
            errors.required(f"{path}[{i}].name")
        else:
            errors.check(f"{path}[{i}].name", name, dns_label)
        if name in names:
            errors.duplicate(f"{path}[{i}].name", name)
        if len(errors) == before:
            names.add(name)
        claim = (volume.get("persistentVolumeClaim") or {}).get("claimName")
        if claim in created:
            errors.invalid(
                f"{path}[{i}].persistentVolumeClaim.claimName",
                claim,
                "must not reference a PVC that gets created for an ephemeral volume",
            )
    return names


def _source(errors: Errors, path: str, volume: Object) -> None:
    known = type_named("api.core.v1.Volume").fields
    kinds = [key for key, value in volume.items() if key != "name" and value is not None and key in known]
    if not kinds:
        errors.required(path, "must specify a volume type")
        return
    if len(kinds) > 1:
        kinds.sort(key=list(known).index)
    for extra in kinds[1:]:
        errors.forbidden(f"{path}.{extra}", "may not specify more than 1 volume type")
    kind, source = kinds[0], volume[kinds[0]]
    where = f"{path}.{kind}"
    match kind:
        case "emptyDir":
            limit = source.get("sizeLimit")
            if limit is not None and (quantity(limit) or parse_quantity(limit) < 0):
                errors.forbidden(f"{where}.sizeLimit", "SizeLimit field must be a valid resource quantity")
        case "hostPath":
            if not source.get("path"):
                errors.required(f"{where}.path")
            elif ".." in source["path"].split("/"):
                errors.invalid(f"{where}.path", source["path"], "must not contain '..'")
            errors.one_of(f"{where}.type", source.get("type", ""), _HOST_TYPES)
        case "configMap" | "secret":
            name = "name" if kind == "configMap" else "secretName"
            if not source.get(name):
                errors.required(f"{where}.{name}")
            _files(errors, where, source)
        case "downwardAPI":
            _files(errors, where, source, downward=True)
        case "projected":
            _mode(errors, f"{where}.defaultMode", source.get("defaultMode"))
            for i, projection in enumerate(source.get("sources") or []):
                _projection(errors, f"{where}.sources[{i}]", projection)
        case "persistentVolumeClaim":
            if not source.get("claimName"):
                errors.required(f"{where}.claimName")
        case "nfs":
            for key in ("server", "path"):
                if not source.get(key):
                    errors.required(f"{where}.{key}")


def _mode(errors: Errors, path: str, mode: int | None) -> None:
    if mode is not None and not 0 <= mode <= 0o777:
        errors.invalid(path, mode, _MODE)


def _files(errors: Errors, path: str, source: Object, *, downward: bool = False) -> None:
    _mode(errors, f"{path}.defaultMode", source.get("defaultMode"))
    for i, item in enumerate(source.get("items") or []):
        where = f"{path}.items[{i}]"
        _mode(errors, f"{where}.mode", item.get("mode"))
        if downward:
            given = [key for key in ("fieldRef", "resourceFieldRef") if item.get(key) is not None]
            if not given:
                errors.required(f"{where}.fieldRef", "one of fieldRef and resourceFieldRef is required")
            value_source(errors, where, item)
        elif not item.get("key"):
            errors.required(f"{where}.key")
        else:
            errors.check(f"{where}.key", item["key"], config_key)
        if not item.get("path"):
            errors.required(f"{where}.path")
        else:
            inside_path(errors, f"{where}.path", item["path"])


def _projection(errors: Errors, path: str, projection: Object) -> None:
    kinds = [key for key, value in projection.items() if value is not None]
    if not kinds:
        errors.required(path, "must specify a projection source")
    for extra in kinds[1:]:
        errors.forbidden(f"{path}.{extra}", "may not specify more than 1 volume type")
    for kind in kinds[:1]:
        source, where = projection[kind], f"{path}.{kind}"
        if kind in ("configMap", "secret"):
            if not source.get("name"):
                errors.required(f"{where}.name")
            _files(errors, where, source)
        elif kind == "downwardAPI":
            _files(errors, where, source, downward=True)
        elif kind == "serviceAccountToken":
            if source.get("expirationSeconds", 3600) < 600:
                errors.invalid(
                    f"{where}.expirationSeconds",
                    source["expirationSeconds"],
                    "may not specify a duration less than 10 minutes",
                )
            if not source.get("path"):
                errors.required(f"{where}.path")
            else:
                inside_path(errors, f"{where}.path", source["path"])
