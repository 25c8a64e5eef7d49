"""Node life: heartbeats (Leases), readiness taints, and pods that must leave: the loops around `health`."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Iterable

from podwire.controllers import health
from podwire.controllers.cache import Key, World, key_of
from podwire.controllers.loop import Controller
from podwire.controllers.objects import Object, condition, meta, name_of, spec, stamp, status, uid_of, with_condition
from podwire.controllers.pods import finished, ready
from podwire.kube.client import ApiError
from podwire.model.gvr import LEASES, NODES, PODS

LEASE_NAMESPACE = "kube-node-lease"
COMPONENT = "node-controller"


class NodeHealth:
    """Marks nodes. A heartbeat counts from when *we* saw it change: clocks may differ, and we may have slept."""

    def __init__(self, world: World, grace: float = health.GRACE_SECONDS) -> None:
        self._world, self._grace = world, grace
        self._heard: dict[str, tuple[object, float]] = {}
        world.store(PODS).index("node", lambda pod: [spec(pod).get("nodeName", "")])

    def controller(self) -> Controller:
        triggers = {NODES: self._node_changed, LEASES: self._lease_changed}
        return Controller("nodes", triggers, self.reconcile, needs=(PODS,), workers=4)

    def _lease_changed(self, old: Object | None, new: Object | None) -> Iterable[Hashable]:
        lease = new or old or {}
        if meta(lease).get("namespace") != LEASE_NAMESPACE:
            return []
        name = name_of(lease)
        node = self._world.store(NODES).get(name)
        heartbeat = spec(new).get("renewTime") if new else None
        before = self._heard.get(name)
        if before is None or before[0] != heartbeat:
            self._heard[name] = (heartbeat, asyncio.get_running_loop().time())
        # A heartbeat of a healthy node needs no work: its appointment is looked at when it is due.
        return [name] if node is not None and health.ready_state(node) == "Unknown" else []

    def _node_changed(self, old: Object | None, new: Object | None) -> Iterable[Hashable]:
        if new is None:
            gone = name_of(old or {})
            self._heard.pop(gone, None)
            return [name_of(node) for node in self._world.store(NODES)]
        if old is not None and health.ready_state(old) != health.ready_state(new):
            # The first node that is ready, or the last that is not, decides about all.
            return [name_of(node) for node in self._world.store(NODES)]
        return [name_of(new)]

    async def reconcile(self, name: str) -> float | None:
        node = self._world.store(NODES).get(name)
        if node is None or self._world.store(NODES).leaving(node):
            return None
        now = asyncio.get_running_loop().time()
        _, heard = self._heard.setdefault(name, (None, now))
        left = heard + self._grace - now
        if left <= 0 and health.ready_state(node) != "Unknown":
            conditions = health.silent_conditions(node, self._world.now())
            node = await self._world.update_status(NODES, node, {**status(node), "conditions": conditions})
            said = f"Node {name} status is now: NodeNotReady"
            self._world.tell(node, "Normal", "NodeNotReady", said, COMPONENT)
        await self._taint(node)
        if health.ready_state(node) != "True":
            await self._unready_pods(node)
        return left + 0.1 if left > 0 else None

    async def _taint(self, node: Object) -> None:
        others = self._world.store(NODES)
        evict = any(health.ready_state(one) == "True" for one in others)
        wanted = health.taints(node, self._world.now(), evict=evict)
        if wanted != (spec(node).get("taints") or []):
            identity = {"uid": uid_of(node), "resourceVersion": meta(node).get("resourceVersion")}
            await self._world.patch(NODES, node, {"metadata": identity, "spec": {"taints": wanted or None}})

    async def _unready_pods(self, node: Object) -> None:
        """Nobody can say that pods of a silent node are ready."""
        if health.ready_state(node) != "Unknown" or condition(node, "Ready") is None:
            return
        for pod in self._world.store(PODS).by("node", name_of(node)):
            told = condition(pod, "Ready")
            if told is None or not ready(pod) or finished(pod):
                continue
            new = {**told, "status": "False", "reason": "NodeNotReady", "lastTransitionTime": stamp(self._world.now())}
            conditions = with_condition(status(pod).get("conditions") or [], new)
            try:
                await self._world.update_status(PODS, pod, {**status(pod), "conditions": conditions})
            except ApiError as error:
                if not error.not_found:
                    raise
            self._world.tell(pod, "Warning", "NodeNotReady", "Node is not ready", COMPONENT)


class Evictions:
    """Deletes pods that do not tolerate a NoExecute taint of their node, when their time there is over."""

    def __init__(self, world: World) -> None:
        self._world = world
        world.store(PODS).index("node", lambda pod: [spec(pod).get("nodeName", "")])

    def controller(self) -> Controller:
        triggers = {NODES: self._node_changed, PODS: self._pod_changed}
        return Controller("evictions", triggers, self.reconcile)

    def _node_changed(self, old: Object | None, new: Object | None) -> Iterable[Hashable]:
        if new is None or (old is not None and spec(old).get("taints") == spec(new).get("taints")):
            return []
        return [key_of(pod) for pod in self._world.store(PODS).by("node", name_of(new))]

    def _pod_changed(self, old: Object | None, new: Object | None) -> Iterable[Hashable]:
        if new is None or not spec(new).get("nodeName") or (old is not None and spec(old) == spec(new)):
            return []
        return [key_of(new)]

    async def reconcile(self, key: Key) -> float | None:
        store = self._world.store(PODS)
        pod = store.get(key[1], key[0])
        node = self._world.store(NODES).get(spec(pod).get("nodeName", "")) if pod else None
        if pod is None or node is None or store.leaving(pod) or finished(pod):
            return None
        node_taints = spec(node).get("taints") or []
        left = health.leaves_in(spec(pod).get("tolerations") or [], node_taints, self._world.now())
        if left is None or left > 0:
            return left
        said = f"Marking for deletion Pod {'/'.join(key)}"
        self._world.tell(pod, "Normal", "TaintManagerEviction", said, "taint-eviction-controller")
        await self._world.delete(PODS, pod)
        return None
