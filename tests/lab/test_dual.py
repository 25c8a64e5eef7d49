"""A lab whose pods have both families, over nodes that speak IPv4 to each other."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from kubectl import Kubectl, eventually, lab
from pods import pod, ready

pytestmark = pytest.mark.timeout(180)
KIND = """kind: Cluster
apiVersion: kind.x-k8s.io/v1alpha4
nodes: [{role: control-plane}, {role: worker}, {role: worker}]
networking: {ipFamily: dual}
"""


@pytest.fixture(scope="module")
def kubectl(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kubectl]:
    with lab(tmp_path_factory.mktemp("dual"), "dual", "--config", "-", stdin=KIND) as kubectl:
        for node in ("dual-worker", "dual-worker2"):
            kubectl.apply(pod(f"on-{node}", image="nginx", nodeName=node))
        ready(kubectl, "on-dual-worker", "on-dual-worker2")
        yield kubectl


def addresses(kubectl: Kubectl, name: str) -> list[str]:
    return [one["ip"] for one in json.loads(kubectl.run("get", "pod", name, "-o", "json"))["status"]["podIPs"]]


def test_pods_of_two_nodes_answer_each_other_in_both_families(kubectl: Kubectl) -> None:
    ours, theirs = (addresses(kubectl, f"on-{node}") for node in ("dual-worker", "dual-worker2"))
    for found in (ours, theirs):
        assert [":" in address for address in found] == [False, True]
    nodes = json.loads(kubectl.run("get", "nodes", "-o", "json"))["items"]
    cidrs = [node["spec"]["podCIDRs"] for node in nodes]
    assert len({six for _, six in cidrs}) == 3 and all(six.endswith("/64") for _, six in cidrs)
    for address in theirs:
        host = f"[{address}]" if ":" in address else address
        eventually(
            lambda host=host: "nginx" in kubectl.run("exec", "on-dual-worker", "--", "curl", "-s", f"http://{host}/")
        )


def test_tools_read_the_addresses_and_the_network_is_said_to_be_there(kubectl: Kubectl) -> None:
    def annotations() -> dict[str, str]:
        found: dict[str, str] = json.loads(kubectl.run("get", "pod", "on-dual-worker", "-o", "json"))["metadata"].get(
            "annotations", {}
        )
        return found

    four, six = addresses(kubectl, "on-dual-worker")
    wanted = {"cni.projectcalico.org/podIP": f"{four}/32", "cni.projectcalico.org/podIPs": f"{four}/32,{six}/128"}
    eventually(lambda: wanted.items() <= annotations().items())
    assert annotations()["cni.projectcalico.org/containerID"]
    for node in json.loads(kubectl.run("get", "nodes", "-o", "json"))["items"]:
        told = {one["type"]: one["status"] for one in node["status"]["conditions"]}
        assert told["NetworkUnavailable"] == "False" and told["Ready"] == "True"


def test_one_of_the_agents_is_elected(kubectl: Kubectl) -> None:
    def holder() -> str:
        lease = json.loads(kubectl.run("get", "lease", "podwire-controller", "-n", "kube-system", "-o", "json"))
        return str(lease["spec"]["holderIdentity"])

    eventually(holder)
    assert holder().partition("_")[0] in ("dual-control-plane", "dual-worker", "dual-worker2")
