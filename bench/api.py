"""What the API server does within one core.

`api_creates`: ConfigMaps of 1 KB created by 8 clients with open connections, per CPU-second of the server; `_pod` the
same with pods, `_wall` per second of the clock. `api_watch_fanout`: events delivered per CPU-second of the server
while 50 clients watch and 1,000 objects a second change; the CPU of those writes is in it. `api_watch_core`: the share
of one core which that load takes. `api_watch_p50` and `_p99`: from the write's request to the watcher. The server runs
alone in a process, with TLS, client certificates and a database on disk, as in a lab.
"""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import signal
import socket
import ssl
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from bench import apiload
from bench.apiload import Where
from bench.record import record

CLIENTS = 8
CREATES = {"configmap": 4000, "pod": 1500}
WATCHERS, RATE, SECONDS = 50, 1000, 3.0
TARGET = "none run here; wanted within one core: 2,000 creates/s, and 50 watchers x 1,000 events/s"
_TICK = os.sysconf("SC_CLK_TCK")
_spawn = multiprocessing.get_context("spawn")


@dataclass(frozen=True)
class Served:
    """A running server."""

    where: Where
    pid: int

    def cpu(self) -> float:
        """CPU seconds so far, of all its threads."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICK

    def megabytes(self) -> float:
        """Proportional set size."""
        rollup = Path(f"/proc/{self.pid}/smaps_rollup").read_text()
        return int(rollup.partition("\nPss:")[2].split()[0]) * 1024 / 1e6


def serve(folder: Path, sock: socket.socket) -> None:
    """An API server until SIGTERM, on a listening socket."""
    from podwire.http.loop import run

    run(_serve(folder, sock))


async def _serve(folder: Path, sock: socket.socket) -> None:
    import asyncio

    from podwire.apiserver.server import ApiServerConfig, start
    from podwire.model.gvr import SERVICEACCOUNTS

    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "apiserver.crt", folder / "apiserver.key")
    context.load_verify_locations(folder / "ca.crt")
    context.verify_mode = ssl.CERT_OPTIONAL
    gc.collect()
    gc.freeze()
    server = await start(ApiServerConfig(folder / "state.sqlite", [sock], context, b"key"))
    await server.client.create(SERVICEACCOUNTS, {"metadata": {"name": "default"}}, "default")
    await stopped.wait()
    await server.close()


@contextlib.contextmanager
def served() -> Iterator[Served]:
    """A fresh server, with certificates and database in a folder of its own."""
    from podwire.lab import pki
    from podwire.lab.topology import LabSpec, build

    with tempfile.TemporaryDirectory(prefix="podwire-bench.") as name, socket.socket() as sock:
        folder = Path(name)
        pki.ensure(build(LabSpec()), folder)
        sock.bind(("127.0.0.1", 0))
        sock.listen(512)
        process = _spawn.Process(target=serve, args=(folder, sock))
        process.start()
        assert process.pid
        try:
            yield Served(Where(sock.getsockname()[1], folder), process.pid)
        finally:
            process.terminate()
            process.join()


@contextlib.contextmanager
def client(target: Callable[..., None], where: Where, *args: Any) -> Iterator[Connection]:
    """A load client in its own process, connected and waiting to be let go."""
    ours, theirs = _spawn.Pipe()
    process = _spawn.Process(target=target, args=(where, theirs, *args), daemon=True)
    process.start()
    theirs.close()
    try:
        assert ours.recv() == "ready"
        yield ours
    finally:
        process.terminate()
        process.join()


def creates(server: Served, kind: str, prefix: str) -> tuple[float, float]:
    """(creates per CPU-second of the server, creates per second)."""
    count = CREATES[kind]
    with client(apiload.create, server.where, kind, prefix, count, CLIENTS) as load:
        before = server.cpu()
        load.send("go")
        took = load.recv()
        return count / (server.cpu() - before), count / took


def fanout(server: Served) -> dict[str, float]:
    """One run of the watch load."""
    with (
        client(apiload.watch, server.where, WATCHERS) as watching,
        client(apiload.change, server.where, RATE, SECONDS, CLIENTS) as writing,
    ):
        before = server.cpu()
        writing.send("go")
        changes, took = writing.recv()
        watching.send(changes)
        delivered, ages = watching.recv()
        cpu = server.cpu() - before
    return {
        "fanout": delivered / cpu,
        "core": cpu / took,
        "rate": changes / took,
        "lost": changes * WATCHERS - delivered,
        "p50": ages[len(ages) // 2] * 1000,
        "p99": ages[len(ages) * 99 // 100] * 1000,
    }


def measure(runs: int = 10) -> list[dict[str, Any]]:
    """Creates on a fresh server each run, then the watch load on one server."""
    maps, pods, watched, memory = [], [], [], []
    for _ in range(runs):
        with served() as server:
            creates(server, "configmap", "warm")
            maps.append(creates(server, "configmap", "map"))
            creates(server, "pod", "warm")
            pods.append(creates(server, "pod", "pod"))
            memory.append(server.megabytes())
    with served() as server:
        with client(apiload.change, server.where, RATE, 0.5, CLIENTS) as first:
            _make_watched(server.where)
            first.send("go")
            first.recv()
        watched = [fanout(server) for _ in range(runs)]
    stored = 2 * sum(CREATES.values())
    return [
        _rate("api_creates", "creates/CPU-second", [cpu for cpu, _ in maps], CREATES["configmap"]),
        _rate("api_creates_wall", "creates/s", [wall for _, wall in maps], CREATES["configmap"]),
        _rate("api_creates_pod", "creates/CPU-second", [cpu for cpu, _ in pods], CREATES["pod"]),
        _rate("api_creates_pod_wall", "creates/s", [wall for _, wall in pods], CREATES["pod"]),
        _rate("api_watch_fanout", "deliveries/CPU-second", [each["fanout"] for each in watched], WATCHERS),
        _rate("api_watch_rate", "events/s", [each["rate"] for each in watched], RATE),
        record("api_watch_core", "cores", [each["core"] for each in watched], n=WATCHERS, peer_name=TARGET),
        record("api_watch_p50", "ms", [each["p50"] for each in watched], n=WATCHERS),
        record("api_watch_p99", "ms", [each["p99"] for each in watched], n=WATCHERS),
        record("api_watch_lost", "deliveries", [each["lost"] for each in watched], n=WATCHERS),
        record("api_memory", "MB", memory, n=stored),
    ]


def _rate(name: str, unit: str, ours: list[float], n: int) -> dict[str, Any]:
    return record(name, unit, ours, n=n, peer_name=TARGET, better="higher")


def _make_watched(where: Where) -> None:
    """The ConfigMaps that the watch load changes."""
    with client(apiload.create, where, "configmap", "watched", 100, CLIENTS) as load:
        load.send("go")
        load.recv()
