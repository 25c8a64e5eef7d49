"""Validation of Deployments, ReplicaSets, DaemonSets, StatefulSets, Jobs and what belongs to them.

Source: pkg/apis/apps, batch, policy, coordination and autoscaling validation of Kubernetes.
"""

from __future__ import annotations

import re
from typing import Any

from podwire.apiserver.validation_meta import Errors, Object, immutable, label_selector
from podwire.apiserver.validation_pod import template
from podwire.model.selectors import SelectorError
from podwire.model.selectors import label_selector as parse_selector

_PERCENT = re.compile(r"[0-9]+%")
_PERCENT_WORDS = (
    "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for"
    " validation is '[0-9]+%')"
)


def _selector_and_template(errors: Errors, spec: Object, kind: str) -> None:
    selector = spec.get("selector")
    if selector is None:
        errors.required("spec.selector")
    else:
        label_selector(errors, "spec.selector", selector)
        if not selector.get("matchLabels") and not selector.get("matchExpressions"):
            errors.invalid("spec.selector", selector, f"empty selector is invalid for {kind}")
    body = spec.get("template") or {}
    labels = (body.get("metadata") or {}).get("labels") or {}
    try:
        parsed = parse_selector(selector)
    except SelectorError:
        errors.invalid("spec.selector", selector, "invalid label selector")
    else:
        if parsed is None or not parsed.matches(labels):  # no selector at all matches nothing
            errors.invalid(
                "spec.template.metadata.labels", labels or None, "`selector` does not match template `labels`"
            )
    template(errors, "spec.template", body)


def _long_running(errors: Errors, spec: Object, kind: str) -> None:
    inner = (spec.get("template") or {}).get("spec") or {}
    if inner.get("restartPolicy") in ("OnFailure", "Never"):
        errors.unsupported("spec.template.spec.restartPolicy", inner["restartPolicy"], ("Always",))
    if inner.get("activeDeadlineSeconds") is not None:
        errors.forbidden(
            "spec.template.spec.activeDeadlineSeconds", f"activeDeadlineSeconds in {kind} is not Supported"
        )


def _not_negative(errors: Errors, spec: Object, *keys: str) -> None:
    for key in keys:
        errors.not_negative(f"spec.{key}", spec.get(key))


def deployment(errors: Errors, obj: Object, old: Object | None) -> None:
    spec = obj.get("spec") or {}
    _not_negative(errors, spec, "replicas")
    _selector_and_template(errors, spec, "deployment")
    _long_running(errors, spec, "ReplicaSet")
    strategy = spec.get("strategy") or {}
    match strategy.get("type"):
        case "Recreate":
            if strategy.get("rollingUpdate") is not None:
                errors.forbidden(
                    "spec.strategy.rollingUpdate", "may not be specified when strategy `type` is 'Recreate'"
                )
        case "RollingUpdate":
            rolling = strategy.get("rollingUpdate") or {}
            unavailable, surge = rolling.get("maxUnavailable", 0), rolling.get("maxSurge", 0)
            where = "spec.strategy.rollingUpdate.maxUnavailable"
            int_or_percent(errors, where, unavailable)
            int_or_percent(errors, "spec.strategy.rollingUpdate.maxSurge", surge)
            if _number(unavailable) == 0 and _number(surge) == 0:
                errors.invalid(where, unavailable, "may not be 0 when `maxSurge` is 0")
            _at_most_all(errors, where, unavailable)
        case _:
            errors.unsupported("spec.strategy", strategy, ("Recreate", "RollingUpdate"))
    _not_negative(errors, spec, "minReadySeconds", "revisionHistoryLimit", "progressDeadlineSeconds")
    deadline = spec.get("progressDeadlineSeconds")
    if deadline is not None and deadline <= (spec.get("minReadySeconds") or 0):
        errors.invalid("spec.progressDeadlineSeconds", deadline, "must be greater than minReadySeconds")
    _same_selector(errors, spec, old)


