"""The agent's socket under callers who mean no good, and under many who do."""

from __future__ import annotations

import array
import errno
import json
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podwire.agent import cnisocket
from podwire.agent.cnisocket import CniSocket, ProtocolError

ENV = {"CNI_COMMAND": "ADD", "CNI_CONTAINERID": "c1"}


def request(stdin: bytes = b"{}", **env: str) -> bytes:
    block = b"".join(f"{key}={value}".encode() + b"\0" for key, value in {**ENV, **env}.items())
    return struct.pack("=I", len(block)) + block + struct.pack("=I", len(stdin)) + stdin


def connect(folder: Path) -> socket.socket:
    made = socket.socket(socket.AF_UNIX)
    made.settimeout(20)
    made.connect(str(folder / "cni.sock"))
    return made


def read_all(connection: socket.socket) -> bytes:
    found = b""
    try:
        while part := connection.recv(65536):
            found += part
    except ConnectionResetError:
        pass  # hung up on what was not read
    return found


def reply(connection: socket.socket) -> tuple[int, bytes]:
    raw = read_all(connection)
    (size,) = struct.unpack_from("=I", raw, 1)
    assert len(raw) == 5 + size
    return raw[0], raw[5:]


class Served:
    """A server that answers with the container's name, and the calls it has seen."""

    def __init__(self) -> None:
        self.calls: list[tuple[dict[str, str], bytes, int | None]] = []
        self.hold = threading.Event()
        self.hold.set()
        self.aside: Callable[[], None] = lambda: None

    def __call__(self, env: dict[str, str], stdin: bytes, fd: int | None) -> tuple[int, bytes]:
        self.calls.append((env, stdin, None if fd is None else os.fstat(fd).st_ino))
        if env.get("CNI_COMMAND") == "ADD" and not self.hold.is_set():
            self.aside()
            self.hold.wait(20)
        if env.get("CNI_COMMAND") == "RAISE":
            raise RuntimeError("oops")
        if env.get("CNI_COMMAND") == "LONG":
            return 0, b"x" * (cnisocket.LIMIT_BYTES + 1)
        return 0, env.get("CNI_CONTAINERID", "").encode()


@pytest.fixture(params=[False, True], ids=["handed over", "by who reads"])
def served(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Served]:
    serve = Served()
    server = CniSocket(tmp_path / "cni.sock", serve, brief=lambda env: request.param)
    serve.aside = server.step_aside
    server.start()
    yield serve
    serve.hold.set()
    server.close()
    assert not (tmp_path / "cni.sock").exists()


def settle(wanted: int) -> None:
    """The agent's end closes its descriptors just after it has replied; of a call before the counting, too, so that in
    the end there may be fewer."""
    end = time.monotonic() + 5
    while descriptors() > wanted:
        assert time.monotonic() < end, f"{descriptors()} descriptors, not {wanted}"
        time.sleep(0.01)


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def works(folder: Path) -> None:
    with connect(folder) as connection:
        connection.sendall(request())
        assert reply(connection) == (0, b"c1")


def test_the_socket_is_for_root(tmp_path: Path, served: Served) -> None:
    assert (tmp_path / "cni.sock").stat().st_mode & 0o777 == 0o600
    works(tmp_path)


def test_byte_by_byte(tmp_path: Path, served: Served) -> None:
    with connect(tmp_path) as connection:
        for byte in request(stdin=b'{"x":1}'):
            connection.sendall(bytes([byte]))
        assert reply(connection) == (0, b"c1")
    assert served.calls[0][1] == b'{"x":1}'


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\0",
        b"GET / HTTP/1.1\r\n\r\n",
        b"\xff" * 100,
        struct.pack("=I", cnisocket.LIMIT_BYTES + 1),
        struct.pack("=I", 99) + b"A=B\0",
        request()[:-1],
        request() + b"more",
    ],
)
def test_garbage_is_refused_and_hurts_nobody(tmp_path: Path, served: Served, raw: bytes) -> None:
    with connect(tmp_path) as connection:
        connection.sendall(raw)
        connection.shutdown(socket.SHUT_WR)
        status, output = reply(connection)
    assert (status, json.loads(output)["code"]) == (1, 6)
    assert served.calls == []
    works(tmp_path)


def test_many_variables_are_refused(tmp_path: Path, served: Served) -> None:
    with connect(tmp_path) as connection:
        connection.sendall(request(**{f"CNI_{n}": "" for n in range(1000)}))
        assert reply(connection)[0] == 1
    works(tmp_path)


def test_a_descriptor_comes_along_and_is_closed(tmp_path: Path, served: Served) -> None:
    (tmp_path / "ns").write_text("")
    works(tmp_path)  # the server's own descriptors are open by now
    served.calls.clear()
    before = descriptors()
    with (tmp_path / "ns").open() as file, connect(tmp_path) as connection:
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [file.fileno()]))
        connection.sendmsg([request()], [rights])
        assert reply(connection)[0] == 0
    assert served.calls[0][2] == (tmp_path / "ns").stat().st_ino
    settle(before)


