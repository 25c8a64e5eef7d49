"""All built-in kinds, each as one declaration."""

from __future__ import annotations

from typing import Any

from podwire.apiserver import kinds_pod, kinds_service
from podwire.apiserver.admission import Admission
from podwire.apiserver.defaults import TEMPLATE_GENERATION
from podwire.apiserver.resources import Resource, Scale, Subresource
from podwire.apiserver.rows_apps import (
    DAEMONSET_COLUMNS,
    DEPLOYMENT_COLUMNS,
    REPLICASET_COLUMNS,
    REVISION_COLUMNS,
    daemonset_row,
    deployment_row,
    replicaset_row,
    revision_row,
)
from podwire.apiserver.rows_core import (
    BINDING_COLUMNS,
    CONFIGMAP_COLUMNS,
    EVENT_COLUMNS,
    LEASE_COLUMNS,
    NAMESPACE_COLUMNS,
    NETWORKPOLICY_COLUMNS,
    PRIORITY_COLUMNS,
    SECRET_COLUMNS,
    SERVICEACCOUNT_COLUMNS,
    binding_row,
    configmap_row,
    event_row,
    lease_row,
    namespace_row,
    networkpolicy_row,
    priority_row,
    secret_row,
    serviceaccount_row,
)
from podwire.apiserver.validation_network import policy_warnings
from podwire.model.gvr import (
    CONFIGMAPS,
    CONTROLLERREVISIONS,
    DAEMONSETS,
    DEPLOYMENTS,
    EVENTS,
    GVR,
    LEASES,
    NAMESPACES,
    NETWORKPOLICIES,
    REPLICASETS,
    SECRETS,
    SERVICEACCOUNTS,
)

Object = dict[str, Any]

_RBAC = "rbac.authorization.k8s.io"
_AUTHORIZATION = "authorization.k8s.io"
_AUTHENTICATION = "authentication.k8s.io"
_NEW_EVENTS = GVR("events.k8s.io", "v1", "events", "Event")
_EVENT_RENAMES = (
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
)


def create_namespace(admission: Admission, obj: Object) -> None:
    obj["spec"] = {"finalizers": ["kubernetes"]}
    obj["status"] = {"phase": "Active"}


def update_namespace(admission: Admission, obj: Object, old: Object) -> None:
    """Finalizers of the spec change through the finalize subresource only."""
    obj["spec"] = old.get("spec") or {}


def update_daemonset(admission: Admission, obj: Object, old: Object) -> None:
    """Count the changes of the template, in the annotation that holds what once was a field."""
    count = (old["metadata"].get("annotations") or {}).get(TEMPLATE_GENERATION, "1")
    if obj["spec"].get("template") != old["spec"].get("template") and count.isdigit():
        count = str(int(count) + 1)
    obj["metadata"]["annotations"] = {**(obj["metadata"].get("annotations") or {}), TEMPLATE_GENERATION: count}


def _to_core_event(obj: Object) -> Object:
    found = dict(obj)
    for core, new in _EVENT_RENAMES:
        if new in found:
            found[core] = found.pop(new)
    return {**found, "apiVersion": "v1"}


def _from_core_event(obj: Object) -> Object:
    found = dict(obj)
    for core, new in _EVENT_RENAMES:
        if core in found:
            found[new] = found.pop(core)
    for name in ("reportingController", "reportingInstance"):  # here they are left out when empty
        if not found.get(name):
            found.pop(name, None)
    return {**found, "apiVersion": "events.k8s.io/v1"}


def _review(group: str, plural: str, kind: str, *, namespaced: bool = False) -> Resource:
    """A question to the server: created, answered, never stored."""
    return Resource(GVR(group, "v1", plural, kind, namespaced), verbs=("create",))


_EVENT_FIELDS = tuple(
    f"involvedObject.{part}"
    for part in ("kind", "namespace", "name", "uid", "apiVersion", "resourceVersion", "fieldPath")
)

