"""What the workers of all pods of a node share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from podwire.kube.api import Api
from podwire.kube.events import Recorder
from podwire.kubelet import cniconf
from podwire.kubelet.children import Children
from podwire.kubelet.cnirun import CniRunner
from podwire.kubelet.config import KubeletConfig
from podwire.kubelet.dnsfiles import Resolver
from podwire.kubelet.downward import NodeFacts
from podwire.kubelet.image import Image
from podwire.kubelet.runtime import Runtime
from podwire.kubelet.sandbox import Sandboxes
from podwire.kubelet.volumes import Volumes

Object = dict[str, Any]


@dataclass
class Context:
    """`resolve` finds an image (blocking); `services` are all Services known by now; `resolver` is the node's own;
    `network_fault` says why the network is not ready."""

    config: KubeletConfig
    api: Api
    recorder: Recorder
    children: Children
    runtime: Runtime
    sandboxes: Sandboxes
    cni: CniRunner
    volumes: Volumes
    facts: NodeFacts
    resolve: Callable[[str], Image]
    resolver: Resolver
    services: dict[tuple[str, str], Object] = field(default_factory=dict)
    network_ready: asyncio.Event = field(default_factory=asyncio.Event)
    network_fault: str = cniconf.NOT_INITIALIZED
    _tasks: set[asyncio.Task[Any]] = field(default_factory=set)

    def background(self, work: Coroutine[Any, Any, Any]) -> None:
        """Let something go on beside; it is kept from being collected."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def tell(
        self,
        pod: Object,
        kind: str,
        reason: str,
        message: str,
        container: str = "",
        init: bool = False,
        same: str = "",
    ) -> None:
        """Record an Event of a pod (and one of its containers), without waiting for it. `same`: see Recorder."""
        subject = {"apiVersion": "v1", "kind": "Pod", "metadata": pod["metadata"]}
        section = "initContainers" if init else "containers"
        path = f"spec.{section}{{{container}}}" if container else ""
        host = self.config.node_name
        told = self.recorder.record(subject, kind, reason, message, "kubelet", host=host, field_path=path, same=same)
        self.background(told)

    async def close(self) -> None:
        """Give up what goes on beside."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
