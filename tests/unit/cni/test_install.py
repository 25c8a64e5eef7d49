"""Files of the node: whole, with safe modes, in order; and both shims against a socket."""

from __future__ import annotations

import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from podwire.agent import cnisocket
from podwire.cni import build, install
from podwire.cni.install import Places


def places(folder: Path) -> Places:
    return Places(folder / "net.d", folder / "bin", folder / "cni.sock", folder / "spool")


def test_install_and_uninstall(tmp_path: Path) -> None:
    shim = tmp_path / "shim"
    shim.write_bytes(b"#!/bin/true\n")
    where = places(tmp_path)
    changed = install.install(shim, 1450, where)
    assert [path.name for path in changed] == ["podwire.paths", "podwire", "05-podwire.conflist"]
    assert install.install(shim, 1450, where) == []
    modes = {path.name: path.stat().st_mode & 0o7777 for path in changed}
    assert modes == {"podwire.paths": 0o644, "podwire": 0o755, "05-podwire.conflist": 0o644}
    listing = json.loads((where.conf_dir / "05-podwire.conflist").read_text())
    assert (listing["cniVersion"], listing["name"]) == ("1.0.0", "k8s-pod-network")
    assert listing["plugins"][0]["ipam"] == {"type": "podwire-ipam"}
    assert [path.name for path in install.uninstall(where)] == ["05-podwire.conflist", "podwire", "podwire.paths"]
    assert install.uninstall(where) == []


def test_a_symlink_is_replaced_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    link = tmp_path / "05-podwire.conflist"
    link.symlink_to(victim)
    assert install.write_atomically(link, b"new", 0o644)
    assert victim.read_text() == "precious"
    assert not link.is_symlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["05-podwire.conflist", "victim"]


@pytest.fixture(params=["c", "python"])
def shim(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    program = tmp_path / "podwire"
    if request.param == "c":
        if shutil.which("cc") is None:
            pytest.skip("no C compiler")
        program.write_bytes(build.build(tmp_path / "cache").read_bytes())
    else:
        program.write_text(build.fallback())
    program.chmod(0o755)
    (tmp_path / "podwire.paths").write_text(f"{tmp_path}/cni.sock\n{tmp_path}/spool\n")
    return program


def call(
    program: Path, command: str, stdin: bytes = b'{"cniVersion":"0.4.0","name":"n"}', **env: str
) -> tuple[int, str]:
    full = {"CNI_COMMAND": command, "CNI_CONTAINERID": "c1", "CNI_IFNAME": "eth0", "CNI_PATH": "/", **env}
    done = subprocess.run([program], env=full, input=stdin, capture_output=True, timeout=30, check=False)
    return done.returncode, done.stdout.decode()


def test_shim_without_agent(shim: Path) -> None:
    for command, code in (("ADD", 11), ("CHECK", 11), ("GC", 11), ("STATUS", 50)):
        status, output = call(shim, command)
        answer = json.loads(output)
        assert (status, answer["code"], answer["cniVersion"]) == (1, code, "0.4.0"), command
    assert json.loads(call(shim, "VERSION")[1])["supportedVersions"][0] == "0.3.0"
    assert call(shim, "DEL") == (0, "")
    assert call(shim, "DEL") == (0, "")
    spooled = (shim.parent / "spool" / "c1.eth0").read_bytes()
    env, stdin = cnisocket.decode_request(spooled)
    assert (env["CNI_COMMAND"], env["PODWIRE_ROLE"]) == ("DEL", "podwire")
    assert json.loads(stdin)["name"] == "n"


def test_shim_forwards_and_passes_the_namespace(shim: Path, tmp_path: Path) -> None:
    seen: list[tuple[dict[str, str], bytes, bool]] = []
    big = b'{"x":"' + b"y" * 300_000 + b'"}'

    def serve(env: dict[str, str], stdin: bytes, fd: int | None) -> tuple[int, bytes]:
        same = fd is not None and os.fstat(fd).st_ino == (tmp_path / "ns").stat().st_ino
        seen.append((env, stdin, same))
        return (0, big) if env["CNI_COMMAND"] == "ADD" else (1, b'{"code":7}')

    (tmp_path / "ns").write_text("")
    server = cnisocket.CniSocket(tmp_path / "cni.sock", serve)
    server.start()
    try:
        assert call(shim, "ADD", stdin=big, CNI_NETNS=str(tmp_path / "ns"), HOME="/secret") == (0, big.decode())
        assert call(shim, "DEL", CNI_NETNS="/does/not/exist") == (1, '{"code":7}')
    finally:
        server.close()
    env, stdin, same = seen[0]
    assert (stdin, same, "HOME" in env) == (big, True, False)
    assert not seen[1][2]


def test_shim_when_the_agent_dies_in_the_middle(shim: Path, tmp_path: Path) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "cni.sock"))
    listener.listen()

    def die() -> None:
        connection, _ = listener.accept()
        connection.recv(10)
        connection.close()

    thread = threading.Thread(target=die)
    thread.start()
    status, output = call(shim, "ADD")
    thread.join()
    listener.close()
    assert (status, json.loads(output)["code"]) == (1, 11)


@pytest.mark.parametrize(
    "raw",
    [b"", b"\0\0\0", struct.pack("=I", 99) + b"A=B\0", struct.pack("=II", 0, 0) + b"more"],
)
def test_broken_requests_are_refused(raw: bytes) -> None:
    with pytest.raises(cnisocket.ProtocolError):
        cnisocket.decode_request(raw)


def test_fallback_imports_only_builtin_modules() -> None:
    assert not {"posix", "sys"} - set(sys.builtin_module_names)
    lines = build.fallback().splitlines()
    assert [line.split()[1] for line in lines if line.startswith("import ")] == ["posix", "sys", "_socket"]
    assert lines[0].endswith(" -ISE")
