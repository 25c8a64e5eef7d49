"""What the components of a genuine cluster are told: plain values, and the files made of them. Pure.

Sources: kubelet.config.k8s.io/v1beta1, kubeproxy.config.k8s.io/v1alpha1, containerd's docs/cri/config.md (version 3),
containerd's docs/hosts.md.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

BIN = PurePosixPath("/opt/kubernetes/bin")
STORE = PurePosixPath("/opt/kubernetes/store")
PKI = PurePosixPath("/etc/kubernetes/pki")
CONFIG = PurePosixPath("/etc/kubernetes")
MANIFESTS = CONFIG / "manifests"
CONTAINERD_CONFIG = PurePosixPath("/etc/containerd/config.toml")
HOSTS = PurePosixPath("/etc/containerd/certs.d/_default/hosts.toml")
CONTAINERD_ROOT = PurePosixPath("/var/lib/containerd")
CONTAINERD_SOCKET = PurePosixPath("/run/containerd/containerd.sock")
KUBELET_CONFIG = CONFIG / "kubelet.yaml"
PROXY_CONFIG = CONFIG / "kube-proxy.yaml"

API_PORT = 6443
ETCD_PORT = 2379
SANDBOX_IMAGE = "registry.k8s.io/pause:3.10.2"
DOMAIN = "cluster.local"

SYSCTLS = {
    "vm/overcommit_memory": "1",
    "vm/panic_on_oom": "0",
    "kernel/panic": "10",
    "kernel/panic_on_oops": "1",
    "kernel/keys/root_maxkeys": "1000000",
    "kernel/keys/root_maxbytes": "25000000",
}
"""Settings of the whole machine that kubelet wants so. A node is shown files that say so; the machine's stay."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """What all nodes have in common. `plane` is the address of the node with the control plane; `registry` the
    address:port that every image is asked of. With both families, `pod_subnet` and `service_subnet` are two each, IPv4
    first, and `node_mask6` is the prefix length of a node's second podCIDR."""

    plane: str
    pod_subnet: str
    service_subnet: str
    node_mask: int
    dns: str
    registry: str
    node_mask6: int = 0


@dataclass(frozen=True, slots=True)
class Machine:
    """One node. `cgroup` is the path below each cgroup hierarchy that its pods live under."""

    name: str
    address: str
    cgroup: str
    max_pods: int
    labels: tuple[tuple[str, str], ...] = ()
    taint: str = ""


def kubelet(cluster: Cluster, machine: Machine) -> str:
    """KubeletConfiguration, as JSON (which is YAML)."""
    found: dict[str, Any] = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "failCgroupV1": False,
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": machine.cgroup,
        "containerRuntimeEndpoint": f"unix://{CONTAINERD_SOCKET}",
        "clusterDNS": [cluster.dns],
        "clusterDomain": DOMAIN,
        "resolvConf": "/etc/resolv.conf",
        "staticPodPath": str(MANIFESTS),
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(PKI / "ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": str(PKI / "kubelet.crt"),
        "tlsPrivateKeyFile": str(PKI / "kubelet.key"),
        "failSwapOn": False,
        "maxPods": machine.max_pods,
        "serializeImagePulls": False,
        "oomScoreAdj": 0,
        "evictionHard": {"memory.available": "50Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        "imageGCHighThresholdPercent": 100,
    }
    if machine.taint:
        found["registerWithTaints"] = [{"key": machine.taint, "effect": "NoSchedule"}]
    return json.dumps(found, indent=1) + "\n"


def kube_proxy(cluster: Cluster, machine: Machine, mode: str) -> str:
    """KubeProxyConfiguration, as JSON. No setting of the whole machine (conntrack's limits) is written."""
    found = {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": mode,
        "clusterCIDR": cluster.pod_subnet,
        "hostnameOverride": machine.name,
        "clientConnection": {"kubeconfig": str(CONFIG / "kube-proxy.conf")},
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        "nftables": {"minSyncPeriod": "100ms"},
        "iptables": {"minSyncPeriod": "100ms"},
    }
    return json.dumps(found, indent=1) + "\n"


def containerd(
    root: str = str(CONTAINERD_ROOT),
    state: str = "/run/containerd",
    socket: str = str(CONTAINERD_SOCKET),
    programs: str = str(BIN),
) -> str:
    """containerd's own file. A process without CAP_SYS_RESOURCE may not lower an oom score: hence the restriction."""
    images, runtime = "plugins.'io.containerd.cri.v1.images'", "plugins.'io.containerd.cri.v1.runtime'"
    runc = f"{runtime}.containerd.runtimes.runc"
    return f"""version = 3
root = "{root}"
state = "{state}"

[grpc]
address = "{socket}"

[{images}]
snapshotter = "overlayfs"
[{images}.pinned_images]
sandbox = "{SANDBOX_IMAGE}"
[{images}.registry]
config_path = "{HOSTS.parent.parent}"

[{runtime}]
restrict_oom_score_adj = true
[{runtime}.cni]
bin_dirs = ["/opt/cni/bin"]
conf_dir = "/etc/cni/net.d"
[{runtime}.containerd]
default_runtime_name = "runc"
[{runc}]
runtime_type = "io.containerd.runc.v2"
[{runc}.options]
BinaryName = "{programs}/runc"
SystemdCgroup = false
"""


def hosts(cluster: Cluster) -> str:
    """Whatever registry a name has: it is asked of the lab's own, and of no other."""
    url = f"http://{cluster.registry}"
    return f'server = "{url}"\n\n[host."{url}"]\ncapabilities = ["pull", "resolve"]\n'
