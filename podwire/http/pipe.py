"""The least that a stream protocol needs of what carries it: a raw connection, or messages of a WebSocket."""

import asyncio
from typing import Protocol


class Pipe(Protocol):
    """Ordered bytes both ways, with back-pressure on `write`."""

    async def read(self) -> bytes:
        """Some bytes; b"" when the other end is done or gone."""

    async def write(self, data: bytes) -> None:
        """Send; returns when there is room for more. Raises ConnectionError when the other end is gone."""

    async def close(self) -> None:
        """Say good-bye and let go; never raises."""


class ConnectionPipe:
    """A taken-over connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def read(self) -> bytes:
        try:
            return await self._reader.read(64 << 10)
        except OSError:
            return b""

    async def write(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def close(self) -> None:
        self._writer.close()
