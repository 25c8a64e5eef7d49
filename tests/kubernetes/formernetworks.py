"""Pod networks that a cluster ran before: what they leave on a node, with their own plugins, and their DaemonSets.

Shapes and names are those of flannel's kube-flannel.yml, kind's kindnetd, Calico's calico.yaml, and of the reference
plugins' documentation. Pods are in 10.42.0.0/16, away from the Services. The agents themselves do nothing: what a
plugin reads of them is written here.
"""

from __future__ import annotations

import json
from typing import Any

from tests.lab.host import Lab

Object = dict[str, Any]

PLUGINS = ("flannel", "bridge", "ptp", "host-local", "portmap", "bandwidth", "loopback")
_PORTMAP = {"type": "portmap", "capabilities": {"portMappings": True}}

FLANNEL = {
    "name": "cbr0",
    "cniVersion": "0.3.1",
    "plugins": [{"type": "flannel", "delegate": {"hairpinMode": True, "isDefaultGateway": True}}, _PORTMAP],
}
SUBNET_ENV = "FLANNEL_NETWORK=10.42.0.0/16\nFLANNEL_SUBNET=10.42.0.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n"
KINDNET = {
    "cniVersion": "0.3.1",
    "name": "kindnet",
    "plugins": [
        {
            "type": "ptp",
            "ipMasq": False,
            "ipam": {
                "type": "host-local",
                "dataDir": "/run/cni-ipam-state",
                "routes": [{"dst": "0.0.0.0/0"}],
                "ranges": [[{"subnet": "10.42.1.0/24"}]],
            },
            "mtu": 1500,
        },
        _PORTMAP,
    ],
}
BRIDGE = {
    "cniVersion": "1.0.0",
    "name": "bridge",
    "plugins": [
        {
            "type": "bridge",
            "bridge": "cni0",
            "isGateway": True,
            "ipMasq": True,
            "hairpinMode": True,
            "promiscMode": True,
            "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.42.2.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]},
        },
        _PORTMAP,
    ],
}
CALICO = {
    "name": "k8s-pod-network",
    "cniVersion": "0.3.1",
    "plugins": [
        {
            "type": "calico",
            "log_level": "info",
            "log_file_path": "/var/log/calico/cni/cni.log",
            "datastore_type": "kubernetes",
            "nodename": "NODE",
            "mtu": 0,
            "ipam": {"type": "calico-ipam"},
            "policy": {"type": "k8s"},
            "kubernetes": {"kubeconfig": "/etc/cni/net.d/calico-kubeconfig"},
        },
        {"type": "portmap", "snat": True, "capabilities": {"portMappings": True}},
        {"type": "bandwidth", "capabilities": {"bandwidth": True}},
    ],
}

KINDS = {
    "flannel": ("10-flannel.conflist", FLANNEL),
    "kindnet": ("10-kindnet.conflist", KINDNET),
    "bridge": ("10-bridge.conflist", BRIDGE),
}


def leave(lab: Lab, node: str, kind: str) -> None:
    """What a network's agent has put on the node: plugins, configuration, and flannel's lease."""
    name, listed = KINDS[kind]
    copies = "; ".join(f"cp /opt/kubernetes/bin/{plugin} /opt/cni/bin/" for plugin in PLUGINS)
    lab("exec", node, "--", "sh", "-ec", f"mkdir -p /opt/cni/bin /etc/cni/net.d /run/flannel; {copies}")
    put(lab, node, "/run/flannel/subnet.env", SUBNET_ENV)
    put(lab, node, f"/etc/cni/net.d/{name}", json.dumps(listed))


def put(lab: Lab, node: str, path: str, text: str) -> None:
    lab("exec", "-i", node, "--", "sh", "-c", f"cat > {path}.new && mv {path}.new {path}", stdin=text)


def daemons(name: str, namespace: str, image: str, command: list[str] | None = None, **folders: str) -> Object:
    """A network's DaemonSet: `folders` of the node are mounted under their names."""
    labels = {"app": name}
    container: Object = {"name": name, "image": image, "volumeMounts": []}
    if command:
        container["command"] = command
    volumes = []
    for volume, path in folders.items():
        volumes.append({"name": volume, "hostPath": {"path": path}})
        container["volumeMounts"].append({"name": volume, "mountPath": path})
    return {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "hostNetwork": True,
                    "tolerations": [{"operator": "Exists"}],
                    "terminationGracePeriodSeconds": 1,
                    "containers": [container],
                    "volumes": volumes,
                },
            },
        },
    }


def flannel_and_kindnet() -> list[Object]:
    """Beside each other here, each on its node."""
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "kube-flannel"}},
        daemons("kube-flannel-ds", "kube-flannel", "ghcr.io/flannel-io/flannel:v0.28.0"),
        daemons("kindnet", "kube-system", "docker.io/kindest/kindnetd:v20250512"),
    ]


def calico() -> list[Object]:
    """The part of calico.yaml that matters to another network: its kinds, and an agent that installs its plugin's
    configuration on every node."""
    write = f"cat > /etc/cni/net.d/10-calico.conflist <<'E'\n{json.dumps(CALICO)}\nE\nexec sleep 1000000"
    older = [("ippools", "IPPool"), ("ipamblocks", "IPAMBlock"), ("felixconfigurations", "FelixConfiguration")]
    return [
        *(definition(plural, kind, "crd.projectcalico.org", "v1") for plural, kind in older),
        definition("felixconfigurations", "FelixConfiguration", "projectcalico.org", "v3"),
        daemons("calico-node", "kube-system", "busybox", ["sh", "-c", write], configuration="/etc/cni/net.d"),
    ]


def definition(plural: str, kind: str, group: str, version: str) -> Object:
    """Of a cluster-wide kind whose objects may hold anything."""
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    names = {"plural": plural, "singular": kind.lower(), "kind": kind, "listKind": f"{kind}List"}
    versions = [{"name": version, "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}]
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}"},
        "spec": {"group": group, "scope": "Cluster", "names": names, "versions": versions},
    }
