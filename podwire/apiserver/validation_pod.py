"""Validation of pod specs, for pods and for workloads' templates.

Works on defaulted objects whose JSON types were checked (strict.conform). Source: pkg/apis/core/validation of
Kubernetes (ValidatePodSpec, ValidatePodUpdate). Volumes are in validation_volume.py, containers in
validation_container.py.
"""

from __future__ import annotations

import re
from typing import Any

from podwire.apiserver.validation_container import (
    containers,
    ephemeral_containers,
    init_containers,
    seccomp,
    user_ids,
)
from podwire.apiserver.validation_meta import (
    Errors,
    Object,
    dns_label,
    dns_subdomain,
    ip_address,
    label_selector,
    label_value,
    labels,
    port_number,
    qualified_name,
)
from podwire.apiserver.validation_volume import volumes

_RESTART = ("Always", "OnFailure", "Never")
_DNS = ("ClusterFirstWithHostNet", "ClusterFirst", "Default", "None")
_EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")
_INT32 = 2**31 - 1
_SYSCTL = re.compile(r"([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?")
_SYSCTL_LENGTH = 253
_MAX_NAMESERVERS, _MAX_SEARCHES, _MAX_SEARCH_TEXT = 3, 32, 2048
UPDATABLE = (
    "`spec.containers[*].image`",
    "`spec.initContainers[*].image`",
    "`spec.activeDeadlineSeconds`",
    "`spec.tolerations` (only additions to existing tolerations)",
    "`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)",
)


def pod(errors: Errors, obj: Object, old: Object | None) -> None:
    spec = obj.get("spec") or {}
    pod_spec(errors, "spec", spec, (obj.get("metadata") or {}).get("name") or "")
    if spec.get("hostNetwork"):
        _host_ports(errors, "spec", spec)
    if old is not None:
        _update(errors, spec, old.get("spec") or {})


def template(errors: Errors, path: str, value: Object) -> None:
    """A workload's pod template."""
    metadata = value.get("metadata") or {}
    labels(errors, f"{path}.metadata.labels", metadata.get("labels"))
    for key in metadata.get("annotations") or {}:
        errors.check(f"{path}.metadata.annotations", key, lambda key: qualified_name(key.lower()))
    spec = value.get("spec") or {}
    pod_spec(errors, f"{path}.spec", spec, "")
    if spec.get("ephemeralContainers"):
        errors.forbidden(f"{path}.spec.ephemeralContainers", "ephemeral containers not allowed in pod template")


def pod_spec(errors: Errors, path: str, spec: Object, name: str) -> None:
    found = volumes(errors, f"{path}.volumes", spec.get("volumes") or [], name)
    containers(errors, f"{path}.containers", spec.get("containers") or [], found)
    names = {container.get("name") for container in spec.get("containers") or []}
    if spec.get("initContainers"):
        init_containers(errors, f"{path}.initContainers", spec["initContainers"], found, names)
    if spec.get("ephemeralContainers"):
        ephemeral_containers(errors, f"{path}.ephemeralContainers", spec, found, names)
    _policies(errors, path, spec)
    _placement(errors, path, spec)
    _identity(errors, path, spec)
    dns_config(errors, f"{path}.dnsConfig", spec.get("dnsConfig"), spec.get("dnsPolicy") or "")
    for i, alias in enumerate(spec.get("hostAliases") or []):
        errors.check(f"{path}.hostAliases[{i}].ip", alias.get("ip", ""), ip_address)
        for j, hostname in enumerate(alias.get("hostnames") or []):
            errors.check(f"{path}.hostAliases[{i}].hostnames[{j}]", hostname, dns_subdomain)


