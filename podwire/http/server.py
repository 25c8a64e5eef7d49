"""An HTTP/1.1 server over httptools: keep-alive, chunked bodies both ways, TLS client certificates, and take-over of
the raw connection (what exec, attach, port-forward and their SPDY and WebSocket upgrades need).

A handler turns a `Request` into a `Response` or a `Takeover`. Requests of one connection are answered in their order.
When the client goes away while a handler works, the handler's task is cancelled: a watch ends with its reader.
Sources: RFC 9110 and 9112.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import socket
import ssl
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import cast
from urllib.parse import parse_qs, unquote

import httptools

log = logging.getLogger(__name__)

BODY_LIMIT = 3 << 20
HEADER_LIMIT = 64 << 10
_PIPELINE = 32
_REASONS = {status.value: status.phrase.encode() for status in HTTPStatus}


@dataclass(frozen=True)
class Peer:
    """Who is at the other end; the names come from the verified client certificate and are empty without one."""

    address: str
    common_name: str = ""
    organizations: tuple[str, ...] = ()


@dataclass(slots=True)
class Request:
    """One request, its body read whole. `headers` has lower-case keys; repeated ones are joined by ", "."""

    method: str
    path: str
    raw_path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: bytes
    peer: Peer

    def argument(self, name: str, default: str = "") -> str:
        """The first value of a query parameter."""
        values = self.query.get(name)
        return values[0] if values else default


@dataclass(slots=True)
class Response:
    """An answer. A body that is an iterator is sent chunk by chunk as it yields."""

    status: int = 200
    body: bytes | AsyncIterator[bytes] = b""
    headers: dict[str, str] = field(default_factory=dict)
    content_type: str = "application/json"


@dataclass(slots=True)
class Takeover:
    """`head` (status line and headers, complete bytes; may be empty) is sent, then `run` owns the raw connection,
    which is closed when it returns."""

    run: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
    head: bytes = b""


Handler = Callable[[Request], Awaitable[Response | Takeover]]
Refuse = Callable[[int, str], Response]


def plain_refusal(status: int, why: str) -> Response:
    """The answer to a request that no handler gets to see (too large, not HTTP)."""
    return Response(status, why.encode() + b"\n", content_type="text/plain; charset=utf-8")


def peer_of(transport: asyncio.BaseTransport) -> Peer:
    """The other end's address, and CN and O of its certificate."""
    name = transport.get_extra_info("peername")
    address = name[0] if isinstance(name, tuple) else ""
    certificate = transport.get_extra_info("peercert") or {}
    common_name, organizations = "", []
    for part in certificate.get("subject", ()):
        for key, value in part:
            if key == "commonName":
                common_name = value
            elif key == "organizationName":
                organizations.append(value)
    return Peer(address, common_name, tuple(organizations))


def head_bytes(status: int, headers: dict[str, str]) -> bytes:
    """Status line and headers as they go over the wire. Line breaks in values are refused with ValueError."""
    lines = [b"HTTP/1.1 %d %s\r\n" % (status, _REASONS.get(status, b"Unknown"))]
    for key, value in headers.items():
        if "\r" in value or "\n" in value:
            raise ValueError(f"header {key} holds a line break")
        lines.append(f"{key}: {value}\r\n".encode("utf-8", "replace"))
    lines.append(b"\r\n")
    return b"".join(lines)


