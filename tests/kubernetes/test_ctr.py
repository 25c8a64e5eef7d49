"""`ctr run --cni`: containerd's own client on a node, on the pods' network. Commands as in docs/runtimes.md."""

from __future__ import annotations

import pytest

from tests.kubernetes.genuine import ipam_check, until
from tests.kubernetes.test_workloads import HERE, THERE, WEB, address, pod, ready, routed
from tests.lab.host import Lab
from tests.lab.kubectl import Kubectl

pytestmark = pytest.mark.timeout(300)
BUSYBOX = "docker.io/library/busybox:latest"
# no cgroup: the one that ctr makes by itself would outlive the node
RUN = ("run", "--cni", "--runc-binary", "/opt/kubernetes/bin/runc", "--cgroup", "")


def ctr(real: Lab, *words: str, code: int = 0) -> str:
    return real("exec", HERE, "/opt/kubernetes/bin/ctr", "-n", "k8s.io", *words, code=code).stdout


def test_a_container_that_ends_by_itself(real: Lab, kubectl: Kubectl) -> None:
    kubectl.apply(pod("far", nodeName=THERE))
    ready(kubectl, "far")
    script = f"ip -4 -o address show eth0; wget -qO- http://{address(kubectl, 'far')}:{WEB}/hostname"
    told = ctr(real, *RUN, "--rm", BUSYBOX, "alone", "sh", "-c", script)
    own = told.split()[3]
    assert own.startswith("10.244.") and own.endswith("/32") and told.endswith("far")
    assert not routed(real, HERE, own.partition("/")[0])
    assert "nothing found" in ipam_check(real)


def test_one_in_the_background_until_it_is_killed(real: Lab, kubectl: Kubectl) -> None:
    kubectl.apply(pod("far", nodeName=THERE))
    ready(kubectl, "far")
    ctr(
        real,
        *RUN,
        "--detach",
        BUSYBOX,
        "behind",
        "sh",
        "-c",
        "echo behind > /tmp/hostname; exec httpd -f -p 80 -h /tmp",
    )
    try:
        told = ctr(real, "task", "exec", "--exec-id", "look", "behind", "ip", "-4", "-o", "address", "show", "eth0")
        own = told.split()[3].partition("/")[0]
        ask = ("exec", "far", "--", "curl", "-s", "--max-time", "5", f"http://{own}/hostname")
        until("a pod of the other node reaches it", lambda: kubectl.full(*ask).stdout.strip() == "behind")
    finally:
        ctr(real, "task", "kill", "--signal", "SIGKILL", "behind")
        until("it ended", lambda: "behind" not in ctr(real, "task", "list") or "STOPPED" in ctr(real, "task", "list"))
        ctr(real, "container", "delete", "behind")
    assert not routed(real, HERE, own)
    assert "nothing found" in ipam_check(real)