def _same_selector(errors: Errors, spec: Object, old: Object | None) -> None:
    if old is not None:
        immutable(errors, "spec.selector", spec.get("selector"), (old.get("spec") or {}).get("selector"))


def _number(value: Any) -> int:
    text = str(value).removesuffix("%")
    return int(text) if text.isdigit() else 0


def int_or_percent(errors: Errors, path: str, value: Any) -> None:
    """A count that is not negative, or a percentage."""
    if isinstance(value, str):
        if not _PERCENT.fullmatch(value):
            errors.invalid(path, value, _PERCENT_WORDS)
    else:
        errors.not_negative(path, value)


def _at_most_all(errors: Errors, path: str, value: Any) -> None:
    if isinstance(value, str) and _number(value) > 100:
        errors.invalid(path, value, "must not be greater than 100%")


def replica_set(errors: Errors, obj: Object, old: Object | None) -> None:
    spec = obj.get("spec") or {}
    _not_negative(errors, spec, "replicas", "minReadySeconds")
    _selector_and_template(errors, spec, "replicaset")
    _long_running(errors, spec, "ReplicaSet")
    _same_selector(errors, spec, old)


def daemon_set(errors: Errors, obj: Object, old: Object | None) -> None:
    spec = obj.get("spec") or {}
    _selector_and_template(errors, spec, "daemonset")
    _long_running(errors, spec, "DaemonSet")
    _not_negative(errors, spec, "minReadySeconds", "revisionHistoryLimit")
    strategy = spec.get("updateStrategy") or {}
    if strategy.get("type") == "RollingUpdate":
        _daemon_rolling(errors, "spec.updateStrategy.rollingUpdate", strategy.get("rollingUpdate") or {})
    elif strategy.get("type") != "OnDelete":
        errors.unsupported("spec.updateStrategy.type", strategy.get("type", ""), ("RollingUpdate", "OnDelete"))
    _same_selector(errors, spec, old)


def _daemon_rolling(errors: Errors, path: str, rolling: Object) -> None:
    unavailable, surge = rolling.get("maxUnavailable", 1), rolling.get("maxSurge", 0)
    for key, value in (("maxUnavailable", unavailable), ("maxSurge", surge)):
        int_or_percent(errors, f"{path}.{key}", value)
        _at_most_all(errors, f"{path}.{key}", value)
    if _number(unavailable) and _number(surge):
        errors.invalid(f"{path}.maxSurge", surge, "may not be set when maxUnavailable is non-zero")
    elif not _number(unavailable) and not _number(surge):
        errors.required(f"{path}.maxUnavailable", "cannot be 0 when maxSurge is 0")


_STATEFUL_MUTABLE = (
    "replicas",
    "ordinals",
    "template",
    "updateStrategy",
    "revisionHistoryLimit",
    "persistentVolumeClaimRetentionPolicy",
    "minReadySeconds",
)


def stateful_set(errors: Errors, obj: Object, old: Object | None) -> None:
    spec = obj.get("spec") or {}
    _not_negative(errors, spec, "replicas", "minReadySeconds", "revisionHistoryLimit")
    errors.one_of("spec.podManagementPolicy", spec.get("podManagementPolicy", ""), ("OrderedReady", "Parallel"))
    kind = (spec.get("updateStrategy") or {}).get("type", "")
    errors.one_of("spec.updateStrategy", kind, ("OnDelete", "RollingUpdate"))
    _selector_and_template(errors, spec, "statefulset")
    _long_running(errors, spec, "StatefulSet")
    if old is not None:
        before = old.get("spec") or {}
        fixed = [key for key in spec.keys() | before.keys() if key not in _STATEFUL_MUTABLE]
        if any(spec.get(key) != before.get(key) for key in fixed):
            names, last = ", ".join(f"'{key}'" for key in _STATEFUL_MUTABLE[:-1]), _STATEFUL_MUTABLE[-1]
            errors.forbidden(
                "spec", f"updates to statefulset spec for fields other than {names} and '{last}' are forbidden"
            )


