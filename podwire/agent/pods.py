"""This node's pods and all namespaces, as the API last told: what annotations and labels ask of an attachment.

Threads that serve CNI calls read here; a pod that the watch has not told yet is asked for. The runtime's call may well
be faster than the watch.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
from typing import Any, Protocol

import msgspec

from podwire.agent.loop import Watcher
from podwire.agent.turns import Turns
from podwire.cni import spec
from podwire.cni.asked import PodFacts
from podwire.cni.spec import CniError, Request
from podwire.kube.watch import InSync
from podwire.model.api import ApiError, Object
from podwire.model.gvr import GVR, NAMESPACES, PODS
from podwire.model.meta import Meta

ASK_SECONDS = 10.0


class Known(msgspec.Struct, frozen=True):
    """The part of an object that matters."""

    metadata: Meta = Meta()


class PodApi(Watcher, Protocol):
    """Watches and single objects."""

    async def get(self, gvr: GVR, name: str, namespace: str = "", subresource: str = "") -> Object: ...


class Pods:
    """`run` watches until cancelled; `facts` may be called by any thread meanwhile."""

    def __init__(self, api: PodApi, node: str, turns: Turns) -> None:
        self._api = api
        self._node = node
        self._turns = turns
        self._pods: dict[tuple[str, str], Known] = {}
        self._namespaces: dict[str, Known] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._news: list[asyncio.Event] = []

    def known(self) -> dict[tuple[str, str], Known]:
        """This node's pods, as last told."""
        return dict(self._pods)

    def news(self) -> asyncio.Event:
        """Set with each change of a pod of this node, from now on; who looks at the pods clears it before."""
        made = asyncio.Event()
        self._news.append(made)
        return made

    async def run(self) -> None:
        self._loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._watch(NAMESPACES, self._on_namespace), name="watch-namespaces")
            tasks.create_task(
                self._watch(PODS, self._on_pod, field_selector=f"spec.nodeName={self._node}"), name="watch-pods"
            )

    async def _watch(self, gvr: GVR, sink: Any, **options: str) -> None:
        async for item in self._api.watch(gvr, decode=Known, **options):
            if not isinstance(item, InSync):
                sink(item.key, item.object)

    def _on_pod(self, key: tuple[str, str], pod: Known | None) -> None:
        for one in self._news:
            one.set()
        if pod is None:
            self._pods.pop(key, None)
        else:
            self._pods[key] = pod

    def _on_namespace(self, key: tuple[str, str], namespace: Known | None) -> None:
        if namespace is None:
            self._namespaces.pop(key[1], None)
        else:
            self._namespaces[key[1]] = namespace

    def facts(self, request: Request) -> PodFacts:
        """Of the request's pod; nothing for a call without one, or whose pod the API does not have (any more).

        Raises CniError 11 when the API has to be asked and does not answer.
        """
        if not request.pod or not request.namespace:
            return PodFacts()
        pod = self._pods.get((request.namespace, request.pod))
        namespace = self._namespaces.get(request.namespace)
        if pod is None or (request.uid and pod.metadata.uid != request.uid):  # one of that name there was before
            pod = self._ask(PODS, request.pod, request.namespace)
        if namespace is None:
            namespace = self._ask(NAMESPACES, request.namespace, "")
        labels = {"kubernetes.io/metadata.name": request.namespace, **namespace.metadata.labels}
        return PodFacts(pod.metadata.annotations, namespace.metadata.annotations, labels)

    def exists(self, namespace: str, name: str, uid: str) -> bool:
        """Whether the API has the pod (of that UID, if one is given). Raises CniError 11 when it does not answer."""
        pod = self._pods.get((namespace, name))
        if pod is None or (uid and pod.metadata.uid != uid):
            pod = self._ask(PODS, name, namespace)
        return bool(pod.metadata.name) and (not uid or pod.metadata.uid == uid)

    def _ask(self, gvr: GVR, name: str, namespace: str) -> Known:
        if self._loop is None:
            raise CniError(spec.TRY_AGAIN, "the agent is not ready", "it has not yet begun to watch pods")
        where = f"{namespace}/{name}" if namespace else name
        call = asyncio.run_coroutine_threadsafe(self._api.get(gvr, name, namespace), self._loop)
        try:
            with self._turns.waiting():
                return msgspec.convert(call.result(ASK_SECONDS), Known)
        except ApiError as error:
            if error.not_found:
                return Known()
            raise CniError(spec.TRY_AGAIN, f"cannot read {gvr.kind} {where}", str(error)) from error
        except concurrent.futures.CancelledError as error:
            raise CniError(spec.TRY_AGAIN, "the agent is stopping") from error
        except TimeoutError as error:
            call.cancel()
            raise CniError(spec.TRY_AGAIN, f"cannot read {gvr.kind} {where}", "no answer in time") from error


async def heard(news: asyncio.Event, seconds: float) -> None:
    """Wait for news, or so long."""
    try:
        await asyncio.wait_for(news.wait(), seconds)
    except TimeoutError:
        pass
