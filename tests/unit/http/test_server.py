"""The HTTP server over loopback sockets, spoken to in plain bytes."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable

import pytest

from podwire.http.server import Handler, Request, Response, Server, Takeover, serve

Talk = Callable[[bytes], "asyncio.Future[bytes]"]


def listening() -> socket.socket:
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    sock.listen()
    return sock


class Running:
    """A server with one handler and a way to send it raw bytes."""

    def __init__(self, server: Server, port: int) -> None:
        self.server, self.port = server, port

    async def talk(self, sent: bytes, until: bytes = b"") -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(sent)
        try:
            return await asyncio.wait_for(reader.readuntil(until) if until else reader.read(), 5)
        finally:
            writer.close()


@pytest.fixture
async def start():
    running: list[Running] = []

    async def _start(handler: Handler, **options: int) -> Running:
        sock = listening()
        server = await serve(handler, [sock], **options)
        running.append(Running(server, sock.getsockname()[1]))
        return running[-1]

    yield _start
    for each in running:
        await each.server.close()


async def echo(request: Request) -> Response:
    said = f"{request.method} {request.path} {request.query} {len(request.body)}"
    return Response(body=said.encode(), content_type="text/plain")


GET = b"GET %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (GET % b"/a?b=1&b=2&c", b"GET /a {'b': ['1', '2'], 'c': ['']} 0"),
        (GET % b"/a%2Fb%20c", b"GET /a/b c {} 0"),
        (GET % b"http://host/abs?x=y", b"GET /abs {'x': ['y']} 0"),
        (b"POST /p HTTP/1.1\r\nConnection: close\r\nContent-Length: 3\r\n\r\nabc", b"POST /p {} 3"),
        (
            b"POST /p HTTP/1.1\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n",
            b"POST /p {} 5",
        ),
    ],
)
async def test_a_request_reaches_the_handler_and_its_answer_the_client(start, sent: bytes, expected: bytes) -> None:
    answer = await (await start(echo)).talk(sent)
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert answer.endswith(expected)


async def test_every_way_to_cut_the_bytes_gives_the_same_request(start) -> None:
    running = await start(echo)
    sent = b"POST /p?q=1 HTTP/1.1\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabc"
    for cut in range(1, len(sent), 7):
        reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
        writer.write(sent[:cut])
        await writer.drain()
        await asyncio.sleep(0.001)
        writer.write(sent[cut:])
        assert (await reader.read()).endswith(b"POST /p {'q': ['1']} 3")
        writer.close()


async def test_pipelined_requests_are_answered_in_their_order(start) -> None:
    async def slow_first(request: Request) -> Response:
        await asyncio.sleep(0.05 if request.path == "/1" else 0)
        return Response(body=request.path.encode())

    answer = await (await start(slow_first)).talk(b"GET /1 HTTP/1.1\r\n\r\nGET /2 HTTP/1.1\r\n\r\n" + GET % b"/3")
    assert answer.index(b"\r\n\r\n/1") < answer.index(b"\r\n\r\n/2") < answer.index(b"\r\n\r\n/3")


async def test_head_has_the_length_and_no_body(start) -> None:
    answer = await (await start(echo)).talk((GET % b"/x").replace(b"GET", b"HEAD"))
    assert b"Content-Length: 12" in answer
    assert answer.endswith(b"\r\n\r\n")


async def test_an_iterator_is_sent_as_chunks(start) -> None:
    async def stream(request: Request) -> Response:
        async def parts() -> AsyncIterator[bytes]:
            yield b"one"
            yield b""
            yield b"three"

        return Response(body=parts())

    answer = await (await start(stream)).talk(GET % b"/")
    assert answer.endswith(b"\r\n\r\n3\r\none\r\n5\r\nthree\r\n0\r\n\r\n")


async def test_the_handler_is_cancelled_when_the_client_goes(start) -> None:
    ended = asyncio.Event()

    async def stream(request: Request) -> Response:
        async def forever() -> AsyncIterator[bytes]:
            try:
                yield b"first"
                await asyncio.sleep(3600)
            finally:
                ended.set()

        return Response(body=forever())

    await (await start(stream)).talk(GET % b"/", until=b"first")
    await asyncio.wait_for(ended.wait(), 5)


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"POST / HTTP/1.1\r\nContent-Length: 101\r\n\r\n", b"413"),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n65\r\n" + b"x" * 101 + b"\r\n", b"413"),
        (b"\x16\x03\x01 hello\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nX: " + b"y" * 70_000 + b"\r\n\r\n", b"431"),
    ],
)
async def test_what_is_too_large_or_not_http_is_refused(start, sent: bytes, status: bytes) -> None:
    answer = await (await start(echo, body_limit=100)).talk(sent)
    assert answer.startswith(b"HTTP/1.1 " + status)


async def test_expect_100_continue_is_answered_first(start) -> None:
    sent = b"POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\nConnection: close\r\n\r\nab"
    answer = await (await start(echo)).talk(sent)
    assert answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK")


async def test_a_failing_handler_is_a_500(start) -> None:
    async def broken(request: Request) -> Response:
        raise RuntimeError("bug")

    assert (await (await start(broken)).talk(GET % b"/")).startswith(b"HTTP/1.1 500")


async def test_a_take_over_owns_the_connection_and_what_came_after_the_head(start) -> None:
    async def shout(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write((await reader.readexactly(5)).upper())
        writer.write((await reader.readexactly(3)).upper())
        await writer.drain()

    async def upgrade(request: Request) -> Takeover:
        return Takeover(shout, b"HTTP/1.1 101 Switching Protocols\r\n\r\n")

    running = await start(upgrade)
    reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
    writer.write(b"GET / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: thing\r\n\r\nhello")
    assert await reader.readuntil(b"HELLO") == b"HTTP/1.1 101 Switching Protocols\r\n\r\nHELLO"
    writer.write(b"abc")
    assert await reader.read() == b"ABC"
    writer.close()


async def test_an_upgrade_that_is_declined_is_an_ordinary_answer(start) -> None:
    sent = b"GET /u HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
    answer = await (await start(echo)).talk(sent)
    assert answer.endswith(b"GET /u {} 0")
