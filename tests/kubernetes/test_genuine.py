"""Genuine Kubernetes on a lab's nodes, with Podwire's network under it."""

from __future__ import annotations

import json
import os
import re
import signal
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from podwire.kubelet import imagewriter
from podwire.lab.state import cache_root
from tests.kubernetes.genuine import NODES, container, ipam_check, lives_anew, until, up
from tests.lab.host import Lab, untouched
from tests.lab.kubectl import Kubectl

pytestmark = pytest.mark.timeout(300)


def pod(name: str, image: str, *command: str, labels: dict[str, str] | None = None, **spec: Any) -> str:
    container: dict[str, Any] = {"name": "c", "image": image}
    if command:
        container["command"] = list(command)
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "labels": labels or {}},
            "spec": {"terminationGracePeriodSeconds": 1, "containers": [container], **spec},
        }
    )


def ready(kubectl: Kubectl) -> None:
    kubectl.run("wait", "--for=condition=Ready", "pods", "--all", "--timeout=100s", seconds=110)


def one_on_each_node(kubectl: Kubectl) -> dict[str, str]:
    """A web server on each node; pod name → address."""
    for node in NODES:
        kubectl.run("create", "-f", "-", stdin=pod(f"web-{node}", "nginx:1.27", labels={"app": "web"}, nodeName=node))
    ready(kubectl)
    items = json.loads(kubectl.run("get", "pods", "-l", "app=web", "-o", "json"))["items"]
    return {item["metadata"]["name"]: item["status"]["podIP"] for item in items}


def test_the_nodes_are_what_they_say(real: Lab) -> None:
    items = json.loads(real.kubectl("get", "nodes", "-o", "json"))["items"]
    assert {item["metadata"]["name"] for item in items} == set(NODES)
    assert {item["status"]["nodeInfo"]["kubeletVersion"] for item in items} == {"v1.36.3"}
    assert {item["status"]["nodeInfo"]["containerRuntimeVersion"] for item in items} == {"containerd://2.4.2"}
    assert json.loads(real.kubectl("version", "-o", "json"))["serverVersion"]["gitVersion"] == "v1.36.3"
    plane = next(item for item in items if item["metadata"]["name"] == NODES[0])
    assert plane["metadata"]["labels"]["node-role.kubernetes.io/control-plane"] == ""
    assert plane["spec"]["taints"][0]["key"] == "node-role.kubernetes.io/control-plane"
    status = json.loads(real("status", "--name", "real", "-o", "json").stdout)
    assert [(node["agent"], node["kubelet"], node["ready"]) for node in status["nodes"]] == [
        ("running", "running", "Ready")
    ] * 3


def test_every_pod_reaches_every_pod_by_its_own_address(kubectl: Kubectl) -> None:
    addresses = one_on_each_node(kubectl)
    for sender, own in addresses.items():
        for receiver, address in addresses.items():
            kubectl.run("exec", sender, "--", "curl", "-sf", "-o", "/dev/null", "--max-time", "5", f"http://{address}/")
            assert f"{own} - - " in kubectl.run("logs", receiver)


def test_a_service_by_name_through_kube_proxy(kubectl: Kubectl) -> None:
    one_on_each_node(kubectl)
    kubectl.run("expose", "pod", f"web-{NODES[0]}", "--name=web", "--port=80", "--selector=app=web")
    kubectl.run("create", "-f", "-", stdin=pod("cli", "nicolaka/netshoot", "sleep", "3600", nodeName=NODES[2]))
    ready(kubectl)
    ask = (
        "exec",
        "cli",
        "--",
        "curl",
        "-sf",
        "-o",
        "/dev/null",
        "-w",
        "%{http_code}",
        "--max-time",
        "5",
        "http://web/",
    )
    until("the service answers", lambda: kubectl.full(*ask).stdout == "200")
    address = kubectl.run("get", "service", "web", "-o", "jsonpath={.spec.clusterIP}")
    name = f"web.{kubectl.namespace}.svc.cluster.local"
    assert kubectl.run("exec", "cli", "--", "dig", "+short", name).strip() == address
    assert "NXDOMAIN" in kubectl.run("exec", "cli", "--", "dig", "+timeout=5", "example.com")


def test_exec_logs_port_forward_and_the_api_proxy(real: Lab, kubectl: Kubectl) -> None:
    addresses = one_on_each_node(kubectl)
    name = f"web-{NODES[1]}"
    assert kubectl.run("exec", "-i", name, "--", "sh", "-c", "cat; hostname", stdin="told\n") == f"told\n{name}\n"
    assert kubectl.full("exec", name, "--", "sh", "-c", "exit 3").returncode == 3
    path = f"/api/v1/namespaces/{kubectl.namespace}/pods/{name}:80/proxy/"
    # the API server reaches pods by its node's routes
    assert "nginx" in kubectl.run("get", "--raw", path).lower()
    with kubectl.start("port-forward", f"pod/{name}", ":80") as child:
        assert child.stdout is not None
        found = re.search(r"127\.0\.0\.1:(\d+)", child.stdout.readline())
        assert found is not None
        with urllib.request.urlopen(f"http://127.0.0.1:{found[1]}/", timeout=10) as answer:
            assert b"nginx" in answer.read().lower()
    assert "start worker process" in kubectl.run("logs", name)
    seen = real("exec", NODES[1], "curl", "-sf", "--max-time", "5", f"http://{addresses[name]}/").stdout
    assert "nginx" in seen.lower()


