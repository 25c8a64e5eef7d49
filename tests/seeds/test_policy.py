"""The seeds' network policies on a real lab: allow-frontend, and the default deny of the networking lab's step 6.

Where a seed goes by a Service's name, these go by the pod's address.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "lab"))
from kubectl import PODWIRE, Kubectl, eventually, lab
from pods import namespace, on_node, pod, ready

pytestmark = pytest.mark.timeout(240)
ALLOW_FRONTEND = """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: allow-frontend
spec:
  podSelector:
    matchLabels:
      app: frontend
  ingress:
  - from:
    - podSelector:
        matchLabels:
          app: backend
"""
DENY = """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: web-deny-ingress
spec:
  podSelector:
    matchLabels:
      app: web
  policyTypes: ["Ingress"]   # selects web Pods for Ingress -> default-deny ingress
"""

INSTALL = """
echo 'policy.enforce = "on"' >/etc/podwire/agent.toml
for each in /proc/[0-9]*; do
  if tr '\\0' ' ' <$each/cmdline | grep -q '^podwire agent noop-control-plane'; then kill ${each#/proc/}; fi
done
"""


@pytest.fixture(scope="module", params=["routed", "kubenet"])
def cluster(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Kubectl]:
    name = f"policy-{request.param}"
    with lab(tmp_path_factory.mktemp("policy"), name, "--network", request.param, "--nodes", "2") as kubectl:
        yield kubectl


@pytest.fixture
def kubectl(cluster: Kubectl, request: pytest.FixtureRequest) -> Iterator[Kubectl]:
    with namespace(cluster, re.sub(r"[^a-z0-9]+", "-", request.node.name.lower())[:50].strip("-")) as own:
        yield own


def server(name: str, app: str) -> dict[str, Any]:
    made = pod(name, image="nginx:1.27")
    made["metadata"]["labels"]["app"] = app
    return made


def podwire(kubectl: Kubectl, *words: str) -> str:
    done = subprocess.run(
        [str(PODWIRE), *words], env=kubectl.env, capture_output=True, text=True, timeout=60, check=False
    )
    return done.stdout + done.stderr


def code(kubectl: Kubectl, client: str, server: str) -> str:
    """What curl gets from a pod: an HTTP status, or 000 for nothing in a second."""
    address = kubectl.object("pod", server)["status"]["podIP"]
    words = ("curl", "-s", "--max-time", "1", "-o", "/dev/null", "-w", "%{http_code}", f"http://{address}")
    return kubectl.run("exec", client, "--", *words, check=False).strip()


def test_allow_frontend(kubectl: Kubectl) -> None:
    """Backends reach the frontend, nobody else does; the others stay as open as they were."""
    client = {"image": "curlimages/curl"}
    kubectl.apply(server("frontend", "frontend"), server("other", "other"))
    kubectl.apply(pod("backend", "sleep", "3600", **client), pod("stranger", "sleep", "3600", **client))
    ready(kubectl, "frontend", "other", "backend", "stranger")
    eventually(lambda: code(kubectl, "stranger", "frontend") == "200")
    kubectl.run("apply", "-f", "-", stdin=ALLOW_FRONTEND)
    eventually(lambda: code(kubectl, "stranger", "frontend") == "000")
    assert code(kubectl, "backend", "frontend") == "200"
    assert code(kubectl, "stranger", "other") == "200"
    assert code(kubectl, "frontend", "other") == "200"
    kubectl.run("label", "pod", "stranger", "app=backend", "--overwrite")
    eventually(lambda: code(kubectl, "stranger", "frontend") == "200")
    kubectl.run("label", "pod", "stranger", "app=stranger", "--overwrite")
    eventually(lambda: code(kubectl, "stranger", "frontend") == "000")
    kubectl.run("delete", "networkpolicy", "allow-frontend")
    eventually(lambda: code(kubectl, "stranger", "frontend") == "200")


def test_a_default_deny_blocks_and_ends_with_its_deletion(kubectl: Kubectl) -> None:
    kubectl.apply(
        server("web-1", "web"), server("web-2", "web"), pod("client", "sleep", "3600", image="curlimages/curl")
    )
    ready(kubectl, "web-1", "web-2", "client")
    for name in ("web-1", "web-2"):
        eventually(lambda name=name: code(kubectl, "client", name) == "200")
    kubectl.run("apply", "-f", "-", stdin=DENY)
    for name in ("web-1", "web-2"):
        eventually(lambda name=name: code(kubectl, "client", name) == "000")
    assert code(kubectl, "web-1", "web-2") == "000"
    # a pod that comes later is closed from its first moment on
    kubectl.apply(server("web-3", "web"))
    ready(kubectl, "web-3")
    assert code(kubectl, "client", "web-3") == "000"
    kubectl.run("delete", "networkpolicy", "web-deny-ingress")
    for name in ("web-1", "web-2", "web-3"):
        eventually(lambda name=name: code(kubectl, "client", name) == "200")


def test_exercise_2_enforcement_comes_to_a_running_lab(tmp_path: Path) -> None:
    """Where nothing enforces it, the policy is a no-op, and status says so; then it is enforced on the same pods."""
    with lab(tmp_path, "noop", "--policy", "off", "--nodes", "1") as kubectl:
        kubectl.apply(server("web", "web"), pod("client", "sleep", "3600", image="curlimages/curl"))
        ready(kubectl, "web", "client")
        kubectl.run("apply", "-f", "-", stdin=DENY)
        eventually(lambda: code(kubectl, "client", "web") == "200")
        before = kubectl.object("pod", "web")["status"]["containerStatuses"][0]["containerID"]
        assert "NOT ENFORCED" in podwire(kubectl, "lab", "status", "--name", "noop")
        on_node(kubectl, "noop-control-plane", INSTALL)
        eventually(lambda: code(kubectl, "client", "web") == "000")
        assert kubectl.object("pod", "web")["status"]["containerStatuses"][0]["containerID"] == before
        assert "NOT ENFORCED" not in podwire(kubectl, "lab", "status", "--name", "noop")
