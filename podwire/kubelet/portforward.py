"""Port-forward: connections into a pod's network namespace, over SPDY streams (plain, or tunnelled in a WebSocket) or
over the two channels a port of the WebSocket protocol v4."""

import asyncio
import logging
import socket
import struct
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from typing import Any

from podwire.http import websocket
from podwire.http.pipe import ConnectionPipe, Pipe
from podwire.http.server import Request, Takeover, head_bytes
from podwire.http.spdysession import SpdySession, SpdyStream
from podwire.kubelet.remotecommand import Refused
from podwire.kubelet.sockets import socket_in

log = logging.getLogger(__name__)

SPDY_PROTOCOL = "portforward.k8s.io"
TUNNEL_PROTOCOL = "SPDY/3.1+portforward.k8s.io"
CHANNEL_PROTOCOLS = ("v4.channel.k8s.io", "v4.base64.channel.k8s.io")

_PAIR_WITHIN = 30.0
_CONNECT_WITHIN = 30.0
_CHUNK = 64 << 10


def upgrade(request: Request, netns_path: str) -> Takeover:
    """Take the connection over and forward. Raises Refused."""
    if websocket.wanted(request):
        return _websocket(request, netns_path)
    if request.headers.get("upgrade", "").upper() != "SPDY/3.1":
        raise Refused(400, "this path needs an upgrade to SPDY/3.1 or websocket")
    offered = [name.strip() for name in request.headers.get("x-stream-protocol-version", "").split(",")]
    if offered != [""] and SPDY_PROTOCOL not in offered:
        raise Refused(403, f"unable to negotiate protocol: client supports {offered}, server {SPDY_PROTOCOL}")

    async def run(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await Forwarder(ConnectionPipe(reader, writer), netns_path).run()

    headers = {"Connection": "Upgrade", "Upgrade": "SPDY/3.1", "X-Stream-Protocol-Version": SPDY_PROTOCOL}
    return Takeover(run, head_bytes(101, headers))


def _websocket(request: Request, netns_path: str) -> Takeover:
    protocol = websocket.choose(request, (TUNNEL_PROTOCOL, *CHANNEL_PROTOCOLS))
    if protocol is None:
        raise Refused(403, f"unable to negotiate protocol: server supports {[TUNNEL_PROTOCOL, *CHANNEL_PROTOCOLS]}")
    ports = [] if protocol == TUNNEL_PROTOCOL else query_ports(request.query.get("port", []))
    try:
        head = websocket.accept(request, protocol)
    except ValueError as error:
        raise Refused(400, str(error)) from error

    async def run(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        socket = websocket.WebSocket(reader, writer)
        if protocol == TUNNEL_PROTOCOL:
            await Forwarder(websocket.WebSocketPipe(socket), netns_path).run()
        else:
            await ChannelForwarder(socket, ports, netns_path, base64_text=websocket.is_base64(protocol)).run()

    return Takeover(run, head)


def query_ports(values: Sequence[str]) -> list[int]:
    """The `port` parameters, each a number or several with commas between. Raises Refused."""
    ports = []
    for text in ",".join(values).split(","):
        if not text.isdigit() or not 0 < int(text) < 65536:
            raise Refused(400, f'port: "{text}" is not a port number')
        ports.append(int(text))
    return ports


async def connect(netns_path: str, port: int) -> socket.socket:
    """A connection to the port on the namespace's loopback, IPv4 first as the kubelet does. Raises OSError."""
    failure: OSError | None = None
    loop = asyncio.get_running_loop()
    for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        try:
            sock = await asyncio.to_thread(socket_in, netns_path, family)
        except OSError as error:
            failure = failure or error
            continue
        try:
            async with asyncio.timeout(_CONNECT_WITHIN):
                await loop.sock_connect(sock, (address, port))
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return sock
        except BaseException as error:
            sock.close()
            if not isinstance(error, OSError):
                raise
            failure = failure or error
    assert failure is not None
    raise failure


def failure_text(port: int, error: OSError) -> str:
    """What kubectl shows when the port cannot be reached."""
    reason = (
        "connection refused" if isinstance(error, ConnectionRefusedError) else (error.strerror or str(error)).lower()
    )
    return (
        f"error forwarding port {port} to pod, failed to execute portforward in network namespace: "
        f"failed to connect to localhost:{port} inside namespace: dial tcp4 127.0.0.1:{port}: connect: {reason}"
    )


class Forwarder:
    """A SPDY session of which each request id brings a data stream and an error stream."""

    def __init__(self, pipe: Pipe, netns_path: str) -> None:
        self._session = SpdySession(pipe, self._opened)
        self._netns_path = netns_path
        self._half: dict[str, dict[str, SpdyStream]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        try:
            await self._session.run()
        finally:
            for task in list(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await self._session.close()

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _opened(self, stream: SpdyStream) -> None:
        kind = stream.headers.get("streamtype", "")
        request = stream.headers.get("requestid", "")
        pair = self._half.setdefault(request, {})
        if kind not in ("data", "error") or kind in pair:
            self._start(stream.reset())
            return
        pair[kind] = stream
        if len(pair) == 2:
            del self._half[request]
            self._start(self._forward(pair["data"], pair["error"]))
        elif len(pair) == 1:
            self._start(self._expire(request, stream))

    async def _expire(self, request: str, stream: SpdyStream) -> None:
        await asyncio.sleep(_PAIR_WITHIN)
        if self._half.get(request, {}).get(stream.headers["streamtype"]) is stream:
            del self._half[request]
            await stream.reset()

    async def _forward(self, data: SpdyStream, error: SpdyStream) -> None:
        text = data.headers.get("port", "")
        sock = None
        try:
            if not text.isdigit() or not 0 < int(text) < 65536:
                await error.write(f'"{text}" is not a port number'.encode())
                return
            try:
                sock = await connect(self._netns_path, int(text))
            except OSError as failure:
                await error.write(failure_text(int(text), failure).encode())
                return
            await relay(sock, data)
        except ConnectionError:
            pass
        finally:
            if sock is not None:
                sock.close()
            await data.close()
            await error.close()
            data.discard()


async def relay(sock: socket.socket, stream: SpdyStream) -> None:
    """Bytes both ways until the pod's side is done; the client's half close is passed on."""
    loop = asyncio.get_running_loop()

    async def upward() -> None:
        with suppress(OSError):
            while data := await stream.read():
                await loop.sock_sendall(sock, data)
            sock.shutdown(socket.SHUT_WR)

    sending = asyncio.create_task(upward())
    try:
        with suppress(OSError):
            while data := await loop.sock_recv(sock, _CHUNK):
                await stream.write(data)
    finally:
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)


class ChannelForwarder:
    """The WebSocket form: channel 2i carries the data of the i-th port and 2i + 1 its errors; one connection each."""

    def __init__(self, link: websocket.WebSocket, ports: Sequence[int], netns_path: str, *, base64_text: bool) -> None:
        self._link = link
        self._ports = ports
        self._netns_path = netns_path
        self._base64 = base64_text
        self._incoming: list[asyncio.Queue[bytes]] = [asyncio.Queue(8) for _ in ports]

    async def run(self) -> None:
        for index, port in enumerate(self._ports):  # each channel begins with its port
            for channel in (2 * index, 2 * index + 1):
                await self._send(channel, struct.pack("<H", port))
        forwarding = asyncio.create_task(self._forward_all())
        receiving = asyncio.create_task(self._receive())
        try:
            await asyncio.wait([receiving, forwarding], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (forwarding, receiving):
                task.cancel()
            await asyncio.gather(forwarding, receiving, return_exceptions=True)
            await self._link.close()

    async def _receive(self) -> None:
        while (message := await self._link.receive()) is not None:
            try:
                channel, data = websocket.decode_message(message, base64_text=self._base64)
            except ValueError:
                return
            if channel % 2 == 0 and channel // 2 < len(self._incoming) and data:
                await self._incoming[channel // 2].put(data)

    async def _forward_all(self) -> None:
        await asyncio.gather(*(self._forward(index) for index in range(len(self._ports))))

    async def _forward(self, index: int) -> None:
        port = self._ports[index]
        try:
            sock = await connect(self._netns_path, port)
        except OSError as failure:
            with suppress(ConnectionError):
                await self._send(2 * index + 1, failure_text(port, failure).encode())
            return
        loop = asyncio.get_running_loop()

        async def upward() -> None:
            with suppress(OSError):
                while True:
                    await loop.sock_sendall(sock, await self._incoming[index].get())

        sending = asyncio.create_task(upward())
        try:
            with suppress(OSError):
                while data := await loop.sock_recv(sock, _CHUNK // 2):
                    await self._send(2 * index, data)
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
            sock.close()

    async def _send(self, channel: int, data: bytes) -> None:
        await self._link.send(websocket.encode_message(channel, data, base64_text=self._base64), text=self._base64)
