"""Pods that nobody will ever end: those of nodes that no longer exist, and those that end without a node.

Source: k8s.io/kubernetes pkg/controller/podgc.
"""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Iterable

from podwire.controllers.cache import Key, World, key_of
from podwire.controllers.loop import Controller
from podwire.controllers.objects import Object, meta, name_of, spec, stamp, status, with_condition
from podwire.controllers.pods import finished
from podwire.kube.client import ApiError
from podwire.model.gvr import NODES, PODS

QUARANTINE_SECONDS = 40.0  # a node that is registered anew in this time keeps its pods


class PodGarbage:
    def __init__(self, world: World, quarantine: float = QUARANTINE_SECONDS) -> None:
        self._world, self._quarantine = world, quarantine
        self._missing: dict[str, float] = {}
        world.store(PODS).index("node", lambda pod: [spec(pod).get("nodeName", "")])

    def controller(self) -> Controller:
        return Controller("podgc", {NODES: self._node_changed, PODS: self._pod_changed}, self.reconcile, workers=2)

    def _node_changed(self, old: Object | None, new: Object | None) -> Iterable[Hashable]:
        if new is not None:
            self._missing.pop(name_of(new), None)
            return []
        return [key_of(pod) for pod in self._world.store(PODS).by("node", name_of(old or {}))]

    def _pod_changed(self, old: Object | None, new: Object | None) -> Iterable[Hashable]:
        if new is None:
            return []
        node = spec(new).get("nodeName")
        if node:
            return [] if self._world.store(NODES).get(node) else [key_of(new)]
        return [key_of(new)] if "deletionTimestamp" in meta(new) else []

    async def reconcile(self, key: Key) -> float | None:
        pod = self._world.store(PODS).get(key[1], key[0])
        if pod is None:
            return None
        node = spec(pod).get("nodeName")
        if not node:
            if "deletionTimestamp" in meta(pod):
                await self._world.delete(PODS, pod, grace=0)
            return None
        if self._world.store(NODES).get(node) is not None:
            return None
        now = asyncio.get_running_loop().time()
        left = self._missing.setdefault(node, now) + self._quarantine - now
        if left > 0:
            return left
        if not await self._gone(node):
            return self._quarantine
        await self._end(pod)
        return None

    async def _gone(self, node: str) -> bool:
        """Asked of the API itself: this deletes without asking the node."""
        try:
            await self._world.client.get(NODES, node)
        except ApiError as error:
            if error.not_found:
                return True
            raise
        return False

    async def _end(self, pod: Object) -> None:
        if not finished(pod):
            told = {
                "type": "DisruptionTarget",
                "status": "True",
                "reason": "DeletionByPodGC",
                "message": "PodGC: node no longer exists",
                "lastTransitionTime": stamp(self._world.now()),
            }
            conditions = with_condition(status(pod).get("conditions") or [], told)
            try:
                pod = await self._world.update_status(
                    PODS, pod, {**status(pod), "phase": "Failed", "conditions": conditions}
                )
            except ApiError as error:
                if not error.not_found:
                    raise
        await self._world.delete(PODS, pod, grace=0)
