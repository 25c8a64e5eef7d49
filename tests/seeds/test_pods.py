"""What the seeds say of pods, on real labs: one network namespace a pod, its address, nodes and pods, no CNI."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "lab"))
from kubectl import Kubectl, eventually, lab
from pods import events, namespace, on_node, part, pod, ready, runc_root, shown

pytestmark = pytest.mark.timeout(240)
LISTEN_8080 = "printf 'server { listen 8080; location / { return 200 $remote_addr; } }' >/etc/nginx/conf.d/default.conf"
NGINX = f"{LISTEN_8080}; exec nginx -g 'daemon off;'"
WITHOUT_CNI = """
kind: Cluster
apiVersion: kind.x-k8s.io/v1alpha4
networking:
  disableDefaultCNI: true
nodes:
  - role: control-plane
"""
SMALL = """
kind: Cluster
apiVersion: kind.x-k8s.io/v1alpha4
networking:
  podSubnet: 10.244.0.0/27
nodes:
  - role: control-plane
    kubeadmConfigPatches:
      - |
        kind: ClusterConfiguration
        controllerManager:
          extraArgs:
            node-cidr-mask-size: "28"
  - role: worker
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kubectl]:
    with lab(tmp_path_factory.mktemp("seed"), "seed") as kubectl:
        yield kubectl


@pytest.fixture
def kubectl(cluster: Kubectl, request: pytest.FixtureRequest) -> Iterator[Kubectl]:
    with namespace(cluster, re.sub(r"[^a-z0-9]+", "-", request.node.name.lower())[:50].strip("-")) as own:
        yield own


def address(kubectl: Kubectl, name: str) -> str:
    return str(kubectl.object("pod", name)["status"]["podIP"])


def fetch(kubectl: Kubectl, name: str, url: str) -> str:
    """What a pod gets from a URL."""
    return kubectl.run("exec", name, "-c", name, "--", "curl", "-sS", "--max-time", "5", url)


def test_containers_of_a_pod_share_localhost_and_one_address(kubectl: Kubectl) -> None:
    both = pod("web", "sh", "-c", NGINX, image="nginx:1.27")
    both["spec"]["containers"].append(part("side", "sleep 3600"))
    kubectl.apply(both)
    ready(kubectl, "web")

    def of(container: str, *argv: str) -> str:
        return kubectl.run("exec", "web", "-c", container, "--", *argv)

    assert of("side", "wget", "-qO-", "http://127.0.0.1:8080/") == "127.0.0.1"
    assert of("side", "wget", "-qO-", "http://localhost:8080/") == "127.0.0.1"  # not ::1 first
    assert of("web", "readlink", "/proc/self/ns/net") == of("side", "readlink", "/proc/self/ns/net")
    show = ("ip", "-4", "-o", "addr", "show", "eth0")
    assert of("web", *show) == of("side", *show)
    assert f" {address(kubectl, 'web')}/32 " in of("side", *show)
    assert of("web", "readlink", "/proc/self/ns/mnt") != of("side", "readlink", "/proc/self/ns/mnt")


def test_two_containers_of_a_pod_cannot_have_one_port(kubectl: Kubectl) -> None:
    both = pod("first", image="nginx:1.27")
    both["spec"]["containers"].append({"name": "second", "image": "nginx:1.27", "command": ["sh", "-c"],
                                       "args": ["sleep 0.5; exec nginx -g 'daemon off;'"]})  # fmt: skip
    kubectl.apply(both)

    eventually(lambda: "Back-off restarting failed container second" in events(kubectl, "first", "BackOff"), 40)
    eventually(lambda: "Address already in use" in kubectl.run("logs", "first", "-c", "second", check=False))

    def columns() -> list[str]:
        return kubectl.run("get", "pod", "first", "--no-headers").split()[1:3]

    eventually(lambda: columns() in (["1/2", "CrashLoopBackOff"], ["1/2", "Error"]))  # kubelet says Error in between


def test_two_pods_listen_on_one_port(kubectl: Kubectl) -> None:
    node = {"nodeName": "seed-worker"}  # on one machine: nothing but their addresses tells them apart
    kubectl.apply(*(pod(name, "sh", "-c", NGINX, image="nginx:1.27", **node) for name in ("a", "b")))
    ready(kubectl, "a", "b")
    assert address(kubectl, "a") != address(kubectl, "b")
    for here, there in (("a", "b"), ("b", "a"), ("a", "a")):
        seen = eventually(lambda h=here, t=there: fetch(kubectl, h, f"http://{address(kubectl, t)}:8080/"))
        assert seen == address(kubectl, here)


@pytest.mark.parametrize("way", ["inside", "runtime"])
def test_a_container_that_is_killed_comes_back_to_its_namespace(kubectl: Kubectl, way: str) -> None:
    kubectl.apply(pod("web", image="nginx:1.27"))
    ready(kubectl, "web")
    node = kubectl.object("pod", "web")["spec"]["nodeName"]

    def facts() -> tuple[str, str, str]:
        container = str(kubectl.object("pod", "web")["status"]["containerStatuses"][0]["containerID"])
        inode = kubectl.run("exec", "web", "--", "readlink", "/proc/self/ns/net")
        return address(kubectl, "web"), inode, container.partition("://")[2]

    before = facts()
    if way == "inside":
        kubectl.run("exec", "web", "--", "sh", "-c", "kill 1", check=False)
    else:
        on_node(kubectl, node, f"runc --root {runc_root()} kill {before[2]} KILL")
    eventually(lambda: kubectl.object("pod", "web")["status"]["containerStatuses"][0]["restartCount"] == 1)
    ready(kubectl, "web")
    after = facts()
    assert after[:2] == before[:2] and after[2] != before[2]
    assert on_node(kubectl, node, f"curl -s -o /dev/null -w '%{{http_code}}' http://{after[0]}/") == "200"


