"""Kept DELs come before what is newer, are done once, and lose nothing on a failure."""

from __future__ import annotations

import json
import os
import struct
import threading
from pathlib import Path

import pytest

from podwire.agent.spool import Spool

NAME = "podwire,c1,eth0"


def environment(command: str, **rest: str) -> dict[str, str]:
    own = {"CNI_COMMAND": command, "PODWIRE_ROLE": "podwire", "CNI_CONTAINERID": "c1", "CNI_IFNAME": "eth0"}
    return {**own, **rest}


def keep(folder: Path, name: str = NAME, command: str = "DEL", stdin: bytes = b"{}", **env: str) -> Path:
    entries = environment(command, CNI_NETNS="/proc/7/ns/net", **env).items()
    block = b"".join(f"{key}={value}".encode() + b"\0" for key, value in entries)
    path = folder / name
    path.write_bytes(struct.pack("=I", len(block)) + block + struct.pack("=I", len(stdin)) + stdin)
    return path


class Inner:
    """An attacher that notes calls and answers as told."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.code = 0
        self.namespaces: list[str] = []
        self.go = threading.Event()
        self.go.set()

    def __call__(self, env: dict[str, str], stdin: bytes, netns: int | None) -> tuple[int, bytes]:
        assert self.go.wait(20)
        self.calls.append(f"{env['CNI_COMMAND']} {env['CNI_CONTAINERID']}")
        self.namespaces.append(env.get("CNI_NETNS", ""))
        if env["CNI_COMMAND"] == "DEL" and self.code:
            return 1, json.dumps({"code": self.code, "msg": "no"}, separators=(",", ":")).encode()
        return 0, b""


@pytest.fixture
def inner() -> Inner:
    return Inner()


def test_done_at_the_start(tmp_path: Path, inner: Inner) -> None:
    keep(tmp_path)
    keep(tmp_path, "podwire,c2,eth0", CNI_CONTAINERID="c2")
    spool = Spool(tmp_path, inner)
    spool.start()
    spool.stop()
    assert inner.calls == ["DEL c1", "DEL c2"]
    assert inner.namespaces == ["", ""]  # the path may be another's by now
    assert list(tmp_path.iterdir()) == []


def test_no_spool_is_no_trouble(tmp_path: Path, inner: Inner) -> None:
    assert Spool(tmp_path / "none", inner).drain() == 0


@pytest.mark.parametrize("command", ["ADD", "CHECK"])
def test_a_kept_del_comes_before_a_later_call(tmp_path: Path, inner: Inner, command: str) -> None:
    path = keep(tmp_path)
    spool = Spool(tmp_path, inner)
    assert spool.serve(environment(command), b"{}", None) == (0, b"")
    assert inner.calls == ["DEL c1", f"{command} c1"]
    assert not path.exists()
    spool.drain()
    assert inner.calls == ["DEL c1", f"{command} c1"]


def test_other_roles_and_attachments_do_not_wait(tmp_path: Path, inner: Inner) -> None:
    keep(tmp_path)
    spool = Spool(tmp_path, inner)
    for other in ({"PODWIRE_ROLE": "portmap"}, {"CNI_CONTAINERID": "c9"}, {"CNI_IFNAME": "net1"}):
        spool.serve(environment("ADD", **other), b"{}", None)
    assert not [call for call in inner.calls if call.startswith("DEL")]


def test_an_add_waits_while_the_del_is_being_done(tmp_path: Path, inner: Inner) -> None:
    keep(tmp_path)
    spool = Spool(tmp_path, inner)
    inner.go.clear()
    drain = threading.Thread(target=spool.drain)
    add = threading.Thread(target=lambda: spool.serve(environment("ADD"), b"{}", None))
    drain.start()
    add.start()
    inner.go.set()
    drain.join()
    add.join()
    assert inner.calls == ["DEL c1", "ADD c1"]


def test_a_del_that_fails_stays_and_holds_back_the_add(tmp_path: Path, inner: Inner) -> None:
    path = keep(tmp_path)
    spool = Spool(tmp_path, inner)
    inner.code = 11
    assert spool.drain() == 0
    status, output = spool.serve(environment("ADD"), b"{}", None)
    assert (status, json.loads(output)["code"]) == (1, 11)
    assert path.exists()
    inner.code = 0
    assert spool.serve(environment("ADD"), b"{}", None) == (0, b"")
    assert inner.calls[-2:] == ["DEL c1", "ADD c1"]


def test_a_newer_del_takes_the_place(tmp_path: Path, inner: Inner) -> None:
    path = keep(tmp_path)
    spool = Spool(tmp_path, inner)
    inner.code = 11
    assert spool.serve(environment("DEL"), b"{}", None)[0] == 1
    assert path.exists()
    inner.code = 0
    assert spool.serve(environment("DEL"), b"{}", None) == (0, b"")
    assert not path.exists()
    assert inner.calls == ["DEL c1", "DEL c1"]


def test_what_nobody_understands_is_set_aside(tmp_path: Path, inner: Inner) -> None:
    (tmp_path / "podwire,a,eth0").write_bytes(b"garbage")
    keep(tmp_path, "podwire,b,eth0", command="ADD")
    (tmp_path / "podwire,c,eth0").mkdir()
    os.mkfifo(tmp_path / "podwire,d,eth0")
    victim = tmp_path.parent / "victim"
    victim.write_bytes(keep(tmp_path, "podwire,e,eth0").read_bytes())
    (tmp_path / "podwire,e,eth0").unlink()
    (tmp_path / "podwire,e,eth0").symlink_to(victim)
    spool = Spool(tmp_path, inner)
    spool.drain()
    assert inner.calls == []
    assert sorted(path.name for path in tmp_path.iterdir()) == [f".broken.podwire,{c},eth0" for c in "abcde"]
    inner.code = 6
    keep(tmp_path)
    spool.drain()
    spool.drain()
    assert inner.calls == ["DEL c1"]
    assert (tmp_path / f".broken.{NAME}").exists()


def test_leavings_of_killed_shims_go_when_they_are_old(tmp_path: Path, inner: Inner) -> None:
    old, fresh = tmp_path / ".17", tmp_path / ".18"
    old.write_text("half")
    fresh.write_text("half")
    os.utime(old, (1, 1))
    Spool(tmp_path, inner).drain()
    assert [path.name for path in tmp_path.iterdir()] == [".18"]


@pytest.mark.parametrize("name", ["../x", "a/b", "", "\0"])
def test_names_do_not_lead_elsewhere(tmp_path: Path, inner: Inner, name: str) -> None:
    (tmp_path / "spool").mkdir()
    keep(tmp_path, "x,eth0")
    spool = Spool(tmp_path / "spool", inner)
    spool.serve(environment("ADD", CNI_CONTAINERID=name), b"{}", None)
    assert inner.calls == [f"ADD {name}"]
