"""ReplicaSets: as many pods as asked for, the least useful ones deleted first.

Source: k8s.io/kubernetes pkg/controller/replicaset.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Hashable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from podwire.controllers import claim, pods
from podwire.controllers.cache import Key, World, key_of
from podwire.controllers.loop import Controller
from podwire.controllers.objects import (
    Object,
    condition,
    controller_of,
    labels,
    meta,
    name_of,
    owner_reference,
    pod_prefix,
    spec,
    stamp,
    status,
    template_pod,
    with_condition,
)
from podwire.kube.client import ApiError
from podwire.model.gvr import PODS, REPLICASETS
from podwire.model.selectors import SelectorError, label_selector

log = logging.getLogger(__name__)

COMPONENT = "replicaset-controller"
BURST = 500  # pods created or deleted in one go


@dataclass(frozen=True)
class Scale:
    """How many pods to create, and which to delete."""

    create: int
    delete: tuple[Object, ...]


def decide(replicas: int, active: list[Object], together: Callable[[Object], int]) -> Scale:
    """`together` says how many related pods share a pod's node (see pods.deletion_rank)."""
    missing = replicas - len(active)
    if missing >= 0:
        return Scale(min(missing, BURST), ())
    ranked = sorted(active, key=lambda pod: pods.deletion_rank(pod, together(pod)))
    return Scale(0, tuple(ranked[: min(-missing, BURST)]))


def new_status(rs: Object, active: list[Object], failure: tuple[str, str] | None, now: datetime) -> Object:
    """The status that tells of these pods. `failure` is (reason, message) of a create or delete that was refused."""
    seconds = int(spec(rs).get("minReadySeconds") or 0)
    template = labels({"metadata": meta(spec(rs).get("template") or {})})
    counts = {
        "fullyLabeledReplicas": sum(template.items() <= labels(pod).items() for pod in active),
        "readyReplicas": sum(pods.ready(pod) for pod in active),
        "availableReplicas": sum(pods.available(pod, seconds, now) for pod in active),
    }
    result: Object = {"replicas": len(active), **{name: count for name, count in counts.items() if count}}
    result["observedGeneration"] = max(meta(rs).get("generation", 0), status(rs).get("observedGeneration", 0))
    conditions = list(status(rs).get("conditions") or [])
    old = condition(rs, "ReplicaFailure")
    if failure is None:
        conditions = [found for found in conditions if found.get("type") != "ReplicaFailure"]
    elif old is None or old.get("reason") != failure[0]:
        told = {"type": "ReplicaFailure", "status": "True", "reason": failure[0], "message": failure[1]}
        conditions = with_condition(conditions, {**told, "lastTransitionTime": stamp(now)})
    if conditions:
        result["conditions"] = conditions
    return {**{name: value for name, value in status(rs).items() if name == "terminatingReplicas"}, **result}


def next_available(rs: Object, active: list[Object], now: datetime) -> float | None:
    """In how many seconds the next ready pod becomes available."""
    seconds = int(spec(rs).get("minReadySeconds") or 0)
    waits = [wait for pod in active if (wait := pods.available_in(pod, seconds, now))]
    return min(waits) if waits else None


async def slow_start(count: int, one: Callable[[int], Awaitable[Any]]) -> BaseException | None:
    """Run `one` for 0..count-1 in groups of 1, 2, 4 …; the first failure ends it and is returned. A quota that refuses
    everything so sees one request and not hundreds."""
    begun, size = 0, 1
    while begun < count:
        size = min(size, count - begun)
        results = await asyncio.gather(*(one(begun + n) for n in range(size)), return_exceptions=True)
        for found in results:
            if isinstance(found, asyncio.CancelledError):
                raise found
            if isinstance(found, BaseException):
                return found
        begun += size
        size *= 2
    return None