def test_nodes_and_pods_reach_each_other_and_see_who_calls(kubectl: Kubectl) -> None:
    worker, other = "seed-worker", "seed-worker2"
    kubectl.apply(pod("web", "sh", "-c", NGINX, image="nginx:1.27", nodeName=worker),
                  pod("host", "sh", "-c", NGINX, image="nginx:1.27", nodeName=other, hostNetwork=True),
                  pod("client", image="nginx:1.27", nodeName=other))  # fmt: skip
    ready(kubectl, "web", "host", "client")
    nodes = {
        one["metadata"]["name"]: one["status"]["addresses"][0]["address"] for one in kubectl.object("nodes")["items"]
    }
    url = f"http://{address(kubectl, 'web')}:8080/"
    seen = eventually(lambda: on_node(kubectl, other, f"curl -sS --max-time 5 {url}"))
    assert seen in on_node(kubectl, other, "ip -o -4 addr"), "the pod sees an address of the calling node"
    assert on_node(kubectl, worker, f"curl -sS --max-time 5 {url}") == nodes[worker]
    assert fetch(kubectl, "client", f"http://{nodes[other]}:8080/") == address(kubectl, "client")
    assert fetch(kubectl, "web", f"http://{nodes[other]}:8080/") == address(kubectl, "web")
    assert fetch(kubectl, "client", url) == address(kubectl, "client")


def test_a_deleted_pod_gives_its_address_back(kubectl: Kubectl) -> None:
    kubectl.apply(pod("brief", nodeName="seed-worker"))
    ready(kubectl, "brief")
    held = address(kubectl, "brief")
    blocks = kubectl.run("get", "ipamblocks", "-o", "yaml")
    assert "brief" in blocks
    kubectl.run("delete", "pod", "brief")
    assert "brief" not in kubectl.run("get", "ipamblocks", "-o", "yaml")
    assert held not in on_node(kubectl, "seed-worker", "ip route; cat /var/lib/cni/results/* 2>/dev/null || true")


def test_without_a_cni_nodes_and_pods_wait(tmp_path: Path) -> None:
    with lab(tmp_path, "bare", "--config", "-", stdin=WITHOUT_CNI) as kubectl:
        assert kubectl.run("get", "nodes", "--no-headers").split()[:2] == ["bare-control-plane", "NotReady"]
        described = kubectl.run("describe", "node")
        assert "NetworkPluginNotReady" in described and "cni plugin not initialized" in described
        kubectl.apply(
            pod("waits", nodeName="bare-control-plane"), pod("host", hostNetwork=True, nodeName="bare-control-plane")
        )
        ready(kubectl, "host")
        eventually(lambda: "cni plugin not initialized" in events(kubectl, "waits"))
        assert shown(kubectl, "waits") == "ContainerCreating"
        broken = '{"cniVersion":"1.0.0","name":"own","plugins":[{"type":"nowhere"}]}'
        on_node(
            kubectl, "bare-control-plane", f"mkdir -p /etc/cni/net.d; echo '{broken}' >/etc/cni/net.d/10-own.conflist"
        )
        kubectl.run("wait", "--for=condition=Ready", "node/bare-control-plane", "--timeout=20s")
        words = 'plugin type="nowhere" failed (add): failed to find plugin "nowhere" in path [/opt/cni/bin]'
        eventually(lambda: words in events(kubectl, "waits", "FailedCreatePodSandBox"))
        assert shown(kubectl, "waits") == "ContainerCreating"
        assert kubectl.run("get", "pod", "waits", "-o", "wide", "--no-headers").split()[5] == "<none>"


def test_when_addresses_run_out(tmp_path: Path) -> None:
    with lab(tmp_path, "small", "--config", "-", stdin=SMALL) as kubectl:
        assert kubectl.run("get", "nodes", "-o", "jsonpath={.items[*].spec.podCIDR}") == "10.244.0.0/28 10.244.0.16/28"
        kubectl.run("create", "deployment", "many", "--image=nginx:1.27", "--replicas=40")

        def counts() -> dict[str, int]:
            found: dict[str, int] = {}
            for line in kubectl.run("get", "pods", "--no-headers").splitlines():
                found[line.split()[2]] = found.get(line.split()[2], 0) + 1
            return found

        def refusals(name: str) -> list[dict[str, Any]]:
            chosen = f"involvedObject.name={name},reason=FailedCreatePodSandBox"
            found: list[dict[str, Any]] = json.loads(
                kubectl.run("get", "events", "--field-selector", chosen, "-o", "json")
            )["items"]
            return found

        eventually(lambda: counts().get("Running", 0) >= 28 and sum(counts().values()) == 40, 60)
        assert set(counts()) == {"Running", "ContainerCreating"}
        hung = next(line.split()[0] for line in kubectl.run("get", "pods").splitlines() if "ContainerCreating" in line)
        eventually(lambda: "no IP addresses available" in kubectl.run("describe", "pod", hung))
        eventually(lambda: sum(one["count"] for one in refusals(hung)) >= 3, 60)
        # one Event that counts; containerd names the sandbox, and so each is another's
        assert len({one["message"] for one in refusals(hung)}) == len(refusals(hung))
        kubectl.run("scale", "deployment", "many", "--replicas=20")
        eventually(lambda: counts() == {"Running": 20}, 90)