class _Connection(asyncio.Protocol):
    """One connection: httptools' callbacks collect requests, one task answers them."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.parser = httptools.HttpRequestParser(self)
        self.transport: asyncio.Transport | None = None
        self.peer = Peer("")
        self.waiting: deque[tuple[Request, bool, bool]] = deque()
        self.task: asyncio.Task[None] | None = None
        self.writable = asyncio.Event()
        self.writable.set()
        self.upgraded = False
        self.rest = bytearray()
        self.reader: asyncio.StreamReader | None = None
        self.refused = False
        self._start_message()

    def _start_message(self) -> None:
        self.url = b""
        self.headers: dict[str, str] = {}
        self.header_size = 0
        self.body: list[bytes] = []
        self.body_size = 0

    # asyncio's callbacks

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's transports are not subclasses of it
        self.peer = peer_of(transport)
        self.server.connections.add(self)

    def connection_lost(self, error: Exception | None) -> None:
        self.server.connections.discard(self)
        self.transport = None
        self.writable.set()
        if self.task:
            self.task.cancel()

    def pause_writing(self) -> None:
        self.writable.clear()

    def resume_writing(self) -> None:
        self.writable.set()

    def eof_received(self) -> bool:
        return False

    def data_received(self, data: bytes) -> None:
        if self.refused:
            return
        if self.upgraded:
            self.rest += data
            if len(self.rest) > BODY_LIMIT and self.transport:
                self.transport.pause_reading()
            return
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self.upgraded = True
            self.rest += data[upgrade.args[0] :]
        except httptools.HttpParserError as error:
            if not self.refused:
                self._refuse(400, f"the request is not HTTP/1.1: {error}")

    # httptools' callbacks

    def on_message_begin(self) -> None:
        self._start_message()

    def on_url(self, url: bytes) -> None:
        self.url += url
        self._count_header(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count_header(len(name) + len(value))
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        self.headers[key] = f"{self.headers[key]}, {text}" if key in self.headers else text

    def on_headers_complete(self) -> None:
        length = self.headers.get("content-length", "")
        if length.isdigit() and int(length) > self.server.body_limit:
            self._refuse_size()
        elif self.headers.get("expect", "").lower() == "100-continue" and self.transport:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        self.body_size += len(body)
        if self.body_size > self.server.body_limit:
            self._refuse_size()
        elif not self.refused:
            self.body.append(body)

    def on_message_complete(self) -> None:
        if self.refused:
            return
        raw_path = self.url.decode("latin-1")
        path, _, query = raw_path.partition("?")
        if not path.startswith("/"):  # absolute form: the proxy's way to write a request
            path = "/" + path.partition("://")[2].partition("/")[2]
        request = Request(
            self.parser.get_method().decode(),
            unquote(path) if "%" in path else path,
            raw_path,
            parse_qs(query, keep_blank_values=True) if query else {},
            self.headers,
            b"".join(self.body),
            self.peer,
        )
        self.waiting.append((request, self.parser.should_keep_alive(), self.parser.get_http_version() == "1.0"))
        if len(self.waiting) > _PIPELINE and self.transport:
            self.transport.pause_reading()
        if self.task is None:
            self.task = self.server.loop.create_task(self._answer_all())

    # refusals

    def _count_header(self, size: int) -> None:
        self.header_size += size
        if self.header_size > HEADER_LIMIT and not self.refused:
            self._refuse(431, f"the headers are larger than {HEADER_LIMIT} bytes")

    def _refuse_size(self) -> None:
        if not self.refused:
            self._refuse(413, f"the request body is larger than the limit of {self.server.body_limit} bytes")

    def _refuse(self, status: int, why: str) -> None:
        self.refused = True
        if self.task is None:
            self.task = self.server.loop.create_task(self._send_refusal(self.server.refuse(status, why)))

    async def _send_refusal(self, response: Response) -> None:
        """Answer, then read on for a moment: closing with unread input would reset the answer away (RFC 9112 9.6)."""
        await self._send(Request("GET", "", "", {}, {}, b"", self.peer), response, keep_alive=False, old=False)
        with contextlib.suppress(OSError, RuntimeError):
            if self.transport and self.transport.can_write_eof():
                self.transport.write_eof()
        await asyncio.sleep(1.0)
        self._close()

    # answering

    async def _answer_all(self) -> None:
        try:
            while self.waiting and self.transport:
                request, keep_alive, old = self.waiting.popleft()
                if len(self.waiting) == _PIPELINE:
                    self.transport.resume_reading()
                answer = await self._ask(request)
                if isinstance(answer, Takeover):
                    await self._hand_over(answer)
                    return
                keep_alive = keep_alive and not self.upgraded and not self.refused
                await self._send(request, answer, keep_alive, old)
                if not keep_alive:
                    self._close()
                    return
        except ConnectionError:
            self._close()
        finally:
            self.task = None
            if self.transport is None:
                self.waiting.clear()

    async def _ask(self, request: Request) -> Response | Takeover:
        try:
            return await self.server.handler(request)
        except Exception:  # a handler's bug must not take the connection's other requests with it
            log.exception("handler failed method=%s path=%s", request.method, request.path)
            return self.server.refuse(500, "the server failed on this request; its log says why")

    async def _send(self, request: Request, response: Response, keep_alive: bool, old: bool) -> None:
        body = response.body
        headers = dict(response.headers)
        if response.content_type and response.status not in (204, 304):
            headers["Content-Type"] = response.content_type
        if not keep_alive:
            headers["Connection"] = "close"
        if isinstance(body, bytes):
            if response.status >= 200 and response.status != 204:
                headers["Content-Length"] = str(len(body))
            head = head_bytes(response.status, headers)
            await self._write(head if request.method == "HEAD" else head + body)
            return
        if not old:
            headers["Transfer-Encoding"] = "chunked"
        try:
            await self._write(head_bytes(response.status, headers))
            if request.method != "HEAD":
                await self._send_chunks(body, chunked=not old)
        finally:
            if inspect.isasyncgen(body):
                await body.aclose()
        if old:
            self._close()

    async def _send_chunks(self, chunks: AsyncIterator[bytes], chunked: bool) -> None:
        try:
            async for chunk in chunks:
                if chunk:
                    await self._write(b"%x\r\n%b\r\n" % (len(chunk), chunk) if chunked else chunk)
        except ConnectionError:
            raise
        except Exception:  # the head is sent: breaking off is the only way left to say "failed"
            log.exception("streamed body failed")
            self._close()
            return
        if chunked:
            await self._write(b"0\r\n\r\n")

    async def _write(self, data: bytes) -> None:
        if self.transport is None or self.transport.is_closing():
            raise ConnectionResetError("the client has gone")
        self.transport.write(data)
        if not self.writable.is_set():
            await self.writable.wait()

    async def _hand_over(self, takeover: Takeover) -> None:
        transport, loop = self.transport, self.server.loop
        if transport is None:
            return
        if takeover.head:
            transport.write(takeover.head)
        reader = asyncio.StreamReader(loop=loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
        protocol.connection_made(transport)
        transport.set_protocol(protocol)
        writer = asyncio.StreamWriter(transport, protocol, reader, loop)
        if self.rest:
            reader.feed_data(bytes(self.rest))
            self.rest.clear()
        with contextlib.suppress(RuntimeError):
            transport.resume_reading()
        self.server.taken.add(self)
        try:
            await takeover.run(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, ssl.SSLError) as error:
            log.debug("taken-over connection ended error=%s", error)
        except Exception:  # one session's bug must not reach the event loop's handler
            log.exception("taken-over connection failed")
        finally:
            self.server.taken.discard(self)
            self.server.connections.discard(self)
            writer.close()

    def _close(self) -> None:
        if self.transport:
            self.transport.close()


class Server:
    """A running server. `handler` may be exchanged while it runs."""

    def __init__(self, handler: Handler, body_limit: int, refuse: Refuse) -> None:
        self.handler = handler
        self.body_limit = body_limit
        self.refuse = refuse
        self.loop = asyncio.get_running_loop()
        self.connections: set[_Connection] = set()
        self.taken: set[_Connection] = set()
        self._listening: list[asyncio.Server] = []

    async def _listen(self, socks: Sequence[socket.socket], ssl_context: ssl.SSLContext | None) -> None:
        for sock in socks:
            sock.setblocking(False)
            self._listening.append(
                await self.loop.create_server(lambda: _Connection(self), sock=sock, ssl=ssl_context, backlog=512)
            )

    async def close(self) -> None:
        """Stop listening, cancel what is being answered, close every connection."""
        for listening in self._listening:
            listening.close()
        tasks = []
        for connection in list(self.connections | self.taken):
            if connection.task:
                connection.task.cancel()
                tasks.append(connection.task)
            if connection.transport:
                connection.transport.abort()
        await asyncio.gather(*tasks, return_exceptions=True)


async def serve(
    handler: Handler,
    socks: Sequence[socket.socket],
    ssl_context: ssl.SSLContext | None = None,
    *,
    body_limit: int = BODY_LIMIT,
    refuse: Refuse = plain_refusal,
) -> Server:
    """Answer on listening sockets until `close`. Bodies over `body_limit` bytes get 413 without reaching `handler`;
    `refuse` words the answers that the server gives by itself."""
    server = Server(handler, body_limit, refuse)
    await server._listen(socks, ssl_context)
    return server
