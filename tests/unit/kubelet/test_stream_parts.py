"""The parts of streaming that need no client: log selection, terminal sizes, the final status, queries, namespaces."""

import asyncio
import errno
import io
import json
import os
import socket
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podwire.kubelet import containerlogs, fdio, remotecommand
from podwire.kubelet.containerlogs import LogOptions, options, render, tail_offset
from podwire.kubelet.portforward import query_ports
from podwire.kubelet.remotecommand import Options, Refused, Sizes, outcome
from podwire.kubelet.runtime import ExecProcess
from podwire.kubelet.sockets import socket_in

LINE = b"2026-01-01T00:00:01.5Z stdout F text of it"


@pytest.mark.parametrize(
    ("line", "wanted", "result"),
    [
        (LINE, LogOptions(), b"text of it\n"),
        (LINE.replace(b" F ", b" P "), LogOptions(), b"text of it"),
        (LINE, LogOptions(timestamps=True), b"2026-01-01T00:00:01.5Z text of it\n"),
        (LINE, LogOptions(stream="Stderr"), b""),
        (LINE, LogOptions(since=1767225601.4), b"text of it\n"),
        (LINE, LogOptions(since=1767225601.6), b""),
        (b"2026-01-01T00:00:01.5Z stdout F ", LogOptions(), b"\n"),
        (b"rubbish", LogOptions(), b""),
        (b"", LogOptions(), b""),
    ],
)
def test_lines(line: bytes, wanted: LogOptions, result: bytes) -> None:
    assert render(line, wanted) == result


def test_log_queries() -> None:
    got = options({"follow": ["true"], "tailLines": ["5"], "limitBytes": ["9"], "sinceSeconds": ["10"]}, now=100)
    assert got == LogOptions(follow=True, tail=5, limit=9, since=90)
    for query in ({"tailLines": ["-1"]}, {"limitBytes": ["0"]}, {"sinceTime": ["noon"]}, {"stream": ["x"]}):
        with pytest.raises(ValueError, match=next(iter(query))):
            options(query)
    with pytest.raises(ValueError, match="at most one"):
        options({"sinceSeconds": ["1"], "sinceTime": ["2026-01-01T00:00:00Z"]})


@given(st.lists(st.tuples(st.sampled_from("FP"), st.text("ab", max_size=5)), max_size=30), st.integers(0, 12))
def test_the_tail_is_the_end_of_the_whole(lines: list[tuple[str, str]], count: int) -> None:
    text = "".join(f"t stdout {tag} {word}\n" for tag, word in lines).encode()
    offset = tail_offset(io.BytesIO(text), count)
    assert text[offset:].count(b" F ") == min(count, text.count(b" F ")) or count == 0
    assert text[:offset] == b"" or count == 0 or text[:offset].splitlines()[-1].startswith(b"t stdout F ")
    if count >= text.count(b" F "):
        assert count == 0 or offset == 0


def test_the_tail_of_a_large_file() -> None:
    text = b"".join(b"t stdout F %06d\n" % number for number in range(50_000))
    assert text[tail_offset(io.BytesIO(text), 20_000) :].startswith(b"t stdout F 030000\n")


async def test_a_log_that_is_not_there_yet_is_followed(tmp_path: Path) -> None:
    path, alive = tmp_path / "0.log", [True]

    async def write() -> None:
        await asyncio.sleep(0.05)
        path.write_bytes(LINE + b"\n")
        await asyncio.sleep(0.3)
        alive[0] = False

    writing = asyncio.create_task(write())
    got = [piece async for piece in containerlogs.stream(path, LogOptions(follow=True), lambda: alive[0])]
    assert b"".join(got) == b"text of it\n"
    await writing


def test_sizes_come_as_values_one_after_another() -> None:
    sizes = Sizes()
    assert sizes.feed(b'{"Width":80,"Height":24}\n{"Width":') == [(24, 80)]
    assert sizes.feed(b'100,"Height":30} {"Width":0,"Height":1} 7 "x" {"Width":"a"}') == [(30, 100)]
    assert sizes.feed(b"}}}}") == []