def test_any_tag_of_a_stand_in_and_nothing_else_is_pulled(kubectl: Kubectl) -> None:
    kubectl.run("create", "-f", "-", stdin=pod("latest", "nginx"))
    kubectl.run("create", "-f", "-", stdin=pod("tagged", "mirror.gcr.io/library/nginx:1.9.9"))
    kubectl.run("create", "-f", "-", stdin=pod("agnhost", "registry.k8s.io/e2e-test-images/agnhost:2.63.0"))
    ready(kubectl)
    kubectl.run("create", "-f", "-", stdin=pod("foreign", "example.com/none/such:1"))
    reason = "jsonpath={.status.containerStatuses[0].state.waiting.reason}"
    until("the pull fails", lambda: "ImagePull" in kubectl.run("get", "pod", "foreign", "-o", reason))


def test_a_pod_and_its_address_go(real: Lab, kubectl: Kubectl) -> None:
    kubectl.run("create", "-f", "-", stdin=pod("short", "busybox", "sleep", "3600", nodeName=NODES[1]))
    ready(kubectl)
    address = kubectl.run("get", "pod", "short", "-o", "jsonpath={.status.podIP}")
    assert address in real("exec", NODES[1], "ip", "route").stdout
    kubectl.run("delete", "pod", "short")
    until("its route is gone", lambda: address not in real("exec", NODES[1], "ip", "route").stdout)


def test_a_node_reboots_and_a_lab_that_died_is_taken_up_again(built: Path, tmp_path: Path) -> None:
    with untouched(tmp_path) as lab:
        up(lab, built, name="again", nodes=1)
        lab.kubectl("create", "-f", "-", stdin=pod("stays", "nginx"))
        lab.kubectl("wait", "--for=condition=Ready", "pod/stays", "--timeout=55s")
        kubectl = Kubectl(lab.env)
        first = container(kubectl, "stays")
        os.kill(lab.processes("again")["podwire node again-control-plane"], signal.SIGKILL)
        until("the pod runs again", lambda: lives_anew(kubectl, "stays", first))
        until("no address is left over", lambda: "nothing found" in ipam_check(lab))

        second = container(kubectl, "stays")
        family = lab.family("again")
        os.kill(lab.supervisor("again"), signal.SIGKILL)
        until("every process ended", lambda: not any(alive(pid, started) for pid, started in family.items()))
        up(lab, built, name="again", nodes=1)
        until("the pod runs once more", lambda: lives_anew(kubectl, "stays", second))
        assert lab.cgroups("again")
        lab("down", "--name", "again")
        assert not lab.cgroups("again")


def alive(pid: int, started: str) -> bool:
    """Whether that very process still runs; one that ended and waits to be noticed does not."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return False
    return fields[0] not in "ZX" and fields[19] == started


def test_an_archive_is_loaded_into_nodes_that_run(real: Lab, kubectl: Kubectl, tmp_path: Path) -> None:
    busybox = imagewriter.Entry("bin/busybox", cache_root() / "root/usr/bin/busybox", 0o755)
    layer = (busybox, imagewriter.Entry("told", b"loaded while it ran"))
    name = "docker.io/test/loaded:latest"
    imagewriter.write(
        tmp_path / "image.tar", [imagewriter.NewImage((name,), (layer,), ("/bin/busybox", "sleep", "3600"))]
    )
    try:
        told = real("load", str(tmp_path / "image.tar")).stdout
    finally:  # it would be in every later lab
        for record in (cache_root() / "images/names").glob("*test%2Floaded*"):
            record.unlink()
    assert f"loaded {name}\nimported into the nodes of real" in told
    kubectl.run("create", "-f", "-", stdin=pod("always", "test/loaded"))
    never = json.loads(pod("never", "test/loaded", nodeName=NODES[2]))
    never["spec"]["containers"][0]["imagePullPolicy"] = "Never"
    kubectl.run("create", "-f", "-", stdin=json.dumps(never))
    ready(kubectl)
    assert kubectl.run("exec", "never", "--", "/bin/busybox", "cat", "/told") == "loaded while it ran"


def test_without_the_programs_it_says_what_is_missing(tmp_path: Path, real: Lab) -> None:
    done = real("up", "--name", "none", "--kubernetes", str(tmp_path), code=1)
    assert re.search(r"kube-apiserver, .* missing; `make kubernetes` builds it", done.stderr)
    assert not (real.labs / "none").exists()
