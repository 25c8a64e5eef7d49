"""The pod network of a whole lab: flat inside, masqueraded towards the outside, untouched by an agent's restart."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from kubectl import PODWIRE, Kubectl, eventually, lab

from podwire.lab.demo import prove

pytestmark = pytest.mark.timeout(180)
OUTSIDE = "203.0.113.10"


@pytest.fixture(scope="module")
def kubectl(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kubectl]:
    with lab(tmp_path_factory.mktemp("network"), "net") as kubectl:
        for node in ("net-worker", "net-worker2"):
            container = {"name": "web", "image": "nginx"}
            spec = {"nodeName": node, "containers": [container], "terminationGracePeriodSeconds": 1}
            kubectl.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": f"on-{node}"}, "spec": spec})
        kubectl.run("wait", "--for=condition=Ready", "pod/on-net-worker", "pod/on-net-worker2", "--timeout=40s")
        yield kubectl


def address(kubectl: Kubectl, pod: str) -> str:
    return str(kubectl.object("pod", pod)["status"]["podIP"])


def inside(kubectl: Kubectl, node: str, *words: str) -> str:
    command = [str(PODWIRE), "lab", "exec", node, "--", *words]
    done = subprocess.run(command, env=kubectl.env, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
    return done.stdout


def test_every_pod_and_node_reaches_every_other_without_nat(kubectl: Kubectl) -> None:
    probes = prove(Path(kubectl.env["KUBECONFIG"]), "podwire-net", lambda words: None)
    assert len(probes) == 36
    assert [probe for probe in probes if not probe.flat] == []


def test_the_outside_sees_the_node(kubectl: Kubectl) -> None:
    seen = kubectl.run("exec", "on-net-worker", "--", "curl", "-s", "--max-time", "5", f"http://{OUTSIDE}/")
    node = kubectl.object("node", "net-worker")["status"]["addresses"][0]["address"]
    assert node in seen
    assert address(kubectl, "on-net-worker") not in seen


def test_a_full_packet_crosses_the_tunnel_and_a_larger_one_is_refused(kubectl: Kubectl) -> None:
    """1450 bytes: the underlay's 1500 less VXLAN's 50; 28 of them are the headers of IP and ICMP."""
    far = address(kubectl, "on-net-worker2")
    ping = ("exec", "on-net-worker", "--", "ping", "-c", "1", "-W", "2", "-M", "do", "-s")
    assert "1 received" in kubectl.run(*ping, "1422", far)
    assert kubectl.full(*ping, "1423", far).returncode != 0


def test_tcpdump_shows_the_tunnel_on_a_node_and_the_packets_in_a_pod(kubectl: Kubectl) -> None:
    target = address(kubectl, "on-net-worker2")

    def while_capturing(capture: str, traffic: str) -> str:
        return f"timeout 20 tcpdump -c 1 -n {capture} & for n in 1 2 3 4 5; do sleep 0.3; {traffic}; done; wait $!"

    asked = while_capturing("-i eth0 udp port 4789", f"ping -c 1 -W 1 {target} >/dev/null")
    seen = inside(kubectl, "net-worker", "sh", "-c", asked)
    assert re.search(r"172\.18\.0\.3\.\d+ > 172\.18\.0\.\d\.4789: VXLAN", seen), seen
    written = while_capturing("-i lo -w /root/x.pcap", "curl -s 127.0.0.1 >/dev/null")
    kubectl.run("exec", "on-net-worker", "--", "sh", "-c", f"{written} && test -s /root/x.pcap")


def test_a_pod_reaches_the_api_by_its_service_address(kubectl: Kubectl) -> None:
    url = "https://10.96.0.1/version"
    assert '"gitVersion"' in kubectl.run("exec", "on-net-worker", "--", "curl", "-sk", "--max-time", "5", url)


def writes(kubectl: Kubectl, node: str) -> dict[str, float]:
    """What a node's agent has written to the kernel since it began, by kind."""
    text = inside(kubectl, node, "curl", "-s", "--max-time", "2", "http://127.0.0.1:9098/metrics")
    return {kind: float(n) for kind, n in re.findall(r'podwire_kernel_writes_total\{kind="(\w+)"\} (\S+)', text)}


