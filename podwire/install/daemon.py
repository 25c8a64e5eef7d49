"""The agent on every node and the controller: settings, DaemonSet, Deployment, with no more power than needed. Pure."""

from __future__ import annotations

import hashlib
from typing import Any

from podwire.install.options import AGENT, CONTROLLER, Options

Object = dict[str, Any]

HEALTH_PORT = 9098
SHIM = "/usr/lib/podwire/podwire-shim"
"""Where the image has the CNI executable."""
PROC_SYS = "/host/proc/sys"

TERMINATION_LOG = "/dev/termination-log"
"""Where a container says what its pod's status shall tell of its end (Kubernetes' default)."""

CAPABILITIES = {
    "NET_ADMIN": "routes, addresses, links, neighbours, nftables and network sysctls, on the node and in pods",
    "SYS_ADMIN": "setns(2) into a pod's network namespace, to make its end of the link; nothing else is done with it",
    "SYS_NICE": "priority over the callers it serves: without it pods start later under load, and nothing else changes",
}
"""What of root's powers the agent keeps, and what for."""

_HOST: tuple[tuple[str, str, str, str, Object], ...] = (
    ("cni-configuration", "/etc/cni/net.d", "", "DirectoryOrCreate", {}),
    ("cni-programs", "/opt/cni/bin", "", "DirectoryOrCreate", {}),
    ("socket", "/run/podwire", "", "DirectoryOrCreate", {}),
    ("state", "/var/lib/podwire", "", "DirectoryOrCreate", {}),
    ("namespaces", "/run/netns", "", "DirectoryOrCreate", {"readOnly": True, "mountPropagation": "HostToContainer"}),
    ("network-sysctls", "/proc/sys/net", f"{PROC_SYS}/net", "Directory", {}),
)
"""Folders of the node: volume, path there, path inside where another, type, how it is mounted."""


def settings(options: Options) -> str:
    """agent.toml."""
    lines = [
        "# Settings of `podwire agent`; PODWIRE_NODE_NAME and PODWIRE_NODE_IP come from the DaemonSet.",
        f'shim = "{SHIM}"',
        f'proc_sys = "{PROC_SYS}"',
        "set_aside = true",
        "cluster_duties = false",
        f'lease_namespace = "{options.namespace}"',
        f"health_port = {HEALTH_PORT}",
        f"mtu = {options.mtu}",
        f'api_server = "{options.api_server}"',
        f'policy.enforce = "{options.policy_enforce}"',
    ]
    return "\n".join(lines) + "\n"


def digest(text: str) -> str:
    """Changes when the settings do, and so brings new pods about."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def objects(options: Options, labels: dict[str, str], text: str, mark: str) -> list[Object]:
    """ConfigMap with `text`, DaemonSet and Deployment; `mark` stands for the text in the pods' templates."""
    head = {"name": AGENT, "namespace": options.namespace, "labels": labels}
    settings_map = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": head, "data": {"agent.toml": text}}
    selector = {"app.kubernetes.io/name": "podwire", "app.kubernetes.io/component": "agent"}
    why = "; ".join(f"{name}: {reason}" for name, reason in CAPABILITIES.items())
    daemons = {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": head,
        "spec": {
            "selector": {"matchLabels": selector},
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "10%"}},
            "template": {
                "metadata": {
                    "labels": {**labels, **selector},
                    "annotations": {
                        "kubectl.kubernetes.io/default-container": "agent",
                        "podwire/capabilities": why,
                        "podwire/settings": mark,
                    },
                },
                "spec": _pod(options),
            },
        },
    }
    return [settings_map, daemons, _controller(options, {**labels, "app.kubernetes.io/component": "controller"}, mark)]


def _controller(options: Options, labels: dict[str, str], mark: str) -> Object:
    """One process without any power on its node: it speaks to the API alone."""
    selector = {"app.kubernetes.io/name": "podwire", "app.kubernetes.io/component": "controller"}
    container = {
        "name": "controller",
        "image": options.image,
        "imagePullPolicy": options.pull_policy,
        "command": ["podwire", "controller", f"--health-port={HEALTH_PORT}"],
        "ports": [{"name": "metrics", "containerPort": HEALTH_PORT, "protocol": "TCP"}],
        "livenessProbe": _probe("/livez", period=10, failures=6, host=""),
        "readinessProbe": _probe("/readyz", period=5, failures=2, host=""),
        "resources": {"requests": {"cpu": "10m", "memory": "64Mi"}, "limits": {"memory": "256Mi"}},
        "securityContext": _confined({"runAsUser": 65534, "runAsGroup": 65534, "runAsNonRoot": True}),
        "volumeMounts": [{"name": "settings", "mountPath": "/etc/podwire", "readOnly": True}],
    }
    spec = {
        "serviceAccountName": CONTROLLER,
        "automountServiceAccountToken": True,
        "priorityClassName": "system-cluster-critical",
        "nodeSelector": {"kubernetes.io/os": "linux"},
        "tolerations": [
            {"key": "node-role.kubernetes.io/control-plane", "operator": "Exists"},
            {"key": "CriticalAddonsOnly", "operator": "Exists"},
        ],
        "terminationGracePeriodSeconds": 10,
        "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container],
        "volumes": [{"name": "settings", "configMap": {"name": AGENT}}],
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": CONTROLLER, "namespace": options.namespace, "labels": labels},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": selector},
            "template": {
                "metadata": {"labels": {**labels, **selector}, "annotations": {"podwire/settings": mark}},
                "spec": spec,
            },
        },
    }


