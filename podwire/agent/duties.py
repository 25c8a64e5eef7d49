"""What one process does for the whole cluster: addresses, blocks and handles of nodes that vanished.

Done in one of the agents, or by a process of its own (`podwire controller`) where agents may write for their own node
only. Whoever holds the Lease does it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import uuid
from functools import partial

from podwire.agent import families, identity, process
from podwire.agent import health as health_page
from podwire.agent.collector import Collector
from podwire.agent.config import AgentConfig
from podwire.agent.countedapi import CountedApi
from podwire.agent.election import Elector
from podwire.agent.health import Health
from podwire.agent.logs import Recent
from podwire.ipam.claims import Allocator
from podwire.ipam.layout import FoundApi
from podwire.kube.client import Client
from podwire.model.api import Api

log = logging.getLogger(__name__)

LEASE = "podwire-controller"
NOBODY = "podwire-controller!"
"""In the place of a node's name, and none: this process owns no block and holds no address."""


def candidate_name(name: str = "") -> str:
    """Of one process: a name that people know, and what no other life of it has."""
    return f"{name or socket.gethostname()}_{uuid.uuid4().hex[:8]}"


def elector(api: Api, config: AgentConfig, name: str = "") -> Elector:
    return Elector(api, LEASE, config.lease_namespace, candidate_name(name))


async def serve(api: Api, config: AgentConfig, health: Health | None = None) -> None:
    """The duties alone, until cancelled. The API client is the caller's. `health` says whether this process leads."""
    health = health or Health()
    found = FoundApi(CountedApi(api, health.figures))
    candidate = elector(found, config)
    health.figures.sources.append(lambda: [(families.LEADER, (), float(candidate.leads()))])
    allocator = Allocator(found, NOBODY)
    collector = Collector(
        found, NOBODY, allocator, live=set, grace=config.leak_grace, leads=candidate.leads, tends=False
    )
    health.good("start")
    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(candidate.run(), name="elector")
            tasks.create_task(collector.run(), name="collector")
    finally:
        await allocator.close()


def run(config: AgentConfig, port: int = 0) -> None:
    """Blocks until SIGTERM or SIGINT. Health and metrics are on `port` of every address; 0: nowhere. Raises
    KubeconfigError, OSError."""
    asyncio.run(_run(config, port))


async def _run(config: AgentConfig, port: int) -> None:
    health, recent = Health(), Recent()
    logging.getLogger().addHandler(recent)
    health.figures.sources.extend((process.build, process.samples, recent.samples))
    server = await health_page.listen(health, port, everywhere=True) if port else None
    cluster = await identity.find(config)
    client = Client(cluster, user_agent="podwire-controller", again=partial(identity.read, config))
    task = asyncio.ensure_future(serve(client, config, health))
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    log.info("controller started pid=%d namespace=%s", os.getpid(), config.lease_namespace)
    try:
        await task
    except asyncio.CancelledError:
        log.info("controller stopped")
    finally:
        if server is not None:
            await server.close()
        await client.close()
