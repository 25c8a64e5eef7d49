"""State on disk: locks, records, cgroup directories, rootless settings."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from podwire.lab import cgroups, rootless, topology
from podwire.lab.state import LabError, LabState, Supervisor, kill_and_wait, locked, write_atomically


def test_the_plan_is_remembered(tmp_path: Path) -> None:
    state = LabState("lab", tmp_path)
    state.create()
    plan = topology.build(topology.LabSpec())
    state.write_plan(plan)
    assert state.read_plan() == plan
    assert (state.pki.stat().st_mode & 0o777, state.cluster.stat().st_mode & 0o777) == (0o700, 0o700)


def test_a_damaged_plan_says_how_to_go_on(tmp_path: Path) -> None:
    state = LabState("lab", tmp_path)
    state.create()
    (state.directory / "plan.json").write_text("{")
    with pytest.raises(LabError, match="podwire lab down"):
        state.read_plan()


def test_a_supervisor_is_known_by_pid_start_and_boot(tmp_path: Path) -> None:
    state = LabState("lab", tmp_path)
    state.create()
    child = os.fork()
    if child == 0:
        signal.pause()
        os._exit(0)
    state.record_supervisor(child)
    found = state.supervisor()
    assert found is not None and found.pid == child
    assert not Supervisor(child, found.started + 1, found.boot).alive()
    assert not Supervisor(child, found.started, "another boot").alive()
    kill_and_wait(found)  # a zombie counts as gone
    os.waitpid(child, 0)
    assert state.supervisor() is None


def test_the_second_waits_for_the_lock_and_says_so(tmp_path: Path) -> None:
    state = LabState("lab", tmp_path / "labs")
    (reading, writing), (begins, begin) = os.pipe(), os.pipe()
    child = os.fork()  # before the lock is taken: it would be the child's as well
    if child == 0:
        os.dup2(writing, 2)
        os.read(begins, 1)
        with locked(state):
            os.write(2, b"has it")
        os._exit(0)
    os.close(writing)
    with locked(state):
        os.write(begin, b"x")
        assert b"waiting for it" in os.read(reading, 1000)
        assert os.waitpid(child, os.WNOHANG) == (0, 0)
    assert os.waitpid(child, 0)[1] == 0
    assert os.read(reading, 1000) == b"has it"
    for descriptor in (reading, begins, begin):
        os.close(descriptor)
    assert not (tmp_path / "labs").exists()


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(TypeError):
        write_atomically(path, None)  # type: ignore[arg-type]
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


MOUNTS = (
    "cgroup /sys/fs/cgroup/cpu cgroup rw 0 0\ncgroup2 /sys/fs/cgroup/a\\040b cgroup2 rw 0 0\nproc /proc proc rw 0 0\n"
)


def test_hierarchies_are_read_from_mounts() -> None:
    assert cgroups.hierarchies(MOUNTS) == [Path("/sys/fs/cgroup/cpu"), Path("/sys/fs/cgroup/a b")]


def test_cgroup_directories_come_and_go(tmp_path: Path) -> None:
    assert cgroups.create("podwire-lab", ["a", "b"], [tmp_path])
    assert (tmp_path / "podwire-lab" / "b").is_dir()
    assert cgroups.create("podwire-lab", ["a", "b"], [tmp_path])
    cgroups.remove("podwire-lab", [tmp_path])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("setting", "value", "words"),
    [
        ("kernel/unprivileged_userns_clone", "0", ["sysctl -w kernel.unprivileged_userns_clone=1"]),
        ("user/max_user_namespaces", "0", ["sysctl -w user.max_user_namespaces=15000"]),
        (
            "kernel/apparmor_restrict_unprivileged_userns",
            "1",
            ["sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"],
        ),
        ("user/max_user_namespaces", "100", []),
    ],
)
def test_the_setting_that_forbids_is_named(tmp_path: Path, setting: str, value: str, words: list[str]) -> None:
    path = tmp_path / "proc/sys" / setting
    path.parent.mkdir(parents=True)
    path.write_text(value + "\n")
    assert rootless.forbidding(tmp_path) == words


def test_sub_ranges_by_name_or_number(tmp_path: Path) -> None:
    path = tmp_path / "subuid"
    path.write_text("other:1:2\nme:100000:65536\n1000:7:8\n")
    assert rootless.sub_range("me", 5, str(path)) == (100000, 65536)
    assert rootless.sub_range("x", 1000, str(path)) == (7, 8)
    assert rootless.sub_range("x", 1, str(path)) is None
