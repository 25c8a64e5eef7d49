"""exec and attach: a process's standard streams over SPDY (v1 to v4 of the protocol) or WebSocket channels (to v5).

Each stream of the process is a channel of its own; a further one carries how it ended, and one the terminal's size.
Sources: the Kubernetes remotecommand protocol as its client library speaks it (stream names, channel numbers, Status).
"""

import asyncio
import json
import logging
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Protocol

from podwire.http import websocket
from podwire.http.pipe import ConnectionPipe
from podwire.http.server import Request, Takeover, head_bytes
from podwire.http.spdysession import SpdySession, SpdyStream
from podwire.kubelet import fdio
from podwire.kubelet.runtime import RuntimeFailure

log = logging.getLogger(__name__)

SPDY_PROTOCOLS = ("v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io")
WEBSOCKET_PROTOCOLS = (
    "v5.channel.k8s.io", "v4.channel.k8s.io", "v4.base64.channel.k8s.io", "channel.k8s.io", "base64.channel.k8s.io",
)  # fmt: skip
STDIN, STDOUT, STDERR, ERROR, RESIZE = range(5)
NAMES = {"stdin": STDIN, "stdout": STDOUT, "stderr": STDERR, "error": ERROR, "resize": RESIZE}

_STREAMS_WITHIN = 30.0
_DRAIN = 1.0
_LINGER = 5.0
_ANSWER_WITHIN = 5.0
_OPENING = 0.01


class Refused(Exception):
    """The request cannot be served; `status` is the HTTP status, the text is for the client."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class Process(Protocol):
    """A process and our ends of its streams (descriptors, ours to close). With a terminal stdin and stdout are both its
    master, and there is no stderr."""

    @property
    def stdin(self) -> int | None: ...

    @property
    def stdout(self) -> int | None: ...

    @property
    def stderr(self) -> int | None: ...

    @property
    def resize(self) -> Callable[[int, int], None]:
        """Rows, columns."""

    @property
    def wait(self) -> Callable[[], Awaitable[int]]:
        """The exit code, when it has ended."""

    @property
    def kill(self) -> Callable[[], None]: ...


@dataclass(frozen=True, slots=True)
class Options:
    """Which streams a client wants."""

    stdin: bool
    stdout: bool
    stderr: bool
    tty: bool

    def narrowed(self, tty: bool, stdin: bool) -> "Options":
        """For attach: a container has a terminal and an open stdin or has not, whatever the client says."""
        return replace(self, tty=tty, stdin=self.stdin and stdin, stderr=self.stderr and not tty)


class Link(Protocol):
    """The client's side: channels by number. Implemented for SPDY streams and for WebSocket messages."""

    failed: asyncio.Event
    """Set when the client is gone."""

    async def read(self, channel: int) -> bytes: ...

    async def write(self, channel: int, data: bytes) -> None: ...

    async def finish(self, exit_code: int | None, failure: str) -> None:
        """Tell how it ended and close."""


def options(query: Mapping[str, Sequence[str]]) -> Options:
    """Of the query as the API server writes it (input, output, error, tty). Raises Refused if nothing is asked for."""

    def on(*names: str) -> bool:
        return any(query.get(name, [""])[0].lower() in ("1", "true") for name in names)

    tty = on("tty")
    asked = Options(on("input", "stdin"), on("output", "stdout"), on("error", "stderr") and not tty, tty)
    if not (asked.stdin or asked.stdout or asked.stderr):
        raise Refused(400, "you must specify at least 1 of stdin, stdout, stderr")
    return asked


