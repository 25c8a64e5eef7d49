"""Ports of the host that belong to a lab: opened before the lab's namespaces exist, served from inside them.

The API's port is handed to the control plane as it is. Ports of `extraPortMappings` are copied, byte for byte or
datagram for datagram, to the node's address by one small process in the outer namespace.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from podwire.lab.state import LabError
from podwire.lab.topology import LabPlan

_IDLE = 60.0


@dataclass(frozen=True, slots=True)
class Opened:
    """A host socket and where its traffic goes."""

    sock: socket.socket
    target: tuple[str, int]


def open_api(port: int) -> socket.socket:
    """Listen on loopback at `port`, or at any free one if 0 or if somebody else has taken it meanwhile."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind(("127.0.0.1", port))
    except OSError as error:
        if not port or error.errno != errno.EADDRINUSE:
            raise
        sock.bind(("127.0.0.1", 0))
    sock.listen(512)
    return sock


def open_mappings(plan: LabPlan) -> list[Opened]:
    """The sockets of every extraPortMapping. Raises LabError naming the port that cannot be had."""
    found: list[Opened] = []
    for node in plan.nodes:
        for port in node.ports:
            family = socket.AF_INET6 if ":" in port.address else socket.AF_INET
            kind = socket.SOCK_DGRAM if port.protocol == "UDP" else socket.SOCK_STREAM
            sock = socket.socket(family, kind)
            try:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1 if kind == socket.SOCK_STREAM else 0)
                sock.bind((port.address, port.host_port))
                if kind == socket.SOCK_STREAM:
                    sock.listen(128)
            except OSError as error:
                for other in (sock, *(opened.sock for opened in found)):
                    other.close()
                where = f"{port.address}:{port.host_port}/{port.protocol}"
                raise LabError(f"extraPortMappings of {node.name}: {where}: {error.strerror}") from None
            found.append(Opened(sock, (node.address, port.node_port)))
    return found


def run(opened: Sequence[Opened]) -> None:
    """Copy for ever."""
    asyncio.run(_serve(opened))


async def _serve(opened: Sequence[Opened]) -> None:
    loop = asyncio.get_running_loop()
    for port in opened:
        port.sock.setblocking(False)
        if port.sock.type == socket.SOCK_STREAM:
            await asyncio.start_server(_Copier(port.target).client, sock=port.sock)
        else:
            await loop.create_datagram_endpoint(lambda target=port.target: _Datagrams(target), sock=port.sock)  # type: ignore[misc]
    await asyncio.Event().wait()


@dataclass(frozen=True, slots=True)
class _Copier:
    """Joins each client to a new connection to `target`."""

    target: tuple[str, int]

    async def client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, until both directions ended."""
        try:
            there_reader, there_writer = await asyncio.open_connection(*self.target)
        except OSError:
            writer.transport.abort()
            return
        async with asyncio.TaskGroup() as both:
            both.create_task(_copy(reader, there_writer))
            both.create_task(_copy(there_reader, writer))
        writer.close()
        there_writer.close()


async def _copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await source.read(65536):
            sink.write(data)
            await sink.drain()
        if sink.can_write_eof():
            sink.write_eof()


class _Datagrams(asyncio.DatagramProtocol):
    """A socket towards the node per client address, forgotten after a minute of silence."""

    def __init__(self, target: tuple[str, int]) -> None:
        self.target = target
        self.clients: dict[tuple[str, int], asyncio.DatagramTransport] = {}
        self.tasks: set[asyncio.Task[None]] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The host socket is ready."""
        self.transport = cast(asyncio.DatagramTransport, transport)  # not by class: Python 3.11's own is no subclass

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        """From a client on the host."""
        known = self.clients.get(addr)
        if known is not None and not known.is_closing():
            known.sendto(data)
            return
        task = asyncio.get_running_loop().create_task(self._first(data, addr))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _first(self, data: bytes, client: tuple[str, int]) -> None:
        loop = asyncio.get_running_loop()
        transport, back = await loop.create_datagram_endpoint(
            lambda: _Back(self.transport, client), remote_addr=self.target
        )
        self.clients[client] = transport
        transport.sendto(data)
        while loop.time() - back.last < _IDLE:
            await asyncio.sleep(_IDLE)
        transport.close()
        self.clients.pop(client, None)


class _Back(asyncio.DatagramProtocol):
    """Answers of the node, on their way to one client."""

    def __init__(self, front: asyncio.DatagramTransport, client: tuple[str, int]) -> None:
        self.front, self.client = front, client
        self.last = asyncio.get_running_loop().time()

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        """From the node."""
        self.last = asyncio.get_running_loop().time()
        self.front.sendto(data, self.client)
