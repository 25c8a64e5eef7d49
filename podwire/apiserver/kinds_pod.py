"""Pods and nodes, and what admission adds to a pod: service account, token volume, tolerations, priority.

Source: behaviour of Kubernetes' registry/core/pod strategy and of the admission plugins ServiceAccount,
DefaultTolerationSeconds and Priority.
"""

from __future__ import annotations

import random
from typing import Any

from podwire.apiserver.admission import Admission
from podwire.apiserver.errors import forbidden
from podwire.apiserver.resources import Resource, Subresource
from podwire.apiserver.rows_pod import NODE_COLUMNS, POD_COLUMNS, node_row, pod_row
from podwire.model.gvr import NODES, PODS
from podwire.model.quantity import parse_quantity

Object = dict[str, Any]

TOKEN_PATH = "/var/run/secrets/kubernetes.io/serviceaccount"
_LETTERS = "bcdfghjklmnpqrstvwxz2456789"
_AWAY = ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")
_CLASSES = {"system-cluster-critical": 2_000_000_000, "system-node-critical": 2_000_001_000}


def random_suffix(length: int = 5) -> str:
    """Letters as generateName uses them: no vowels, nothing that looks like something else."""
    return "".join(random.choices(_LETTERS, k=length))


def create_pod(admission: Admission, pod: Object) -> None:
    spec = pod["spec"]
    pod["status"] = {"phase": "Pending", "qosClass": qos_class(spec)}
    _service_account(admission, pod, spec)
    _tolerations(spec)
    _priority(admission, pod, spec)


def update_pod(admission: Admission, pod: Object, old: Object) -> None:
    """What admission added stays when a client replaces a pod by the manifest it once sent."""
    spec, before = pod.get("spec") or {}, old.get("spec") or {}
    for key in ("serviceAccountName", "serviceAccount", "priority", "preemptionPolicy", "nodeName"):
        if key in before:
            spec.setdefault(key, before[key])
    _tolerations(spec)


def qos_class(spec: Object) -> str:
    """Guaranteed, Burstable or BestEffort, from cpu and memory of all containers."""
    if spec.get("resources"):
        containers = [{"resources": spec["resources"]}]
    else:
        containers = [*(spec.get("containers") or []), *(spec.get("initContainers") or [])]
    some, all_equal = False, True
    for container in containers:
        resources = container.get("resources") or {}
        limits, requests = resources.get("limits") or {}, resources.get("requests") or {}
        for name in ("cpu", "memory"):
            limit, request = _amount(limits.get(name)), _amount(requests.get(name, limits.get(name)))
            some = some or bool(limit) or bool(request)
            all_equal = all_equal and bool(limit) and limit == request
    if not some:
        return "BestEffort"
    return "Guaranteed" if all_equal else "Burstable"


def _amount(text: Any) -> Any:
    try:
        return parse_quantity(text) if text is not None else None
    except ValueError:
        return None  # validation says what is wrong with it


def _service_account(admission: Admission, pod: Object, spec: Object) -> None:
    metadata = pod["metadata"]
    if "kubernetes.io/config.mirror" in (metadata.get("annotations") or {}):
        return
    name = spec.get("serviceAccountName") or spec.get("serviceAccount") or "default"
    spec["serviceAccountName"] = spec["serviceAccount"] = name
    account = admission.latest("serviceaccounts", (metadata["namespace"], name))
    if account is None:
        where = f"{metadata['namespace']}/{name}"
        why = f'error looking up service account {where}: serviceaccount "{name}" not found'
        raise forbidden(PODS, metadata.get("name", ""), why)
    wanted = spec.get("automountServiceAccountToken", account.object.get("automountServiceAccountToken", True))
    if wanted:
        _mount_token(spec)
    if not spec.get("imagePullSecrets") and account.object.get("imagePullSecrets"):
        spec["imagePullSecrets"] = account.copy()["imagePullSecrets"]


def _mount_token(spec: Object) -> None:
    volumes = spec.setdefault("volumes", [])
    name = next((v["name"] for v in volumes if str(v.get("name", "")).startswith("kube-api-access-")), "")
    used = False
    chosen = name or f"kube-api-access-{random_suffix()}"
    for container in [*(spec.get("initContainers") or []), *(spec.get("containers") or [])]:
        mounts = container.setdefault("volumeMounts", [])
        if any(mount.get("mountPath") == TOKEN_PATH for mount in mounts):
            continue
        mounts.append({"name": chosen, "readOnly": True, "mountPath": TOKEN_PATH})
        used = True
    if used and not name:
        volumes.append({"name": chosen, "projected": _token_sources()})
    if not volumes:
        del spec["volumes"]


def _token_sources() -> Object:
    return {
        "sources": [
            {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
            {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            {
                "downwardAPI": {
                    "items": [
                        {"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}
                    ]
                }
            },
        ],
        "defaultMode": 420,
    }


def _tolerations(spec: Object) -> None:
    have = spec.get("tolerations") or []
    for key in _AWAY:
        covered = any(
            each.get("effect") in (None, "", "NoExecute")
            and (each.get("key") == key or (not each.get("key") and each.get("operator") == "Exists"))
            for each in have
        )
        if not covered:
            have = [*have, {"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}]
    spec["tolerations"] = have


def _priority(admission: Admission, pod: Object, spec: Object) -> None:
    name = spec.get("priorityClassName")
    value, policy = 0, "PreemptLowerPriority"
    if name in _CLASSES:
        value = _CLASSES[name]
    elif name:
        found = admission.latest("priorityclasses.scheduling.k8s.io", ("", name))
        if found is None:
            why = f"no PriorityClass with name {name} was found"
            raise forbidden(PODS, pod["metadata"].get("name", ""), why)
        value = found.object.get("value", 0)
        policy = found.object.get("preemptionPolicy", policy)
    spec["priority"] = value
    spec.setdefault("preemptionPolicy", policy)


RESOURCES = (
    Resource(
        PODS,
        ("po",),
        ("all",),
        columns=POD_COLUMNS,
        row=pod_row,
        has_status=True,
        status_metadata=True,
        generation=True,
        subresources=(
            Subresource("attach", ("create", "get"), "PodAttachOptions"),
            Subresource("binding", ("create",), "Binding"),
            Subresource("eviction", ("create",), "Eviction", "policy", "v1"),
            Subresource("exec", ("create", "get"), "PodExecOptions"),
            Subresource("log", ("get",), "Pod"),
            Subresource("portforward", ("create", "get"), "PodPortForwardOptions"),
        ),
        fields=(
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork",
            "status.phase",
            "status.podIP",
            "status.nominatedNodeName",
        ),
        field_defaults={"spec.hostNetwork": "false"},
        create=create_pod,
        update=update_pod,
        returns_deleted=True,
    ),
    Resource(
        NODES,
        ("no",),
        columns=NODE_COLUMNS,
        row=node_row,
        has_status=True,
        status_metadata=True,
        keeps_status_on_create=True,
        fields=("spec.unschedulable",),
        field_defaults={"spec.unschedulable": "false"},
    ),
)
