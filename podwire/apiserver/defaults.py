"""Upstream's defaulting: what the API server writes into an object that leaves it open.

`default(obj)` works in place and is idempotent. The rules of pods are in defaults_pod.py. What needs the cluster's
state (addresses, node ports, service account) is filled in elsewhere. Source: pkg/apis/*/v1 defaults of Kubernetes.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

from podwire.apiserver.defaults_pod import default_pod, default_template

Object = dict[str, Any]
TEMPLATE_GENERATION = "deprecated.daemonset.template.generation"  # a field of old, kept as an annotation
_RBAC = "rbac.authorization.k8s.io"


def default(obj: Object) -> None:
    """Fill in upstream's defaults by (apiVersion, kind); kinds without any are left alone."""
    rule = _RULES.get((obj.get("apiVersion", ""), obj.get("kind", "")))
    if rule is not None:
        rule(obj)


def _spec(obj: Object) -> Object:
    spec = obj.get("spec")
    if not isinstance(spec, dict):
        spec = obj["spec"] = {}
    return spec


def _template(spec: Object) -> None:
    template = spec.setdefault("template", {})
    template.setdefault("metadata", {})
    default_template(template.setdefault("spec", {}))


def _deployment(obj: Object) -> None:
    spec = _spec(obj)
    spec.setdefault("replicas", 1)
    strategy = spec.setdefault("strategy", {})
    if strategy.setdefault("type", "RollingUpdate") == "RollingUpdate":
        rolling = strategy.setdefault("rollingUpdate", {})
        rolling.setdefault("maxUnavailable", "25%")
        rolling.setdefault("maxSurge", "25%")
    spec.setdefault("revisionHistoryLimit", 10)
    spec.setdefault("progressDeadlineSeconds", 600)
    _template(spec)
    obj.setdefault("status", {})


def _replicaset(obj: Object) -> None:
    spec = _spec(obj)
    spec.setdefault("replicas", 1)
    _template(spec)
    obj.setdefault("status", {"replicas": 0})


def _daemonset(obj: Object) -> None:
    spec = _spec(obj)
    strategy = spec.setdefault("updateStrategy", {})
    if strategy.setdefault("type", "RollingUpdate") == "RollingUpdate":
        rolling = strategy.setdefault("rollingUpdate", {})
        rolling.setdefault("maxUnavailable", 1)
        rolling.setdefault("maxSurge", 0)
    spec.setdefault("revisionHistoryLimit", 10)
    _template(spec)
    obj.setdefault("metadata", {}).setdefault("annotations", {}).setdefault(TEMPLATE_GENERATION, "1")
    counters = ("currentNumberScheduled", "desiredNumberScheduled", "numberMisscheduled", "numberReady")
    obj.setdefault("status", dict.fromkeys(counters, 0))


def _statefulset(obj: Object) -> None:
    spec = _spec(obj)
    spec.setdefault("podManagementPolicy", "OrderedReady")
    strategy = spec.setdefault("updateStrategy", {})
    if strategy.setdefault("type", "RollingUpdate") == "RollingUpdate":
        strategy.setdefault("rollingUpdate", {}).setdefault("partition", 0)
    retention = spec.setdefault("persistentVolumeClaimRetentionPolicy", {})
    retention.setdefault("whenDeleted", "Retain")
    retention.setdefault("whenScaled", "Retain")
    spec.setdefault("replicas", 1)
    spec.setdefault("revisionHistoryLimit", 10)
    for claim in spec.get("volumeClaimTemplates") or []:
        claim.setdefault("apiVersion", "v1")
        claim.setdefault("kind", "PersistentVolumeClaim")
        _claim(claim)
    _template(spec)
    obj.setdefault("status", {"replicas": 0, "availableReplicas": 0})


