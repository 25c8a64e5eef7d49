"""A lab with pods changes nothing on the host while it runs, and leaves nothing, whatever of it was killed before."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from host import Lab, changes, listening, picture, untouched
from pods import genuine

pytestmark = pytest.mark.timeout(120)

CONFIG = """kind: Cluster
apiVersion: kind.x-k8s.io/v1alpha4
name: gone
nodes:
- role: control-plane
- role: worker
  extraPortMappings:
  - {containerPort: 80, hostPort: 31997}
"""
KINDS = ("net", "mnt", "pid", "ipc", "uts", "cgroup", "user")


def up_with_pods(lab: Lab) -> None:
    """Two nodes, a published port, and on each node a pod that runs."""
    lab("up", "--config", "-", stdin=CONFIG)
    for node in ("gone-control-plane", "gone-worker"):
        spec = {"nodeName": node, "containers": [{"name": "c", "image": "nginx"}]}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": node}, "spec": spec}
        lab.kubectl("create", "-f", "-", stdin=json.dumps(pod))
    lab.kubectl("wait", "--for=condition=Ready", "pods", "--all", "--timeout=30s")


def running() -> dict[int, str]:
    """Every process and its start time, but those that ended and wait only for this machine's init to notice."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            fields = path.joinpath("stat").read_text().rpartition(")")[2].split()
            if fields[0] not in "ZX":
                found[int(path.name)] = fields[19]
    return found


def alive(processes: dict[int, str]) -> set[int]:
    """Those that still run."""
    now = running()
    return {pid for pid, started in processes.items() if now.get(pid) == started}


def now() -> int:
    """The time as processes' start times are counted."""
    return int(time.clock_gettime(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK"))


def older(moment: int) -> set[int]:
    """Processes that were there at that time: the names of namespaces that have gone are given to new ones."""
    return {pid for pid, started in running().items() if int(started) <= moment}


def namespaces(pids: set[int]) -> set[str]:
    """Names of the namespaces that those processes are in."""
    found = set()
    for pid in pids:
        for kind in KINDS:
            with contextlib.suppress(OSError):
                found.add(str(Path(f"/proc/{pid}/ns/{kind}").readlink()))
    return found


def test_the_host_is_the_same_before_during_and_after(tmp_path: Path) -> None:
    before, outside = picture(), namespaces({os.getpid()})
    with untouched(tmp_path) as lab:
        up_with_pods(lab)
        during = changes(before, picture())
        port = lab.port("gone")
        assert lab.sockets("gone") == {f"127.0.0.1:{port}", "127.0.0.1:31997"}
        assert set(during) == {"listening"}
        new = set(during["listening"][1].splitlines()) - set(during["listening"][0].splitlines())
        assert len(new) == 2
        family = lab.family("gone")
        inside = namespaces(set(family)) - outside
        assert len(alive(family)) > 10
        pods = 4 if genuine() else 2  # two of them CoreDNS
        assert len([name for name in inside if name.startswith("net:")]) == 3 + pods  # outer, two nodes
        assert lab.cgroups("gone")
        end = now()
        lab("down")
        assert not alive(family)
        assert not namespaces(older(end)) & inside
        assert changes(before, picture()) == {}
        assert not lab.cgroups("gone")
        assert not lab.labs.exists()
        assert not lab.kubeconfig.exists()
        assert not listening(port)


GENUINE = {"kubelet": "kubelet", "control-plane": "kube-apiserver"}
"""What stands there in a lab of genuine Kubernetes."""


def victim(lab: Lab, title: str) -> int:
    """The pid of one of the lab's processes."""
    kind, _, node = title.partition(" ")
    processes = lab.processes("gone")
    if not genuine() or kind not in GENUINE:
        return processes[f"podwire {title}"]
    program = f"/opt/kubernetes/bin/{GENUINE[kind]} "
    (pid,) = [
        pid
        for words, pid in processes.items()
        if words.startswith(program) and (kind != "kubelet" or f"={node} " in f"{words} ")
    ]
    return pid


@pytest.mark.parametrize(
    "title",
    [
        "agent gone-worker",
        "kubelet gone-worker",
        "node gone-worker",
        "control-plane gone-control-plane",
        "node gone-control-plane",
        "lab gone",
        "outside",
        "ports",
    ],
)
def test_nothing_is_left_after_kill_9(tmp_path: Path, title: str) -> None:
    outside = namespaces({os.getpid()})
    with untouched(tmp_path) as lab:
        up_with_pods(lab)
        family = lab.family("gone")
        inside = namespaces(set(family)) - outside
        os.kill(victim(lab, title), signal.SIGKILL)
        end = now()
        lab("down")
        assert not alive(family)
        assert not namespaces(older(end)) & inside
        assert not lab.cgroups("gone")
        assert not lab.kubeconfig.exists()
