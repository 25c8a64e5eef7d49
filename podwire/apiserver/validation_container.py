"""Validation of containers: ports, environment, mounts, probes, resources.

Source: pkg/apis/core/validation of Kubernetes.
"""

from __future__ import annotations

import re
from typing import Any

from podwire.apiserver.validation_meta import (
    Errors,
    Object,
    config_key,
    dns_label,
    port_name,
    port_number,
    port_or_name,
    qualified_name,
    quantity,
)
from podwire.apiserver.validation_network import PROTOCOLS
from podwire.model.quantity import parse_quantity

_PULL = ("Always", "IfNotPresent", "Never")
_LARGEST_ID = 2**31 - 1
_SECCOMP = ("Localhost", "RuntimeDefault", "Unconfined")
_MESSAGE = ("File", "FallbackToLogsOnError")
_HANDLERS = ("exec", "httpGet", "tcpSocket", "grpc", "sleep")
_ENV = re.compile(r"[ -<>-~]+")
_HEADER = re.compile(r"[-A-Za-z0-9]+")
_INTEGERS = ("pods", "services", "secrets", "configmaps")
_FIELD_REFS = (
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
)
_SUBSCRIPT = re.compile(r"^metadata\.(?:labels|annotations)\['(.+)'\]$")
_RESOURCE_REFS = (
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
)
_INIT_ONLY = "may not be set for init containers without restartPolicy=Always"


def containers(errors: Errors, path: str, found: list[Object], volumes: set[str]) -> None:
    """The regular containers of a pod."""
    if not found:
        errors.required(path)
        return
    names: set[str] = set()
    for i, container in enumerate(found):
        where, name = f"{path}[{i}]", container.get("name") or ""
        _container(errors, where, container, volumes)
        if name in names:
            errors.duplicate(f"{where}.name", name)
        names.add(name)
        _lifecycle_and_probes(errors, where, container)
    _host_port_conflicts(errors, path, found)


def init_containers(errors: Errors, path: str, found: list[Object], volumes: set[str], names: set[Any]) -> None:
    for i, container in enumerate(found):
        where, name = f"{path}[{i}]", container.get("name") or ""
        _container(errors, where, container, volumes)
        if name in names:
            errors.duplicate(f"{where}.name", name)
        names.add(name)
        _host_port_conflicts(errors, path, [container])
        if container.get("restartPolicy") is not None:
            errors.one_of(f"{where}.restartPolicy", container["restartPolicy"], ("Always", "Never", "OnFailure"))
        if container.get("restartPolicy") == "Always":
            _lifecycle_and_probes(errors, where, container)
            continue
        for key in ("lifecycle", "livenessProbe", "readinessProbe", "startupProbe"):
            if container.get(key) is not None:
                errors.forbidden(f"{where}.{key}", _INIT_ONLY)


def ephemeral_containers(errors: Errors, path: str, spec: Object, volumes: set[str], names: set[Any]) -> None:
    targets = {container.get("name") for container in spec.get("containers") or []}
    for i, container in enumerate(spec["ephemeralContainers"]):
        where, name = f"{path}[{i}]", container.get("name") or ""
        _container(errors, where, container, volumes)
        if name in names:
            errors.duplicate(f"{where}.name", name)
        names.add(name)
        target = container.get("targetContainerName")
        if target and target not in targets:
            errors.not_found(f"{where}.targetContainerName", target)
        for key in ("ports", "livenessProbe", "readinessProbe", "startupProbe", "lifecycle"):
            if container.get(key):
                errors.forbidden(f"{where}.{key}", "cannot be set for an Ephemeral Container")


