"""The WebSocket alone: forms that kubectl does not use (base64 exec, port-forward by channels); how v5 begins."""

import asyncio
import contextlib
import json
import os
import socket
import struct
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Ping, Pong, TextMessage

from podwire.http.server import Peer, Request, Response, Takeover
from podwire.kubelet import remotecommand
from podwire.kubelet.runtime import RuntimeFailure
from podwire.kubelet.stream import RunningContainer, handler


@dataclass(frozen=True)
class Echo:
    """`cat`, in the shape of a process."""

    child: "subprocess.Popen[bytes]"
    stdin: int | None
    stdout: int | None
    stderr: int | None = None

    def resize(self, rows: int, columns: int) -> None:
        raise AssertionError("no terminal")

    async def wait(self) -> int:
        return await asyncio.to_thread(self.child.wait)

    def kill(self) -> None:
        self.child.kill()


def cat() -> Echo:
    theirs_in, ours_in = os.pipe()
    ours_out, theirs_out = os.pipe()
    child = subprocess.Popen(["cat"], stdin=theirs_in, stdout=theirs_out)
    os.close(theirs_in)
    os.close(theirs_out)
    return Echo(child, ours_in, ours_out)


class Lookup:
    def find(self, namespace: str, pod: str, container: str) -> RunningContainer | None:
        return RunningContainer("c", False, True, (Path("/nonexistent"),), cat, "") if pod == "p" else None

    async def exec(self, container_id: str, argv: list[str], *, tty: bool, stdin: bool) -> Echo:
        if argv == ["missing"]:
            raise RuntimeFailure("executable file not found")
        return cat()


def request(path: str, protocol: str, **query: str) -> Request:
    headers = {
        "upgrade": "websocket",
        "sec-websocket-version": "13",
        "sec-websocket-key": "x",
        "sec-websocket-protocol": protocol,
    }
    return Request("GET", path, path, {key: [value] for key, value in query.items()}, headers, b"", Peer(""))


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer, self.connection = reader, writer, Connection(ConnectionType.CLIENT)

    def send(self, event: BytesMessage | TextMessage | CloseConnection | Pong) -> None:
        self.writer.write(self.connection.send(event))

    async def next(self) -> bytes | str | None:
        """The next message; None for the close, which is answered, as pings are."""
        while True:
            event = await self.event()
            if isinstance(event, CloseConnection):
                self.send(event.response())
                return None
            if isinstance(event, Ping):
                self.send(event.response())
                continue
            return bytes(event.data) if isinstance(event, BytesMessage) else str(event.data)  # type: ignore[attr-defined]

    async def event(self) -> object:
        """The next event, nothing answered."""
        while True:
            for event in self.connection.events():
                return event
            self.connection.receive_data(await asyncio.wait_for(self.reader.read(65536), 10) or None)


@contextlib.asynccontextmanager
async def served(asked: Request) -> AsyncIterator[Client]:
    answer = await handler(Lookup())(asked)
    assert isinstance(answer, Takeover) and answer.head.startswith(b"HTTP/1.1 101 ")
    ours, theirs = socket.socketpair()
    server = await asyncio.open_connection(sock=ours)
    running = asyncio.ensure_future(answer.run(*server))
    client = Client(*await asyncio.open_connection(sock=theirs))
    yield client
    client.writer.close()
    await asyncio.wait_for(running, 10)
    server[1].close()


async def test_base64_exec_with_the_old_end_of_success() -> None:
    async with served(request("/exec/d/p/c", "base64.channel.k8s.io", command="cat", input="1", output="1")) as client:
        assert await client.next() == "1"
        client.send(TextMessage("0aGk="))
        assert await client.next() == "1aGk="


async def test_v5_closes_stdin_and_tells_success() -> None:
    async with served(request("/exec/d/p/c", "v5.channel.k8s.io", command="cat", input="1", output="1")) as client:
        assert await client.next() == b"\x01"
        client.send(BytesMessage(b"\x00hello"))
        assert await client.next() == b"\x01hello"
        client.send(BytesMessage(b"\xff\x00"))
        status = await client.next()
        assert isinstance(status, bytes) and status[0] == 3 and json.loads(status[1:])["status"] == "Success"
        assert await client.next() is None


@pytest.mark.parametrize("argv", ["cat", "missing"])
async def test_a_v5_client_hears_nothing_before_it_answers(argv: str) -> None:
    """kubectl before 1.34 throws away what comes while it is opening its streams."""
    async with served(request("/exec/d/p/c", "v5.channel.k8s.io", command=argv, input="1", output="1")) as client:
        ping = await client.event()
        assert isinstance(ping, Ping)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(client.event(), 0.1)
        client.send(ping.response())
        client.send(BytesMessage(b"\x00hello"))
        assert await client.next() == b"\x01"
        said = await client.next()
        assert isinstance(said, bytes)
        assert said == b"\x01hello" if argv == "cat" else b"executable file not found" in said


async def test_a_v5_client_that_answers_no_ping_is_served_late(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remotecommand, "_ANSWER_WITHIN", 0.05)
    async with served(request("/exec/d/p/c", "v5.channel.k8s.io", command="cat", input="1", output="1")) as client:
        assert isinstance(await client.event(), Ping)
        assert await client.event() == BytesMessage(bytearray(b"\x01"))


async def test_port_forward_by_channels() -> None:
    async def upper(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write((await reader.read(100)).upper())
        await writer.drain()
        writer.close()

    pod = await asyncio.start_server(upper, "127.0.0.1", 0)
    port = pod.sockets[0].getsockname()[1]
    async with served(request("/portForward/d/p", "v4.channel.k8s.io", port=f"{port},1")) as client:
        begun = [await client.next() for _ in range(4)]
        assert begun == [bytes((index,)) + struct.pack("<H", port if index < 2 else 1) for index in range(4)]
        refusal = await client.next()
        assert isinstance(refusal, bytes) and refusal[0] == 3 and b"connection refused" in refusal
        client.send(BytesMessage(b"\x00hello"))
        assert await client.next() == b"\x00HELLO"
        assert await client.next() is None
    pod.close()


async def test_refusals_are_statuses() -> None:
    lookup = handler(Lookup())
    cases = [
        (request("/exec/d/none/c", "v5.channel.k8s.io", command="x", output="1"), 404, "container not found"),
        (request("/exec/d/p/c", "v5.channel.k8s.io", output="1"), 400, "at least one command"),
        (request("/exec/d/p/c", "v5.channel.k8s.io", command="x"), 400, "at least 1 of stdin"),
        (request("/exec/d/p/c", "v9.x", command="x", output="1"), 403, "unable to negotiate"),
        (request("/portForward/d/p", "v4.channel.k8s.io", port="x"), 400, "not a port number"),
        (request("/portForward/d/none", "v4.channel.k8s.io", port="1"), 404, "not found"),
        (request("/containerLogs/d/p/c", "", tailLines="x"), 400, "tailLines"),
        (request("/containerLogs/d/p/c", "", previous="true"), 400, "previous terminated"),
    ]
    for asked, status, words in cases:
        answer = await lookup(asked)
        assert isinstance(answer, Response) and answer.status == status, asked.path
        assert isinstance(answer.body, bytes) and words in json.loads(answer.body)["message"]
    plain = await lookup(request("/runningpods/", ""))
    assert isinstance(plain, Response) and plain.status == 404
