"""Killed with -9, half done, refused: the lab comes back, or goes, and leaves nothing."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from host import PODWIRE, Lab, untouched

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    with untouched(tmp_path) as one:
        yield one


def test_the_control_planes_node_comes_back_with_everything(lab: Lab) -> None:
    lab("up", "--nodes", "2")
    lab.kubectl("create", "configmap", "kept", "--from-literal=a=b")
    port = lab("kubeconfig").stdout.partition("server: ")[2].split()[0]
    os.kill(lab.processes()["podwire node lab-control-plane"], signal.SIGKILL)
    lab("up")
    assert lab.kubectl("get", "configmap", "kept", "-o", "jsonpath={.data.a}") == "b"
    assert lab("kubeconfig").stdout.partition("server: ")[2].split()[0] == port
    lab.kubectl("wait", "--for=condition=Ready", "nodes", "--all", "--timeout=30s")


def half_done(lab: Lab, seconds: float) -> None:
    """An `up` that is killed after that time."""
    half = subprocess.Popen([PODWIRE, "lab", "up"], env=lab.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(seconds)
    half.kill()
    half.wait()


@pytest.mark.parametrize("seconds", [0.1, 0.3, 0.6])
def test_a_half_done_up_is_taken_up(lab: Lab, seconds: float) -> None:
    half_done(lab, seconds)
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        os.kill(lab.supervisor(), signal.SIGKILL)
    assert "3 nodes, all Ready" in lab("up").stdout
    lab("down")


KILLED_AT_THE_FORK = """
import os, signal, time
from podwire.lab import keeper, supervisor, syscalls
unshare, become_daemon = syscalls.unshare, keeper.become_daemon
def unshare_as_an_orphan(flags):
    if flags == supervisor._NEW:
        os.kill(os.getppid(), signal.SIGKILL)
    unshare(flags)
def become_daemon_slowly(*args):
    time.sleep(0.3)
    become_daemon(*args)
syscalls.unshare, keeper.become_daemon = unshare_as_an_orphan, become_daemon_slowly
from podwire.cli.main import main
main()
"""


def test_an_up_that_is_killed_while_it_forks_leaves_no_second_supervisor(lab: Lab) -> None:
    """The process in between finds nobody to tell: it must end, not clean up as the command would have."""
    words = [sys.executable, "-c", KILLED_AT_THE_FORK, "lab", "up"]
    assert subprocess.run(words, env=lab.env, capture_output=True, check=False).returncode == -signal.SIGKILL
    assert "3 nodes, all Ready" in lab("up").stdout
    lab("down")


@pytest.mark.parametrize("seconds", [0.15, 0.25, 0.4, 0.8])
def test_a_half_done_up_is_taken_down(lab: Lab, seconds: float) -> None:
    half_done(lab, seconds)
    lab("down")


def test_an_up_that_nobody_reads_is_brought_to_its_end(lab: Lab) -> None:
    words = f"{PODWIRE} lab up --nodes 1 2>&1 | head -n 1"
    done = subprocess.run(["sh", "-c", words], env=lab.env, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.count("\n") == 1 and done.stderr == ""
    assert "nothing was changed" in lab("up").stdout
    lab("down")


@pytest.mark.parametrize("words", ["network between the nodes is there", "the API answers"])
def test_an_up_that_is_interrupted_leaves_no_lab(lab: Lab, words: str) -> None:
    up = subprocess.Popen([PODWIRE, "lab", "up"], env=lab.env, stderr=subprocess.PIPE, text=True)
    assert up.stderr is not None
    while words not in up.stderr.readline():
        assert up.poll() is None
    up.send_signal(signal.SIGINT)
    said = up.communicate(timeout=60)[1]
    assert up.returncode == 130 and "interrupted" in said, said
    assert not lab.labs.exists()


def test_a_failed_up_leaves_nothing(lab: Lab) -> None:
    text = (
        "kind: Cluster\napiVersion: kind.x-k8s.io/v1alpha4\nnodes:\n- role: control-plane\n"
        "  extraMounts: [{hostPath: /nosuch, containerPath: /x}]\n"
    )
    assert "hostPath /nosuch does not exist" in lab("up", "--config", "-", stdin=text, code=1).stderr
    assert not lab.labs.exists()
