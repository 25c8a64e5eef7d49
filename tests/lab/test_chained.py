"""Canal's way in a lab: the reference's bridge wires the pods of a node, Podwire behind it admits them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from kubectl import PODWIRE, Kubectl, eventually, lab
from pods import on_node, pod, ready

from podwire.lab.state import cache_root

pytestmark = [
    pytest.mark.timeout(180),
    pytest.mark.embedded_only("without its network a lab of genuine Kubernetes has no agent of Podwire's"),
]
NODE = "ch-control-plane"
BRIDGE = {
    "cniVersion": "1.0.0",
    "name": "other",
    "plugins": [
        {
            "type": "bridge",
            "bridge": "ref0",
            "isGateway": True,
            "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.55.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]},
        }
    ],
}


def put(kubectl: Kubectl, program: Path, place: str) -> None:
    """A program of this machine in the node, which need not see where it is."""
    words = ["lab", "exec", "-i", NODE, "--", "sh", "-c", f"cat > {place} && chmod 755 {place}"]
    subprocess.run([PODWIRE, *words], env=kubectl.env, input=program.read_bytes(), check=True, timeout=60)


@pytest.fixture(scope="module")
def kubectl(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kubectl]:
    reference = cache_root() / "conformance" / "debian" / "usr" / "lib" / "cni"
    assert reference.is_dir(), f"{reference} is missing: `tools/setup conformance` puts it there"
    with lab(tmp_path_factory.mktemp("chained"), "ch", "--network", "none", "--nodes", "1") as kubectl:
        message = kubectl.run("get", "node", NODE, "-o", "jsonpath={.status.conditions[?(@.type=='Ready')].message}")
        assert "cni plugin not initialized" in message
        on_node(kubectl, NODE, "mkdir -p /opt/cni/bin /etc/cni/net.d")
        for name in ("bridge", "host-local"):
            put(kubectl, reference / name, f"/opt/cni/bin/{name}")
        write = f"echo '{json.dumps(BRIDGE)}' > /etc/cni/net.d/10-other.conflist"
        on_node(kubectl, NODE, f"{write} && podwire cni install --chained")
        kubectl.run("wait", "--for=condition=Ready", f"node/{NODE}", "--timeout=40s")
        yield kubectl


def test_another_wires_and_podwire_admits(kubectl: Kubectl) -> None:
    tool = {"command": ["sleep", "3600"], "securityContext": {"capabilities": {"add": ["NET_ADMIN"]}}}
    kubectl.apply(pod("web", image="nginx"), pod("client", image="nicolaka/netshoot", container=tool))
    ready(kubectl, "web", "client")
    web, client = (str(kubectl.object("pod", name)["status"]["podIP"]) for name in ("web", "client"))
    assert web.startswith("10.55.0.") and client.startswith("10.55.0.")
    get = ("exec", "client", "--", "curl", "-s", "-o", "/dev/null", "--max-time", "3")
    eventually(lambda: kubectl.full(*get, f"http://{web}/").returncode == 0)
    tables = on_node(kubectl, NODE, "nft list table bridge podwire")
    assert web in tables and client in tables
    # an address that is nobody's: closed
    kubectl.run("exec", "client", "--", "ip", "address", "add", "10.55.0.99/24", "dev", "eth0")
    assert kubectl.full(*get, "--interface", "10.55.0.99", f"http://{web}/").returncode != 0
    kubectl.run("delete", "pod", "web", "client", "--wait=true")
    eventually(lambda: web not in on_node(kubectl, NODE, "nft list table bridge podwire"))
