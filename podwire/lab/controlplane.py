"""The control plane of a lab: API server, controllers and scheduler in one event loop of one process.

Composition only. It runs inside the first node and is started again when it dies; all that lasts is in the database.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import ssl
from collections.abc import Sequence
from typing import Any

from podwire.apiserver.server import ApiServer, ApiServerConfig
from podwire.apiserver.server import start as start_api
from podwire.controllers.run import ControllersConfig
from podwire.controllers.run import run as run_controllers
from podwire.http.loop import run as run_loop
from podwire.ipam.crds import crds
from podwire.kube.api import Api, ApiError
from podwire.lab.places import CLUSTER, PKI
from podwire.lab.topology import KUBENET, LabPlan
from podwire.lab.underlay import API_PORT
from podwire.model import installation, policycrds
from podwire.model.gvr import CRDS, ENDPOINTS, ENDPOINTSLICES, GVR, TIERS

VERSION = "v1.36.0+podwire"


def run(plan: LabPlan, sockets: Sequence[socket.socket]) -> None:
    """Serve on the sockets (which outlive this process) until SIGTERM."""
    run_loop(_serve(plan, sockets))


async def _serve(plan: LabPlan, sockets: Sequence[socket.socket]) -> None:
    authority = (PKI / "ca.crt").read_text()
    api = await start_api(
        ApiServerConfig(
            database=CLUSTER / "state.sqlite",
            sockets=[sock.dup() for sock in sockets],
            ssl_context=serving_context(),
            token_key=(PKI / "token.key").read_bytes(),
            service_subnet=plan.service_subnet,
            pod_subnet=plan.pod_subnet,
            kubelet_ssl=kubelet_context(),
            version=VERSION,
            ca_pem=authority,
            server_url=f"https://{plan.control_plane.address}:{API_PORT}",
        )
    )
    for gvr, obj in first_objects(plan):
        await _ensure(api.client, gvr, obj)
    controllers = ControllersConfig(
        pod_subnet=plan.pod_subnet,
        node_mask=plan.node_mask,
        pod_subnet6=plan.pod_subnet6,
        service_subnet=plan.service_subnet,
        ca_pem=authority,
        overlay=plan.network != KUBENET,
        pool_disabled=plan.network == KUBENET,
        pools=tuple(json.loads(plan.pools or "[]")),
    )
    await _until_stopped(api, controllers)


def first_objects(plan: LabPlan) -> list[tuple[GVR, dict[str, Any]]]:
    """What a cluster holds from the start: the network's own kinds, and where `kubernetes.default` leads."""
    address = plan.control_plane.address
    slice_ = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": "kubernetes",
            "namespace": "default",
            "labels": {"kubernetes.io/service-name": "kubernetes"},
        },
        "addressType": "IPv4",
        "endpoints": [{"addresses": [address], "conditions": {"ready": True}}],
        "ports": [{"name": "https", "port": API_PORT, "protocol": "TCP"}],
    }
    endpoints = {
        "apiVersion": "v1",
        "kind": "Endpoints",
        "metadata": {"name": "kubernetes", "namespace": "default"},
        "subsets": [
            {"addresses": [{"ip": address}], "ports": [{"name": "https", "port": API_PORT, "protocol": "TCP"}]}
        ],
    }
    kinds = [*crds(), *installation.crds(), *policycrds.crds()]
    tiers = ((TIERS, tier) for tier in policycrds.first_tiers())
    return [*((CRDS, crd) for crd in kinds), *tiers, (ENDPOINTSLICES, slice_), (ENDPOINTS, endpoints)]


async def _ensure(client: Api, gvr: GVR, obj: dict[str, Any]) -> None:
    """Create it, or leave what a former run (or somebody since) made of it."""
    try:
        await client.create(gvr, obj)
    except ApiError as error:
        if error.reason != "AlreadyExists":
            raise


async def _until_stopped(api: ApiServer, config: ControllersConfig) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    stopping = asyncio.create_task(stop.wait())
    work = asyncio.create_task(run_controllers(api.client, config))
    done, _ = await asyncio.wait({stopping, work}, return_when=asyncio.FIRST_COMPLETED)
    for task in (stopping, work):
        if not task.done():
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
    await api.close()
    if work in done:
        work.result()


def serving_context() -> ssl.SSLContext:
    """TLS of the API: a client certificate is asked for and verified, but a bearer token serves as well."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(PKI / "apiserver.crt", PKI / "apiserver.key")
    context.load_verify_locations(PKI / "ca.crt")
    context.verify_mode = ssl.CERT_OPTIONAL
    context.set_alpn_protocols(["http/1.1"])
    return context


def kubelet_context() -> ssl.SSLContext:
    """TLS towards kubelets: they must show the lab's authority, and so do we."""
    context = ssl.create_default_context(cafile=str(PKI / "ca.crt"))
    context.load_cert_chain(PKI / "apiserver-kubelet-client.crt", PKI / "apiserver-kubelet-client.key")
    return context
