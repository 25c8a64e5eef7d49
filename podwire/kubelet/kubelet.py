"""The kubelet put together: API client, runtime, pod workers, node status, and the HTTPS server for streams."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec

from podwire.http.server import Request, Response, Server, Takeover
from podwire.http.server import serve as serve_http
from podwire.kube import kubeconfig
from podwire.kube.api import Api
from podwire.kube.client import Client
from podwire.kube.events import Recorder
from podwire.kube.watch import InSync
from podwire.kubelet import images, node, stream, syscalls
from podwire.kubelet.children import Children
from podwire.kubelet.cnirun import CniRunner
from podwire.kubelet.cniwatch import Network
from podwire.kubelet.config import KubeletConfig
from podwire.kubelet.confwatch import DirectoryWatch
from podwire.kubelet.context import Context
from podwire.kubelet.dnsfiles import Resolver, parse_resolver
from podwire.kubelet.image import Image
from podwire.kubelet.pods import Pods
from podwire.kubelet.runtime import Runtime
from podwire.kubelet.sandbox import Sandboxes
from podwire.kubelet.volumes import Volumes
from podwire.model.gvr import PODS, SERVICES

log = logging.getLogger(__name__)
_SWEEP_SECONDS = 30.0
_SERVICES_WAIT = 5.0


class Kubelet:
    """One node's kubelet over any Api. `run` ends when it is cancelled; the pods live on."""

    def __init__(self, config: KubeletConfig, api: Api, resolve: Callable[[str], Image] | None = None) -> None:
        facts = node.facts(config)
        children = Children()
        self.config = config
        self.context = Context(
            config=config,
            api=api,
            recorder=Recorder(api),
            children=children,
            runtime=Runtime(config.state, config.containers, children, rootless=not config.cgroup_parent),
            sandboxes=Sandboxes(config.state, config.netns_dir),
            cni=CniRunner(children, config.cni_conf_dir, config.cni_bin_dirs, config.cni_cache),
            volumes=Volumes(api, config.pods, facts, children.call),
            facts=facts,
            resolve=resolve or (lambda name: images.resolve(name, config.cache)),
            resolver=_node_resolver(config),
        )
        self.pods = Pods(self.context)
        self.status = node.NodeStatus(config, api, facts, lambda: self.context.network_fault)
        self._services_known = asyncio.Event()

    async def run(self) -> None:
        """Take up what is there, then follow the API. Needs a running loop and the right to make namespaces."""
        syscalls.become_subreaper()
        for directory in (self.config.state, self.config.containers, self.config.pods, self.config.logs):
            directory.mkdir(parents=True, exist_ok=True)
        network = Network(self.context, self._network_changed)
        watch = DirectoryWatch(self.config.cni_conf_dir, network.look)
        self.pods.recover()
        jobs = [self.status.run(), self._follow_services(), self._follow_pods(), self._sweep(), network.run()]
        try:
            async with asyncio.TaskGroup() as group:
                for job in jobs:
                    group.create_task(job)
        finally:
            watch.close()
            await self.pods.close()
            await self.context.close()
            await self.context.runtime.close()
            self.context.children.close()

    def _network_changed(self) -> None:
        self.status.changed()
        if self.context.network_ready.is_set():
            self.pods.network_ready()

    async def _follow_services(self) -> None:
        async for update in self.context.api.watch(SERVICES):
            if isinstance(update, InSync):
                self._services_known.set()
            elif update.object is None:
                self.context.services.pop(update.key, None)
            else:
                self.context.services[update.key] = update.object

    async def _follow_pods(self) -> None:
        """Services first: containers get them as environment."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._services_known.wait(), _SERVICES_WAIT)
        await self.pods.follow(self.context.api.watch(PODS, field_selector=f"spec.nodeName={self.config.node_name}"))

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_SECONDS)
            self.context.children.sweep()

    async def serve(self) -> Server:
        """Listen on the kubelet port; clients need a certificate of the lab's CA."""
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(self.config.cert_file, self.config.key_file)
        tls.load_verify_locations(self.config.ca_file)
        tls.verify_mode = ssl.CERT_REQUIRED
        family = socket.AF_INET6 if ":" in self.config.node_ip else socket.AF_INET
        listening = socket.create_server((self.config.node_ip, self.config.port), family=family, backlog=128)
        return await serve_http(self._handler(), [listening], tls)

    def _handler(self) -> Callable[[Request], Awaitable[Response | Takeover]]:
        streams = stream.handler(self.pods)

        async def handle(request: Request) -> Response | Takeover:
            if request.path == "/healthz":
                return Response(200, b"ok", content_type="text/plain; charset=utf-8")
            if request.path in ("/pods", "/pods/"):
                return Response(200, msgspec.json.encode(self.pods.listing()))
            return await streams(request)

        return handle


def _node_resolver(config: KubeletConfig) -> Resolver:
    """The node's own resolv.conf, with the configured search domains when it has none."""
    try:
        found = parse_resolver(Path("/etc/resolv.conf").read_text())
    except OSError:
        found = Resolver()
    search = found.search or tuple(config.resolv_search)
    return Resolver(found.nameservers, search, found.options)


async def serve(config: KubeletConfig) -> None:
    """Run a kubelet against the API of its kubeconfig until SIGTERM."""
    client = Client(kubeconfig.load(config.kubeconfig), user_agent="kubelet/v1.36.0")
    kubelet = Kubelet(config, client)
    loop = asyncio.get_running_loop()
    running = asyncio.ensure_future(kubelet.run())
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, running.cancel)
    server = await kubelet.serve()
    try:
        await running
    except asyncio.CancelledError:
        log.info("kubelet: leaving; containers run on")
    finally:
        await server.close()
        await client.close()