def upgrade(request: Request, asked: Options, start: Callable[[], Awaitable[Process]], *, kill: bool) -> Takeover:
    """Take the connection over and run. With `kill` the process ends when the client goes. Raises Refused."""
    if websocket.wanted(request):
        return _websocket(request, asked, start, kill)
    if request.headers.get("upgrade", "").upper() != "SPDY/3.1":
        raise Refused(400, "this path needs an upgrade to SPDY/3.1 or websocket")
    offered = [name.strip() for name in request.headers.get("x-stream-protocol-version", "").split(",")]
    protocol = next((name for name in offered if name in SPDY_PROTOCOLS), "channel.k8s.io" if offered == [""] else "")
    if not protocol:
        raise Refused(403, f"unable to negotiate protocol: client supports {offered}, server {list(SPDY_PROTOCOLS)}")

    async def run(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = SpdyLink(ConnectionPipe(reader, writer), asked, protocol)
        await link.converse(start, asked, kill)

    headers = {"Connection": "Upgrade", "Upgrade": "SPDY/3.1", "X-Stream-Protocol-Version": protocol}
    return Takeover(run, head_bytes(101, headers))


def _websocket(request: Request, asked: Options, start: Callable[[], Awaitable[Process]], kill: bool) -> Takeover:
    protocol = websocket.choose(request, WEBSOCKET_PROTOCOLS)
    if protocol is None:
        raise Refused(403, f"unable to negotiate protocol: server supports {list(WEBSOCKET_PROTOCOLS)}")
    try:
        head = websocket.accept(request, protocol)
    except ValueError as error:
        raise Refused(400, str(error)) from error

    async def run(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = WebSocketLink(websocket.WebSocket(reader, writer), protocol)
        await link.converse(start, asked, kill)

    return Takeover(run, head)


def outcome(protocol: str, exit_code: int | None, failure: str) -> bytes:
    """What the error channel carries at the end. Up to v3 that is text, and nothing for success; then a v1.Status."""
    if exit_code is None:
        text = failure
    else:
        text = "" if exit_code == 0 else f"command terminated with non-zero exit code: exit status {exit_code}"
    if not protocol.startswith(("v4.", "v5.")):
        return text.encode()
    if exit_code == 0:
        return json.dumps({"metadata": {}, "status": "Success"}).encode()
    status: dict[str, object] = {"metadata": {}, "status": "Failure", "message": text}
    if exit_code is None:
        status |= {"reason": "InternalError", "details": {"causes": [{"message": text}]}, "code": 500}
        status["message"] = f"Internal error occurred: {text}"
    else:
        cause = {"reason": "ExitCode", "message": str(exit_code)}
        status |= {"reason": "NonZeroExitCode", "details": {"causes": [cause]}}
    return json.dumps(status).encode()


class Sizes:
    """Terminal sizes out of the JSON values that the resize channel carries, one after another."""

    def __init__(self) -> None:
        self._rest = ""

    def feed(self, data: bytes) -> list[tuple[int, int]]:
        """(rows, columns) of each value that became whole; what is no size is passed over."""
        self._rest = (self._rest + data.decode("utf-8", "replace")).lstrip()[-4096:]
        sizes, decoder = [], json.JSONDecoder()
        while self._rest:
            try:
                value, end = decoder.raw_decode(self._rest)
            except ValueError:
                break
            self._rest = self._rest[end:].lstrip()
            if isinstance(value, dict):
                rows, columns = value.get("Height"), value.get("Width")
                if isinstance(rows, int) and isinstance(columns, int) and 0 < rows < 65536 and 0 < columns < 65536:
                    sizes.append((rows, columns))
        return sizes


@dataclass(slots=True)
class _Moved:
    """How far the outputs are, to tell silence from a client that takes its time."""

    count: int = 0
    sending: int = 0


async def converse(link: Link, process: Process, asked: Options, *, kill: bool) -> int | None:
    """Carry bytes both ways until the process ends (its exit code) or the client goes (None)."""
    tasks: list[asyncio.Task[None]] = []
    outputs: list[asyncio.Task[None]] = []
    moved = _Moved()
    ours = {fd for fd in (process.stdin, process.stdout, process.stderr) if fd is not None}
    for ours_fd in ours:
        os.set_blocking(ours_fd, False)
    if process.stdin is not None and asked.stdin:
        tasks.append(asyncio.create_task(_feed(link, process.stdin, ours, half=process.stdin != process.stdout)))
    if asked.tty:
        tasks.append(asyncio.create_task(_resize(link, process)))
    for channel, fd in ((STDOUT, process.stdout), (STDERR, process.stderr)):
        if fd is not None:
            wanted = asked.stdout if channel == STDOUT else asked.stderr
            outputs.append(asyncio.create_task(_drain(link, channel, fd, wanted, moved)))
    ending = asyncio.ensure_future(process.wait())
    leaving = asyncio.create_task(link.failed.wait())
    try:
        await asyncio.wait([ending, leaving], return_when=asyncio.FIRST_COMPLETED)
        if not ending.done():
            return None
        while outputs:
            before = moved.count
            done, _ = await asyncio.wait([*outputs, leaving], timeout=_DRAIN, return_when=asyncio.FIRST_COMPLETED)
            outputs = [task for task in outputs if not task.done()]
            # what a process left behind holds the streams open; only its silence tells that nothing more is coming
            if link.failed.is_set() or (not done and moved.count == before and not moved.sending):
                break
        return ending.result()
    finally:
        if kill and not ending.done():
            process.kill()
        everything = [*tasks, *outputs, leaving]
        for task in everything:
            task.cancel()
        await asyncio.gather(*everything, return_exceptions=True)
        if not kill:
            ending.cancel()
        for ours_fd in ours:
            with suppress(OSError):
                os.close(ours_fd)


async def _feed(link: Link, fd: int, ours: set[int], *, half: bool) -> None:
    """stdin: its end is passed on to a pipe; a terminal has no half close."""
    with suppress(OSError):
        while data := await link.read(STDIN):
            await fdio.write(fd, data)
    if half:
        ours.discard(fd)
        with suppress(OSError):
            os.close(fd)


async def _drain(link: Link, channel: int, fd: int, wanted: bool, moved: _Moved) -> None:
    with suppress(OSError):
        while data := await fdio.read(fd):
            moved.count += 1
            if wanted:
                moved.sending += 1
                try:
                    await link.write(channel, data)
                finally:
                    moved.sending -= 1
                moved.count += 1


async def _resize(link: Link, process: Process) -> None:
    sizes = Sizes()
    while data := await link.read(RESIZE):
        for rows, columns in sizes.feed(data):
            with suppress(OSError):
                process.resize(rows, columns)


class _Conversation:
    """What both links share: start, converse, tell the end."""

    async def run_process(self: Link, start: Callable[[], Awaitable[Process]], asked: Options, kill: bool) -> None:
        try:
            process = await start()
        except (RuntimeFailure, OSError) as error:
            log.info("exec failed: %s", error)
            await self.finish(None, f"error executing command in container: {error}")
            return
        exit_code = await converse(self, process, asked, kill=kill)
        if exit_code is not None:  # whoever only attached learns that the container ended, not how
            await self.finish(exit_code if kill else 0, "")


class SpdyLink(_Conversation):
    """Channels are SPDY streams named by their header `streamType`."""

    def __init__(self, pipe: ConnectionPipe, asked: Options, protocol: str) -> None:
        self._session = SpdySession(pipe, self._opened)
        self._protocol = protocol
        self._streams: dict[int, SpdyStream] = {}
        self._complete = asyncio.Event()
        self._needed = {ERROR} | {
            channel
            for channel, wanted in (
                (STDIN, asked.stdin),
                (STDOUT, asked.stdout),
                (STDERR, asked.stderr),
                (RESIZE, asked.tty and protocol in SPDY_PROTOCOLS[:2]),
            )
            if wanted
        }
        self.failed = self._session.ended

    def _opened(self, stream: SpdyStream) -> None:
        channel = NAMES.get(stream.headers.get("streamtype", ""))
        if channel is not None and channel not in self._streams:
            self._streams[channel] = stream
        if self._needed <= self._streams.keys():
            self._complete.set()

    async def converse(self, start: Callable[[], Awaitable[Process]], asked: Options, kill: bool) -> None:
        running = asyncio.create_task(self._session.run())
        try:
            async with asyncio.timeout(_STREAMS_WITHIN):
                await _first(self._complete.wait(), self._session.ended.wait())
            if not self._session.ended.is_set():
                await self.run_process(start, asked, kill)
        except TimeoutError:
            log.info("client did not open the streams it asked for within %.0f s", _STREAMS_WITHIN)
        finally:
            await self._session.close()
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    async def read(self, channel: int) -> bytes:
        stream = self._streams.get(channel)
        return await stream.read() if stream else b""

    async def write(self, channel: int, data: bytes) -> None:
        if stream := self._streams.get(channel):
            await stream.write(data)

    async def finish(self, exit_code: int | None, failure: str) -> None:
        with suppress(ConnectionError, TimeoutError):
            if report := outcome(self._protocol, exit_code, failure):
                await self.write(ERROR, report)
            for channel in (STDOUT, STDERR, ERROR):
                if stream := self._streams.get(channel):
                    await stream.close()
            # closing while input is unread would reset the answer away: let the client go first
            for channel in (STDIN, RESIZE):
                if stream := self._streams.get(channel):
                    stream.discard()
            async with asyncio.timeout(_LINGER):
                await self._session.ended.wait()


class WebSocketLink(_Conversation):
    """Channels are numbered messages."""

    def __init__(self, socket: websocket.WebSocket, protocol: str) -> None:
        self._socket = socket
        self._protocol = protocol
        self._base64 = websocket.is_base64(protocol)
        self._incoming: dict[int, asyncio.Queue[bytes]] = {STDIN: asyncio.Queue(8), RESIZE: asyncio.Queue(8)}
        self._finished = False
        self._greeted = asyncio.Event()
        self.failed = asyncio.Event()

    async def converse(self, start: Callable[[], Awaitable[Process]], asked: Options, kill: bool) -> None:
        receiving = asyncio.create_task(self._receive(asked))
        greeting = asyncio.create_task(self._greet(asked))
        try:
            await self.run_process(start, asked, kill)
        finally:
            for task in (greeting, receiving):
                task.cancel()
            await asyncio.gather(greeting, receiving, return_exceptions=True)

    async def _greet(self, asked: Options) -> None:
        """Say that the connection stands, by an empty message, before anything else is said. kubectl before 1.34 reads
        while it is still opening its streams, and throws away what comes for one that is not open (the output, or how
        it ended): so it gets nothing before it has answered a ping or sent input. The process starts meanwhile."""
        try:
            if self._protocol.startswith("v5."):
                await self._socket.ping()
                with suppress(TimeoutError):
                    async with asyncio.timeout(_ANSWER_WITHIN):
                        await _first(self._socket.heard.wait(), self.failed.wait())
                await asyncio.sleep(_OPENING)  # reading, it answers; opening takes it microseconds
            await self._send(STDOUT if asked.stdout else STDERR if asked.stderr else ERROR, b"")
        except ConnectionError:
            pass  # receiving sees it too
        finally:
            self._greeted.set()

    async def _receive(self, asked: Options) -> None:
        try:
            await self._take_messages(asked)
        finally:
            self.failed.set()
            for queue in self._incoming.values():
                if not queue.full():
                    queue.put_nowait(b"")

    async def _take_messages(self, asked: Options) -> None:
        open_channels = {channel for channel, on in ((STDIN, asked.stdin), (RESIZE, asked.tty)) if on}
        while (message := await self._socket.receive()) is not None:
            try:
                channel, data = websocket.decode_message(message, base64_text=self._base64)
            except ValueError:
                break
            if channel == websocket.CLOSE_CHANNEL and self._protocol.startswith("v5."):
                channel, data = (data[0] if data else -1), b""
            elif not data:
                continue
            if channel in open_channels and not self._finished:
                await self._incoming[channel].put(data)
                if not data:
                    open_channels.discard(channel)

    async def read(self, channel: int) -> bytes:
        return await self._incoming[channel].get()

    async def write(self, channel: int, data: bytes) -> None:
        await self._greeted.wait()
        await self._send(channel, data)

    async def _send(self, channel: int, data: bytes) -> None:
        for piece in websocket.split(data) if data else (b"",):
            message = websocket.encode_message(channel, piece, base64_text=self._base64)
            await self._socket.send(message, text=self._base64)

    async def finish(self, exit_code: int | None, failure: str) -> None:
        with suppress(ConnectionError, TimeoutError):
            if report := outcome(self._protocol, exit_code, failure):
                await self.write(ERROR, report)
            self._finished = True
            for queue in self._incoming.values():
                while not queue.empty():
                    queue.get_nowait()
            await self._socket.close()
            async with asyncio.timeout(_LINGER):
                await self.failed.wait()


async def _first(*waits: Awaitable[object]) -> None:
    """Return as soon as one of them does."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
