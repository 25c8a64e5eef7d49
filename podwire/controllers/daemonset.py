"""DaemonSets: the loop around `daemons`, and their history in ControllerRevisions.

Source: k8s.io/kubernetes pkg/controller/daemon; the history's form is what `kubectl rollout undo` reads.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Hashable, Iterable

from podwire.controllers import claim, daemons, pods
from podwire.controllers.cache import Key, World, key_of
from podwire.controllers.loop import Controller
from podwire.controllers.needs import NodeRoom, node_room, pod_needs
from podwire.controllers.objects import (
    Object,
    clone,
    controlled_by,
    controller_of,
    labels,
    meta,
    name_of,
    notes,
    owner_reference,
    pod_prefix,
    spec,
    template_pod,
    without_none,
)
from podwire.controllers.replicaset import owner_key, slow_start
from podwire.controllers.revisions import template_hash
from podwire.controllers.scheduler import node_view
from podwire.kube.client import ApiError
from podwire.model.gvr import CONTROLLERREVISIONS, DAEMONSETS, NODES, PODS
from podwire.model.selectors import label_selector

COMPONENT = "daemonset-controller"
TEMPLATE_GENERATION = "deprecated.daemonset.template.generation"


def revision_data(daemonset: Object) -> Object:
    """What a ControllerRevision holds: a strategic merge patch that puts the template back."""
    template = without_none(spec(daemonset).get("template") or {})
    template.get("metadata", {}).pop("creationTimestamp", None)
    return {"spec": {"template": {**template, "$patch": "replace"}}}


class DaemonSets:
    def __init__(self, world: World) -> None:
        self._world = world
        self._failed: dict[tuple[str, str], int] = {}
        claim.index_orphans(world.store(PODS))
        claim.index_orphans(world.store(CONTROLLERREVISIONS))

    def controller(self) -> Controller:
        triggers = {
            DAEMONSETS: lambda old, new: {key_of(one) for one in (old, new) if one is not None},
            PODS: self._pod_changed,
            NODES: self._node_changed,
        }
        return Controller("daemonset", triggers, self.reconcile, needs=(CONTROLLERREVISIONS,))

    def _pod_changed(self, old: Object | None, new: Object | None) -> Iterable[Hashable]:
        keys = {owner_key(pod, "DaemonSet") for pod in (old, new) if pod is not None}
        if new is not None and controller_of(new) is None:
            for found in self._world.store(DAEMONSETS).by("namespace", key_of(new)[0]):
                keys.add(key_of(found))
        return [key for key in keys if key is not None]

    def _node_changed(self, old: Object | None, new: Object | None) -> Iterable[Hashable]:
        if old is not None and new is not None and node_view(old) == node_view(new):
            return []
        return [key_of(found) for found in self._world.store(DAEMONSETS)]

    async def reconcile(self, key: Key) -> float | None:
        store = self._world.store(DAEMONSETS)
        daemonset = store.get(key[1], key[0])
        selector = label_selector(spec(daemonset).get("selector")) if daemonset else None
        if daemonset is None or selector is None or not selector.requirements:
            return None
        children = await claim.children(self._world, DAEMONSETS, daemonset, PODS, selector)
        if store.leaving(daemonset):
            return None
        revision, old_revisions = await self._revision(daemonset)
        places = self._places(daemonset)
        by_node = self._by_node(children)
        now = self._world.now()
        on_update = (spec(daemonset).get("updateStrategy") or {}).get("type", "RollingUpdate") == "RollingUpdate"
        desired = sum(place.run for place in places.values())
        surge = on_update and daemons.update_bounds(daemonset, desired)[0] > 0
        work = daemons.missing_and_surplus(places, by_node, surge=surge)
        failure = await self._carry_out(daemonset, work, revision)
        if on_update and not work.create and not work.delete:
            failure = await self._carry_out(
                daemonset, daemons.rolling(daemonset, places, by_node, revision, now), revision
            )
        mine = [pod for pod in self._mine(daemonset) if selector.matches(labels(pod))]
        by_node = self._by_node(mine)
        if store.get(key[1], key[0]) is not None:
            told = daemons.new_status(daemonset, places, by_node, revision, now)
            await self._world.update_status(DAEMONSETS, daemonset, told)
        await self._clean(daemonset, old_revisions, mine)
        if failure is not None:
            raise failure
        seconds = int(spec(daemonset).get("minReadySeconds") or 0)
        waits = [wait for pod in mine if (wait := pods.available_in(pod, seconds, now))]
        return min(waits) if waits else None

    def _mine(self, daemonset: Object) -> list[Object]:
        found = self._world.store(PODS).by("owner", meta(daemonset)["uid"])
        return [pod for pod in found if controlled_by(pod, daemonset)]

    def _by_node(self, found: list[Object]) -> dict[str, list[Object]]:
        store, result = self._world.store(PODS), defaultdict(list)
        for pod in found:
            if not store.leaving(pod):
                result[daemons.pinned_to(pod)].append(pod)
            elif not pods.finished(pod):
                # Its place is taken until it is gone: two daemons at a time would meet on ports and files.
                result[daemons.pinned_to(pod)].append({**pod, "metadata": {**meta(pod), "deletionTimestamp": "set"}})
        return result

    def _places(self, daemonset: Object) -> dict[str, daemons.Placement]:
        template = clone(spec(daemonset).get("template") or {})
        wanted = template.setdefault("spec", {})
        wanted["tolerations"] = daemons.tolerations(wanted)
        needs = pod_needs({"metadata": meta(template), "spec": wanted})
        result = {}
        for node in self._world.store(NODES):
            room: NodeRoom = node_room(node)
            room.taints = tuple(spec(node).get("taints") or ())
            result[name_of(node)] = daemons.placement(needs, room)
        return result

    async def _carry_out(self, daemonset: Object, work: daemons.Work, revision: str) -> BaseException | None:
        failure = await self._delete(daemonset, work.delete)
        return await self._create(daemonset, list(work.create), revision) or failure

    async def _create(self, daemonset: Object, nodes: list[str], revision: str) -> BaseException | None:
        template = clone(spec(daemonset).get("template") or {})
        marks = {daemons.HASH: revision}
        if generation := notes(daemonset).get(TEMPLATE_GENERATION):
            marks[daemons.GENERATION] = generation
        namespace, name = key_of(daemonset)

        async def one(number: int) -> None:
            owner = owner_reference(DAEMONSETS, daemonset)
            pod = template_pod(template, namespace, prefix=pod_prefix(name), owner=owner)
            pod["metadata"]["labels"] = {**labels(pod), **marks}
            pod["spec"] = daemons.pinned(pod["spec"], nodes[number])
            try:
                made = await self._world.create(PODS, pod)
            except ApiError as error:
                self._world.tell(daemonset, "Warning", "FailedCreate", f"Error creating: {error}", COMPONENT)
                raise
            self._world.tell(daemonset, "Normal", "SuccessfulCreate", f"Created pod: {name_of(made)}", COMPONENT)

        return await slow_start(len(nodes), one)

    async def _delete(self, daemonset: Object, doomed: Iterable[Object]) -> BaseException | None:
        async def one(pod: Object) -> None:
            if pods.phase(pod) == "Failed":
                where = f"{'/'.join(key_of(pod))} on node {daemons.pinned_to(pod)}"
                said = f"Found failed daemon pod {where}, will try to kill it"
                self._world.tell(daemonset, "Warning", "FailedDaemonPod", said, COMPONENT)
                await asyncio.sleep(self._pause(daemonset, pod))
            await self._world.delete(PODS, pod)
            self._world.tell(daemonset, "Normal", "SuccessfulDelete", f"Deleted pod: {name_of(pod)}", COMPONENT)

        results = await asyncio.gather(*(one(pod) for pod in doomed), return_exceptions=True)
        return next((found for found in results if isinstance(found, BaseException)), None)

    def _pause(self, daemonset: Object, pod: Object) -> float:
        """A daemon that fails at once everywhere must not be made anew in a tight loop: 0, then 1, 2, 4 … 60 s."""
        key = (meta(daemonset)["uid"], daemons.pinned_to(pod))
        failures = self._failed[key] = self._failed.get(key, -1) + 1
        return min(60.0, 2.0 ** (failures - 1)) if failures else 0.0

    async def _revision(self, daemonset: Object) -> tuple[str, list[Object]]:
        """The hash of the present template, after its ControllerRevision was made or brought to the front; and the
        older ones."""
        data = revision_data(daemonset)
        found = [
            one
            for one in self._world.store(CONTROLLERREVISIONS).by("owner", meta(daemonset)["uid"])
            if controlled_by(one, daemonset)
        ]
        top = max((int(one.get("revision") or 0) for one in found), default=0)
        same = [one for one in found if without_none(one.get("data")) == data]
        if not same:
            made = await self._new_revision(daemonset, data, top + 1)
            return labels(made)[daemons.HASH], found
        present = max(same, key=lambda one: int(one.get("revision") or 0))
        if int(present.get("revision") or 0) < top:
            present = await self._world.patch(CONTROLLERREVISIONS, present, {"revision": top + 1})
        return labels(present).get(daemons.HASH, ""), [one for one in found if name_of(one) != name_of(present)]

    async def _new_revision(self, daemonset: Object, data: Object, number: int) -> Object:
        namespace, name = key_of(daemonset)
        collisions = int((daemonset.get("status") or {}).get("collisionCount") or 0)
        digest = template_hash(data, collisions)
        template = spec(daemonset).get("template") or {}
        kept = {
            key: value for key, value in notes(daemonset).items() if not key.startswith("kubectl.kubernetes.io/last")
        }
        revision = {
            "apiVersion": "apps/v1",
            "kind": "ControllerRevision",
            "metadata": {
                "name": f"{name}-{digest}",
                "namespace": namespace,
                "labels": {**(meta(template).get("labels") or {}), daemons.HASH: digest},
                "annotations": kept,
                "ownerReferences": [owner_reference(DAEMONSETS, daemonset)],
            },
            "data": data,
            "revision": number,
        }
        try:
            return await self._world.create(CONTROLLERREVISIONS, revision)
        except ApiError as error:
            if not error.already_exists:
                raise
        found = await self._world.client.get(CONTROLLERREVISIONS, f"{name}-{digest}", namespace)
        self._world.store(CONTROLLERREVISIONS).apply(key_of(found), found)
        if controlled_by(found, daemonset) and without_none(found.get("data")) == data:
            return found
        status = {**(daemonset.get("status") or {}), "collisionCount": collisions + 1}
        await self._world.update_status(DAEMONSETS, daemonset, status)
        raise ApiError(409, "Conflict", f"the name {name}-{digest} is taken by another revision")

    async def _clean(self, daemonset: Object, old: list[Object], mine: list[Object]) -> None:
        """Revisions beyond revisionHistoryLimit that no pod is of."""
        limit = spec(daemonset).get("revisionHistoryLimit")
        over = len(old) - (10 if limit is None else int(limit))
        if over <= 0:
            return
        live = {labels(pod).get(daemons.HASH) for pod in mine}
        for one in sorted(old, key=lambda found: int(found.get("revision") or 0)):
            if over > 0 and labels(one).get(daemons.HASH) not in live:
                await self._world.delete(CONTROLLERREVISIONS, one)
                over -= 1