def _pod(options: Options) -> Object:
    volumes: list[Object] = [{"name": "settings", "configMap": {"name": AGENT}}]
    mounts: list[Object] = [{"name": "settings", "mountPath": "/etc/podwire", "readOnly": True}]
    for name, path, inside, kind, how in _HOST:
        volumes.append({"name": name, "hostPath": {"path": path, "type": kind}})
        mounts.append({"name": name, "mountPath": inside or path, **how})
    return {
        "serviceAccountName": AGENT,
        "automountServiceAccountToken": True,
        "hostNetwork": True,
        "priorityClassName": "system-node-critical",
        "nodeSelector": {"kubernetes.io/os": "linux"},
        "tolerations": [{"operator": "Exists"}],
        "terminationGracePeriodSeconds": 10,
        "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [_container(options, mounts)],
        "volumes": volumes,
    }


def _container(options: Options, mounts: list[Object]) -> Object:
    return {
        "name": "agent",
        "image": options.image,
        "imagePullPolicy": options.pull_policy,
        "command": ["podwire", "agent"],
        "env": [
            {"name": "PODWIRE_LOG_FORMAT", "value": "json"},
            {"name": "PODWIRE_NODE_NAME", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
            {"name": "PODWIRE_NODE_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.hostIP"}}},
        ],
        "resources": {"requests": {"cpu": "50m", "memory": "80Mi"}, "limits": {"memory": "512Mi"}},
        "securityContext": _confined({"runAsUser": 0}, {"add": list(CAPABILITIES)}),
        "livenessProbe": _probe("/livez", period=10, failures=6),
        "readinessProbe": _probe("/readyz", period=5, failures=2),
        "startupProbe": _probe("/livez", period=1, failures=60),
        "volumeMounts": mounts,
    }


def _confined(user: Object, capabilities: Object | None = None) -> Object:
    """The least that a container can run with, beside what it must have."""
    return {
        **user,
        "allowPrivilegeEscalation": False,
        "privileged": False,
        "readOnlyRootFilesystem": True,
        "seccompProfile": {"type": "RuntimeDefault"},
        "capabilities": {"drop": ["ALL"], **(capabilities or {})},
    }


def _probe(path: str, *, period: int, failures: int, host: str = "127.0.0.1") -> Object:
    """On loopback, which kubelet shares with pods of the host's network; "": at the pod's own address."""
    asks = {**({"host": host} if host else {}), "port": HEALTH_PORT, "path": path, "scheme": "HTTP"}
    return {"httpGet": asks, "periodSeconds": period, "timeoutSeconds": 3, "failureThreshold": failures}


def cleaner(options: Options, labels: dict[str, str], clean: str = "") -> Object:
    """What removes the CNI files from every node, and with `clean` (as of `podwire cni uninstall`) what the kernel has:
    a first step that ends, and a process that waits to be removed."""
    selector = {"app.kubernetes.io/name": "podwire", "app.kubernetes.io/component": "uninstall"}
    needed = ("cni-configuration", "cni-programs", "state", *(("socket",) if clean else ()))
    places = [row for row in _HOST if row[0] in needed]
    container = {
        "image": options.image,
        "imagePullPolicy": options.pull_policy,
        "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"memory": "128Mi"}},
        "volumeMounts": [{"name": name, "mountPath": path} for name, path, *_ in places],
    }
    remove = ["podwire", "cni", "uninstall", "--force"]
    sweep = [f"--clean={clean}", f"--tell={TERMINATION_LOG}"] if clean else []
    powers = {"add": ["NET_ADMIN"]} if clean else None
    spec = {
        "automountServiceAccountToken": False,
        "hostNetwork": True,
        "priorityClassName": "system-node-critical",
        "nodeSelector": {"kubernetes.io/os": "linux"},
        "tolerations": [{"operator": "Exists"}],
        "terminationGracePeriodSeconds": 5,
        "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
        "initContainers": [
            {
                "name": "uninstall",
                "command": [*remove, *sweep],
                "securityContext": _confined({"runAsUser": 0}, powers),
                **container,
            }
        ],
        "containers": [
            {
                "name": "wait",
                "command": [*remove, "--hold"],
                "securityContext": _confined({"runAsUser": 0}),
                **container,
            }
        ],
        "volumes": [{"name": name, "hostPath": {"path": path, "type": kind}} for name, path, _, kind, _ in places],
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": "podwire-uninstall", "namespace": options.namespace, "labels": labels},
        "spec": {
            "selector": {"matchLabels": selector},
            "template": {"metadata": {"labels": {**labels, **selector}}, "spec": spec},
        },
    }