CORE = (
    Resource(
        NAMESPACES,
        ("ns",),
        verbs=("create", "delete", "get", "list", "patch", "update", "watch"),
        columns=NAMESPACE_COLUMNS,
        row=namespace_row,
        has_status=True,
        create=create_namespace,
        update=update_namespace,
        fields=("status.phase",),
        subresources=(Subresource("finalize", ("update",), "Namespace"),),
        returns_deleted=True,
    ),
    Resource(CONFIGMAPS, ("cm",), columns=CONFIGMAP_COLUMNS, row=configmap_row),
    Resource(SECRETS, columns=SECRET_COLUMNS, row=secret_row, fields=("type",)),
    Resource(
        SERVICEACCOUNTS,
        ("sa",),
        columns=SERVICEACCOUNT_COLUMNS,
        row=serviceaccount_row,
        subresources=(Subresource("token", ("create",), "TokenRequest", "authentication.k8s.io", "v1"),),
        returns_deleted=True,
    ),
    Resource(
        EVENTS,
        ("ev",),
        columns=EVENT_COLUMNS,
        row=event_row,
        create_on_update=True,
        fields=(*_EVENT_FIELDS, "reason", "reportingComponent", "source", "type"),
    ),
    Resource(
        _NEW_EVENTS,
        ("ev",),
        columns=EVENT_COLUMNS,
        row=event_row,
        create_on_update=True,
        collection="events",
        to_storage=_to_core_event,
        from_storage=_from_core_event,
        fields=(*(each.replace("involvedObject", "regarding") for each in _EVENT_FIELDS), "reason", "type"),
    ),
)

APPS = (
    Resource(
        DEPLOYMENTS,
        ("deploy",),
        ("all",),
        columns=DEPLOYMENT_COLUMNS,
        row=deployment_row,
        has_status=True,
        scale=Scale(),
        generation=True,
    ),
    Resource(
        REPLICASETS,
        ("rs",),
        ("all",),
        columns=REPLICASET_COLUMNS,
        row=replicaset_row,
        has_status=True,
        scale=Scale(),
        generation=True,
        fields=("status.replicas",),
        field_defaults={"status.replicas": "0"},
    ),
    Resource(
        DAEMONSETS,
        ("ds",),
        ("all",),
        columns=DAEMONSET_COLUMNS,
        row=daemonset_row,
        update=update_daemonset,
        has_status=True,
        generation=True,
    ),
    Resource(CONTROLLERREVISIONS, columns=REVISION_COLUMNS, row=revision_row),
)


def _warn_of_policy(admission: Admission, obj: Object, old: Object | None) -> None:
    admission.warnings += policy_warnings(obj, old)


OTHERS = (
    Resource(
        NETWORKPOLICIES,
        ("netpol",),
        columns=NETWORKPOLICY_COLUMNS,
        row=networkpolicy_row,
        generation=True,
        finish=_warn_of_policy,
    ),
    Resource(LEASES, columns=LEASE_COLUMNS, row=lease_row, create_on_update=True),
    Resource(
        GVR("scheduling.k8s.io", "v1", "priorityclasses", "PriorityClass", namespaced=False),
        ("pc",),
        columns=PRIORITY_COLUMNS,
        row=priority_row,
        generation=True,
    ),
    Resource(GVR(_RBAC, "v1", "roles", "Role"), create_on_update=True),
    Resource(GVR(_RBAC, "v1", "clusterroles", "ClusterRole", namespaced=False), create_on_update=True),
    Resource(
        GVR(_RBAC, "v1", "rolebindings", "RoleBinding"),
        columns=BINDING_COLUMNS,
        row=binding_row,
        create_on_update=True,
    ),
    Resource(
        GVR(_RBAC, "v1", "clusterrolebindings", "ClusterRoleBinding", False),
        columns=BINDING_COLUMNS,
        row=binding_row,
        create_on_update=True,
    ),
)

REVIEWS = (
    _review(_AUTHENTICATION, "tokenreviews", "TokenReview"),
    _review(_AUTHENTICATION, "selfsubjectreviews", "SelfSubjectReview"),
    _review(_AUTHORIZATION, "subjectaccessreviews", "SubjectAccessReview"),
    _review(_AUTHORIZATION, "selfsubjectaccessreviews", "SelfSubjectAccessReview"),
    _review(_AUTHORIZATION, "selfsubjectrulesreviews", "SelfSubjectRulesReview"),
    _review(_AUTHORIZATION, "localsubjectaccessreviews", "LocalSubjectAccessReview", namespaced=True),
)

BUILT_IN: tuple[Resource, ...] = (
    *CORE,
    *kinds_pod.RESOURCES,
    *kinds_service.RESOURCES,
    *APPS,
    *REVIEWS,
    *OTHERS,
)
