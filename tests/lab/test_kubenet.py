"""A lab with kubenet's network: cbr0 on each node, addresses of its podCIDR, routes in the router between the nodes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from host import PODWIRE
from kubectl import Kubectl, eventually, lab
from pods import events, on_node, pod, ready

from podwire.lab.demo import prove

pytestmark = pytest.mark.timeout(180)
MASK = """kind: Cluster
apiVersion: kind.x-k8s.io/v1alpha4
nodes: [{role: control-plane}, {role: worker}, {role: worker}]
kubeadmConfigPatches:
- |
  kind: ClusterConfiguration
  controllerManager: {extraArgs: {node-cidr-mask-size: "28"}}
"""


@pytest.fixture(scope="module")
def kubectl(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kubectl]:
    folder = tmp_path_factory.mktemp("kubenet")
    with lab(folder, "kn", "--network", "kubenet", "--config", "-", stdin=MASK) as kubectl:
        for node in ("kn-worker", "kn-worker2"):
            kubectl.apply(pod(f"on-{node}", image="nginx", nodeName=node))
        ready(kubectl, "on-kn-worker", "on-kn-worker2")
        yield kubectl


def address(kubectl: Kubectl, name: str) -> str:
    return str(kubectl.object("pod", name)["status"]["podIP"])


def cidr(kubectl: Kubectl, node: str) -> str:
    return str(kubectl.object("node", node)["spec"]["podCIDR"])


def test_every_pod_and_node_reaches_every_other_without_nat(kubectl: Kubectl) -> None:
    """A node speaks to its own pods from cbr0's address, as with kubenet, and to other nodes' from its own."""
    probes = prove(Path(kubectl.env["KUBECONFIG"]), "podwire-kn", lambda words: None)
    assert len(probes) == 36
    odd = [probe for probe in probes if not probe.flat]
    assert [probe for probe in odd if not (probe.sender.node and probe.sender.on == probe.receiver.on)] == []
    assert {probe.seen for probe in odd} <= {_first(kubectl, node) for node in ("kn-worker", "kn-worker2")}


def _first(kubectl: Kubectl, node: str) -> str:
    head, _, last = cidr(kubectl, node).partition("/")[0].rpartition(".")
    return f"{head}.{int(last) + 1}"


def test_the_outside_sees_the_node(kubectl: Kubectl) -> None:
    seen = kubectl.run("exec", "on-kn-worker", "--", "curl", "-s", "--max-time", "5", "http://203.0.113.10/")
    assert seen.strip() == kubectl.object("node", "kn-worker")["status"]["addresses"][0]["address"]


def test_the_seeds_picture(kubectl: Kubectl) -> None:
    """The bridge cbr0 has the first address of the node's podCIDR; beyond that range everything leaves by eth0."""
    gateway = f"{_first(kubectl, 'kn-worker')}/28"
    assert gateway in on_node(kubectl, "kn-worker", "ip -4 addr show cbr0")
    routes = on_node(kubectl, "kn-worker", "ip route").splitlines()
    assert any(line.startswith(f"{cidr(kubectl, 'kn-worker')} dev cbr0") for line in routes)
    assert not [line for line in routes if line.startswith("10.244.") and "cbr0" not in line]
    assert "vxlan" not in on_node(kubectl, "kn-worker", "ip link")
    ports = json.loads(on_node(kubectl, "kn-worker", "bridge -j -d link"))
    mine = [port for port in ports if port["master"] == "cbr0"]
    assert mine and all(port["hairpin"] and port["mtu"] == 1500 for port in mine)
    files = on_node(kubectl, "kn-worker", "ls /var/lib/cni/networks/k8s-pod-network").split()
    assert address(kubectl, "on-kn-worker") in files and "last_reserved_ip.0" in files
    shown = kubectl.run("exec", "on-kn-worker", "--", "ip", "route")
    assert f"default via {_first(kubectl, 'kn-worker')}" in shown

    def route_created() -> bool:
        conditions = {one["type"]: one for one in kubectl.object("node", "kn-worker")["status"]["conditions"]}
        return bool(conditions.get("NetworkUnavailable", {}).get("reason") == "RouteCreated")

    assert eventually(route_created)


def test_a_pod_reaches_itself(kubectl: Kubectl) -> None:
    url = f"http://{address(kubectl, 'on-kn-worker')}/"
    kubectl.run("exec", "on-kn-worker", "--", "curl", "-s", "-o", "/dev/null", "--max-time", "5", url)


def test_a_changed_pod_cidr_is_refused(kubectl: Kubectl) -> None:
    patch = '{"spec": {"podCIDR": "10.244.9.0/28", "podCIDRs": ["10.244.9.0/28"]}}'
    done = kubectl.full("patch", "node", "kn-worker", "-p", patch)
    assert done.returncode == 1
    assert "node updates may not change podCIDR except from" in done.stderr


def test_a_full_pod_cidr_says_so_and_recovers(kubectl: Kubectl) -> None:
    """How many find no address depends on what else the scheduler put on the node: room is made for all of them, since
    nobody knows which of them asks first for what becomes free."""
    names = [f"fill-{number}" for number in range(14)]
    spec = {"nodeName": "kn-worker2", "automountServiceAccountToken": False}
    kubectl.apply(*(pod(name, **spec) for name in names))

    def refused() -> list[str]:
        return [name for name in names if "no IP addresses available in range set: 10.244." in events(kubectl, name)]

    def running() -> list[str]:
        return [name for name in names if kubectl.object("pod", name)["status"].get("phase") == "Running"]

    eventually(lambda: len({*refused(), *running()}) == len(names), 60)
    lucky = running()
    full = [name for name in names if name not in lucky]
    assert full and len(full) < len(lucky)
    described = kubectl.run("describe", "pod", full[0])
    assert "failed to allocate for range 0: no IP addresses available in range set: " in described
    kubectl.run("delete", "pod", "--wait=true", *lucky)
    ready(kubectl, *full)
    kubectl.run("delete", "pod", "--wait=true", *full)


def test_a_leaked_file_is_found_and_removed_from_the_report(kubectl: Kubectl) -> None:
    """A report with nothing but files of the lab's nodes is about these nodes, not about this machine."""
    path = "/var/lib/cni/networks/k8s-pod-network/10.244.200.9"
    on_node(kubectl, "kn-worker2", f"printf 'gone\\r\\neth0' >{path}")

    def podwire(code: int, *words: str, stdin: str = "") -> str:
        done = subprocess.run(
            [str(PODWIRE), "ipam", *words], input=stdin, env=kubectl.env, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout

    report = podwire(1, "check", "--node", "kn-worker2", "--grace", "0", "-o", "json")
    assert [one["kind"] for one in json.loads(report)["findings"]] == ["leaked file"]
    assert podwire(0, "release", "--from-report", "-", stdin=report) == f"kn-worker2: removed {path}\n"
    podwire(0, "check", "--node", "kn-worker2", "--grace", "0")


def test_kubenet_with_blocks_is_refused(tmp_path: Path, kubectl: Kubectl) -> None:
    words = [str(PODWIRE), "lab", "up", "--name", "x", "--network", "kubenet", "--ipam", "blocks"]
    done = subprocess.run(words, env=kubectl.env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode != 0
    assert "kubenet gives out the addresses of each node's own podCIDR" in done.stderr
