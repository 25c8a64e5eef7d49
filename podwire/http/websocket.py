"""WebSocket messages over a taken-over connection (RFC 6455, framing by wsproto), and Kubernetes' channels on them."""

import asyncio
import base64
import hashlib
from collections.abc import Iterable, Sequence
from contextlib import suppress

from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Ping, TextMessage
from wsproto.utilities import LocalProtocolError, RemoteProtocolError

from podwire.http.server import Request, head_bytes

MESSAGE_LIMIT = 4 << 20
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
CLOSE_CHANNEL = 255
"""v5.channel.k8s.io: the message (255, N) says that channel N will carry no more."""


def wanted(request: Request) -> bool:
    """Whether the client asks to upgrade to a WebSocket."""
    return request.headers.get("upgrade", "").lower() == "websocket"


def offered(request: Request) -> list[str]:
    """The subprotocols the client would speak, its favourite first."""
    return [name.strip() for name in request.headers.get("sec-websocket-protocol", "").split(",") if name.strip()]


def choose(request: Request, known: Sequence[str]) -> str | None:
    """The first offered subprotocol that we know; None if there is none (a client that offers none gets "")."""
    names = offered(request)
    if not names:
        return ""
    return next((name for name in names if name in known), None)


def accept(request: Request, subprotocol: str) -> bytes:
    """The head of the 101 answer. Raises ValueError for a request that is no proper handshake."""
    key = request.headers.get("sec-websocket-key", "")
    if request.headers.get("sec-websocket-version") != "13" or not key:
        raise ValueError("the WebSocket handshake needs Sec-WebSocket-Version: 13 and a Sec-WebSocket-Key")
    digest = base64.b64encode(hashlib.sha1(key.encode() + _GUID).digest()).decode()
    headers = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Accept": digest}
    if subprotocol:
        headers["Sec-WebSocket-Protocol"] = subprotocol
    return head_bytes(101, headers)


class WebSocket:
    """The server's end of an open WebSocket."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._connection = Connection(ConnectionType.SERVER)
        self._ready: list[bytes] = []
        self._parts: list[bytes] = []
        self._over = False
        self.heard = asyncio.Event()
        """Set when anything has come from the client, be it the answer to a ping (while somebody receives)."""

    async def receive(self) -> bytes | None:
        """The next whole message; None after a close, a broken connection or broken framing."""
        while True:
            if self._ready:
                return self._ready.pop(0)
            if self._over:
                return None
            try:
                data = await self._reader.read(128 << 10)
            except OSError:
                data = b""
            if not data:
                self._over = True
                return None
            self.heard.set()
            try:
                self._connection.receive_data(data)
                await self._take_events()
            except RemoteProtocolError as error:
                self._over = True
                if error.event_hint is not None:
                    with suppress(LocalProtocolError, ConnectionError):
                        await self._write(self._connection.send(error.event_hint))
            except ConnectionError:
                self._over = True

    async def _take_events(self) -> None:
        for event in self._connection.events():
            if isinstance(event, BytesMessage | TextMessage):
                self._parts.append(event.data.encode() if isinstance(event.data, str) else bytes(event.data))
                if sum(map(len, self._parts)) > MESSAGE_LIMIT:
                    await self.close(1009)
                    self._over = True
                    return
                if event.message_finished:
                    self._ready.append(b"".join(self._parts))
                    self._parts.clear()
            elif isinstance(event, Ping):
                with suppress(LocalProtocolError):  # after our close nothing more may be said
                    await self._write(self._connection.send(event.response()))
            elif isinstance(event, CloseConnection):
                self._over = True
                with suppress(LocalProtocolError):
                    await self._write(self._connection.send(event.response()))

    async def send(self, data: bytes, *, text: bool = False) -> None:
        """Send one message. Raises ConnectionError when the connection is gone or closed."""
        try:
            message = TextMessage(data=data.decode()) if text else BytesMessage(data=data)
            await self._write(self._connection.send(message))
        except LocalProtocolError as error:
            raise BrokenPipeError("the WebSocket is closed") from error

    async def ping(self) -> None:
        """Ask the client for a sign of life; `heard` tells that it came. Raises ConnectionError."""
        try:
            await self._write(self._connection.send(Ping()))
        except LocalProtocolError as error:
            raise BrokenPipeError("the WebSocket is closed") from error

    async def close(self, code: int = 1000) -> None:
        """Send a close frame once; never raises. The client's answer ends `receive`."""
        with suppress(LocalProtocolError, ConnectionError):
            await self._write(self._connection.send(CloseConnection(code=code)))

    async def _write(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()


class WebSocketPipe:
    """Bytes in binary messages: how SPDY is carried inside a WebSocket."""

    def __init__(self, socket: WebSocket) -> None:
        self._socket = socket

    async def read(self) -> bytes:
        while (message := await self._socket.receive()) is not None:
            if message:
                return message
        return b""

    async def write(self, data: bytes) -> None:
        await self._socket.send(data)

    async def close(self) -> None:
        await self._socket.close()


def is_base64(subprotocol: str) -> bool:
    """The variants whose messages are text: the channel as a digit, then base64."""
    return "base64" in subprotocol


def encode_message(channel: int, data: bytes, *, base64_text: bool = False) -> bytes:
    """A message of one channel."""
    if base64_text:
        return str(channel).encode() + base64.b64encode(data)
    return bytes((channel,)) + data


def decode_message(message: bytes, *, base64_text: bool = False) -> tuple[int, bytes]:
    """Channel and data of a message. Raises ValueError."""
    if not message:
        raise ValueError("a message without a channel")
    if not base64_text:
        return message[0], message[1:]
    if not message[:1].isdigit():
        raise ValueError(f"channel {message[:1]!r} is no digit")
    return message[0] - 0x30, base64.b64decode(message[1:], validate=True)


def split(data: bytes, size: int = 32 << 10) -> Iterable[bytes]:
    """Pieces of at most `size` bytes."""
    return (data[start : start + size] for start in range(0, len(data), size))
