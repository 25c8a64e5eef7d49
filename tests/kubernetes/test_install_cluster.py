"""Podwire on a genuine cluster as a user puts it there: from its image, over a former network, upgraded, off again."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from podwire.kubelet import agentimage
from podwire.kubelet.debroot import private_root
from podwire.lab.state import cache_root
from tests.kubernetes import soak
from tests.kubernetes.genuine import until, up
from tests.kubernetes.soak import Site, held, table
from tests.kubernetes.versions import Version, earlier
from tests.lab.host import PODWIRE, Lab, lab_in
from tests.lab.kubectl import Kubectl

__all__ = ["table"]

NAME = "installed"
NODES = (f"{NAME}-control-plane", f"{NAME}-worker")
THIS, EARLIER = "docker.io/podwire/podwire:this", "docker.io/podwire/podwire:earlier"
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
def former(tmp_path_factory: pytest.TempPathFactory) -> Version:
    """Another version, whose tables, records and shim differ."""
    return earlier(tmp_path_factory.mktemp("former"))


@pytest.fixture(scope="module")
def lab(built: Path, former: Version, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Two nodes that ran another network: its configuration is still there."""
    with lab_in(tmp_path_factory.mktemp("installed")) as found:
        up(found, built, "--network", "none", name=NAME, nodes=2)
        cache = cache_root()
        for archive in (agentimage.ensure(cache, (THIS,), private_root(cache)), former.image(EARLIER)):
            found("load", str(archive), seconds=120)
        for node in NODES:
            write = "mkdir -p /etc/cni/net.d; cat > /etc/cni/net.d/10-flannel.conflist"
            found("exec", "-i", node, "--", "sh", "-c", write, stdin=json.dumps(FLANNEL))
        podwire(found, "install", "--set", f"image={THIS}", "--set", "pull-policy=Never")
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


def upgrade(site: Site) -> None:
    """To this version; a new pod works."""
    said = podwire(site.lab, "install", "--set", f"image={THIS}", "--set", "pull-policy=Never")
    assert "Podwire runs on 2 nodes" in said
    _new_pod(site)


def downgrade(site: Site, former: Version) -> None:
    """To the other version, by its own command."""
    former.podwire(site.lab.env, "install", "--set", f"image={EARLIER}", "--set", "pull-policy=Never")
    _new_pod(site)


def _new_pod(site: Site) -> None:
    """A pod that starts now reaches one on another node that started before, and is reached."""
    name = f"fresh-{time.monotonic_ns()}"
    site.kubectl.run("create", "-f", "-", stdin=json.dumps(soak.sleeper(name, site.nodes[1])))
    site.kubectl.run("wait", "--for=condition=Ready", f"pod/{name}", "--timeout=100s", seconds=110)
    site.kubectl.run("exec", name, "--", "ping", "-c", "1", "-W", "10", site.pods["far"])
    site.kubectl.run("delete", "pod", name, "--wait=false")


@pytest.mark.timeout(400)
def test_pods_reach_each_other_and_another_version_loses_no_packet(lab: Lab, former: Version, table: list[str]) -> None:
    """Down to a version with other tables, records and shim, and up again; `make soak` has the long form."""
    lab.kubectl("create", "namespace", "soak")
    until("the namespace's account", lambda: "default" in lab.kubectl("-n", "soak", "get", "serviceaccounts"))
    site = Site(lab, NAME, NODES, Kubectl(lab.env, "soak"))
    site.place()
    lab.kubectl(
        "-n", "kube-system", "wait", "--for=condition=Available", "deployment/podwire-controller", "--timeout=60s"
    )
    harm = partial(soak.versions, installs=(partial(downgrade, site, former), partial(upgrade, site)))
    result = soak.watched(site, f"down to {former.told} and up again", harm, 1)
    table.append(soak.row(result))
    held(result)


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
    address = lab.kubectl("-n", "soak", "get", "pod", "here", "-o", "jsonpath={.status.podIP}")
    lab.kubectl("-n", "soak", "exec", "far", "--", "ping", "-c", "3", "-W", "10", address)
