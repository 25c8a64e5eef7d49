"""Canal's way in a lab: the reference's bridge wires the pods of a node, Podwire behind it admits them."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from kubectl import Kubectl, eventually, lab
from pods import on_node, pod, ready

from podwire.lab.state import cache_root

pytestmark = pytest.mark.timeout(180)
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


@pytest.fixture(scope="module")
def kubectl(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kubectl]:
    reference = cache_root() / "conformance" / "debian" / "usr" / "lib" / "cni"
    assert reference.is_dir(), f"{reference} is missing: `tools/setup conformance` puts it there"
    with lab(tmp_path_factory.mktemp("chained"), "ch", "--network", "none", "--nodes", "1") as kubectl:
        message = kubectl.run("get", "node", NODE, "-o", "jsonpath={.status.conditions[?(@.type=='Ready')].message}")
        assert "cni plugin not initialized" in message
        text = json.dumps(BRIDGE)
        script = (
            f"mkdir -p /opt/cni/bin /etc/cni/net.d && cp {reference}/bridge {reference}/host-local /opt/cni/bin && "
            f"echo '{text}' > /etc/cni/net.d/10-other.conflist && podwire cni install --chained"
        )
        on_node(kubectl, NODE, script)
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