def replication_controller(errors: Errors, obj: Object, old: Object | None) -> None:
    del old
    spec = obj.get("spec") or {}
    _not_negative(errors, spec, "replicas", "minReadySeconds")
    selector = spec.get("selector") or {}
    body = spec.get("template") or {}
    labels = (body.get("metadata") or {}).get("labels") or {}
    if not selector:
        errors.required("spec.selector")
    elif not selector.items() <= labels.items():
        errors.invalid("spec.template.metadata.labels", labels, "`selector` does not match template `labels`")
    template(errors, "spec.template", body)


def job(errors: Errors, obj: Object, old: Object | None) -> None:
    spec = obj.get("spec") or {}
    job_spec(errors, "spec", spec)
    if old is not None:
        before = old.get("spec") or {}
        for key in ("selector", "completionMode", "podFailurePolicy", "backoffLimitPerIndex"):
            immutable(errors, f"spec.{key}", spec.get(key), before.get(key))
        if not before.get("suspend") or not spec.get("suspend"):
            immutable(errors, "spec.template", spec.get("template"), before.get("template"))


def job_spec(errors: Errors, path: str, spec: Object) -> None:
    for key in ("parallelism", "completions", "activeDeadlineSeconds", "backoffLimit", "ttlSecondsAfterFinished"):
        errors.not_negative(f"{path}.{key}", spec.get(key))
    body = spec.get("template") or {}
    template(errors, f"{path}.template", body)
    policy = (body.get("spec") or {}).get("restartPolicy")
    if policy not in ("OnFailure", "Never"):
        errors.required(f"{path}.template.spec.restartPolicy", 'valid values: "OnFailure", "Never"')


def cron_job(errors: Errors, obj: Object, old: Object | None) -> None:
    del old
    spec = obj.get("spec") or {}
    if not spec.get("schedule"):
        errors.required("spec.schedule")
    elif len(spec["schedule"].split()) != 5 and not spec["schedule"].startswith("@"):
        errors.invalid("spec.schedule", spec["schedule"], "expected exactly 5 fields")
    errors.one_of("spec.concurrencyPolicy", spec.get("concurrencyPolicy", ""), ("Allow", "Forbid", "Replace"))
    _not_negative(errors, spec, "successfulJobsHistoryLimit", "failedJobsHistoryLimit", "startingDeadlineSeconds")
    job_spec(errors, "spec.jobTemplate.spec", (spec.get("jobTemplate") or {}).get("spec") or {})


def disruption_budget(errors: Errors, obj: Object, old: Object | None) -> None:
    del old
    spec = obj.get("spec") or {}
    if spec.get("minAvailable") is not None and spec.get("maxUnavailable") is not None:
        errors.invalid("spec", spec, "minAvailable and maxUnavailable cannot be both set")
    for key in ("minAvailable", "maxUnavailable"):
        if spec.get(key) is not None:
            int_or_percent(errors, f"spec.{key}", spec[key])
            _at_most_all(errors, f"spec.{key}", spec[key])
    label_selector(errors, "spec.selector", spec.get("selector"))


def lease(errors: Errors, obj: Object, old: Object | None) -> None:
    del old
    spec = obj.get("spec") or {}
    seconds, moves = spec.get("leaseDurationSeconds"), spec.get("leaseTransitions")
    if seconds is not None and seconds <= 0:
        errors.invalid("spec.leaseDurationSeconds", seconds, "must be greater than 0")
    if moves is not None and moves < 0:
        errors.invalid("spec.leaseTransitions", moves, "must be greater than or equal to 0")


def scale(errors: Errors, obj: Object, old: Object | None) -> None:
    del old
    _not_negative(errors, obj.get("spec") or {}, "replicas")