def _policies(errors: Errors, path: str, spec: Object) -> None:
    for key, allowed in (("restartPolicy", _RESTART), ("dnsPolicy", _DNS)):
        value = spec.get(key)
        if not value:
            errors.required(f"{path}.{key}")
        else:
            errors.one_of(f"{path}.{key}", value, allowed)
    deadline = spec.get("activeDeadlineSeconds")
    if deadline is not None and not 1 <= deadline <= _INT32:
        errors.invalid(f"{path}.activeDeadlineSeconds", deadline, f"must be between 1 and {_INT32}, inclusive")
    context = spec.get("securityContext") or {}
    user_ids(errors, f"{path}.securityContext", context, ("runAsUser", "runAsGroup", "fsGroup"))
    seccomp(errors, f"{path}.securityContext.seccompProfile", context.get("seccompProfile"))
    for i, sysctl in enumerate(context.get("sysctls") or []):
        name = sysctl.get("name") or ""
        if not _SYSCTL.fullmatch(name) or len(name) > _SYSCTL_LENGTH:
            words = f"must have at most {_SYSCTL_LENGTH} characters and match regex ^{_SYSCTL.pattern}$"
            errors.invalid(f"{path}.securityContext.sysctls[{i}].name", name, words)
    if context.get("shareProcessNamespace") and spec.get("hostPID"):
        errors.invalid(
            f"{path}.shareProcessNamespace", True, "ShareProcessNamespace and HostPID cannot both be enabled"
        )


def _placement(errors: Errors, path: str, spec: Object) -> None:
    labels(errors, f"{path}.nodeSelector", spec.get("nodeSelector"))
    tolerations(errors, f"{path}.tolerations", spec.get("tolerations") or [])
    if spec.get("nodeName"):
        errors.check(f"{path}.nodeName", spec["nodeName"], dns_subdomain)
    affinity = spec.get("affinity") or {}
    _node_affinity(errors, f"{path}.affinity.nodeAffinity", affinity.get("nodeAffinity") or {})
    for kind in ("podAffinity", "podAntiAffinity"):
        _pod_affinity(errors, f"{path}.affinity.{kind}", affinity.get(kind) or {})
    for i, spread in enumerate(spec.get("topologySpreadConstraints") or []):
        where = f"{path}.topologySpreadConstraints[{i}]"
        if spread.get("maxSkew", 0) <= 0:
            errors.invalid(f"{where}.maxSkew", spread.get("maxSkew", 0), "must be greater than zero")
        if not spread.get("topologyKey"):
            errors.required(f"{where}.topologyKey", "can not be empty")
        errors.one_of(
            f"{where}.whenUnsatisfiable", spread.get("whenUnsatisfiable", ""), ("DoNotSchedule", "ScheduleAnyway")
        )
        label_selector(errors, f"{where}.labelSelector", spread.get("labelSelector"))


def _node_affinity(errors: Errors, path: str, affinity: Object) -> None:
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution")
    where = f"{path}.requiredDuringSchedulingIgnoredDuringExecution"
    if required is not None:
        terms = required.get("nodeSelectorTerms") or []
        if not terms:
            errors.required(f"{where}.nodeSelectorTerms", "must have at least one node selector term")
        for i, term in enumerate(terms):
            _node_term(errors, f"{where}.nodeSelectorTerms[{i}]", term)
    for i, preferred in enumerate(affinity.get("preferredDuringSchedulingIgnoredDuringExecution") or []):
        where = f"{path}.preferredDuringSchedulingIgnoredDuringExecution[{i}]"
        if not 1 <= preferred.get("weight", 0) <= 100:
            errors.invalid(f"{where}.weight", preferred.get("weight", 0), "must be in the range 1-100")
        _node_term(errors, f"{where}.preference", preferred.get("preference") or {})


def _node_term(errors: Errors, path: str, term: Object) -> None:
    for i, rule in enumerate(term.get("matchExpressions") or []):
        where, operator, values = f"{path}.matchExpressions[{i}]", rule.get("operator", ""), rule.get("values") or []
        if operator in ("In", "NotIn"):
            if not values:
                errors.required(f"{where}.values", "must be specified when `operator` is 'In' or 'NotIn'")
        elif operator in ("Exists", "DoesNotExist"):
            if values:
                errors.forbidden(
                    f"{where}.values", "may not be specified when `operator` is 'Exists' or 'DoesNotExist'"
                )
        elif operator in ("Gt", "Lt"):
            if len(values) != 1:
                errors.required(f"{where}.values", "must be specified single value when `operator` is 'Lt' or 'Gt'")
        else:
            errors.invalid(f"{where}.operator", operator, "not a valid selector operator")
        errors.check(f"{where}.key", rule.get("key", ""), qualified_name)