def test_the_end_as_each_protocol_says_it() -> None:
    assert json.loads(outcome("v4.channel.k8s.io", 0, ""))["status"] == "Success"
    failed = json.loads(outcome("v5.channel.k8s.io", 3, ""))
    assert failed["reason"] == "NonZeroExitCode"
    assert failed["details"]["causes"] == [{"reason": "ExitCode", "message": "3"}]
    broken = json.loads(outcome("v4.channel.k8s.io", None, "no such program"))
    assert broken["reason"] == "InternalError" and "no such program" in broken["message"]
    assert outcome("channel.k8s.io", 0, "") == b""
    assert outcome("v3.channel.k8s.io", 3, "").endswith(b"exit status 3")


async def test_the_last_words_of_a_terminal_come_after_its_first_eio(monkeypatch: pytest.MonkeyPatch) -> None:
    """n_tty_read() looks for data before it looks whether the other end is closed: both may have come in between."""
    answers: list[bytes | int] = [b"first", errno.EIO, b"last words", errno.EIO, errno.EIO]

    def read(fd: int, size: int) -> bytes:
        answer = answers.pop(0)
        if isinstance(answer, int):
            raise OSError(answer, os.strerror(answer))
        return answer

    monkeypatch.setattr(fdio.os, "read", read)
    assert [await fdio.read(-1) for _ in range(3)] == [b"first", b"last words", b""]


async def test_a_slow_client_gets_the_whole_output_of_an_ended_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remotecommand, "_DRAIN", 0.02)
    child = subprocess.Popen(["head", "-c", "60000", "/dev/zero"], stdout=subprocess.PIPE)
    assert child.stdout is not None
    received = bytearray()

    class Slow:
        failed = asyncio.Event()

        async def read(self, channel: int) -> bytes:
            return b""

        async def write(self, channel: int, data: bytes) -> None:
            await asyncio.sleep(0.2)
            received.extend(data)

        async def finish(self, exit_code: int | None, failure: str) -> None: ...

    async def wait() -> int:
        return await asyncio.to_thread(child.wait)

    monkeypatch.setattr(fdio, "CHUNK", 20_000)
    out = os.dup(child.stdout.fileno())
    process = ExecProcess(None, out, None, lambda rows, columns: None, wait, child.kill)
    asked = Options(stdin=False, stdout=True, stderr=False, tty=False)
    assert await remotecommand.converse(Slow(), process, asked, kill=True) == 0
    child.stdout.close()
    assert len(received) == 60_000


def test_what_a_client_wants_of_a_process() -> None:
    asked = remotecommand.options({"input": ["1"], "output": ["1"], "error": ["1"], "tty": ["1"]})
    assert (asked.stdin, asked.stdout, asked.stderr, asked.tty) == (True, True, False, True)
    narrowed = remotecommand.options({"stdin": ["true"], "stdout": ["true"]}).narrowed(tty=False, stdin=False)
    assert not narrowed.stdin
    with pytest.raises(Refused, match="at least 1 of stdin"):
        remotecommand.options({})


def test_ports_of_a_query() -> None:
    assert query_ports(["80", "443,8080"]) == [80, 443, 8080]
    for bad in ([], ["0"], ["65536"], ["http"], ["80,"]):
        with pytest.raises(Refused, match="port"):
            query_ports(bad)


@pytest.mark.skipif(os.geteuid() != 0, reason="entering a network namespace needs root")
def test_a_socket_belongs_to_the_namespace_it_was_made_in() -> None:
    inside = subprocess.Popen(["unshare", "--net", "sh", "-c", "echo in; exec sleep 60"], stdout=subprocess.PIPE)
    try:
        assert inside.stdout is not None and inside.stdout.readline() == b"in\n"
        with socket_in(f"/proc/{inside.pid}/ns/net", socket.AF_INET) as sock:
            assert sock.connect_ex(("127.0.0.1", 9)) == errno.ENETUNREACH  # loopback is down in a new namespace
        with socket_in("", socket.AF_INET) as sock:
            assert sock.connect_ex(("127.0.0.1", 9)) != errno.ENETUNREACH
        with pytest.raises(OSError):
            socket_in("/nonexistent", socket.AF_INET)
    finally:
        inside.kill()
        inside.wait()
        inside.stdout.close()
