"""Everything that an agent knows, as one JSON document for people who look for a fault: `podwire debug dump`.

It is served on a unix socket that only root may open, as it tells of every pod of the node. Secrets are left out. The
part `calculation` can be replayed offline (`replay`).
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from podwire.agent import listening, process, redact
from podwire.agent.attachments import Attachments
from podwire.agent.config import AgentConfig
from podwire.agent.datapath import NodeDatapath
from podwire.agent.health import Health
from podwire.agent.logs import Recent
from podwire.agent.loop import Loop
from podwire.agent.replay import calculation, plain
from podwire.calc.routes import RouteCalc
from podwire.http.server import Request, Response, Server, serve
from podwire.ipam.claims import Allocator
from podwire.kernel import nft
from podwire.kernel.delta import Delta
from podwire.kernel.netlink import KernelError
from podwire.kube import tallies
from podwire.render.routing import Names

log = logging.getLogger(__name__)

FORMAT = 1
PATH = "/dump"

_FEATURES = (
    "net/ipv4/ip_forward",
    "net/ipv6/conf/all/disable_ipv6",
    "net/ipv6/conf/all/forwarding",
    "net/bridge/bridge-nf-call-iptables",
    "net/netfilter/nf_conntrack_max",
    "net/core/bpf_jit_enable",
    "kernel/unprivileged_bpf_disabled",
    "fs/inotify/max_user_instances",
    "fs/inotify/max_user_watches",
)


@dataclass
class Parts:
    """What is looked at. `elements` give rows that the agent wants in nft tables, by table."""

    config: AgentConfig
    health: Health
    records: Attachments
    loop: Loop
    calculator: RouteCalc
    names: Names
    datapath: NodeDatapath
    recent: Recent
    allocator: Callable[[], Allocator | None]
    elements: Mapping[str, Callable[[], Any]]


async def document(parts: Parts) -> bytes:
    """The dump. What belongs to the event loop is taken at once, the rest by a thread."""
    began = time.time()
    calculated = calculation(parts.calculator, parts.config.node_name, parts.names, parts.loop.journal.document())
    ipam = _ipam(parts.allocator())
    now, metrics = time.monotonic(), parts.health.figures.text().splitlines()
    watches = {
        resource: {**plain(tally), "last": round(now - tally.last, 3) if tally.last else None}
        for resource, tally in tallies.tallies.items()
    }

    def rest() -> dict[str, Any]:
        from podwire.agent.look import look  # seldom needed, and not small

        return {
            "format": FORMAT,
            "taken": datetime.fromtimestamp(began, UTC).isoformat(timespec="milliseconds"),
            "node": parts.config.node_name,
            "versions": {**process.versions(), "nft": _nft_version()},
            "settings": redact.tree(plain(parts.config)),
            "kernel_features": {name: _sysctl(name) for name in _FEATURES},
            "health": {
                "ready": parts.health.ready,
                "parts": list(parts.health.parts),
                "reasons": redact.tree(dict(parts.health.reasons)),
            },
            "watches": watches,
            "tables": {name: table(delta) for name, delta in parts.datapath.tables().items()},
            "elements": {name: held() for name, held in parts.elements.items()},
            "nft": {name: _listing(name) for name in parts.elements},
            "attachments": [redact.tree(plain(record)) for record in parts.records.all()],
            "ipam": ipam,
            "seen": redact.tree(plain(look(parts.config))),
            "log": parts.recent.lines(),
            "metrics": metrics,
        }

    found = await asyncio.to_thread(rest)
    return msgspec.json.encode({**found, "calculation": calculated})


def table(delta: Delta[str, Any]) -> dict[str, Any]:
    """One kernel table: `actual` is None while it is in doubt, and everything wanted then counts as pending."""
    wanted, actual = dict(delta.desired), delta.actual
    actual = dict(actual) if actual is not None else None
    known = actual or {}
    return {
        "wanted": plain(wanted),
        "actual": plain(actual),
        "doubt": actual is None,
        "pending_writes": [key for key, row in wanted.items() if known.get(key) != row],
        "pending_removals": [key for key in known if key not in wanted],
    }


def _ipam(allocator: Allocator | None) -> dict[str, Any]:
    if allocator is None:
        return {"open": False}
    blocks = {str(cidr): {"used": used, "ahead": ahead} for cidr, (used, ahead) in allocator.holdings().items()}
    return {
        "open": True,
        "blocks": blocks,
        "ahead": {str(width): len(allocator.stock.spots(width)) for width in allocator.stock.pace},
        "lent": list(allocator.lent),
    }


def _sysctl(name: str) -> str | None:
    try:
        return Path("/proc/sys", name).read_text().strip()
    except OSError:
        return None


def _listing(name: str) -> list[str] | str:
    """The lines of an nft table, or why there are none."""
    family, table = name.split()
    try:
        return (nft.read(family, table) or "").splitlines()
    except KernelError as error:
        return str(error)


def _nft_version() -> str:
    try:
        return nft.version()
    except KernelError as error:
        return str(error)


def socket_of(config: AgentConfig) -> Path:
    """Beside the plugin's."""
    return config.socket.with_name("debug.sock")


async def listen(parts: Parts) -> Server | None:
    """Serve dumps; only the socket's owner (root) can connect. None where that cannot be: pods matter more."""
    one_at_a_time = asyncio.Lock()

    async def answer(request: Request) -> Response:
        if request.path != PATH:
            return Response(status=404, body=b"not found\n", content_type="text/plain; charset=utf-8")
        async with one_at_a_time:
            return Response(body=await document(parts), content_type="application/json")

    try:
        return await serve(answer, [listening.listen(socket_of(parts.config), 4)])
    except OSError as error:
        log.warning("debug socket not opened path=%s error=%s", socket_of(parts.config), error)
        return None


def fetch(path: Path, seconds: float = 60.0) -> bytes:
    """The dump of the agent behind a socket. Raises OSError."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as wire:
        wire.settimeout(seconds)
        wire.connect(os.fspath(path))
        wire.sendall(f"GET {PATH} HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: wire.recv(1 << 18), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    status = head.partition(b"\r\n")[0]
    if b" 200 " not in status:
        raise OSError(f"the agent answered {status.decode(errors='replace')!r}")
    return body
