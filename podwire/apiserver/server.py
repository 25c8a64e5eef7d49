"""The API server as one thing to start: store, kinds, HTTPS end points, bootstrap objects, the in-process client.

It runs in the caller's event loop. Nothing is global: a process may run several.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from podwire.apiserver import custom, workloads
from podwire.apiserver.addresses import ServiceAddresses
from podwire.apiserver.durations import seconds_of
from podwire.apiserver.errors import StatusError
from podwire.apiserver.handler import ApiHandler, refusal
from podwire.apiserver.kinds import BUILT_IN
from podwire.apiserver.local import LocalClient
from podwire.apiserver.resources import Registry
from podwire.apiserver.rest import Rest
from podwire.apiserver.shape import Options
from podwire.apiserver.store import Store
from podwire.http.server import Server, serve
from podwire.model.gvr import NAMESPACES, SERVICES

log = logging.getLogger(__name__)

NAMESPACES_AT_START = ("default", "kube-system", "kube-public", "kube-node-lease")
EVENT_SECONDS = 3600.0
_SWEEP_SECONDS = 60.0


@dataclass
class ApiServerConfig:
    """`sockets` listen already; `token_key` signs service account tokens; `kubelet_ssl` is how kubelets are dialled
    (None: plain TCP, for tests); `version` is what GET /version says."""

    database: Path
    sockets: Sequence[socket.socket]
    ssl_context: ssl.SSLContext | None
    token_key: bytes
    service_subnet: str = "10.96.0.0/12"
    pod_subnet: str = "10.244.0.0/16"
    kubelet_ssl: ssl.SSLContext | None = None
    version: str = "v1.36.0+podwire"
    ca_pem: str = ""
    server_url: str = ""


class ApiServer:
    """A running server; `client` speaks to it in process."""

    def __init__(self, rest: Rest, server: Server, client: LocalClient, kinds: custom.CustomKinds) -> None:
        self.rest = rest
        self.client = client
        self._server = server
        self._kinds = kinds
        self._sweeper = asyncio.create_task(self._sweep())

    async def close(self) -> None:
        """Stop listening, end every connection, commit what is staged."""
        self._sweeper.cancel()
        await asyncio.gather(self._sweeper, return_exceptions=True)
        await self._kinds.close()
        await self._server.close()
        self.rest.store.close()

    async def _sweep(self) -> None:
        """Events are kept for an hour, as upstream does by etcd leases."""
        while True:
            await asyncio.sleep(_SWEEP_SECONDS)
            before = time.time() - EVENT_SECONDS
            events = self.rest.store.collection("events")
            for key, stored in list(events.objects.items()):
                if _last_seen(stored.object) < before and events.latest(key) is stored:
                    with contextlib.suppress(StatusError):
                        await self.rest.store.remove("events", key)


def _last_seen(event: dict[str, Any]) -> float:
    told = (event.get("series") or {}).get("lastObservedTime") or event.get("lastTimestamp") or event.get("eventTime")
    try:
        return seconds_of(told or event["metadata"]["creationTimestamp"])
    except ValueError:
        return seconds_of(event["metadata"]["creationTimestamp"])


async def start(config: ApiServerConfig) -> ApiServer:
    """Open the database, write what must exist, listen. Raises disk.StorageError, OSError."""
    store = Store(config.database)
    store.start()
    registry = Registry((*BUILT_IN, custom.RESOURCE, workloads.RESOURCE))
    workloads.follow(store)
    rest = Rest(store, registry, ServiceAddresses(config.service_subnet, store))
    kinds = custom.CustomKinds(rest)
    kinds.resume()
    await _bootstrap(rest, config)
    handler = ApiHandler(rest, token_key=config.token_key, version=config.version, kubelet_ssl=config.kubelet_ssl)
    server = await serve(handler, config.sockets, config.ssl_context, refuse=refusal)
    return ApiServer(rest, server, LocalClient(rest, config.token_key), kinds)


async def _bootstrap(rest: Rest, config: ApiServerConfig) -> None:
    for name in NAMESPACES_AT_START:
        await _ensure(rest, NAMESPACES.plural, "", {"metadata": {"name": name}})
    service = {
        "metadata": {"name": "kubernetes", "labels": {"component": "apiserver", "provider": "kubernetes"}},
        "spec": {
            "type": "ClusterIP",
            "clusterIP": rest.addresses.first,
            "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": 6443}],
        },
    }
    await _ensure(rest, SERVICES.plural, "default", service)


async def _ensure(rest: Rest, plural: str, namespace: str, obj: dict[str, Any]) -> None:
    resource = rest.registry.find("", "v1", plural)
    assert resource
    if rest.collection(resource).latest((namespace, obj["metadata"]["name"])) is None:
        await rest.create(resource, namespace, obj, Options(manager="kube-apiserver"))
