"""Both shims against one contract: what goes to the agent, what comes back, and what they say when nobody answers."""

from __future__ import annotations

import ctypes
import json
import os
import platform
import re
import shutil
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from podwire.agent import cnisocket
from podwire.cni import build, errors

CONFIG = b'{"cniVersion":"0.4.0","name":"n"}'
LIMIT = cnisocket.LIMIT_BYTES


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    if shutil.which("cc") is None:
        pytest.fail("the shim's contract needs a C compiler")
    return build.build(tmp_path_factory.mktemp("cache")).read_bytes()


@pytest.fixture(params=["c", "python"])
def shim(request: pytest.FixtureRequest, tmp_path: Path, compiled: bytes) -> Path:
    program = tmp_path / "podwire"
    program.write_bytes(compiled if request.param == "c" else build.fallback().encode())
    program.chmod(0o755)
    (tmp_path / "podwire.paths").write_text(f"{tmp_path}/cni.sock\n{tmp_path}/spool\n")
    return program


def call(program: Path, command: str, stdin: bytes = CONFIG, **env: str) -> tuple[int, str]:
    full = {"CNI_COMMAND": command, "CNI_CONTAINERID": "c1", "CNI_IFNAME": "eth0", "CNI_PATH": "/", **env}
    done = subprocess.run([program], env=full, input=stdin, capture_output=True, timeout=60, check=False)
    assert done.stderr == b""
    return done.returncode, done.stdout.decode()


def refusal(program: Path, command: str, stdin: bytes = CONFIG, **env: str) -> dict[str, Any]:
    status, output = call(program, command, stdin, **env)
    assert status == 1
    answer: dict[str, Any] = json.loads(output)
    return answer


@contextmanager
def agent(folder: Path, serve: cnisocket.Serve) -> Iterator[None]:
    server = cnisocket.CniSocket(folder / "cni.sock", serve)
    server.start()
    try:
        yield
    finally:
        server.close()


