"""Bringing labs up and down: what the user sees, and that the host stays as it was."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

sys.path.insert(0, str(Path(__file__).parent))

from host import PODWIRE, Lab, lab_in
from kubectl import patience
from pods import genuine

from podwire.lab.state import LabState, locked

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with lab_in(tmp_path_factory.mktemp("lab")) as one:
        one("up")
        yield one


def test_three_nodes_are_ready(lab: Lab) -> None:
    lines = [line.split()[:3] for line in lab.kubectl("get", "nodes", "--no-headers").splitlines()]
    assert lines == [
        ["lab-control-plane", "Ready", "control-plane"],
        ["lab-worker", "Ready", "<none>"],
        ["lab-worker2", "Ready", "<none>"],
    ]


def test_a_second_up_changes_nothing_and_is_quick(lab: Lab) -> None:
    def own() -> dict[str, int]:  # and not what runs in pods
        return {title: pid for title, pid in lab.processes().items() if title.startswith(("podwire ", "/opt/kub"))}

    pids = {title: pid for title, pid in own().items() if " --root " not in title}
    assert len(pids) > 6
    begin = time.monotonic()
    assert "up already; nothing was changed" in lab("up").stdout
    assert time.monotonic() - begin < 10 * patience()
    assert pids.items() <= own().items()


def test_a_name_in_use_with_other_settings_is_refused(lab: Lab) -> None:
    done = lab("up", "--nodes", "2", code=1)
    assert "a lab named lab runs already, with other settings (nodes)" in done.stderr


def test_two_ups_at_once_make_one_lab(tmp_path: Path) -> None:
    with lab_in(tmp_path) as lab:
        with locked(LabState("twice", lab.labs)):  # so that they do begin at once
            both = [
                subprocess.Popen(
                    [PODWIRE, "lab", "up", "--name", "twice", "--nodes", "1"],
                    env=lab.env,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
                for _ in range(2)
            ]
            assert all("waiting for it" in one.stderr.readline() for one in both if one.stderr)
        words = [one.communicate(timeout=60) for one in both]
        assert [one.returncode for one in both] == [0, 0], words
        assert sum("nothing was changed" in out for out, _ in words) == 1


def test_inspect_draws_the_table_of_containerlab(lab: Lab) -> None:
    lines = lab("inspect").stdout.splitlines()
    assert lines[1].split("│")[1].strip() == "Name"
    assert "│ lab-worker        │ k8s-kind             │ running │ 172.18.0.3            │" in lines
    assert "│                   │ podwire/node:v1.36.0 │         │ fc00:f853:ccd:e793::3 │" in lines


def test_exec_is_inside_the_node(lab: Lab) -> None:
    assert lab("exec", "lab-worker", "hostname").stdout == "lab-worker\n"
    assert "172.18.0.3/16" in lab("exec", "lab-worker", "--", "ip", "addr").stdout
    assert lab("exec", "-i", "lab-worker", "cat", stdin="hello").stdout == "hello"
    rows = lab("exec", "lab-worker", "podwire", "cni", "list").stdout  # the command, not the plugin of that name
    assert "05-podwire.conflist" in rows
    assert "lab-worker2" in lab("exec", "-it", "lab-worker2", "bash", stdin="hostname\nexit 3\n", code=3).stdout
    left = lab("exec", "-it", "lab-worker", "sh", "-c", "trap '' HUP; sleep 60 & seq 9999; exit 5", code=5)  # at once
    assert left.stdout.endswith("9998\n9999\n")
    assert lab("exec", "lab-worker", "nosuch", code=127).returncode == 127
    assert "there are lab-control-plane, lab-worker" in lab("exec", "other", "ls", code=1).stderr


def test_a_node_cannot_change_the_hosts_kernel(lab: Lab) -> None:
    same = "value=$(cat /proc/sys/kernel/msgmni); echo $value > /proc/sys/kernel/msgmni"
    assert "Read-only" in lab("exec", "lab-worker", "sh", "-c", same, code=2).stderr
    assert "Read-only" in lab("exec", "lab-worker", "touch", "/usr/bin/x", code=1).stderr


def test_outside_sees_the_nodes_address(lab: Lab) -> None:
    assert lab("exec", "lab-worker", "curl", "-s", "http://203.0.113.10").stdout == "172.18.0.3\n"


def test_status_says_what_runs_and_what_it_weighs(lab: Lab) -> None:
    seen = yaml.safe_load(lab("status", "-o", "yaml").stdout)
    assert [(node["ready"], node["agent"], node["kubelet"]) for node in seen["nodes"]] == [
        ("Ready", "running", "running")
    ] * 3
    assert 50e6 < seen["memory_bytes"] < (3e9 if genuine() else 350e6)


def test_daemons_log_what_they_do(lab: Lab) -> None:
    words = (lab.labs / "lab/logs/lab-worker-agent.log").read_text()
    assert " INFO podwire.agent.main cni installed mtu=" in words
    if genuine():
        kinds = ("control-plane-kube-apiserver", "control-plane-etcd", "worker-kubelet", "worker-containerd")
        assert all((lab.labs / f"lab/logs/lab-{kind}.log").stat().st_size for kind in kinds)
        return
    assert "INFO" in (lab.labs / "lab/logs/lab-control-plane-control-plane.log").read_text()
    assert sorted(path.name for path in (lab.labs / "lab/logs").iterdir()) == [
        *("lab-control-plane-agent.log", "lab-control-plane-control-plane.log", "lab-control-plane-kubelet.log"),
        *("lab-control-plane.log", "lab-worker-agent.log", "lab-worker-kubelet.log", "lab-worker.log"),
        *("lab-worker2-agent.log", "lab-worker2-kubelet.log", "lab-worker2.log", "supervisor.log"),
    ]


def test_the_users_kubeconfig_gains_and_loses_one_context(tmp_path: Path) -> None:
    mine = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "mine",
        "contexts": [{"name": "mine", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [],
        "users": [],
    }
    with lab_in(tmp_path) as lab:
        lab.kubeconfig.write_text(yaml.safe_dump(mine))
        lab("up", "--name", "merge", "--nodes", "1")
        assert lab.kubectl("config", "current-context") == "podwire-merge\n"
        lab("down", "--name", "merge")
        assert yaml.safe_load(lab.kubeconfig.read_text()) == mine


def test_without_the_cni_nodes_wait_for_one(tmp_path: Path) -> None:
    text = "kind: Cluster\napiVersion: kind.x-k8s.io/v1alpha4\nname: bare\nnetworking:\n  disableDefaultCNI: true\n"
    with lab_in(tmp_path) as lab:
        lab("up", "--config", "-", stdin=text)
        assert "cni plugin not initialized" in lab.kubectl("describe", "nodes")


def test_extra_ports_and_mounts_lead_into_the_node(tmp_path: Path) -> None:
    (tmp_path / "shown").write_text("from the host\n")
    text = f"""kind: Cluster
apiVersion: kind.x-k8s.io/v1alpha4
name: extra
nodes:
- role: control-plane
  extraPortMappings:
  - {{containerPort: 10250, hostPort: 0}}
  extraMounts:
  - {{hostPath: {tmp_path}/shown, containerPath: /shown, readOnly: true}}
"""
    with lab_in(tmp_path) as lab:
        bad = lab("up", "--config", "-", stdin=text, code=2)
        assert "stdin:7: nodes[0].extraPortMappings[0].hostPort: 0 is not a port number" in bad.stderr
        lab("up", "--config", "-", stdin=text.replace("hostPort: 0", "hostPort: 31999"))
        assert lab("exec", "extra-control-plane", "cat", "/shown").stdout == "from the host\n"
        answer = subprocess.run(
            ["openssl", "s_client", "-connect", "127.0.0.1:31999"],
            input="",
            capture_output=True,
            text=True,
            check=False,
        )
        assert "system:node:extra-control-plane" in answer.stdout
