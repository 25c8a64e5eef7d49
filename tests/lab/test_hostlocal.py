"""A lab whose nodes give out addresses of their podCIDR by files, under Podwire's own routed network."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from kubectl import Kubectl, eventually, lab
from pods import on_node, pod, ready

from podwire.lab.demo import prove

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def kubectl(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kubectl]:
    with lab(tmp_path_factory.mktemp("files"), "hl", "--ipam", "host-local") as kubectl:
        yield kubectl


def test_the_network_is_flat(kubectl: Kubectl) -> None:
    probes = prove(Path(kubectl.env["KUBECONFIG"]), "podwire-hl", lambda words: None)
    assert len(probes) == 36
    assert [probe for probe in probes if not probe.flat] == []


def test_addresses_are_files_of_the_node(kubectl: Kubectl) -> None:
    kubectl.apply(pod("one", nodeName="hl-worker"))
    ready(kubectl, "one")
    address = str(kubectl.object("pod", "one")["status"]["podIP"])
    cidr = str(kubectl.object("node", "hl-worker")["spec"]["podCIDR"])
    assert address.rpartition(".")[0] == cidr.rpartition(".")[0]
    folder = "/var/lib/cni/networks/k8s-pod-network"
    assert on_node(kubectl, "hl-worker", f"cat {folder}/{address}").splitlines()[-1] == "eth0"
    kubectl.run("delete", "pod", "one", "--wait=true")
    eventually(lambda: address not in on_node(kubectl, "hl-worker", f"ls {folder}").split())
