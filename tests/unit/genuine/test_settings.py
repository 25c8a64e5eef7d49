"""What genuine components are told."""

from __future__ import annotations

import json
import tomllib
from dataclasses import replace

import pytest

from podwire.genuine import components, demands, objects, settings
from podwire.genuine.demands import Found
from podwire.genuine.settings import Cluster, Machine

CLUSTER = Cluster("172.18.0.2", "10.244.0.0/16", "10.96.0.0/12", 24, "10.96.0.10", "172.18.0.1:5000")
NODE = Machine("lab-worker", "172.18.0.3", "/podwire-lab/lab-worker", 110, (("zone", "a"),), "")
PLANE = Machine("lab-control-plane", "172.18.0.2", "/podwire-lab/lab-control-plane", 110, (), "node-role/x")


def test_kubelet() -> None:
    found = json.loads(settings.kubelet(CLUSTER, NODE))
    assert found["cgroupRoot"] == "/podwire-lab/lab-worker"
    assert found["clusterDNS"] == ["10.96.0.10"]
    assert found["authentication"]["anonymous"] == {"enabled": False}
    assert "registerWithTaints" not in found
    taints = json.loads(settings.kubelet(CLUSTER, PLANE))["registerWithTaints"]
    assert taints == [{"key": "node-role/x", "effect": "NoSchedule"}]
    assert "--node-labels=zone=a" in components.kubelet(NODE)
    assert not any(word.startswith("--node-labels") for word in components.kubelet(PLANE))


def test_containerd() -> None:
    found = tomllib.loads(settings.containerd())
    plugins = found["plugins"]
    assert found["version"] == 3
    runc = plugins["io.containerd.cri.v1.runtime"]["containerd"]["runtimes"]["runc"]
    assert runc["options"] == {"BinaryName": "/opt/kubernetes/bin/runc", "SystemdCgroup": False}
    assert plugins["io.containerd.cri.v1.images"]["registry"] == {"config_path": "/etc/containerd/certs.d"}
    other = tomllib.loads(settings.containerd("/r", "/s", "/s/sock", "/p"))
    assert (other["root"], other["state"], other["grpc"]["address"]) == ("/r", "/s", "/s/sock")


def test_whatever_registry_is_the_labs_own() -> None:
    found = tomllib.loads(settings.hosts(CLUSTER))
    assert found["server"] == "http://172.18.0.1:5000"
    assert found["host"] == {"http://172.18.0.1:5000": {"capabilities": ["pull", "resolve"]}}


def test_kube_proxy_writes_no_setting_of_the_machine() -> None:
    found = json.loads(settings.kube_proxy(CLUSTER, NODE, "nftables"))
    assert set(found["conntrack"].values()) == {0, "0s"}
    assert (found["mode"], found["clusterCIDR"], found["hostnameOverride"]) == ("nftables", "10.244.0.0/16", NODE.name)


def test_every_program_that_is_called_is_demanded() -> None:
    called = [
        components.etcd("/d"),
        components.apiserver(CLUSTER),
        components.controller_manager(CLUSTER),
        components.scheduler(),
        components.containerd(),
        components.ctr("version"),
        components.kubelet(NODE),
        components.kube_proxy(),
    ]
    assert {argv[0].rpartition("/")[2] for argv in called} <= set(components.needed(proxy=True))
    assert "kube-proxy" not in components.needed(proxy=False)


def test_the_mask_of_each_family_is_said_where_there_are_two() -> None:
    assert "--node-cidr-mask-size=24" in components.controller_manager(CLUSTER)
    both = replace(CLUSTER, pod_subnet="10.244.0.0/16,fd00:10:244::/56", node_mask6=64)
    told = components.controller_manager(both)
    assert [word for word in told if "cidr" in word and not word.startswith("--allocate")] == [
        "--cluster-cidr=10.244.0.0/16,fd00:10:244::/56",
        "--node-cidr-mask-size-ipv4=24",
        "--node-cidr-mask-size-ipv6=64",
    ]


@pytest.mark.parametrize(
    ("label", "own"),
    [
        ("zone", True),
        ("example.com/x", True),
        ("node.kubernetes.io/x", True),
        ("a.node.kubernetes.io/x", True),
        ("kubelet.kubernetes.io/x", True),
        ("node-role.kubernetes.io/x", False),
        ("kubernetes.io/x", False),
        ("k8s.io/x", False),
        ("notkubernetes.io/x", True),
    ],
)
def test_labels_that_a_kubelet_may_give_itself(label: str, own: bool) -> None:
    mine, others = components.divided(((label, "v"),))
    assert (mine, others) == (([(label, "v")], []) if own else ([], [(label, "v")]))


GOOD = Found(True, frozenset(demands.V1_NEEDED), None, frozenset({"overlay", "tmpfs"}), 128, 10)


@pytest.mark.parametrize(
    ("change", "nodes", "words"),
    [
        ({}, 3, []),
        ({"root": False}, 1, ["root"]),
        ({"v1": frozenset({"cpu"})}, 1, ["cpuacct, cpuset, devices, freezer, memory, pids"]),
        ({"v1": frozenset(), "v2": frozenset({"cpu", "cpuset", "memory", "pids"})}, 1, []),
        ({"v1": frozenset(), "v2": frozenset({"cpu", "memory"})}, 1, ["cpuset, pids"]),
        ({"filesystems": frozenset({"tmpfs"})}, 1, ["no overlay file system"]),
        ({"inotify_used": 90}, 3, ["need about 42 inotify instances", "set it to 132"]),
        ({}, 20, ["fs.inotify.max_user_instances is 128"]),
    ],
)
def test_refusals(change: dict[str, object], nodes: int, words: list[str]) -> None:
    found = Found(**{name: change.get(name, getattr(GOOD, name)) for name in GOOD.__slots__})
    said = demands.refusals(found, nodes)
    assert len(said) == (1 if words else 0)
    assert all(word in said[0] for word in words)


def test_v1_controllers() -> None:
    mounts = (
        "cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,nosuid,cpu,cpuacct 0 0\n"
        "cgroup /sys/fs/cgroup/systemd cgroup rw,name=systemd 0 0\n"
        "cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n"
    )
    assert {"cpu", "cpuacct", "name=systemd"} <= demands.v1_controllers(mounts)


def test_the_name_service_has_the_address_that_pods_are_told() -> None:
    made = {(gvr.kind, obj["metadata"]["name"]): obj for gvr, obj in objects.name_service("10.96.0.10")}
    service = made["Service", "kube-dns"]["spec"]
    assert service["clusterIP"] == "10.96.0.10"
    template = made["Deployment", "coredns"]["spec"]["template"]
    assert service["selector"] == template["metadata"]["labels"]
    # the plugin template comes before kubernetes in CoreDNS' chain: it would answer for the cluster's names, too
    cluster, _, rest = objects.COREFILE.partition("\n.:53")
    assert ("template" in cluster, "template" in rest, "kubernetes" in rest) == (False, True, False)