def _container(errors: Errors, path: str, container: Object, volumes: set[str]) -> None:
    name = container.get("name") or ""
    if not name:
        errors.required(f"{path}.name")
    else:
        errors.check(f"{path}.name", name, dns_label)
    if not container.get("image"):
        errors.required(f"{path}.image")
    elif container["image"] != container["image"].strip():
        errors.invalid(f"{path}.image", container["image"], "must not have leading or trailing whitespace")
    errors.one_of(f"{path}.terminationMessagePolicy", container.get("terminationMessagePolicy", ""), _MESSAGE)
    errors.one_of(f"{path}.imagePullPolicy", container.get("imagePullPolicy", ""), _PULL)
    if container.get("ports"):
        _ports(errors, f"{path}.ports", container["ports"])
    for i, entry in enumerate(container.get("env") or []):
        _env(errors, f"{path}.env[{i}]", entry)
    for i, source in enumerate(container.get("envFrom") or []):
        _env_from(errors, f"{path}.envFrom[{i}]", source)
    if container.get("volumeMounts"):
        _mounts(errors, f"{path}.volumeMounts", container["volumeMounts"], volumes)
    if container.get("resources"):
        resources(errors, f"{path}.resources", container["resources"])
    if container.get("securityContext"):
        _security(errors, f"{path}.securityContext", container["securityContext"])


def _security(errors: Errors, path: str, context: Object) -> None:
    user_ids(errors, path, context, ("runAsUser", "runAsGroup"))
    seccomp(errors, f"{path}.seccompProfile", context.get("seccompProfile"))
    if context.get("allowPrivilegeEscalation") is False:
        words = "cannot set `allowPrivilegeEscalation` to false and "
        if context.get("privileged"):
            errors.invalid(path, context, words + "`privileged` to true")
        if "CAP_SYS_ADMIN" in ((context.get("capabilities") or {}).get("add") or []):
            errors.invalid(path, context, words + "`capabilities.Add` CAP_SYS_ADMIN")


def user_ids(errors: Errors, path: str, context: Object, keys: tuple[str, ...]) -> None:
    for key in keys:
        number = context.get(key)
        if number is not None and not 0 <= number <= _LARGEST_ID:
            errors.invalid(f"{path}.{key}", number, f"must be between 0 and {_LARGEST_ID}, inclusive")


def seccomp(errors: Errors, path: str, profile: Object | None) -> None:
    kind, file = (profile or {}).get("type", ""), (profile or {}).get("localhostProfile")
    if profile is None:
        return
    errors.one_of(f"{path}.type", kind, _SECCOMP)
    if kind == "Localhost" and not file:
        errors.required(f"{path}.localhostProfile", "must be set when seccomp type is Localhost")
    if kind != "Localhost" and file is not None:
        errors.invalid(f"{path}.localhostProfile", file, "can only be set when seccomp type is Localhost")


def _ports(errors: Errors, path: str, ports: list[Object]) -> None:
    names: set[str] = set()
    for i, port in enumerate(ports):
        name = port.get("name") or ""
        if name:
            wrong = port_name(name)
            errors.check(f"{path}[{i}].name", name, port_name)
            if not wrong and name in names:
                errors.duplicate(f"{path}[{i}].name", name)
            names.add(name)
        if not port.get("containerPort"):
            errors.required(f"{path}[{i}].containerPort")
        else:
            errors.check(f"{path}[{i}].containerPort", port["containerPort"], port_number)  # type: ignore[arg-type]
        if port.get("hostPort"):
            errors.check(f"{path}[{i}].hostPort", port["hostPort"], port_number)  # type: ignore[arg-type]
        if not port.get("protocol"):
            errors.required(f"{path}[{i}].protocol")
        else:
            errors.one_of(f"{path}[{i}].protocol", port["protocol"], PROTOCOLS)


def _host_port_conflicts(errors: Errors, path: str, found: list[Object]) -> None:
    taken: set[str] = set()
    for i, container in enumerate(found):
        for j, port in enumerate(container.get("ports") or []):
            if port.get("hostPort"):
                key = f"{port.get('protocol')}/{port.get('hostIP', '')}/{port['hostPort']}"
                if key in taken:
                    errors.duplicate(f"{path}[{i}].ports[{j}].hostPort", key)
                taken.add(key)


