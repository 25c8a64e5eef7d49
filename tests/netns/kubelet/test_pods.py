"""Whole pods, for real: namespaces, a CNI plugin, runc. Each scene is a program in namespaces of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(os.geteuid() != 0 or shutil.which("runc") is None, reason="needs root and runc")
SCENES = Path(__file__).with_name("scenarios.py")
ROOT = SCENES.parents[3]
CGROUPS = Path("/sys/fs/cgroup")


def play(scene: str, cgroup: str = "") -> str:
    """Run a scene; what it printed. Everything in it dies with its first process."""
    enter = ["unshare", "--net", "--mount", "--pid", "--fork", "--ipc", "--uts", "--mount-proc", "--kill-child"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    argv = [*enter, sys.executable, str(SCENES), scene, cgroup]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("scene", ["lifecycle", "restarts", "broken_cni", "survives", "features", "orphans"])
def test_scene(scene: str) -> None:
    play(scene)


@pytest.mark.skipif(not os.access(CGROUPS, os.W_OK), reason="control groups cannot be written here")
def test_limits_reach_control_groups() -> None:
    parent = f"podwire-test-{os.getpid()}"
    try:
        play("limits", f"/{parent}")
    finally:
        for place in [CGROUPS / parent, *(one / parent for one in CGROUPS.iterdir())]:
            for directory, _, _ in os.walk(place, topdown=False):
                Path(directory).rmdir()