class ReplicaSets:
    """The loop around the decisions above."""

    def __init__(self, world: World) -> None:
        self._world = world
        claim.index_orphans(world.store(PODS))

    def controller(self) -> Controller:
        return Controller("replicaset", {REPLICASETS: _changed, PODS: self._pod_changed}, self.reconcile)

    def _pod_changed(self, old: Object | None, new: Object | None) -> Iterable[Hashable]:
        """The sets that own the pod, before and after; for an orphan, those that may adopt it."""
        keys = {owner_key(pod, "ReplicaSet") for pod in (old, new) if pod is not None} - {None}
        if new is not None and controller_of(new) is None:
            for rs in self._world.store(REPLICASETS).by("namespace", key_of(new)[0]):
                if _selects(rs, new):
                    keys.add(key_of(rs))
        return [key for key in keys if key is not None]

    async def reconcile(self, key: Key) -> float | None:
        store = self._world.store(REPLICASETS)
        rs = store.get(key[1], key[0])
        selector = label_selector(spec(rs).get("selector")) if rs else None
        if rs is None or selector is None or not selector.requirements:
            return None
        children = await claim.children(self._world, REPLICASETS, rs, PODS, selector)
        active = self._active(children)
        failure: BaseException | None = None
        reason = "FailedCreate"
        if not store.leaving(rs):
            scale = decide(int(spec(rs).get("replicas", 1)), active, self._together(rs))
            failure = await self._create(rs, scale.create)
            if scale.delete:
                reason = "FailedDelete"
                failure = await self._delete(rs, scale.delete)
            made = [pod for pod in self._mine(rs) if selector.matches(labels(pod))]
            active = self._active(made)
        now = self._world.now()
        told = (reason, str(failure)) if failure else None
        if store.get(key[1], key[0]) is not None:
            await self._world.update_status(REPLICASETS, rs, new_status(rs, active, told, now))
        if failure is not None:
            raise failure
        return next_available(rs, active, now)

    def _mine(self, rs: Object) -> list[Object]:
        found = self._world.store(PODS).by("owner", meta(rs)["uid"])
        return [pod for pod in found if (ref := controller_of(pod)) and ref.get("uid") == meta(rs)["uid"]]

    def _active(self, found: list[Object]) -> list[Object]:
        store = self._world.store(PODS)
        return [pod for pod in found if pods.active(pod) and not store.leaving(pod)]

    def _together(self, rs: Object) -> Callable[[Object], int]:
        """Counts, per node, the active pods of all sets of the same owner (a Deployment's old and new)."""
        owner = controller_of(rs)
        family = self._world.store(REPLICASETS).by("owner", owner["uid"]) if owner else [rs]
        counts = Counter(spec(pod).get("nodeName", "") for one in family for pod in self._mine(one) if pods.active(pod))
        return lambda pod: counts[spec(pod).get("nodeName", "")]

    async def _create(self, rs: Object, count: int) -> BaseException | None:
        template = spec(rs).get("template") or {}
        namespace, name = key_of(rs)

        async def one(_: int) -> None:
            pod = template_pod(template, namespace, prefix=pod_prefix(name), owner=owner_reference(REPLICASETS, rs))
            try:
                made = await self._world.create(PODS, pod)
            except ApiError as error:
                if not _namespace_ends(error):
                    self._world.tell(rs, "Warning", "FailedCreate", f"Error creating: {error}", COMPONENT)
                raise
            self._world.tell(rs, "Normal", "SuccessfulCreate", f"Created pod: {name_of(made)}", COMPONENT)

        failure = await slow_start(count, one)
        # Nothing can be made there any more: no failure to retry, the namespace takes the set along.
        return None if isinstance(failure, ApiError) and _namespace_ends(failure) else failure

    async def _delete(self, rs: Object, doomed: tuple[Object, ...]) -> BaseException | None:
        async def one(pod: Object) -> None:
            try:
                await self._world.delete(PODS, pod)
            except ApiError as error:
                self._world.tell(rs, "Warning", "FailedDelete", f"Error deleting: {error}", COMPONENT)
                raise
            self._world.tell(rs, "Normal", "SuccessfulDelete", f"Deleted pod: {name_of(pod)}", COMPONENT)

        results = await asyncio.gather(*(one(pod) for pod in doomed), return_exceptions=True)
        return next((found for found in results if isinstance(found, BaseException)), None)


def _namespace_ends(error: ApiError) -> bool:
    causes = error.details.get("causes") or []
    return error.status == 403 and (
        any(cause.get("reason") == "NamespaceTerminating" for cause in causes) or "being terminated" in error.message
    )


def _changed(old: Object | None, new: Object | None) -> Iterable[Hashable]:
    return {key_of(rs) for rs in (old, new) if rs is not None}


def _selects(rs: Object, pod: Object) -> bool:
    try:
        selector = label_selector(spec(rs).get("selector"))
    except SelectorError:
        return False
    return selector is not None and bool(selector.requirements) and selector.matches(labels(pod))


def owner_key(obj: Object, kind: str) -> Key | None:
    """The key of the object's controller if that is of this kind."""
    ref = controller_of(obj)
    if ref is None or ref.get("kind") != kind:
        return None
    return meta(obj).get("namespace", ""), str(ref.get("name", ""))
