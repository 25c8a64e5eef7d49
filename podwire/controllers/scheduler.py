"""The scheduler's loop: pods without a node get one, one after the other, by the binding subresource.

Decisions are taken one at a time against what is known plus what was just decided; the bindings are written side by
side. A pod that fits nowhere waits for a node or another pod to change, not for a clock.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Hashable, Iterable

from podwire.controllers.cache import Key, World, key_of
from podwire.controllers.fit import Cluster, choose
from podwire.controllers.loop import Controller
from podwire.controllers.needs import NodeRoom, PodNeeds, node_room, pod_needs
from podwire.controllers.objects import (
    Object,
    condition,
    labels,
    meta,
    name_of,
    spec,
    stamp,
    status,
    uid_of,
    with_condition,
)
from podwire.controllers.pods import finished
from podwire.kube.client import ApiError
from podwire.model.gvr import NAMESPACES, NODES, PODS

log = logging.getLogger(__name__)

NAME = "default-scheduler"
_ALL = ("", "")  # the one key: every pod that waits


def waiting(pod: Object) -> bool:
    """Ours to place."""
    wanted = spec(pod)
    return (
        not wanted.get("nodeName")
        and wanted.get("schedulerName", NAME) == NAME
        and not wanted.get("schedulingGates")
        and "deletionTimestamp" not in meta(pod)
        and not finished(pod)
    )


def order(pod: Object) -> tuple[int, str, str, str]:
    """Who is placed first: priority, then age, then name."""
    return -int(spec(pod).get("priority") or 0), meta(pod).get("creationTimestamp") or "", *key_of(pod)


def node_view(node: Object) -> object:
    """The part of a node that scheduling depends on: heartbeats leave it alone."""
    ready = (condition(node, "Ready") or {}).get("status")
    found = status(node)
    return labels(node), spec(node), found.get("allocatable"), found.get("capacity"), ready


class Scheduler:
    """The loop around `fit.choose`. `_pending` holds what waits, `_refused` what waits for the cluster to change."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._pending: dict[Key, Object] = {}
        self._refused: dict[Key, str] = {}
        self._assumed: dict[str, tuple[str, PodNeeds]] = {}
        self._needs: dict[str, tuple[str, PodNeeds]] = {}
        self._binding: set[asyncio.Task[None]] = set()
        world.store(PODS).index("node", lambda pod: [spec(pod).get("nodeName", "")])

    def controller(self) -> Controller:
        triggers = {PODS: self._pod_changed, NODES: self._node_changed}
        return Controller("scheduler", triggers, self.reconcile, needs=(NAMESPACES,), workers=1)

    def _pod_changed(self, old: Object | None, new: Object | None) -> Iterable[Hashable]:
        pod = new or old
        assert pod is not None
        key = key_of(pod)
        if new is None or spec(new).get("nodeName") or finished(new):
            self._assumed.pop(uid_of(pod), None)
        if new is None or finished(new):
            self._needs.pop(uid_of(pod), None)
        if new is not None and waiting(new):
            same = old is not None and uid_of(old) == uid_of(new) and spec(old) == spec(new)
            if same and labels(old or {}) == labels(new) and key in self._refused:
                self._pending[key] = new
                return []  # our own condition came back
            self._pending[key] = new
            self._refused.pop(key, None)
            return [_ALL]
        self._pending.pop(key, None)
        self._refused.pop(key, None)
        # Room was given back, or a pod stands somewhere that others want to be near to.
        moved = old is not None and spec(old).get("nodeName") != (spec(new).get("nodeName") if new else "")
        relabelled = new is not None and old is not None and labels(old) != labels(new)
        if new is None or finished(new) or moved or relabelled:
            return self._retry()
        return []

    def _node_changed(self, old: Object | None, new: Object | None) -> Iterable[Hashable]:
        if old is not None and new is not None and node_view(old) == node_view(new):
            return []
        return self._retry()

    def _retry(self) -> Iterable[Hashable]:
        """Everything that was refused may be asked again."""
        if not self._refused:
            return []
        self._refused.clear()
        return [_ALL]

    async def reconcile(self, _: Key) -> float | None:
        cluster = self._cluster()
        rooms = {node.name: node for node in cluster.nodes}
        todo = [pod for key, pod in self._pending.items() if key not in self._refused]
        for pod in sorted(todo, key=order):
            if uid_of(pod) in self._assumed:
                continue
            try:
                needs = self._read(pod)
            except (ValueError, TypeError, AttributeError) as error:
                self._refused[key_of(pod)] = str(error)
                log.warning("scheduler: pod %s/%s is not understood: %s", *key_of(pod), error)
                continue
            choice = choose(needs, cluster)
            if choice.node:
                rooms[choice.node].pods.append(needs)
                self._assumed[uid_of(pod)] = (choice.node, needs)
                task = asyncio.create_task(self._bind(pod, choice.node))
                self._binding.add(task)
                task.add_done_callback(self._binding.discard)
            else:
                self._refused[key_of(pod)] = choice.message
                await self._refuse(pod, choice.message)
        return None

    def _cluster(self) -> Cluster:
        rooms: dict[str, NodeRoom] = {}
        for node in self._world.store(NODES):
            try:
                rooms[name_of(node)] = node_room(node)
            except (ValueError, TypeError, AttributeError) as error:
                log.warning("scheduler: node %s is not understood: %s", name_of(node), error)
        store = self._world.store(PODS)
        for name, room in rooms.items():
            for pod in store.by("node", name):
                if finished(pod):
                    continue
                try:
                    room.pods.append(self._read(pod))
                except (ValueError, TypeError, AttributeError) as error:
                    log.warning("scheduler: pod %s/%s is not understood: %s", *key_of(pod), error)
        for name, needs in self._assumed.values():
            if name in rooms:
                rooms[name].pods.append(needs)
        namespaces = {name_of(one): labels(one) for one in self._world.store(NAMESPACES)}
        return Cluster([rooms[name] for name in sorted(rooms)], namespaces)

    def _read(self, pod: Object) -> PodNeeds:
        """What a pod needs, read again only when the pod changed."""
        version = meta(pod).get("resourceVersion", "")
        held = self._needs.get(uid_of(pod))
        if held is None or held[0] != version:
            held = self._needs[uid_of(pod)] = (version, pod_needs(pod))
        return held[1]

    async def _bind(self, pod: Object, node: str) -> None:
        namespace, name = key_of(pod)
        binding = {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": name, "namespace": namespace, "uid": uid_of(pod)},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node},
        }
        try:
            await self._world.client.create(PODS, binding, namespace, subresource="binding", name=name)
        except Exception as error:
            self._assumed.pop(uid_of(pod), None)
            if isinstance(error, ApiError) and error.status in (404, 409):
                return  # gone, or placed by somebody else: the watch tells
            if isinstance(error, ApiError):
                log.warning("scheduler: binding %s/%s to %s: %s", namespace, name, node, error)
            else:
                log.exception("scheduler: binding %s/%s to %s failed", namespace, name, node)
            self._world.tell(pod, "Warning", "FailedScheduling", f"binding rejected: {error}", NAME)
            await asyncio.sleep(1.0)
            self._world.store(PODS).repeat((namespace, name))
            return
        self._world.tell(pod, "Normal", "Scheduled", f"Successfully assigned {namespace}/{name} to {node}", NAME)

    async def _refuse(self, pod: Object, message: str) -> None:
        """Say why in the pod's PodScheduled condition and an event, once per reason."""
        old = condition(pod, "PodScheduled") or {}
        if old.get("status") == "False" and old.get("message") == message:
            return
        self._world.tell(pod, "Warning", "FailedScheduling", message, NAME)
        since = old.get("lastTransitionTime") if old.get("status") == "False" else None
        told = {
            "type": "PodScheduled",
            "status": "False",
            "reason": "Unschedulable",
            "message": message,
            "lastProbeTime": None,
            "lastTransitionTime": since or stamp(self._world.now()),
        }
        conditions = with_condition(status(pod).get("conditions") or [], told)
        identity = {"uid": uid_of(pod), "resourceVersion": meta(pod).get("resourceVersion")}
        try:
            await self._world.patch(
                PODS, pod, {"metadata": identity, "status": {"conditions": conditions}}, subresource="status"
            )
        except ApiError as error:
            if error.status not in (404, 409):
                log.warning("scheduler: status of %s/%s: %s", *key_of(pod), error)