def kernel_state(kubectl: Kubectl, node: str) -> str:
    return inside(kubectl, node, "sh", "-c", "ip route; ip neigh show dev vxlan.calico; nft -s list ruleset")


def agent(kubectl: Kubectl, node: str) -> str:
    """The agent's process id, '' while there is none or it is not ready."""
    script = 'curl -s --max-time 2 http://127.0.0.1:9098/readyz | grep -qx ok && pgrep -f "^podwire agent" || true'
    return inside(kubectl, node, "sh", "-c", script).strip()


def test_an_agent_that_starts_again_writes_nothing(kubectl: Kubectl) -> None:
    node, far = "net-worker", address(kubectl, "on-net-worker2")
    assert sum(writes(kubectl, node).values()) > 0
    before, killed = kernel_state(kubectl, node), agent(kubectl, node)
    inside(kubectl, node, "kill", "-9", killed)
    eventually(lambda: agent(kubectl, node) not in ("", killed))
    assert sum(writes(kubectl, node).values()) == 0
    assert kernel_state(kubectl, node) == before
    kubectl.run("exec", "on-net-worker", "--", "curl", "-s", "-o", "/dev/null", "--max-time", "3", f"http://{far}/")


def test_two_labs_side_by_side(kubectl: Kubectl, tmp_path: Path) -> None:
    """The same addresses in both, and neither sees the other."""
    with lab(tmp_path, "twin", "--nodes", "1") as twin:
        assert len(twin.object("nodes")["items"]) == 1
        assert twin.object("node", "twin-control-plane")["status"]["addresses"][0]["address"] == "172.18.0.2"
        assert len(kubectl.object("nodes")["items"]) == 3
    assert len(kubectl.object("nodes")["items"]) == 3


def test_a_pod_speaks_for_nobody_else(kubectl: Kubectl) -> None:
    """By root inside its network namespace: another source is dropped, also while the agent is away; so is what it
    sends into the tunnel, here and at the other node."""
    node, mine, far = "net-worker", address(kubectl, "on-net-worker"), address(kubectl, "on-net-worker2")
    other = kubectl.object("node", "net-worker2")["status"]["addresses"][0]["address"]
    spaces = [line.split()[0] for line in inside(kubectl, node, "ip", "netns").splitlines()]
    (space,) = [one for one in spaces if mine in inside(kubectl, node, "ip", "-n", one, "-o", "address")]

    def pings(source: str) -> str:
        words = ("ip", "netns", "exec", space, "ping", "-c", "1", "-W", "1", "-I", source, far)
        return inside(kubectl, node, "sh", "-c", f"{' '.join(words)} || true")

    def dropped(*chain: str) -> int:
        words = inside(kubectl, node, "nft", "list", "chain", *chain).split()
        return sum(int(words[at + 1]) for at, word in enumerate(words) if word == "packets")

    inside(kubectl, node, "ip", "-n", space, "address", "add", "10.244.99.99/32", "dev", "eth0")
    packet = r"\010\000\000\000\000\020\000\000" + "x" * 60
    for target in (other, far):
        before = dropped("inet", "podwire-tunnel", "forward")
        inside(kubectl, node, "ip", "netns", "exec", space, "bash", "-c", f"printf '{packet}' > /dev/udp/{target}/4789")
        assert dropped("inet", "podwire-tunnel", "forward") - before == (target == other)
    before = dropped("inet", "podwire", "from4")
    assert " 0% packet loss" in pings(mine)
    assert "100% packet loss" in pings("10.244.99.99")
    inside(kubectl, node, "kill", "-9", agent(kubectl, node))
    assert "100% packet loss" in pings("10.244.99.99")
    assert " 0% packet loss" in pings(mine)
    assert dropped("inet", "podwire", "from4") - before >= 2


def test_files_with_secrets_and_programs_are_roots_alone(kubectl: Kubectl) -> None:
    paths = ("/etc/podwire/kubeconfig", "/run/podwire/cni.sock", "/opt/cni/bin/podwire")
    told = inside(kubectl, "net-worker", "stat", "-c", "%a %u:%g", *paths).splitlines()
    assert told == ["600 0:0", "600 0:0", "755 0:0"]
