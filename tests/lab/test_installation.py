"""The tigera operator's stock file, applied as its readers apply it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from host import lab_in
from kubectl import eventually

pytestmark = pytest.mark.timeout(120)

CONFIG = """kind: Cluster
apiVersion: kind.x-k8s.io/v1alpha4
name: tigera
nodes: [{role: control-plane}, {role: worker}, {role: worker}]
networking: {podSubnet: "192.168.0.0/16"}
"""
STOCK = """apiVersion: operator.tigera.io/v1
kind: Installation
metadata:
  name: default
spec:
  calicoNetwork:
    bgp: Enabled
    ipPools:
    - name: default-ipv4-ippool
      blockSize: 26
      cidr: 192.168.0.0/16
      encapsulation: VXLANCrossSubnet
      natOutgoing: Enabled
      nodeSelector: all()
---
apiVersion: operator.tigera.io/v1
kind: APIServer
metadata:
  name: default
spec: {}
---
apiVersion: operator.tigera.io/v1
kind: Goldmane
metadata:
  name: default
---
apiVersion: operator.tigera.io/v1
kind: Whisker
metadata:
  name: default
"""
PODS = """
apiVersion: v1
kind: Pod
metadata: {name: %s}
spec:
  nodeName: tigera-%s
  containers: [{name: c, image: busybox, command: [sleep, "3600"]}]
---
"""


def test_the_stock_file_is_applied_and_its_pool_honoured(tmp_path: Path) -> None:
    with lab_in(tmp_path) as lab:
        lab("up", "--config", "-", stdin=CONFIG)
        lab.kubectl("create", "-f", "-", stdin=STOCK)
        lab.kubectl("wait", "--for=condition=Ready", "installation/default", "--timeout=30s")
        pool = json.loads(lab.kubectl("get", "ippool", "default-ipv4-ippool", "-o", "json"))["spec"]
        assert (pool["cidr"], pool["vxlanMode"], pool["natOutgoing"]) == ("192.168.0.0/16", "CrossSubnet", True)
        eventually(lambda: "spec.calicoNetwork.bgp" in lab.kubectl("get", "events"))
        lab.kubectl("create", "-f", "-", stdin=PODS % ("one", "worker") + PODS % ("two", "worker2"))
        lab.kubectl("wait", "--for=condition=Ready", "pod", "--all", "--timeout=60s")
        there = lab.kubectl("get", "pod", "two", "-o", "jsonpath={.status.podIP}")
        eventually(lambda: lab.kubectl("exec", "one", "--", "ping", "-c", "1", "-W", "5", there))
        # the nodes share a subnet: pods are routed to directly, without VXLAN
        block = there.rpartition(".")[0]

        def direct() -> bool:
            routes = lab("exec", "tigera-worker", "--", "ip", "route").stdout.splitlines()
            return any(line.startswith(block) and "dev eth0" in line for line in routes)

        eventually(direct)
        bad = STOCK.partition("---")[0].replace("VXLANCrossSubnet", "GRE")
        assert "encapsulation" in refused(lab, bad)


@pytest.mark.embedded_only("pools for `lab up` are made by the lab's own API server; the genuine home refuses them")
def test_a_lab_comes_up_with_the_pools_of_the_stock_file(tmp_path: Path) -> None:
    with lab_in(tmp_path) as lab:
        one = "kind: Cluster\napiVersion: kind.x-k8s.io/v1alpha4\nnodes: [{role: control-plane}]\n---\n"
        up = lab("up", "--config", "-", stdin=one + STOCK)
        assert "spec.calicoNetwork.bgp: means nothing" in up.stderr and "Goldmane: means nothing" in up.stderr
        (pool,) = json.loads(lab.kubectl("get", "ippools", "-o", "json"))["items"]
        assert (pool["metadata"]["name"], pool["spec"]["cidr"]) == ("default-ipv4-ippool", "192.168.0.0/16")
        assert (pool["spec"]["blockSize"], pool["spec"]["vxlanMode"]) == (26, "CrossSubnet")
        before = pool["metadata"]["generation"]
        lab.kubectl("create", "-f", "-", stdin=STOCK)
        lab.kubectl("wait", "--for=condition=Ready", "installation/default", "--timeout=30s")
        (pool,) = json.loads(lab.kubectl("get", "ippools", "-o", "json"))["items"]
        assert pool["metadata"]["generation"] == before, "applied later, too: nothing changes"


def refused(lab: object, text: str) -> str:
    """What kubectl says to a file that the schema does not allow."""
    with pytest.raises(AssertionError) as caught:
        lab.kubectl("apply", "-f", "-", stdin=text)  # type: ignore[attr-defined]
    return str(caught.value)