def _replication_controller(obj: Object) -> None:
    spec = _spec(obj)
    spec.setdefault("replicas", 1)
    _template(spec)
    labels = spec["template"].get("metadata", {}).get("labels") or {}
    if labels:
        spec.setdefault("selector", dict(labels))
        obj.setdefault("metadata", {}).setdefault("labels", dict(labels))


def _job_spec(spec: Object) -> None:
    if "completions" not in spec and "parallelism" not in spec:
        spec["completions"] = 1
    spec.setdefault("parallelism", 1)
    spec.setdefault("backoffLimit", 6)
    spec.setdefault("completionMode", "NonIndexed")
    spec.setdefault("suspend", False)
    spec.setdefault("podReplacementPolicy", "Failed" if "podFailurePolicy" in spec else "TerminatingOrFailed")
    _template(spec)


def _job(obj: Object) -> None:
    _job_spec(_spec(obj))


def _cronjob(obj: Object) -> None:
    spec = _spec(obj)
    spec.setdefault("concurrencyPolicy", "Allow")
    spec.setdefault("suspend", False)
    spec.setdefault("successfulJobsHistoryLimit", 3)
    spec.setdefault("failedJobsHistoryLimit", 1)
    template = spec.get("jobTemplate")
    if isinstance(template, dict):
        _template(_spec(template))


def _service(obj: Object) -> None:
    spec = _spec(obj)
    if spec.setdefault("sessionAffinity", "None") == "None":
        spec.pop("sessionAffinityConfig", None)
    else:
        affinity = spec.setdefault("sessionAffinityConfig", {}).setdefault("clientIP", {})
        affinity.setdefault("timeoutSeconds", 10800)
    kind = spec.setdefault("type", "ClusterIP")
    if kind == "ClusterIP" and spec.get("externalIPs"):
        spec.setdefault("externalTrafficPolicy", "Cluster")
    for port in spec.get("ports") or []:
        port.setdefault("protocol", "TCP")
        if port.get("targetPort") in (None, 0, "") and "port" in port:
            port["targetPort"] = port["port"]
    if kind in ("NodePort", "LoadBalancer"):
        spec.setdefault("externalTrafficPolicy", "Cluster")
    if kind in ("NodePort", "LoadBalancer", "ClusterIP"):
        spec.setdefault("internalTrafficPolicy", "Cluster")
    if kind == "LoadBalancer":
        spec.setdefault("allocateLoadBalancerNodePorts", True)
    balancer = obj.setdefault("status", {}).setdefault("loadBalancer", {})
    for ingress in balancer.get("ingress") or []:
        if kind == "LoadBalancer" and ingress.get("ip"):
            ingress.setdefault("ipMode", "VIP")


def _endpoints(obj: Object) -> None:
    for subset in obj.get("subsets") or []:
        for port in subset.get("ports") or []:
            port.setdefault("protocol", "TCP")


def _endpointslice(obj: Object) -> None:
    for port in obj.get("ports") or []:
        port.setdefault("name", "")
        port.setdefault("protocol", "TCP")


def _networkpolicy(obj: Object) -> None:
    spec = _spec(obj)
    spec.setdefault("podSelector", {})
    for rule in [*(spec.get("ingress") or []), *(spec.get("egress") or [])]:
        for port in rule.get("ports") or []:
            port.setdefault("protocol", "TCP")
    if not spec.get("policyTypes"):
        spec["policyTypes"] = ["Ingress", "Egress"] if spec.get("egress") else ["Ingress"]


def _secret(obj: Object) -> None:
    texts = obj.pop("stringData", None)
    if texts:
        data = obj.setdefault("data", {})
        for key, text in texts.items():
            data[key] = base64.b64encode(str(text).encode()).decode()
    obj.setdefault("type", "Opaque")


def _namespace(obj: Object) -> None:
    metadata = obj.setdefault("metadata", {})
    if metadata.get("name"):
        metadata.setdefault("labels", {})["kubernetes.io/metadata.name"] = metadata["name"]
    obj.setdefault("status", {}).setdefault("phase", "Active")


