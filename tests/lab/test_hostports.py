"""hostPort and bandwidth annotations as a user has them: a manifest, kubectl, curl."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from kubectl import PODWIRE, Kubectl, eventually, lab

pytestmark = pytest.mark.timeout(180)
NODE, OTHER = "ports-worker", "ports-control-plane"


@pytest.fixture(scope="module")
def kubectl(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kubectl]:
    with lab(tmp_path_factory.mktemp("ports"), "ports", "--nodes", "2") as kubectl:
        yield kubectl


def pod(name: str, node: str, *ports: dict[str, Any], **metadata: Any) -> dict[str, Any]:
    container: dict[str, Any] = {"name": "web", "image": "nginx", "ports": list(ports)}
    spec = {"nodeName": node, "containers": [container], "terminationGracePeriodSeconds": 1}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, **metadata}, "spec": spec}


def inside(kubectl: Kubectl, node: str, *words: str) -> subprocess.CompletedProcess[str]:
    command = [str(PODWIRE), "lab", "exec", node, "--", *words]
    return subprocess.run(command, env=kubectl.env, capture_output=True, text=True, timeout=30, check=False)


def curl(kubectl: Kubectl, node: str, address: str) -> int:
    words = ("curl", "-s", "-o", "/dev/null", "--max-time", "3", f"http://{address}:8080/")
    return inside(kubectl, node, *words).returncode


def test_a_host_port_leads_to_its_pod(kubectl: Kubectl) -> None:
    kubectl.apply(pod("web", NODE, {"containerPort": 80, "hostPort": 8080}))
    kubectl.run("wait", "--for=condition=Ready", "pod/web", "--timeout=40s")
    found = kubectl.object("node", NODE)["status"]["addresses"][0]["address"]
    other = kubectl.object("node", OTHER)["status"]["addresses"][0]["address"]
    eventually(lambda: curl(kubectl, OTHER, found) == 0)
    assert curl(kubectl, NODE, found) == 0
    assert curl(kubectl, NODE, "127.0.0.1") == 0
    assert curl(kubectl, OTHER, other) != 0
    eventually(lambda: re.search(rf"^{re.escape(other)} ", kubectl.run("logs", "web"), re.MULTILINE))  # its own address
    kubectl.run("delete", "pod", "web")
    eventually(lambda: curl(kubectl, OTHER, found) != 0)


def test_a_udp_host_port_leads_to_its_pod_and_to_the_next(kubectl: Kubectl) -> None:
    """Beside a TCP port of the same number; what connection tracking knew of the first pod does not outlive it."""
    found = kubectl.object("node", NODE)["status"]["addresses"][0]["address"]

    def said(node: str, address: str) -> str:
        speak = f"echo hello | socat -t 0.5 - UDP:{address}:8090,sourceport=5353,reuseaddr"
        return inside(kubectl, node, "bash", "-c", speak).stdout.strip()

    for name in ("first", "second"):
        body = pod(
            name, NODE, *({"containerPort": 5300, "hostPort": 8090, "protocol": kind} for kind in ("UDP", "TCP"))
        )
        (container,) = body["spec"]["containers"]
        answer = f"SYSTEM:read line; echo $$line of {name}"
        container |= {"image": "nicolaka/netshoot", "command": ["socat", "UDP-LISTEN:5300,fork,reuseaddr", answer]}
        kubectl.apply(body)
        kubectl.run("wait", "--for=condition=Ready", f"pod/{name}", "--timeout=40s")
        for node, address in ((OTHER, found), (NODE, found), (NODE, "127.0.0.1")):
            eventually(lambda at=(node, address), by=name: said(*at) == f"hello of {by}")
        kubectl.run("delete", "pod", name)
    eventually(lambda: said(OTHER, found) == "")


def test_a_second_pod_with_the_port_is_not_scheduled(kubectl: Kubectl) -> None:
    for name in ("one", "two"):
        body = pod(name, "", {"containerPort": 80, "hostPort": 8081})
        del body["spec"]["nodeName"]
        body["spec"]["nodeSelector"] = {"kubernetes.io/hostname": NODE}
        kubectl.apply(body)
        if name == "one":
            kubectl.run("wait", "--for=condition=Ready", "pod/one", "--timeout=40s")
    eventually(lambda: "free ports" in kubectl.run("describe", "pod", "two"))
    kubectl.run("delete", "pod", "one")
    kubectl.run("wait", "--for=condition=Ready", "pod/two", "--timeout=40s")


def test_bandwidth_annotations_shape(kubectl: Kubectl) -> None:
    limits = {f"kubernetes.io/{way}-bandwidth": "8M" for way in ("ingress", "egress")}
    kubectl.apply(pod("slow", NODE, annotations=limits))
    kubectl.run("wait", "--for=condition=Ready", "pod/slow", "--timeout=40s")
    queues = inside(kubectl, NODE, "tc", "qdisc", "show").stdout
    assert len(re.findall(r"qdisc tbf .* rate 8Mbit", queues)) == 2, queues
    assert "bwp" in queues
    kubectl.run("delete", "pod", "slow")
    eventually(lambda: "bwp" not in inside(kubectl, NODE, "ip", "link").stdout)
