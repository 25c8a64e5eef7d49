"""Podwire on a genuine cluster as a user puts it there: from its image, over a former network, upgraded, off again."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from podwire.kubelet import agentimage
from podwire.kubelet.debroot import private_root
from podwire.lab.state import cache_root
from tests.kubernetes.genuine import until, up
from tests.lab.host import PODWIRE, Lab, lab_in

NAME = "installed"
NODES = (f"{NAME}-control-plane", f"{NAME}-worker")
IMAGES = ("docker.io/podwire/podwire:test-a", "docker.io/podwire/podwire:test-b")
FLANNEL = {
    "name": "cbr0",
    "cniVersion": "1.0.0",
    "plugins": [
        {
            "type": "bridge",
            "bridge": "cni0",
            "isGateway": True,
            "ipam": {"type": "host-local", "subnet": "10.99.0.0/24"},
        },
        {"type": "portmap", "capabilities": {"portMappings": True}},
    ],
}


@pytest.fixture(scope="module")
def lab(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Two nodes that ran another network: its configuration is still there."""
    with lab_in(tmp_path_factory.mktemp("installed")) as found:
        up(found, built, "--network", "none", name=NAME, nodes=2)
        cache = cache_root()
        found("load", str(agentimage.ensure(cache, IMAGES, private_root(cache))), seconds=120)
        for node in NODES:
            write = "mkdir -p /etc/cni/net.d; cat > /etc/cni/net.d/10-flannel.conflist"
            found("exec", "-i", node, "--", "sh", "-c", write, stdin=json.dumps(FLANNEL))
        podwire(found, "install", "--set", f"image={IMAGES[0]}", "--set", "pull-policy=Never")
        yield found


def podwire(lab: Lab, *words: str, code: int = 0) -> str:
    """`podwire WORDS` for the lab's cluster; what it said."""
    done = subprocess.run([PODWIRE, *words], env=lab.env, capture_output=True, text=True, timeout=320, check=False)
    assert done.returncode == code, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def configurations(lab: Lab, node: str) -> list[str]:
    return lab("exec", node, "--", "ls", "/etc/cni/net.d").stdout.split()


def ready(lab: Lab) -> bool:
    found = lab.kubectl("get", "nodes", "-o", "jsonpath={.items[*].status.conditions[?(@.type=='Ready')].status}")
    return found.split() == ["True"] * len(NODES)


def test_the_former_network_made_way(lab: Lab) -> None:
    for node in NODES:
        until("ours is in place", lambda node=node: "05-podwire.conflist" in configurations(lab, node))
        assert "10-flannel.conflist.before-podwire" in configurations(lab, node)
    told = lab.kubectl("get", "events", "-n", "default", "-o", "jsonpath={.items[*].reason}")
    assert told.split().count("OtherNetworkSetAside") == len(NODES)
    until("every node is Ready", lambda: ready(lab))


def test_pods_reach_each_other_and_a_new_version_loses_no_packet(lab: Lab) -> None:
    for name, node in zip(("a", "b"), NODES, strict=True):
        place = {"spec": {"nodeName": node, "tolerations": [{"operator": "Exists"}]}}
        lab.kubectl("run", name, "--image=nicolaka/netshoot", "--overrides", json.dumps(place), "--", "sleep", "3600")
    lab.kubectl("wait", "--for=condition=Ready", "pod/a", "pod/b", "--timeout=60s")
    lab.kubectl(
        "-n", "kube-system", "wait", "--for=condition=Available", "deployment/podwire-controller", "--timeout=60s"
    )
    address = lab.kubectl("get", "pod", "b", "-o", "jsonpath={.status.podIP}")
    words = ["kubectl", "exec", "a", "--", "sh", "-c", f"echo started; exec ping -i 0.01 -q -w 600 {address}"]
    with subprocess.Popen(words, env=lab.env, stdout=subprocess.PIPE, text=True) as ping:
        try:
            assert ping.stdout is not None and ping.stdout.readline() == "started\n"
            for image in (IMAGES[1], IMAGES[0]):  # up, and back again
                said = podwire(lab, "install", "--set", f"image={image}", "--set", "pull-policy=Never")
                assert "Podwire runs on 2 nodes" in said
            lab.kubectl("exec", "a", "--", "pkill", "-INT", "ping")
            said = ping.stdout.read()
        finally:
            ping.kill()
    sent, received = re.findall(r"(\d+) packets transmitted, (\d+) received", said)[0]
    assert int(sent) == int(received) > 100, said


def test_another_networks_agents_are_told_apart(lab: Lab) -> None:
    """`install` refuses beside Calico's DaemonSet; a configuration that appears makes the node's agent unready."""
    daemons = {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": "calico-node", "namespace": "kube-system"},
        "spec": {
            "selector": {"matchLabels": {"k8s-app": "calico-node"}},
            "template": {
                "metadata": {"labels": {"k8s-app": "calico-node"}},
                "spec": {
                    "containers": [{"name": "c", "image": "calico/node:v3.31.0"}],
                },
            },
        },
    }
    lab.kubectl("apply", "-f", "-", stdin=json.dumps(daemons))
    assert "Calico is installed (DaemonSet kube-system/calico-node)" in podwire(lab, "install", code=1)
    write = "cp /etc/cni/net.d/10-flannel.conflist.before-podwire /etc/cni/net.d/10-calico.conflist"
    lab("exec", NODES[1], "--", "sh", "-c", write)
    asks = ("exec", NODES[1], "--", "curl", "-s", "http://127.0.0.1:9098/readyz")
    until("the agent is unready", lambda: "10-calico.conflist" in lab(*asks).stdout)
    lab("exec", NODES[1], "--", "rm", "/etc/cni/net.d/10-calico.conflist")
    until("the agent is ready again", lambda: lab(*asks).stdout == "ok\n")
    lab.kubectl("-n", "kube-system", "delete", "daemonset", "calico-node")


def test_uninstall_puts_the_former_network_back(lab: Lab) -> None:
    """The last of these tests: afterwards the running pods still reach each other."""
    podwire(lab, "uninstall")
    for node in NODES:
        assert configurations(lab, node) == ["10-flannel.conflist"]
        assert "podwire" not in lab("exec", node, "--", "ls", "/opt/cni/bin").stdout.split()
    left = lab.kubectl("get", "clusterroles,clusterrolebindings,validatingadmissionpolicies", "-o", "name")
    assert "podwire" not in left
    assert lab.kubectl("get", "ippools", "-o", "name").strip() == "ippool.projectcalico.org/default-ipv4-ippool"
    address = lab.kubectl("get", "pod", "b", "-o", "jsonpath={.status.podIP}")
    assert " 0% packet loss" in lab.kubectl("exec", "a", "--", "ping", "-c", "3", "-i", "0.1", address)
