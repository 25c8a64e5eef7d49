"""What lives through a kill -9, and what comes back: pods, addresses, connections, objects.

One lab, killed part by part.
"""

from __future__ import annotations

import ipaddress
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from host import Lab, lab_in
from kubectl import eventually

pytestmark = [
    pytest.mark.embedded_only("it kills the embedded home's own daemons; tests/kubernetes/test_genuine.py the others"),
    pytest.mark.timeout(180),
]

WORKERS = ("lab-worker", "lab-worker2")


def sleeper(name: str, node: str, command: list[str]) -> dict[str, Any]:
    container = {"name": "c", "image": "nicolaka/netshoot", "command": command}
    spec = {"nodeName": node, "containers": [container], "terminationGracePeriodSeconds": 1}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with lab_in(tmp_path_factory.mktemp("recovery")) as one:
        one("up")
        one.kubectl("create", "deployment", "web", "--image=nginx", "--replicas=4")
        echo = ["socat", "TCP-LISTEN:9000,fork,reuseaddr", "EXEC:cat"]
        for pod in (sleeper("client", WORKERS[0], ["sleep", "100000"]), sleeper("server", WORKERS[1], echo)):
            one.kubectl("create", "-f", "-", stdin=json.dumps(pod))
        one.kubectl("rollout", "status", "deployment/web", "--timeout=30s")
        one.kubectl("wait", "--for=condition=Ready", "pods", "--all", "--timeout=30s")
        yield one


def items(lab: Lab, *words: str) -> list[dict[str, Any]]:
    return list(json.loads(lab.kubectl("get", *words, "-o", "json"))["items"])


def pods(lab: Lab, node: str = "") -> dict[str, dict[str, Any]]:
    """Name, and what identifies each life of a pod: address, container, restarts."""
    found = {}
    for pod in items(lab, "pods"):
        if node in ("", pod["spec"].get("nodeName")):
            container = (pod["status"].get("containerStatuses") or [{}])[0]
            found[pod["metadata"]["name"]] = {
                "address": pod["status"].get("podIP", ""),
                "container": container.get("containerID", ""),
                "restarts": container.get("restartCount", 0),
                "ready": container.get("ready", False),
            }
    return found


def reach(lab: Lab, client: str, address: str) -> bool:
    """Whether the pod with address `client` on the first worker gets a page from `address`; asked without the API."""
    page = f"exec nsenter --net=$space curl -sS -m 3 http://{address}"
    mine = f'nsenter --net=$space ip -4 -o addr show eth0 | grep -q " {client}/"'
    script = f"for space in /run/netns/cni-*; do {mine} && {page}; done; exit 9"
    return "Welcome to nginx!" in lab("exec", WORKERS[0], "sh", "-c", script, code=None).stdout


def web(found: dict[str, dict[str, Any]]) -> list[str]:
    """Addresses of the deployment's pods."""
    return [pod["address"] for name, pod in found.items() if name.startswith("web")]


def allocated(lab: Lab) -> dict[str, str]:
    """Every address that IPAM holds for a pod, and the pod's name."""
    found = {}
    for block in items(lab, "ipamblocks"):
        network = ipaddress.ip_network(block["spec"]["cidr"])
        for ordinal, index in enumerate(block["spec"]["allocations"]):
            if index is not None and "pod" in (block["spec"]["attributes"][index].get("secondary") or {}):
                found[str(network[ordinal])] = block["spec"]["attributes"][index]["secondary"]["pod"]
    return found


def kill(lab: Lab, title: str, *, back: bool = True) -> None:
    """kill -9; with `back`, wait until it was started again."""
    pid = lab.processes()[f"podwire {title}"]
    os.kill(pid, signal.SIGKILL)
    if back:
        eventually(lambda: lab.processes().get(f"podwire {title}", pid) != pid, 20)


def settled(lab: Lab, since: dict[str, dict[str, Any]], restarted: set[str]) -> Callable[[], bool]:
    """Whether every pod is ready, exactly those named were started once more, and IPAM agrees with the pods."""

    def look() -> bool:
        now = pods(lab)
        lives = {name: pod["restarts"] for name, pod in now.items() if pod["ready"]}
        wanted = {name: pod["restarts"] + (name in restarted) for name, pod in since.items()}
        return lives == wanted and allocated(lab) == {pod["address"]: name for name, pod in now.items()}

    return look


def test_ipam_holds_the_addresses_of_the_pods_and_no_others(lab: Lab) -> None:
    assert allocated(lab) == {pod["address"]: name for name, pod in pods(lab).items()}
    assert len(allocated(lab)) == 6


