"""One node's agent as a process of its own, for tests: the real Agent, its API being the test's FakeApi over a socket.

Run inside the node's network namespace: `agent_process.py API_SOCKET CONFIG_JSON`.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec

from podwire.agent.config import AgentConfig
from podwire.agent.main import Agent
from podwire.agent.priority import prefer
from podwire.kube.watch import InSync, Update
from podwire.model.api import ApiError
from podwire.model.gvr import GVR


class RemoteApi:
    """Implements Api by JSON lines: [id, method, gvr, args, kwargs] → [id, "ok"|"error"|"update"|"sync", value]."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._numbers = itertools.count(1)
        self._queues: dict[int, asyncio.Queue[list[Any]]] = {}
        self._pump = asyncio.create_task(self._read())

    async def _read(self) -> None:
        while line := await self._reader.readline():
            number, *rest = json.loads(line)
            self._queues[number].put_nowait(rest)

    def _send(
        self, method: str, gvr: GVR, args: list[Any], options: dict[str, Any]
    ) -> tuple[int, asyncio.Queue[list[Any]]]:
        number = next(self._numbers)
        self._queues[number] = asyncio.Queue()
        call = [number, method, [gvr.group, gvr.version, gvr.plural, gvr.kind, gvr.namespaced], args, options]
        self._writer.write(json.dumps(call).encode() + b"\n")
        return number, self._queues[number]

    async def _call(self, method: str, gvr: GVR, args: list[Any], options: dict[str, Any]) -> Any:
        number, queue = self._send(method, gvr, args, options)
        kind, value = await queue.get()
        del self._queues[number]
        if kind == "error":
            raise ApiError(*value)
        return value

    async def get(self, gvr: GVR, *args: Any, **options: Any) -> Any:
        return await self._call("get", gvr, list(args), options)

    async def list(self, gvr: GVR, *args: Any, **options: Any) -> Any:
        return tuple(await self._call("list", gvr, [*args], options))

    async def create(self, gvr: GVR, *args: Any, **options: Any) -> Any:
        return await self._call("create", gvr, [*args], options)

    async def update(self, gvr: GVR, *args: Any, **options: Any) -> Any:
        return await self._call("update", gvr, [*args], options)

    async def patch(self, gvr: GVR, *args: Any, **options: Any) -> Any:
        return await self._call("patch", gvr, [*args], options)

    async def delete(self, gvr: GVR, *args: Any, **options: Any) -> Any:
        return await self._call("delete", gvr, [*args], options)

    async def watch(
        self, gvr: GVR, namespace: str = "", *, decode: type[Any] | None = None, **options: Any
    ) -> AsyncIterator[Any]:
        _, queue = self._send("watch", gvr, [namespace], options)
        while True:
            kind, value = await queue.get()
            if kind == "sync":
                yield InSync()
            else:
                key, thing = value
                yield Update(tuple(key), thing if thing is None or decode is None else msgspec.convert(thing, decode))

    async def close(self) -> None:
        self._writer.close()


async def main(path: str, config: AgentConfig) -> None:
    api = RemoteApi(*await asyncio.open_unix_connection(path, limit=1 << 24))
    task = asyncio.ensure_future(Agent(config, api).serve())
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    try:
        await task
    except asyncio.CancelledError:
        pass


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    settings = json.loads(sys.argv[2])
    paths = {"kubeconfig", "socket", "conf_dir", "bin_dir", "state_dir", "shim"}
    prefer()
    asyncio.run(main(sys.argv[1], AgentConfig(**{k: Path(v) if k in paths else v for k, v in settings.items()})))