@pytest.mark.parametrize("messages", [1, 2])
def test_many_descriptors_are_refused_and_closed(tmp_path: Path, served: Served, messages: int) -> None:
    works(tmp_path)
    served.calls.clear()
    before = descriptors()
    for _ in range(5):
        with connect(tmp_path) as connection, Path(os.devnull).open() as file:
            fds = array.array("i", [file.fileno()] * (200 if messages == 1 else 1))
            whole = request()
            for part in [whole] if messages == 1 else [whole[:10], whole[10:20]]:
                connection.sendmsg([part], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
            assert json.loads(reply(connection)[1])["details"] == "more than one descriptor"
    assert served.calls == []
    settle(before)
    works(tmp_path)


def test_silent_callers_hold_up_nobody_and_the_oldest_goes(tmp_path: Path, served: Served) -> None:
    silent = [connect(tmp_path) for _ in range(cnisocket.MAX_WAITING + 5)]
    try:
        works(tmp_path)
        assert json.loads(reply(silent[0])[1])["details"] == "too many calls at once"
    finally:
        for one in silent:
            one.close()


def test_a_caller_who_never_finishes_is_hung_up_on(
    tmp_path: Path, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cnisocket, "CALLER_SECONDS", 0.2)
    with connect(tmp_path) as connection:
        connection.sendall(request()[:20])
        assert "no whole request" in json.loads(reply(connection)[1])["details"]


def test_a_del_does_not_wait_behind_adds(tmp_path: Path, served: Served) -> None:
    served.hold.clear()
    adding = [connect(tmp_path) for _ in range(3 * cnisocket.THREADS)]
    for connection in adding:
        connection.sendall(request())
    with connect(tmp_path) as connection:
        connection.sendall(request(CNI_COMMAND="DEL"))
        assert reply(connection) == (0, b"c1")
    served.hold.set()
    assert {reply(connection) for connection in adding} == {(0, b"c1")}
    for connection in adding:
        connection.close()


def test_one_thread_serves_what_is_brief(tmp_path: Path) -> None:
    seen: set[int] = set()

    def serve(env: dict[str, str], stdin: bytes, fd: int | None) -> tuple[int, bytes]:
        seen.add(threading.get_ident())
        return 0, b""

    server = CniSocket(tmp_path / "cni.sock", serve, brief=lambda env: env["CNI_COMMAND"] == "DEL")
    server.start()
    for command in ["DEL"] * 20 + ["GC"]:
        with connect(tmp_path) as connection:
            connection.sendall(request(CNI_COMMAND=command))
            assert reply(connection) == (0, b"")
    server.close()
    assert len(seen) == 2, "the one that reads, and one for what takes long"


def test_a_call_in_flight_is_answered_at_the_end(tmp_path: Path) -> None:
    serve = Served()
    server = CniSocket(tmp_path / "cni.sock", serve, brief=lambda env: True)
    serve.aside, closing = server.step_aside, threading.Thread(target=server.close)
    server.start()
    serve.hold.clear()
    with connect(tmp_path) as connection:
        connection.sendall(request())
        until(lambda: bool(serve.calls))
        closing.start()
        serve.hold.set()
        assert reply(connection) == (0, b"c1")
    closing.join(20)
    assert not closing.is_alive()


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not true():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_many_at_once(tmp_path: Path, served: Served) -> None:
    def one(number: int) -> tuple[int, bytes]:
        with connect(tmp_path) as connection:
            connection.sendall(request(CNI_CONTAINERID=f"c{number}"))
            return reply(connection)

    with ThreadPoolExecutor(32) as pool:
        assert list(pool.map(one, range(300))) == [(0, f"c{number}".encode()) for number in range(300)]


@pytest.mark.parametrize("command", ["RAISE", "LONG"])
def test_a_server_that_fails_answers(tmp_path: Path, served: Served, command: str) -> None:
    with connect(tmp_path) as connection:
        connection.sendall(request(CNI_COMMAND=command))
        status, output = reply(connection)
    assert (status, json.loads(output)["code"]) == (1, 999)


def test_a_caller_who_leaves_before_the_answer(tmp_path: Path, served: Served) -> None:
    served.hold.clear()
    connection = connect(tmp_path)
    connection.sendall(request())
    connection.close()
    served.hold.set()
    works(tmp_path)


def test_out_of_descriptors_is_a_moment_not_the_end(
    tmp_path: Path, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    accept, failures = socket.socket.accept, [errno.EMFILE, errno.ECONNABORTED, errno.ENFILE]

    def failing(self: socket.socket) -> Any:
        if failures:
            number = failures.pop()
            raise OSError(number, os.strerror(number))
        return accept(self)

    monkeypatch.setattr(socket.socket, "accept", failing)
    works(tmp_path)
    assert failures == []


def test_a_successor_takes_the_path(tmp_path: Path) -> None:
    first, second = Served(), Served()
    old = CniSocket(tmp_path / "cni.sock", first)
    old.start()
    new = CniSocket(tmp_path / "cni.sock", second)
    new.start()
    works(tmp_path)
    assert (len(first.calls), len(second.calls)) == (0, 1)
    new.close()
    old.close()


@pytest.mark.parametrize(
    "raw",
    [b"", b"\0\0\0", struct.pack("=I", 99) + b"A=B\0", struct.pack("=II", 0, 0) + b"more"],
)
def test_broken_files_are_refused(raw: bytes) -> None:
    with pytest.raises(ProtocolError):
        cnisocket.decode_request(raw)


@given(st.binary(max_size=60))
def test_any_file_is_a_request_or_refused(raw: bytes) -> None:
    try:
        env, stdin = cnisocket.decode_request(raw)
    except ProtocolError:
        return
    assert isinstance(env, dict)
    assert isinstance(stdin, bytes)
