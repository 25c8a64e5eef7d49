"""Pods of both families under genuine Kubernetes, over nodes that speak IPv4 to each other."""

from __future__ import annotations

import json

import pytest

from tests.kubernetes.genuine import NODES, until
from tests.kubernetes.test_workloads import WEB, dial, pod, ready
from tests.lab.kubectl import Kubectl

pytestmark = pytest.mark.timeout(300)
PLANE, WORKER, _ = NODES


def addresses(kubectl: Kubectl, name: str) -> list[str]:
    return [one["ip"] for one in kubectl.object("pod", name)["status"]["podIPs"]]


def test_pods_of_two_nodes_talk_in_both_families(kubectl: Kubectl) -> None:
    kubectl.apply(pod("one", nodeName=PLANE), pod("two", nodeName=WORKER), pod("near", nodeName=WORKER))
    ready(kubectl, "one", "two", "near")
    cidrs = [node["spec"]["podCIDRs"] for node in kubectl.object("nodes")["items"]]
    assert len({six for _, six in cidrs}) == len(NODES) and all(six.endswith("/64") for _, six in cidrs)
    for name in ("one", "two", "near"):
        found = addresses(kubectl, name)
        assert [":" in address for address in found] == [False, True]
        for client in ("one", "two"):
            for address in found:
                until(f"{client} reaches {address}", lambda: dial(kubectl, client, address, WEB) == name)  # noqa: B023
                until(
                    f"{client} reaches {address} by UDP",
                    lambda: dial(kubectl, client, address, WEB, "udp") == name,  # noqa: B023
                )


def test_a_service_of_both_families(kubectl: Kubectl) -> None:
    kubectl.apply(pod("behind", nodeName=WORKER), pod("client", nodeName=PLANE))
    spec = {
        "selector": {"app": "behind"},
        "ports": [{"port": 80, "targetPort": WEB}],
        "ipFamilyPolicy": "RequireDualStack",
    }
    kubectl.apply({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "behind"}, "spec": spec})
    ready(kubectl, "behind", "client")
    four, six = json.loads(kubectl.run("get", "service", "behind", "-o", "jsonpath={.spec.clusterIPs}"))
    assert (":" in four, ":" in six) == (False, True)
    for address in (four, six):
        until(f"{address} answers", lambda: dial(kubectl, "client", address, 80) == "behind")  # noqa: B023