def _node(obj: Object) -> None:
    spec = _spec(obj)
    if spec.get("podCIDR") and not spec.get("podCIDRs"):
        spec["podCIDRs"] = [spec["podCIDR"]]
    elif spec.get("podCIDRs") and not spec.get("podCIDR"):
        spec["podCIDR"] = spec["podCIDRs"][0]
    status = obj.setdefault("status", {})
    if "capacity" in status:
        status.setdefault("allocatable", dict(status["capacity"]))


def _claim(obj: Object) -> None:
    _spec(obj).setdefault("volumeMode", "Filesystem")
    obj.setdefault("status", {}).setdefault("phase", "Pending")


def _volume(obj: Object) -> None:
    spec = _spec(obj)
    spec.setdefault("volumeMode", "Filesystem")
    spec.setdefault("persistentVolumeReclaimPolicy", "Retain")
    if "hostPath" in spec:
        spec["hostPath"].setdefault("type", "")
    obj.setdefault("status", {}).setdefault("phase", "Pending")


def _binding(obj: Object) -> None:
    reference = obj.get("roleRef") or {}
    reference["apiGroup"] = reference.get("apiGroup") or _RBAC
    for subject in obj.get("subjects") or []:
        if subject.get("kind") in ("User", "Group") and not subject.get("apiGroup"):
            subject["apiGroup"] = _RBAC


def _priority_class(obj: Object) -> None:
    obj.setdefault("preemptionPolicy", "PreemptLowerPriority")


def _token_request(obj: Object) -> None:
    _spec(obj).setdefault("expirationSeconds", 3600)


def _autoscaler(obj: Object) -> None:
    _spec(obj).setdefault("minReplicas", 1)


def _storage_class(obj: Object) -> None:
    obj.setdefault("reclaimPolicy", "Delete")
    obj.setdefault("volumeBindingMode", "Immediate")


def _pod_template(obj: Object) -> None:
    _template(obj)


def _crd(obj: Object) -> None:
    spec = _spec(obj)
    names = spec.setdefault("names", {})
    kind = names.get("kind")
    if kind:
        names.setdefault("singular", kind.lower())
        names.setdefault("listKind", kind + "List")
    spec.setdefault("conversion", {"strategy": "None"})


_RULES: dict[tuple[str, str], Callable[[Object], None]] = {
    ("v1", "Pod"): default_pod,
    ("v1", "PodTemplate"): _pod_template,
    ("v1", "ReplicationController"): _replication_controller,
    ("v1", "Service"): _service,
    ("v1", "Endpoints"): _endpoints,
    ("v1", "Secret"): _secret,
    ("v1", "Namespace"): _namespace,
    ("v1", "Node"): _node,
    ("v1", "PersistentVolumeClaim"): _claim,
    ("v1", "PersistentVolume"): _volume,
    ("apps/v1", "Deployment"): _deployment,
    ("apps/v1", "ReplicaSet"): _replicaset,
    ("apps/v1", "DaemonSet"): _daemonset,
    ("apps/v1", "StatefulSet"): _statefulset,
    ("batch/v1", "Job"): _job,
    ("batch/v1", "CronJob"): _cronjob,
    ("discovery.k8s.io/v1", "EndpointSlice"): _endpointslice,
    ("networking.k8s.io/v1", "NetworkPolicy"): _networkpolicy,
    ("scheduling.k8s.io/v1", "PriorityClass"): _priority_class,
    ("storage.k8s.io/v1", "StorageClass"): _storage_class,
    ("authentication.k8s.io/v1", "TokenRequest"): _token_request,
    ("autoscaling/v1", "HorizontalPodAutoscaler"): _autoscaler,
    (f"{_RBAC}/v1", "RoleBinding"): _binding,
    (f"{_RBAC}/v1", "ClusterRoleBinding"): _binding,
    ("apiextensions.k8s.io/v1", "CustomResourceDefinition"): _crd,
}
