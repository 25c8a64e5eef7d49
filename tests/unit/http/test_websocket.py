"""WebSocket handshake, messages and Kubernetes' channels, with wsproto's client as the other end."""

import asyncio
import socket

import pytest
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Ping, Pong, TextMessage

from podwire.http import websocket
from podwire.http.server import Peer, Request


def request(**headers: str) -> Request:
    named = {key.replace("_", "-"): value for key, value in headers.items()}
    return Request("GET", "/", "/", {}, named, b"", Peer("127.0.0.1"))


def test_the_handshake_of_rfc_6455() -> None:
    asked = request(upgrade="WebSocket", sec_websocket_version="13", sec_websocket_key="dGhlIHNhbXBsZSBub25jZQ==")
    assert websocket.wanted(asked)
    head = websocket.accept(asked, "v5.channel.k8s.io")
    assert head.startswith(b"HTTP/1.1 101 ")
    assert b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" in head
    assert b"Sec-WebSocket-Protocol: v5.channel.k8s.io\r\n" in head
    for bad in ({"sec_websocket_version": "8", "sec_websocket_key": "x"}, {"sec_websocket_version": "13"}):
        with pytest.raises(ValueError, match="Sec-WebSocket-Version"):
            websocket.accept(request(**bad), "")


@pytest.mark.parametrize(
    ("offered", "chosen"), [("v5.x, v4.x", "v5.x"), ("new.x, v4.x", "v4.x"), ("new.x", None), ("", "")]
)
def test_subprotocols_are_chosen_in_the_clients_order(offered: str, chosen: str | None) -> None:
    assert websocket.choose(request(sec_websocket_protocol=offered), ("v4.x", "v5.x")) == chosen


@pytest.mark.parametrize(("base64_text", "wire"), [(False, b"\x01hi"), (True, b"1aGk=")])
def test_channels(base64_text: bool, wire: bytes) -> None:
    assert websocket.encode_message(1, b"hi", base64_text=base64_text) == wire
    assert websocket.decode_message(wire, base64_text=base64_text) == (1, b"hi")
    for bad in (b"", b"x") if base64_text else (b"",):
        with pytest.raises(ValueError):
            websocket.decode_message(bad, base64_text=base64_text)


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer, self.connection = reader, writer, Connection(ConnectionType.CLIENT)

    def send(self, event: object) -> None:
        self.writer.write(self.connection.send(event))  # type: ignore[arg-type]

    async def next(self) -> object:
        while True:
            for event in self.connection.events():
                return event
            self.connection.receive_data(await self.reader.read(65536) or None)


async def ends() -> tuple[websocket.WebSocket, Client]:
    ours, theirs = socket.socketpair()
    server = websocket.WebSocket(*await asyncio.open_connection(sock=ours))
    return server, Client(*await asyncio.open_connection(sock=theirs))


async def test_messages_pings_fragments_and_the_close() -> None:
    server, client = await ends()
    client.send(BytesMessage(b"one"))
    client.send(BytesMessage(b"two-", message_finished=False))
    assert await server.receive() == b"one"
    client.send(Ping(b"are you there"))
    client.send(BytesMessage(b"parts"))
    client.send(TextMessage("text"))
    assert [await server.receive(), await server.receive()] == [b"two-parts", b"text"]
    assert isinstance(await client.next(), Pong)
    await server.send(b"\x01out")
    await server.send(b"1aGk=", text=True)
    assert await client.next() == BytesMessage(bytearray(b"\x01out")) and await client.next() == TextMessage("1aGk=")
    client.send(CloseConnection(1000))
    assert await server.receive() is None
    assert isinstance(await client.next(), CloseConnection)
    with pytest.raises(ConnectionError):
        await server.send(b"late")


async def test_our_close_waits_for_the_clients_answer() -> None:
    server, client = await ends()
    client.send(BytesMessage(b"still on its way"))
    await server.close()
    assert isinstance(await client.next(), CloseConnection)
    client.send(CloseConnection(1000))
    assert await server.receive() == b"still on its way"
    assert await server.receive() is None


async def test_a_ping_that_crosses_our_close_breaks_nothing() -> None:
    server, client = await ends()
    await server.close()
    client.send(Ping(b""))
    client.send(BytesMessage(b"late"))
    client.send(CloseConnection(1000))
    assert await server.receive() == b"late"
    assert await server.receive() is None
    with pytest.raises(ConnectionError):
        await server.ping()


async def test_a_sign_of_life() -> None:
    server, client = await ends()
    await server.ping()
    ping = await client.next()
    assert isinstance(ping, Ping) and not server.heard.is_set()
    receiving = asyncio.create_task(server.receive())
    client.send(ping.response())
    await asyncio.wait_for(server.heard.wait(), 10)
    client.send(BytesMessage(b"next"))
    assert await receiving == b"next"


async def test_too_large_a_message_and_broken_framing_end_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket, "MESSAGE_LIMIT", 100)
    server, client = await ends()
    client.send(BytesMessage(bytes(101)))
    assert await server.receive() is None
    closing = await client.next()
    assert isinstance(closing, CloseConnection) and closing.code == 1009
    server, client = await ends()
    client.writer.write(b"\xff" * 20)
    assert await server.receive() is None


async def test_a_pipe_in_messages() -> None:
    server, client = await ends()
    pipe = websocket.WebSocketPipe(server)
    client.send(BytesMessage(b""))
    client.send(BytesMessage(b"abc"))
    assert await pipe.read() == b"abc"
    await pipe.write(b"def")
    assert await client.next() == BytesMessage(bytearray(b"def"))
    client.writer.close()
    assert await pipe.read() == b""
