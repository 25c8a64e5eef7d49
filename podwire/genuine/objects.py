"""The first objects of a genuine cluster: name service, and what Podwire's agents may do. Pure.

Sources: kubeadm's CoreDNS manifests (names, RBAC), CoreDNS' plugins kubernetes, cache, template.
"""

from __future__ import annotations

from typing import Any

from podwire.genuine.settings import DOMAIN
from podwire.install import rbac
from podwire.install.options import NODE_GROUP
from podwire.model.gvr import CONFIGMAPS, DEPLOYMENTS, GVR, SERVICEACCOUNTS, SERVICES

Object = dict[str, Any]

CLUSTERROLES = GVR("rbac.authorization.k8s.io", "v1", "clusterroles", "ClusterRole", namespaced=False)
BINDINGS = GVR("rbac.authorization.k8s.io", "v1", "clusterrolebindings", "ClusterRoleBinding", namespaced=False)

COREDNS_IMAGE = "registry.k8s.io/coredns/coredns:v1.15.0"

_SYSTEM = "kube-system"

COREFILE = f"""{DOMAIN}:53 in-addr.arpa:53 ip6.arpa:53 {{
    errors
    health {{
        lameduck 5s
    }}
    ready
    kubernetes {DOMAIN} in-addr.arpa ip6.arpa {{
        pods insecure
        ttl 30
    }}
    prometheus :9153
    cache 30
    loadbalance
    reload
}}
.:53 {{
    errors
    template ANY ANY {{
        rcode NXDOMAIN
    }}
}}
"""
"""As kubeadm's, but that no name outside of the cluster is asked of anybody: there is nobody."""


def name_service(cluster_ip: str) -> list[tuple[GVR, Object]]:
    """CoreDNS behind the Service kube-dns."""
    labels = {"k8s-app": "kube-dns"}
    role = [
        _rule([""], ["endpoints", "services", "pods", "namespaces"], ["list", "watch"]),
        _rule(["discovery.k8s.io"], ["endpointslices"], ["list", "watch"]),
    ]
    service = {
        "selector": labels,
        "clusterIP": cluster_ip,
        "ports": [
            {"name": "dns", "port": 53, "protocol": "UDP", "targetPort": 53},
            {"name": "dns-tcp", "port": 53, "protocol": "TCP", "targetPort": 53},
            {"name": "metrics", "port": 9153, "protocol": "TCP", "targetPort": 9153},
        ],
    }
    named = {**labels, "kubernetes.io/cluster-service": "true", "kubernetes.io/name": "CoreDNS"}
    return [
        (SERVICEACCOUNTS, _object(SERVICEACCOUNTS, "coredns", _SYSTEM)),
        (CONFIGMAPS, _object(CONFIGMAPS, "coredns", _SYSTEM, data={"Corefile": COREFILE})),
        (CLUSTERROLES, _object(CLUSTERROLES, "system:coredns", rules=role)),
        (BINDINGS, _binding("system:coredns", {"kind": "ServiceAccount", "name": "coredns", "namespace": _SYSTEM})),
        (SERVICES, _object(SERVICES, "kube-dns", _SYSTEM, labels=named, spec=service)),
        (DEPLOYMENTS, _object(DEPLOYMENTS, "coredns", _SYSTEM, labels=labels, spec=_deployment(labels))),
    ]


def _deployment(labels: dict[str, str]) -> Object:
    container = {
        "name": "coredns",
        "image": COREDNS_IMAGE,
        "imagePullPolicy": "IfNotPresent",
        "args": ["-conf", "/etc/coredns/Corefile"],
        "resources": {"limits": {"memory": "170Mi"}, "requests": {"cpu": "100m", "memory": "70Mi"}},
        "ports": [
            {"name": "dns", "containerPort": 53, "protocol": "UDP"},
            {"name": "dns-tcp", "containerPort": 53, "protocol": "TCP"},
            {"name": "metrics", "containerPort": 9153, "protocol": "TCP"},
        ],
        "volumeMounts": [{"name": "config-volume", "mountPath": "/etc/coredns", "readOnly": True}],
        "livenessProbe": {"httpGet": {"path": "/health", "port": 8080}, "initialDelaySeconds": 60, "timeoutSeconds": 5},
        "readinessProbe": {"httpGet": {"path": "/ready", "port": 8181}, "periodSeconds": 2},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"add": ["NET_BIND_SERVICE"], "drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
    }
    pod = {
        "serviceAccountName": "coredns",
        "priorityClassName": "system-cluster-critical",
        "dnsPolicy": "Default",
        # on the control plane's node, where a kind cluster's are too: the addresses of the others are all the user's
        "nodeSelector": {"kubernetes.io/os": "linux", "node-role.kubernetes.io/control-plane": ""},
        "tolerations": [
            {"key": "CriticalAddonsOnly", "operator": "Exists"},
            {"key": "node-role.kubernetes.io/control-plane", "effect": "NoSchedule"},
        ],
        "containers": [container],
        "volumes": [
            {
                "name": "config-volume",
                "configMap": {"name": "coredns", "items": [{"key": "Corefile", "path": "Corefile"}]},
            }
        ],
    }
    return {
        "replicas": 2,
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1}},
        "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": pod},
    }


def agents() -> list[tuple[GVR, Object]]:
    """What the agents of the lab's nodes may do: what an installation's agents may and, as one of them is elected to
    the duties that concern all nodes, what its controller may."""
    granted = [
        *rbac.rules(rbac.GRANTS, classic=False),
        *rbac.rules(rbac.CONTROLLER_GRANTS, classic=False),
        *rbac.rules(rbac.LEASE_GRANTS, classic=False),
    ]
    subject = {"kind": "Group", "apiGroup": CLUSTERROLES.group, "name": NODE_GROUP}
    return [
        (CLUSTERROLES, _object(CLUSTERROLES, NODE_GROUP, rules=granted)),
        (BINDINGS, _binding(NODE_GROUP, subject)),
    ]


def _binding(role: str, subject: Object) -> Object:
    reference = {"apiGroup": CLUSTERROLES.group, "kind": "ClusterRole", "name": role}
    return _object(BINDINGS, role, roleRef=reference, subjects=[subject])


def _rule(groups: list[str], resources: list[str], verbs: list[str]) -> Object:
    return {"apiGroups": groups, "resources": resources, "verbs": verbs}


def _object(gvr: GVR, name: str, namespace: str = "", labels: dict[str, str] | None = None, **fields: Any) -> Object:
    metadata: Object = {"name": name}
    if namespace:
        metadata["namespace"] = namespace
    if labels:
        metadata["labels"] = labels
    return {"apiVersion": gvr.api_version, "kind": gvr.kind, "metadata": metadata, **fields}
