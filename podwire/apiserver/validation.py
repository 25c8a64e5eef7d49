"""Validation of built-in kinds: which rules apply to which kind.

`validate(obj, old)` expects a defaulted object whose JSON types were checked (strict.conform), and returns every
cause it finds, in the order of the fields. `old` is the stored object of an update. Custom resources are validated by
their schema (crds.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from podwire.apiserver import crds
from podwire.apiserver import validation_core as core
from podwire.apiserver import validation_network as network
from podwire.apiserver import validation_pod as pod
from podwire.apiserver import validation_service as service
from podwire.apiserver import validation_workload as workload
from podwire.apiserver.validation_meta import (
    Cause,
    Errors,
    dns_label,
    dns_subdomain,
    immutable,
    object_meta,
    object_meta_update,
    path_segment,
)

__all__ = ["Cause", "validate"]

Object = dict[str, Any]
Rule = Callable[[Errors, Object, Object | None], None]
_NO_NAME = frozenset(("SelfSubjectReview", "TokenRequest", "TokenReview", "SubjectAccessReview"))
_STANDARD_FINALIZERS = ("kubernetes", "orphan", "foregroundDeletion")
_RBAC = "rbac.authorization.k8s.io/v1"

_RULES: dict[tuple[str, str], Rule] = {
    ("v1", "Pod"): pod.pod,
    ("v1", "ConfigMap"): core.config_map,
    ("v1", "Secret"): core.secret,
    ("v1", "Namespace"): core.namespace,
    ("v1", "Node"): core.node,
    ("v1", "Service"): service.service,
    ("v1", "Endpoints"): network.endpoints,
    ("v1", "ReplicationController"): workload.replication_controller,
    ("apps/v1", "Deployment"): workload.deployment,
    ("apps/v1", "ReplicaSet"): workload.replica_set,
    ("apps/v1", "DaemonSet"): workload.daemon_set,
    ("apps/v1", "StatefulSet"): workload.stateful_set,
    ("batch/v1", "Job"): workload.job,
    ("batch/v1", "CronJob"): workload.cron_job,
    ("policy/v1", "PodDisruptionBudget"): workload.disruption_budget,
    ("coordination.k8s.io/v1", "Lease"): workload.lease,
    ("autoscaling/v1", "Scale"): workload.scale,
    ("discovery.k8s.io/v1", "EndpointSlice"): network.endpoint_slice,
    ("networking.k8s.io/v1", "NetworkPolicy"): network.network_policy,
    ("apiextensions.k8s.io/v1", "CustomResourceDefinition"): crds.validate_crd,
    ("v1", "Event"): core.event,
    ("events.k8s.io/v1", "Event"): core.new_event,
    ("scheduling.k8s.io/v1", "PriorityClass"): core.priority_class,
    (_RBAC, "Role"): core.role,
    (_RBAC, "ClusterRole"): core.role,
    (_RBAC, "RoleBinding"): core.role_binding,
    (_RBAC, "ClusterRoleBinding"): core.role_binding,
}


def _name_rule(api_version: str, kind: str) -> Callable[[str], list[str]]:
    if kind in ("Namespace", "Service"):
        return dns_label
    return path_segment if api_version == _RBAC else dns_subdomain


def validate(obj: Object, old: Object | None = None) -> list[Cause]:
    """Everything that is wrong with the object, or with the change from `old` to it."""
    api_version, kind = obj.get("apiVersion", ""), obj.get("kind", "")
    errors = Errors()
    metadata = obj.get("metadata") or {}
    if not kind.endswith("Review") and kind not in _NO_NAME:
        object_meta(errors, metadata, _name_rule(api_version, kind))
        for i, text in enumerate(metadata.get("finalizers") or []):
            if "/" not in text and text not in _STANDARD_FINALIZERS:
                words = "name is neither a standard finalizer name nor is it fully qualified"
                errors.invalid(f"metadata.finalizers[{i}]", text, words)
    if old is not None:
        object_meta_update(errors, metadata, old.get("metadata") or {})
    rule = _RULES.get((api_version, kind))
    if rule is not None:
        rule(errors, obj, old)
    if api_version == "apps/v1" and kind == "ControllerRevision" and old is not None:
        immutable(errors, "data", obj.get("data"), old.get("data"))
    return errors
