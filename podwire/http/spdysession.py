"""A SPDY session over a pipe: streams that the client opened, each to be read and written on its own.

Flow control: what is read off a stream is given back to the peer as WINDOW_UPDATE. The client library of Kubernetes
neither sends nor heeds such frames, so our own sending is held to the peer's windows only once it has shown that it
counts (by a WINDOW_UPDATE or a SETTINGS with a window). Towards a peer that does not count, a stream that nobody reads
stops the whole connection, which is the back-pressure that its own library has.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress

from podwire.http import spdy
from podwire.http.pipe import Pipe

_CHUNK = 32 << 10
_HELD = 256 << 10


class SpdyStream:
    """One stream: `headers` of its SYN_STREAM, bytes both ways, each way ends on its own."""

    def __init__(self, session: "SpdySession", number: int, headers: spdy.Headers) -> None:
        self.number = number
        self.headers = headers
        self._session = session
        self._held: list[bytes] = []
        self._held_size = 0
        self._ended = False
        self._discarding = False
        self._changed = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._sent_fin = False
        self._window = session.peer_window
        self._window_open = asyncio.Event()

    async def read(self) -> bytes:
        """What has come in; b"" after the peer's FIN, a reset, or the end of the session."""
        while not self._held and not self._ended:
            self._changed.clear()
            await self._changed.wait()
        data = b"".join(self._held)
        self._held.clear()
        self._held_size = 0
        self._room.set()
        if data and not self._ended:
            with suppress(ConnectionError):
                await self._session.send(spdy.WindowUpdate(self.number, len(data)))
        return data

    async def write(self, data: bytes) -> None:
        """Send all of `data`. Raises ConnectionError when the session is gone or the stream was reset."""
        view = memoryview(data)
        while view:
            if self._sent_fin:
                raise BrokenPipeError("the stream is closed")
            size = min(len(view), _CHUNK)
            if self._session.windows_count:
                while self._window <= 0 and not self._sent_fin and not self._session.ended.is_set():
                    self._window_open.clear()
                    await self._window_open.wait()
                size = min(size, max(1, self._window))
            self._window -= size
            await self._session.send(spdy.Data(self.number, bytes(view[:size])))
            view = view[size:]

    async def close(self) -> None:
        """End our direction; the peer's goes on."""
        if not self._sent_fin:
            self._sent_fin = True
            with suppress(ConnectionError):
                await self._session.send(spdy.Data(self.number, b"", fin=True))

    async def reset(self, status: int = spdy.CANCEL) -> None:
        """End both directions at once."""
        self._sent_fin = True
        self.end()
        with suppress(ConnectionError):
            await self._session.send(spdy.RstStream(self.number, status))

    def discard(self) -> None:
        """Nobody will read any more: what has come and what still comes is thrown away."""
        self._discarding = True
        self._held.clear()
        self._held_size = 0
        self._room.set()

    # the session's side

    async def take(self, data: bytes) -> None:
        """Hold bytes for the reader; waits while it has too many."""
        if self._ended or self._discarding:
            return
        self._held.append(data)
        self._held_size += len(data)
        self._changed.set()
        if self._held_size > _HELD:
            self._room.clear()
            await self._room.wait()

    def end(self, *, broken: bool = False) -> None:
        """No more will come; with `broken` nothing can be sent either."""
        self._ended = True
        self._sent_fin = self._sent_fin or broken
        self._changed.set()
        self._room.set()
        self._window_open.set()

    def widen(self, delta: int) -> None:
        self._window += delta
        self._window_open.set()


class SpdySession:
    """The server's end. `on_stream` is called for each stream that the client opens, after it was accepted."""

    def __init__(self, pipe: Pipe, on_stream: Callable[[SpdyStream], None]) -> None:
        self._pipe = pipe
        self._codec = spdy.Codec()
        self._on_stream = on_stream
        self._streams: dict[int, SpdyStream] = {}
        self._last = 0
        self._sending = asyncio.Lock()
        self.ended = asyncio.Event()
        self.peer_window = spdy.INITIAL_WINDOW
        self.windows_count = False

    async def run(self) -> None:
        """Read until the client is gone or breaks the protocol (then it gets a GOAWAY)."""
        try:
            while data := await self._pipe.read():
                for frame in self._codec.feed(data):
                    await self._take(frame)
        except spdy.SpdyError:
            with suppress(ConnectionError):
                await self.send(spdy.GoAway(self._last, spdy.PROTOCOL_ERROR))
        except ConnectionError:
            pass
        finally:
            self._finish()

    async def send(self, frame: spdy.Frame) -> None:
        """Send one frame; in order also when many tasks send. Raises ConnectionError."""
        if self.ended.is_set():
            raise BrokenPipeError("the session is over")
        async with self._sending:
            await self._pipe.write(self._codec.encode(frame))

    async def close(self) -> None:
        """Tell the client that no stream is welcome any more, and end."""
        with suppress(ConnectionError):
            await self.send(spdy.GoAway(self._last))
        self._finish()
        await self._pipe.close()

    def _finish(self) -> None:
        self.ended.set()
        for stream in self._streams.values():
            stream.end(broken=True)
        self._streams.clear()

    async def _take(self, frame: spdy.Frame) -> None:
        match frame:
            case spdy.SynStream(number, headers, fin):
                await self._open(number, headers, fin)
            case spdy.Data(number, data, fin):
                await self._take_data(number, data, fin)
            case spdy.HeadersFrame(number, _, True):
                if stream := self._streams.get(number):
                    stream.end()
            case spdy.RstStream(number):
                if stream := self._streams.pop(number, None):
                    stream.end(broken=True)
            case spdy.Ping(number) if number % 2 == 1:
                await self.send(frame)
            case spdy.Settings(values) if spdy.SETTINGS_INITIAL_WINDOW_SIZE in values:
                self.windows_count = True
                change = values[spdy.SETTINGS_INITIAL_WINDOW_SIZE] - self.peer_window
                self.peer_window += change
                for stream in self._streams.values():
                    stream.widen(change)
            case spdy.WindowUpdate(number, delta):
                self.windows_count = True
                if stream := self._streams.get(number):
                    stream.widen(delta)
            case _:
                pass

    async def _open(self, number: int, headers: spdy.Headers, fin: bool) -> None:
        if number % 2 == 0 or number <= self._last:
            raise spdy.SpdyError(f"stream {number} opened after {self._last}")
        self._last = number
        stream = self._streams[number] = SpdyStream(self, number, headers)
        await self.send(spdy.SynReply(number, {}))
        if fin:
            stream.end()
        self._on_stream(stream)

    async def _take_data(self, number: int, data: bytes, fin: bool) -> None:
        stream = self._streams.get(number)
        if stream is None:
            if number > self._last:
                raise spdy.SpdyError(f"data for stream {number}, which nobody opened")
            return
        if data:
            await stream.take(data)
        if fin:
            stream.end()
