"""Network policy between a genuine kubelet and its pods: closed before a container's first instruction, open to probes,
and the same while agents are away."""

from __future__ import annotations

import json
import os
import signal
from typing import Any

import pytest

from tests.kubernetes.genuine import NODES, until
from tests.kubernetes.test_workloads import WEB, address, dial, pod, ready, server, shell
from tests.lab.host import Lab
from tests.lab.kubectl import Kubectl

pytestmark = pytest.mark.timeout(300)
_, HERE, THERE = NODES
PORT = 7009
Object = dict[str, Any]


def policy(name: str, *types: str, **spec: Any) -> Object:
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": name},
        "spec": {"podSelector": {}, "policyTypes": list(types), **spec},
    }


def sender(name: str, node: str, sink: str) -> Object:
    """A pod that does nothing else, from its first instruction on, than to send to `sink`."""
    script = f"while :; do echo x >/dev/udp/{sink}/{PORT}; sleep 0.02; done"
    return pod(name, {**shell("c", ""), "command": ["bash", "-c", script]}, nodeName=node)


def count(real: Lab, node: str, sink: str) -> None:
    """Note whose datagrams the node forwards to `sink`, after policy had its say."""
    text = (
        "table inet seen { set senders { typeof ip saddr; size 1024; flags dynamic; counter; }; "
        "chain forward { type filter hook forward priority 100; "
        f"ip daddr {sink} udp dport {PORT} add @senders {{ ip saddr }}; }}; }}"
    )
    real("exec", node, "--", "nft", text)


def counted(real: Lab, node: str) -> dict[str, int]:
    """Datagrams that were forwarded, by their sender."""
    told = json.loads(real("exec", node, "--", "nft", "-j", "list", "set", "inet", "seen", "senders").stdout)
    (found,) = (one["set"] for one in told["nftables"] if "set" in one)
    return {one["elem"]["val"]: one["elem"]["counter"]["packets"] for one in found.get("elem", ())}


def probe() -> Object:
    return {"httpGet": {"path": "/healthz", "port": WEB}, "periodSeconds": 1, "failureThreshold": 3}


def kill_agent(real: Lab, node: str) -> None:
    """Until another one runs."""
    title = f"podwire agent {node}"
    old = real.processes("real")[title]
    os.kill(old, signal.SIGKILL)
    until(f"another {title}", lambda: real.processes("real").get(title) not in (None, old))


def test_closed_from_the_first_instruction_open_to_probes_with_and_without_agents(real: Lab, kubectl: Kubectl) -> None:
    """Senders start in a namespace that denies all. One way only: what is counted is what passed, not who got an
    answer. One sender that a policy allows shows that it is seen."""
    kubectl.apply(pod("sink", nodeName=THERE))
    ready(kubectl, "sink")
    sink = address(kubectl, "sink")
    inside = {"podSelector": {"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["sink"]}]}}
    kubectl.apply(
        policy("deny", "Ingress", "Egress", **inside),
        policy("free", "Egress", podSelector={"matchLabels": {"app": "free"}}, egress=[{}]),
    )
    count(real, THERE, sink)
    denied = [f"denied-{number}" for number in range(12)]
    try:
        nodes = (HERE, THERE)
        kubectl.apply(
            *(sender(name, nodes[number % 2], sink) for number, name in enumerate(denied)),
            sender("free", HERE, sink),
            pod("probed-here", server(livenessProbe=probe()), nodeName=HERE),
            pod("probed-there", server(livenessProbe=probe()), nodeName=THERE),
        )
        ready(kubectl, *denied, "free", "probed-here", "probed-there")
        until("the one who may is seen", lambda: address(kubectl, "free") in counted(real, THERE))
        assert set(counted(real, THERE)) == {address(kubectl, "free")}
        for client in ("probed-here", "sink"):
            assert dial(kubectl, client, address(kubectl, "probed-there"), WEB) != "probed-there"
        for node in nodes:
            kill_agent(real, node)
        before = counted(real, THERE)[address(kubectl, "free")]
        late = sender("late", HERE, sink)
        kubectl.apply(late)
        ready(kubectl, "late")
        until("more pass", lambda: counted(real, THERE)[address(kubectl, "free")] > before + 100)
        assert set(counted(real, THERE)) == {address(kubectl, "free")}
        restarts = "jsonpath={.status.containerStatuses[0]['ready','restartCount']}"
        for name in ("probed-here", "probed-there"):
            assert kubectl.run("get", "pod", name, "-o", restarts) == "true 0"
        kubectl.run("delete", "networkpolicy", "deny")
        until("all are seen", lambda: set(counted(real, THERE)) >= {address(kubectl, name) for name in denied})
    finally:
        real("exec", THERE, "--", "nft", "delete table inet seen")