@contextmanager
def agent_that(folder: Path, behave: Callable[[socket.socket], None]) -> Iterator[None]:
    """An agent for one call, which does as told and hangs up."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(folder / "cni.sock"))
    listener.listen()

    def run() -> None:
        connection, _ = listener.accept()
        with connection:
            behave(connection)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        thread.join()
        listener.close()
        (folder / "cni.sock").unlink()


def test_nobody_listens(shim: Path) -> None:
    for command, code in (("ADD", 11), ("CHECK", 11), ("GC", 11), ("STATUS", 50)):
        answer = refusal(shim, command)
        assert (answer["code"], answer["cniVersion"]) == (code, "0.4.0"), command
        assert answer["details"] == str(shim.parent / "cni.sock")
    assert call(shim, "DEL", b'{"name":"older"}') == (0, "")
    assert call(shim, "DEL", TRACEPARENT="00-1") == (0, "")
    (spooled,) = (shim.parent / "spool").iterdir()
    assert (spooled.name, spooled.stat().st_mode & 0o777) == ("podwire,c1,eth0", 0o600)
    assert (shim.parent / "spool").stat().st_mode & 0o777 == 0o700
    env, stdin = cnisocket.decode_request(spooled.read_bytes())
    assert (env["CNI_COMMAND"], env["PODWIRE_ROLE"], env["TRACEPARENT"]) == ("DEL", "podwire", "00-1")
    assert json.loads(stdin)["name"] == "n"


def test_a_fifo_for_a_namespace_holds_nobody_up(shim: Path) -> None:
    """Opening one for reading waits for a writer who never comes."""
    fifo, seen = shim.parent / "fifo", []
    os.mkfifo(fifo)

    def serve(env: dict[str, str], stdin: bytes, netns: int | None) -> tuple[int, bytes]:
        assert netns is not None
        seen.append(os.fstat(netns).st_ino)
        return 0, b"{}"

    with agent(shim.parent, serve):
        assert call(shim, "ADD", CNI_NETNS=str(fifo)) == (0, "{}")
    assert seen == [fifo.stat().st_ino]


@pytest.mark.parametrize(
    ("env", "words"),
    [
        ({"CNI_CONTAINERID": "../c"}, "CNI_CONTAINERID"),
        ({"CNI_CONTAINERID": ".c"}, "CNI_CONTAINERID"),
        ({"CNI_CONTAINERID": "a,b"}, "CNI_CONTAINERID"),
        ({"CNI_CONTAINERID": ""}, "CNI_CONTAINERID"),
        ({"CNI_CONTAINERID": "x" * 201}, "CNI_CONTAINERID"),
        ({"CNI_IFNAME": "a/b"}, "CNI_IFNAME"),
        ({"CNI_IFNAME": ".."}, "CNI_IFNAME"),
        ({"CNI_IFNAME": 'quote"'}, None),
        ({"CNI_IFNAME": "x" * 16}, "CNI_IFNAME"),
        ({"CNI_IFNAME": "a\nb"}, "CNI_IFNAME"),
        ({"CNI_CONTAINERID": "x" * 200, "CNI_IFNAME": "y" * 15}, None),
    ],
)
def test_names_that_cannot_be_kept(shim: Path, env: dict[str, str], words: str | None) -> None:
    if words is None:
        assert call(shim, "DEL", **env) == (0, "")
        assert len(list((shim.parent / "spool").iterdir())) == 1
        return
    answer = refusal(shim, "DEL", **env)
    assert answer["code"] == 4
    assert words in answer["msg"]
    assert not (shim.parent / "spool").exists()


def test_names_that_look_alike_are_kept_apart(shim: Path) -> None:
    assert call(shim, "DEL", CNI_CONTAINERID="a.b", CNI_IFNAME="c")[0] == 0
    assert call(shim, "DEL", CNI_CONTAINERID="a", CNI_IFNAME="b.c")[0] == 0
    assert {path.name for path in (shim.parent / "spool").iterdir()} == {"podwire,a.b,c", "podwire,a,b.c"}


def no_fsync() -> None:
    """In the child: fsync answers EIO (a seccomp filter of four instructions)."""
    number = {"x86_64": 74, "aarch64": 82}[platform.machine()]
    code = [(0x20, 0, 0, 0), (0x15, 0, 1, number), (0x06, 0, 0, 0x00050000 | 5), (0x06, 0, 0, 0x7FFF0000)]
    program = b"".join(struct.pack("=HBBI", *one) for one in code)
    memory = ctypes.create_string_buffer(program)
    header = ctypes.create_string_buffer(struct.pack("@HP", len(code), ctypes.addressof(memory)))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, ctypes.byref(header), 0, 0):
        os._exit(99)


def test_what_is_not_on_the_disk_is_not_promised(shim: Path) -> None:
    env = {"CNI_COMMAND": "DEL", "CNI_CONTAINERID": "c1", "CNI_IFNAME": "eth0", "CNI_PATH": "/"}
    done = subprocess.run([shim], env=env, input=CONFIG, capture_output=True, check=False, preexec_fn=no_fsync)
    answer = json.loads(done.stdout)
    assert (done.returncode, answer["code"], answer["details"]) == (1, 11, "Input/output error")
    assert list((shim.parent / "spool").iterdir()) == []


def test_a_spool_that_is_no_directory(shim: Path) -> None:
    (shim.parent / "spool").write_text("in the way")
    assert refusal(shim, "DEL")["code"] == 11
    assert (shim.parent / "spool").read_text() == "in the way"


def test_a_symlink_in_the_spool_is_replaced_not_followed(shim: Path) -> None:
    victim, spool = shim.parent / "victim", shim.parent / "spool"
    victim.write_text("precious")
    spool.mkdir(mode=0o700)
    (spool / "podwire,c1,eth0").symlink_to(victim)
    assert call(shim, "DEL") == (0, "")
    assert victim.read_text() == "precious"
    assert not (spool / "podwire,c1,eth0").is_symlink()


@pytest.mark.parametrize("name", ["portmap", "podwire-ipam", "host-local"])
@pytest.mark.parametrize("link", [os.link, os.symlink])
def test_the_name_is_the_role(shim: Path, tmp_path: Path, name: str, link: Callable[[Path, Path], None]) -> None:
    link(shim, tmp_path / name)
    with agent(tmp_path, lambda env, stdin, fd: (0, env["PODWIRE_ROLE"].encode())):
        assert call(tmp_path / name, "ADD") == (0, name)
    assert call(tmp_path / name, "DEL") == (0, "")
    assert (tmp_path / "spool" / f"{name},c1,eth0").exists()


def test_forwards_and_passes_the_namespace(shim: Path, tmp_path: Path) -> None:
    seen: list[tuple[dict[str, str], bytes, bool]] = []
    big = b'{"x":"' + b"y" * 300_000 + b'"}'

    def serve(env: dict[str, str], stdin: bytes, fd: int | None) -> tuple[int, bytes]:
        same = fd is not None and os.fstat(fd).st_ino == (tmp_path / "ns").stat().st_ino
        seen.append((env, stdin, same))
        return (0, big) if env["CNI_COMMAND"] == "ADD" else (1, b'{"code":7}')

    (tmp_path / "ns").write_text("")
    with agent(tmp_path, serve):
        assert call(shim, "ADD", stdin=big, CNI_NETNS=str(tmp_path / "ns"), HOME="/secret") == (0, big.decode())
        assert call(shim, "DEL", CNI_NETNS="/does/not/exist") == (1, '{"code":7}')
    env, stdin, same = seen[0]
    assert (stdin, same, "HOME" in env) == (big, True, False)
    assert not seen[1][2]


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"\0",
        b"\0" + struct.pack("=I", 20) + b'{"ips":[',
        b"\0" + struct.pack("=I", LIMIT + 1) + b"x",
        b"\1\xff\xff\xff\xff",
    ],
)
def test_half_a_reply_is_none(shim: Path, tmp_path: Path, sent: bytes) -> None:
    def behave(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(sent)

    with agent_that(tmp_path, behave):
        assert refusal(shim, "ADD")["code"] == 11
    with agent_that(tmp_path, behave):
        assert refusal(shim, "STATUS")["code"] == 50
    with agent_that(tmp_path, behave):
        assert call(shim, "DEL") == (0, "")
    assert (tmp_path / "spool" / "podwire,c1,eth0").exists()


def test_an_agent_that_dies_with_the_request_unread(shim: Path, tmp_path: Path) -> None:
    with agent_that(tmp_path, lambda connection: None):
        assert refusal(shim, "ADD", b'{"x":"' + b"y" * 900_000 + b'"}')["code"] == 11


@pytest.mark.parametrize(
    ("config", "told"),
    [
        (b'{"cniVersion":"1.1.0"}', "1.1.0"),
        (b'{ "cniVersion" :\n "0.3.1" }', "0.3.1"),
        (b'{"cniVersion":"1.0.0\\""}', "1.0.0"),
        (b'{"cniVersion":"<b>"}', "1.0.0"),
        (b'{"cniVersion":"1234567890123456"}', "1.0.0"),
        (b'{"cniVersion":7}', "1.0.0"),
        (b'{"cniVersion":""}', "1.0.0"),
        (b'\0{"cniVersion":"0.4.0"}', "1.0.0"),
        (b'{"cniVersion"', "1.0.0"),
        (b"", "1.0.0"),
    ],
)
def test_the_version_is_echoed(shim: Path, config: bytes, told: str) -> None:
    assert refusal(shim, "ADD", config)["cniVersion"] == told


@pytest.mark.parametrize(("config", "told"), [(b'{"cniVersion":"0.4.0"}', "0.4.0"), (b"", "1.1.0"), (b"x", "1.1.0")])
def test_version(shim: Path, config: bytes, told: str) -> None:
    status, output = call(shim, "VERSION", config)
    assert (status, json.loads(output)) == (0, {"cniVersion": told, "supportedVersions": list(errors.VERSIONS)})


def test_version_of_a_silent_caller(shim: Path) -> None:
    reader, writer = os.pipe()
    try:
        done = subprocess.run([shim], env={"CNI_COMMAND": "VERSION"}, stdin=reader, capture_output=True, check=True)
    finally:
        os.close(reader)
        os.close(writer)
    assert json.loads(done.stdout)["cniVersion"] == "1.1.0"


@pytest.mark.parametrize("size", [LIMIT, LIMIT + 1])
def test_the_limit_of_stdin(shim: Path, tmp_path: Path, size: int) -> None:
    config = b'{"cniVersion":"0.4.0","x":"'
    config += b"y" * (size - len(config) - 2) + b'"}'
    with agent(tmp_path, lambda env, stdin, fd: (0, str(len(stdin)).encode())):
        status, output = call(shim, "ADD", config)
    if size == LIMIT:
        assert (status, output) == (0, str(LIMIT))
    else:
        answer = json.loads(output)
        assert (status, answer["code"], answer["cniVersion"]) == (1, 5, "0.4.0")
        assert "too large" in answer["msg"]


def test_closed_stdin(shim: Path) -> None:
    env = {"CNI_COMMAND": "DEL", "CNI_CONTAINERID": "c1", "CNI_IFNAME": "eth0"}
    done = subprocess.run(["/bin/sh", "-c", f"exec {shim} <&-"], env=env, capture_output=True, check=False)
    assert (done.returncode, json.loads(done.stdout)["code"]) == (1, 5)
    assert not (shim.parent / "spool").exists()


def test_nobody_reads_the_answer(shim: Path, tmp_path: Path) -> None:
    env = {"CNI_COMMAND": "ADD", "CNI_CONTAINERID": "c1", "CNI_IFNAME": "eth0"}
    reader, writer = os.pipe()
    os.close(reader)
    with agent(tmp_path, lambda env, stdin, fd: (0, b"x" * 200_000)):
        done = subprocess.run([shim], env=env, input=CONFIG, stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, b"")


def test_words_are_escaped(shim: Path) -> None:
    odd = shim.parent / 'a"b\\c\td'
    (shim.parent / "podwire.paths").write_text(f"{odd}\n{shim.parent}/spool\n")
    assert refusal(shim, "ADD")["details"] == str(odd).replace("\t", "?")


def test_a_broken_file_of_paths(shim: Path) -> None:
    (shim.parent / "podwire.paths").write_text("/only/one\n")
    answer = refusal(shim, "ADD")
    assert (answer["code"], answer["details"]) == (5, str(shim.parent / "podwire.paths"))


def test_no_command_is_a_human(shim: Path) -> None:
    done = subprocess.run([shim], env={}, capture_output=True, check=True)
    assert done.stdout == b""
    assert b"1.1.0" in done.stderr


def test_fallback_imports_only_builtin_modules() -> None:
    assert not {"posix", "sys", "marshal"} - set(sys.builtin_module_names)
    lines = build.fallback().splitlines()
    assert [line.split()[1] for line in lines if line.startswith("import ")] == ["marshal", "sys"]
    assert lines[0].endswith(" -ISE")
    source = (Path(build.__file__).parent / "fallback_shim.txt").read_text()
    assert re.findall(r"^import (\S+)", source, re.MULTILINE) == ["posix", "sys", "_socket"]


def test_fallback_serves_another_interpreter_from_its_source(tmp_path: Path) -> None:
    program = tmp_path / "podwire"
    program.write_text(re.sub(r"sys\.hexversion == \d+", "sys.hexversion == 0", build.fallback()))
    program.chmod(0o755)
    done = subprocess.run([program], env={"CNI_COMMAND": "VERSION"}, input=b"{}", capture_output=True, check=True)
    assert json.loads(done.stdout)["cniVersion"] == "1.1.0"
