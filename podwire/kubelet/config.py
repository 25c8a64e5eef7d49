"""What a kubelet is told at start."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

VERSION = "v1.36.0+podwire"
RUNTIME_VERSION = "podwire://0.1.0"


@dataclass
class KubeletConfig:
    """`cgroup_parent` is the cgroup (from the hierarchy's root) that holds this node's pods; empty: no cgroups, as in a
    lab without root. `api_service` is what KUBERNETES_SERVICE_HOST and _PORT say while no Service named `kubernetes`
    is known. The paths below `state` survive the process, but not the node."""

    node_name: str
    node_ip: str
    kubeconfig: Path
    ca_file: Path
    cert_file: Path
    key_file: Path
    cache: Path
    cluster_dns: str = "10.96.0.10"
    cluster_domain: str = "cluster.local"
    labels: dict[str, str] = field(default_factory=dict)
    taints: list[dict[str, Any]] = field(default_factory=list)
    max_pods: int = 110
    cgroup_parent: str = ""
    rootless: bool = False
    resolv_search: list[str] = field(default_factory=list)
    api_service: tuple[str, int] = ("10.96.0.1", 443)
    port: int = 10250
    state: Path = Path("/run/podwire-kubelet")
    containers: Path = Path("/var/lib/podwire-kubelet")
    pods: Path = Path("/var/lib/kubelet/pods")
    logs: Path = Path("/var/log/pods")
    cni_conf_dir: Path = Path("/etc/cni/net.d")
    cni_bin_dirs: tuple[Path, ...] = (Path("/opt/cni/bin"),)
    cni_cache: Path = Path("/var/lib/cni/results")
    netns_dir: Path = Path("/run/netns")