def _pod_affinity(errors: Errors, path: str, affinity: Object) -> None:
    terms: list[tuple[str, Object]] = []
    required, preferred = (f"{word}DuringSchedulingIgnoredDuringExecution" for word in ("required", "preferred"))
    for i, term in enumerate(affinity.get(required) or []):
        terms.append((f"{path}.{required}[{i}]", term))
    for i, weighted in enumerate(affinity.get(preferred) or []):
        where = f"{path}.{preferred}[{i}]"
        if not 1 <= weighted.get("weight", 0) <= 100:
            errors.invalid(f"{where}.weight", weighted.get("weight", 0), "must be in the range 1-100")
        terms.append((f"{where}.podAffinityTerm", weighted.get("podAffinityTerm") or {}))
    for where, term in terms:
        label_selector(errors, f"{where}.labelSelector", term.get("labelSelector"))
        label_selector(errors, f"{where}.namespaceSelector", term.get("namespaceSelector"))
        if not term.get("topologyKey"):
            errors.required(f"{where}.topologyKey", "can not be empty")
        errors.check(f"{where}.topologyKey", term.get("topologyKey") or "", qualified_name)


def tolerations(errors: Errors, path: str, found: list[Object]) -> None:
    for i, toleration in enumerate(found):
        where, operator = f"{path}[{i}]", toleration.get("operator") or ""
        key, value, effect = toleration.get("key") or "", toleration.get("value") or "", toleration.get("effect") or ""
        if key:
            errors.check(f"{where}.key", key, qualified_name)
        elif operator != "Exists":
            errors.invalid(
                f"{where}.operator",
                operator,
                'operator must be Exists when `key` is empty, which means "match all values and all keys"',
            )
        if toleration.get("tolerationSeconds") is not None and effect != "NoExecute":
            errors.invalid(f"{where}.effect", effect, "effect must be 'NoExecute' when `tolerationSeconds` is set")
        if operator in ("", "Equal"):
            wrong = label_value(value)
            if wrong:
                errors.invalid(f"{where}.operator", value, ";".join(wrong))
        elif operator == "Exists":
            if value:
                errors.invalid(f"{where}.operator", value, "value must be empty when `operator` is 'Exists'")
        else:
            errors.unsupported(f"{where}.operator", operator, ("Equal", "Exists"))
        if effect:
            errors.one_of(f"{where}.effect", effect, _EFFECTS)


def _identity(errors: Errors, path: str, spec: Object) -> None:
    for key, rule in (
        ("serviceAccountName", dns_subdomain),
        ("hostname", dns_label),
        ("subdomain", dns_label),
        ("priorityClassName", dns_subdomain),
        ("runtimeClassName", dns_subdomain),
    ):
        if spec.get(key):
            errors.check(f"{path}.{key}", spec[key], rule)
    for i, secret in enumerate(spec.get("imagePullSecrets") or []):
        if not secret.get("name"):
            errors.required(f"{path}.imagePullSecrets[{i}].name")


def dns_config(errors: Errors, path: str, config: Object | None, policy: str) -> None:
    servers = (config or {}).get("nameservers") or []
    if policy == "None":
        if config is None:
            errors.required(path, "must provide `dnsConfig` when `dnsPolicy` is None")
            return
        if not servers:
            errors.required(f"{path}.nameservers", "must provide at least one DNS nameserver when `dnsPolicy` is None")
            return
    if config is None:
        return
    if len(servers) > _MAX_NAMESERVERS:
        errors.invalid(f"{path}.nameservers", servers, f"must not have more than {_MAX_NAMESERVERS} nameservers")
    for i, server in enumerate(servers):
        errors.check(f"{path}.nameservers[{i}]", server, ip_address)
    searches = config.get("searches") or []
    if len(searches) > _MAX_SEARCHES:
        errors.invalid(f"{path}.searches", searches, f"must not have more than {_MAX_SEARCHES} search paths")
    if len(" ".join(searches)) > _MAX_SEARCH_TEXT:
        errors.invalid(
            f"{path}.searches",
            searches,
            f"must not have more than {_MAX_SEARCH_TEXT} characters (including spaces) in the search list",
        )
    for i, search in enumerate(searches):
        if search != ".":
            errors.check(f"{path}.searches[{i}]", search.removesuffix(".").replace("_", "-"), dns_subdomain)
    for i, option in enumerate(config.get("options") or []):
        if not option.get("name"):
            errors.required(f"{path}.options[{i}]", "must not be empty")