def _env(errors: Errors, path: str, entry: Object) -> None:
    name = entry.get("name") or ""
    if not name:
        errors.required(f"{path}.name")
    elif not _ENV.fullmatch(name):
        errors.invalid(
            f"{path}.name",
            name,
            "a valid environment variable name must consist only of printable ASCII characters other than '='",
        )
    source = entry.get("valueFrom")
    if source is None:
        return
    kinds = [
        key
        for key in ("fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef", "fileKeyRef")
        if key in source
    ]
    value_source(errors, f"{path}.valueFrom", source)
    if not kinds:
        errors.invalid(
            f"{path}.valueFrom",
            "",
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`",
        )
    elif entry.get("value"):
        errors.invalid(f"{path}.valueFrom", "", "may not be specified when `value` is not empty")
    elif len(kinds) > 1:
        errors.invalid(f"{path}.valueFrom", "", "may not have more than one field specified at a time")


def value_source(errors: Errors, path: str, source: Object) -> None:
    """fieldRef, resourceFieldRef and key references, of env entries and of downward API files."""
    field = source.get("fieldRef")
    if field is not None:
        where, text = f"{path}.fieldRef.fieldPath", field.get("fieldPath") or ""
        if not text:
            errors.required(where)
        elif subscript := _SUBSCRIPT.match(text):
            errors.check(where, subscript.group(1), lambda key: qualified_name(key.lower()))
        elif text not in _FIELD_REFS:
            errors.invalid(where, text, f"error converting fieldPath: field label not supported: {text}")
    resource = source.get("resourceFieldRef")
    if resource is not None:
        text = resource.get("resource") or ""
        if not text:
            errors.required(f"{path}.resourceFieldRef.resource")
        elif text not in _RESOURCE_REFS and "hugepages-" not in text:
            errors.unsupported(f"{path}.resourceFieldRef.resource", text, _RESOURCE_REFS)
    for kind in ("configMapKeyRef", "secretKeyRef"):
        reference = source.get(kind)
        if reference is not None:
            if not reference.get("name"):
                errors.required(f"{path}.{kind}.name")
            if not reference.get("key"):
                errors.required(f"{path}.{kind}.key")
            else:
                errors.check(f"{path}.{kind}.key", reference["key"], config_key)


def _env_from(errors: Errors, path: str, source: Object) -> None:
    kinds = [key for key in ("configMapRef", "secretRef") if source.get(key) is not None]
    for kind in kinds:
        if not source[kind].get("name"):
            errors.required(f"{path}.{kind}.name")
    if not kinds:
        errors.invalid(path, "", "must specify one of: `configMapRef` or `secretRef`")
    elif len(kinds) > 1:
        errors.invalid(path, "", "may not have more than one field specified at a time")


def _mounts(errors: Errors, path: str, mounts: list[Object], volumes: set[str]) -> None:
    points: set[str] = set()
    for i, mount in enumerate(mounts):
        name, point = mount.get("name") or "", mount.get("mountPath") or ""
        if not name:
            errors.required(f"{path}[{i}].name")
        if name not in volumes:
            errors.not_found(f"{path}[{i}].name", name)
        if not point:
            errors.required(f"{path}[{i}].mountPath")
        if point in points:
            errors.invalid(f"{path}[{i}].mountPath", point, "must be unique")
        points.add(point)
        if mount.get("subPath"):
            inside_path(errors, f"{path}.subPath", mount["subPath"])
        if mount.get("subPathExpr") and mount.get("subPath"):
            errors.invalid(
                f"{path}[{i}].subPathExpr", mount["subPathExpr"], "subPathExpr and subPath are mutually exclusive"
            )


def inside_path(errors: Errors, path: str, text: str) -> None:
    """A relative path that stays inside."""
    if text.startswith("/"):
        errors.invalid(path, text, "must be a relative path")
    if ".." in text.split("/"):
        errors.invalid(path, text, "must not contain '..'")


def resources(errors: Errors, path: str, found: Object) -> None:
    limits, requests = found.get("limits") or {}, found.get("requests") or {}
    for kind, amounts in (("limits", limits), ("requests", requests)):
        for name, amount in amounts.items():
            where = f"{path}.{kind}[{name}]"
            _resource_name(errors, where, name)
            if quantity(amount):
                errors.check(where, amount, quantity)
            elif parse_quantity(amount) < 0:
                errors.invalid(where, str(amount), "must be greater than or equal to 0")
    for name, amount in requests.items():
        limit = limits.get(name)
        if limit is None or quantity(limit) or quantity(amount):
            continue
        if parse_quantity(amount) > parse_quantity(limit):
            errors.invalid(f"{path}.requests", str(amount), f"must be less than or equal to {name} limit of {limit}")


_STANDARD = ("cpu", "memory", "ephemeral-storage", "storage")


def _resource_name(errors: Errors, path: str, name: str) -> None:
    errors.check(path, name, qualified_name)
    if "/" not in name and name not in _STANDARD and not name.startswith("hugepages-"):
        errors.invalid(path, name, "must be a standard resource type or fully qualified")
        errors.invalid(path, name, "must be a standard resource for containers")


def _lifecycle_and_probes(errors: Errors, path: str, container: Object) -> None:
    lifecycle = container.get("lifecycle") or {}
    for key in ("postStart", "preStop"):
        if lifecycle.get(key) is not None:
            _handler(errors, f"{path}.lifecycle.{key}", lifecycle[key])
    for key in ("livenessProbe", "readinessProbe", "startupProbe"):
        probe = container.get(key)
        if probe is None:
            continue
        where = f"{path}.{key}"
        _handler(errors, where, probe)
        for name in ("initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"):
            errors.not_negative(f"{where}.{name}", probe.get(name))
        grace = probe.get("terminationGracePeriodSeconds")
        if grace is not None and grace <= 0:
            errors.invalid(f"{where}.terminationGracePeriodSeconds", grace, "must be greater than 0")
        if grace is not None and key == "readinessProbe":
            errors.invalid(f"{where}.terminationGracePeriodSeconds", grace, "must not be set for readinessProbes")
        if key != "readinessProbe" and probe.get("successThreshold", 1) != 1:
            errors.invalid(f"{where}.successThreshold", probe["successThreshold"], "must be 1")


def _handler(errors: Errors, path: str, handler: Object) -> None:
    given = [kind for kind in _HANDLERS if handler.get(kind) is not None]
    for extra in given[1:]:
        errors.forbidden(f"{path}.{extra}", "may not specify more than 1 handler type")
    if not given:
        errors.required(path, "must specify a handler type")
        return
    kind, action = given[0], handler[given[0]]
    where = f"{path}.{kind}"
    if kind == "exec" and not action.get("command"):
        errors.required(f"{where}.command")
    elif kind == "httpGet":
        if not action.get("path"):
            errors.required(f"{where}.path")
        port_or_name(errors, f"{where}.port", action.get("port", 0))
        errors.one_of(f"{where}.scheme", action.get("scheme", ""), ("HTTP", "HTTPS"))
        for header in action.get("httpHeaders") or []:
            if not _HEADER.fullmatch(header.get("name", "")):
                errors.invalid(
                    f"{where}.httpHeaders",
                    header.get("name", ""),
                    "a valid HTTP header must consist of alphanumeric characters or '-' (e.g. 'X-Header-Name', regex"
                    " used for validation is '[-A-Za-z0-9]+')",
                )
    elif kind == "tcpSocket":
        port_or_name(errors, f"{where}.port", action.get("port", 0))
    elif kind == "grpc":
        errors.check(f"{where}.port", action.get("port", 0), port_number)  # type: ignore[arg-type]