def test_an_open_connection_survives_the_agents(lab: Lab) -> None:
    server = pods(lab)["server"]["address"]
    talk = subprocess.Popen(
        ["kubectl", "exec", "-i", "client", "--", "socat", "-", f"TCP:{server}:9000"],
        env=lab.env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    )
    assert talk.stdin and talk.stdout
    try:
        for words in ("before\n", "after\n"):
            talk.stdin.write(words)
            assert talk.stdout.readline() == words
            if words == "before\n":
                for node in WORKERS:
                    kill(lab, f"agent {node}")
        log = (lab.labs / "lab/logs/lab-worker-agent.log").read_text()
        assert "left-over interface removed" not in log
    finally:
        talk.kill()
        talk.communicate()
    before = pods(lab)
    assert settled(lab, before, set())()


def test_pods_keep_address_and_container_when_the_kubelet_dies(lab: Lab) -> None:
    before = pods(lab)
    kill(lab, "kubelet lab-worker")
    lab.kubectl("exec", "client", "--", "true")
    time.sleep(1)
    assert pods(lab) == before
    assert all(reach(lab, before["client"]["address"], address) for address in web(before))
    lab.kubectl("wait", "--for=condition=Ready", "node/lab-worker", "--timeout=20s")


def test_pods_serve_while_the_control_plane_is_away_and_nothing_written_is_lost(lab: Lab) -> None:
    before = pods(lab)
    keeper = lab.processes()["podwire node lab-control-plane"]
    os.kill(keeper, signal.SIGSTOP)  # so that nobody starts it again for now
    try:
        made = "".join(
            json.dumps({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": f"kept-{number}"}})
            for number in range(20)
        )
        assert lab.kubectl("create", "-f", "-", stdin=made).count("created") == 20
        kill(lab, "control-plane lab-control-plane", back=False)
        away = subprocess.run(
            ["kubectl", "--request-timeout=1s", "get", "nodes"], env=lab.env, capture_output=True, check=False
        )
        assert away.returncode
        assert all(reach(lab, before["client"]["address"], address) for address in web(before))
    finally:
        os.kill(keeper, signal.SIGCONT)
    eventually(lambda: "podwire control-plane lab-control-plane" in lab.processes(), 20)
    lab("up")
    names = {one["metadata"]["name"] for one in items(lab, "configmaps")}
    assert names >= {f"kept-{number}" for number in range(20)}
    assert pods(lab) == before
    lab.kubectl("scale", "deployment", "web", "--replicas=5")
    lab.kubectl("rollout", "status", "deployment/web", "--timeout=30s")
    lab.kubectl("scale", "deployment", "web", "--replicas=4")
    eventually(lambda: len(allocated(lab)) == 6, 30)


def test_a_reborn_nodes_pods_get_new_addresses_and_the_old_ones_return(lab: Lab) -> None:
    before = pods(lab)
    there = set(pods(lab, WORKERS[1]))
    assert len(there) > 1
    kill(lab, f"node {WORKERS[1]}")
    eventually(settled(lab, before, there), 40)
    now = pods(lab)
    assert {name for name in now if now[name]["container"] != before[name]["container"]} == there
    eventually(lambda: all(reach(lab, now["client"]["address"], address) for address in web(now)))
    lab.kubectl("rollout", "status", "deployment/web", "--timeout=30s")


def test_a_lab_whose_supervisor_was_killed_is_taken_up_again(lab: Lab) -> None:
    before, objects = pods(lab), lab.kubectl("get", "configmaps,deployments,services,namespaces", "-A", "-o", "name")
    port = lab.port()
    os.kill(lab.supervisor(), signal.SIGKILL)
    assert "3 nodes, all Ready" in lab("up").stdout
    assert lab.port() == port
    eventually(settled(lab, before, set(before)), 40)
    now = pods(lab)
    eventually(lambda: all(reach(lab, now["client"]["address"], address) for address in web(now)))
    assert lab.kubectl("get", "configmaps,deployments,services,namespaces", "-A", "-o", "name") == objects
    lab.kubectl("rollout", "status", "deployment/web", "--timeout=30s")
    lab.kubectl("delete", "pods", "--all", "--wait=false")
    eventually(lambda: not set(before) & set(pods(lab)), 40)
    eventually(lambda: allocated(lab) == {pod["address"]: name for name, pod in pods(lab).items()}, 20)