def _host_ports(errors: Errors, path: str, spec: Object) -> None:
    for i, container in enumerate(spec.get("containers") or []):
        for j, port in enumerate(container.get("ports") or []):
            number, host = port.get("containerPort"), port.get("hostPort") or 0
            if host != number and not (isinstance(number, int) and port_number(number)):
                errors.invalid(
                    f"{path}.containers[{i}].ports[{j}].hostPort",
                    host,
                    "must match `containerPort` when `hostNetwork` is true",
                )


def _update(errors: Errors, new: Object, old: Object) -> None:
    """A running pod's spec is fixed but for a few fields."""
    for key in ("containers", "initContainers"):
        ours, theirs = new.get(key) or [], old.get(key) or []
        if len(ours) != len(theirs):
            errors.forbidden(f"spec.{key}", "pod updates may not add or remove containers")
            return
    deadline, before = new.get("activeDeadlineSeconds"), old.get("activeDeadlineSeconds")
    if deadline is None and before is not None:
        errors.invalid("spec.activeDeadlineSeconds", None, "must not update from a positive integer to nil value")
    elif deadline is not None and before is not None and before < deadline:
        errors.invalid("spec.activeDeadlineSeconds", deadline, "must be less than or equal to previous value")
    _added_tolerations(errors, new.get("tolerations") or [], old.get("tolerations") or [])
    if any(gate not in (old.get("schedulingGates") or []) for gate in new.get("schedulingGates") or []):
        errors.forbidden("spec.schedulingGates", "only deletion is allowed, but found new scheduling gate(s)")
    if new != old:
        masked = _fixed(new)
        changed = _differences(masked, _fixed(old))
        if changed:
            errors.forbidden(
                "spec",
                f"pod updates may not change fields other than {','.join(UPDATABLE)}\n changed: {', '.join(changed)}",
            )


def _added_tolerations(errors: Errors, new: list[Object], old: list[Object]) -> None:
    def plain(toleration: Object) -> Object:
        return {key: value for key, value in toleration.items() if key != "tolerationSeconds"}

    kept = [plain(toleration) for toleration in new]
    if any(plain(toleration) not in kept for toleration in old):
        errors.forbidden("spec.tolerations", "existing toleration can not be modified except its tolerationSeconds")


_FREE = ("activeDeadlineSeconds", "tolerations", "schedulingGates", "nodeName", "ephemeralContainers")


def _fixed(spec: Object) -> Object:
    """The part of a pod spec that no update may change. (nodeName changes through the binding only.)"""
    rest = {key: value for key, value in spec.items() if key not in _FREE or (key == "nodeName" and value)}
    for key in ("containers", "initContainers"):
        if key in rest:
            rest[key] = [{k: v for k, v in container.items() if k != "image"} for container in rest[key] or []]
    if rest.get("terminationGracePeriodSeconds", 30) in (1,) or rest.get("terminationGracePeriodSeconds", 30) < 0:
        rest["terminationGracePeriodSeconds"] = 1
    return rest


def _differences(new: Any, old: Any, path: str = "spec") -> list[str]:
    """Paths where two values differ, so that the message can say which field is meant."""
    if isinstance(new, dict) and isinstance(old, dict):
        return [
            text
            for key in sorted(new.keys() | old.keys())
            if new.get(key) != old.get(key)
            for text in _differences(new.get(key), old.get(key), f"{path}.{key}")
        ]
    if isinstance(new, list) and isinstance(old, list) and len(new) == len(old):
        return [
            text for i, (a, b) in enumerate(zip(new, old, strict=True)) for text in _differences(a, b, f"{path}[{i}]")
        ]
    return [] if new == old else [path]
