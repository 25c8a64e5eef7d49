"""The end of a namespace: everything in it is deleted, then its finalizer is taken off.

Source: k8s.io/kubernetes pkg/controller/namespace/deletion.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable

from podwire.controllers import kinds
from podwire.controllers.cache import World, key_of
from podwire.controllers.loop import Controller, Trigger
from podwire.controllers.objects import Object, clone, meta, name_of, spec, stamp, status, with_condition
from podwire.kube.client import ApiError
from podwire.model.gvr import CRDS, EVENTS, GVR, NAMESPACES, PODS

LOOK_AGAIN = 5.0  # seconds; only a safety net, what is watched tells when it is gone


def conditions(
    old: list[Object], left: Counter[str], held: Counter[str], failures: list[str], now: str
) -> list[Object]:
    """What keeps a namespace from ending: `left` counts objects by kind, `held` finalizers."""
    content = ", ".join(f"{kind} has {count} resource instances" for kind, count in sorted(left.items()))
    finalizers = ", ".join(f"{name} in {count} resource instances" for name, count in sorted(held.items()))
    table = [
        (
            "NamespaceDeletionContentFailure",
            "; ".join(failures),
            ("ContentDeletionFailed", "Failed to delete all resource types: "),
            ("ContentDeleted", "All content successfully deleted, may be waiting on finalization"),
        ),
        (
            "NamespaceContentRemaining",
            content,
            ("SomeResourcesRemain", "Some resources are remaining: "),
            ("ContentRemoved", "All content successfully removed"),
        ),
        (
            "NamespaceFinalizersRemaining",
            finalizers,
            ("SomeFinalizersRemain", "Some content in the namespace has finalizers remaining: "),
            ("ContentHasNoFinalizers", "All content-preserving finalizers finished"),
        ),
    ]
    result = list(old)
    for kind, detail, bad, good in table:
        reason, message = (bad[0], bad[1] + detail) if detail else good
        new = {"type": kind, "status": "True" if detail else "False", "reason": reason, "message": message}
        before = next((one for one in result if one.get("type") == kind), {})
        same = before.get("status") == new["status"]
        new["lastTransitionTime"] = before["lastTransitionTime"] if same and "lastTransitionTime" in before else now
        result = with_condition(result, new)
    return result


class Namespaces:
    def __init__(self, world: World) -> None:
        self._world = world

    def controller(self) -> Controller:
        triggers: dict[GVR, Trigger] = {NAMESPACES: lambda old, new: [name_of(new)] if new is not None else []}
        for known in kinds.BUILT_IN:
            if known.namespaced:
                triggers[known] = self._content_changed
        return Controller("namespace", triggers, self.reconcile, needs=(CRDS,), optional=tuple(triggers)[1:])

    def _content_changed(self, old: Object | None, new: Object | None) -> Iterable[Hashable]:
        """Something went away in a namespace that ends, or came into it at the last moment."""
        if old is not None and new is not None:
            return []
        name = meta(new or old or {}).get("namespace", "")
        found = self._world.store(NAMESPACES).get(name)
        return [name] if found is not None and "deletionTimestamp" in meta(found) else []

    async def reconcile(self, name: str) -> float | None:
        namespace = self._world.store(NAMESPACES).get(name)
        if namespace is None or "deletionTimestamp" not in meta(namespace):
            return None
        if "kubernetes" not in (spec(namespace).get("finalizers") or []):
            return None
        if status(namespace).get("phase") != "Terminating":
            await self._world.update_status(NAMESPACES, namespace, {**status(namespace), "phase": "Terminating"})
        left, held, failures = await self._empty(name)
        # The answer of a status write is not the store's yet: ask, so that no write is lost to a stale version.
        namespace = await self._world.client.get(NAMESPACES, name)
        if left or failures:
            told = conditions(status(namespace).get("conditions") or [], left, held, failures, stamp(self._world.now()))
            await self._world.update_status(NAMESPACES, namespace, {**status(namespace), "conditions": told})
            return LOOK_AGAIN
        done = clone(namespace)
        done["spec"]["finalizers"] = [one for one in spec(namespace).get("finalizers") or [] if one != "kubernetes"]
        try:
            await self._world.client.update(NAMESPACES, done, subresource="finalize")
        except ApiError as error:
            if not error.not_found:
                raise
        return None

    def _kinds(self) -> list[GVR]:
        """Pods first: they take longest to go."""
        served = [kinds.of_crd(crd) for crd in self._world.store(CRDS)]
        found = [PODS, *kinds.BUILT_IN, *kinds.MAYBE, EVENTS, *(one for one in served if one is not None)]
        return [one for one in dict.fromkeys(found) if one.namespaced]

    async def _empty(self, name: str) -> tuple[Counter[str], Counter[str], list[str]]:
        """Ask for the deletion of all content; returns what is left, by kind and by finalizer, and what failed."""
        left: Counter[str] = Counter()
        held: Counter[str] = Counter()
        failures: list[str] = []
        for kind in self._kinds():
            try:
                await self._empty_kind(kind, name, left, held)
            except ApiError as error:
                if error.status not in (404, 405):
                    failures.append(str(error))
        return left, held, failures

    async def _empty_kind(self, kind: GVR, namespace: str, left: Counter[str], held: Counter[str]) -> None:
        items, _ = await self._world.client.list(kind, namespace)
        for item in items:
            if "deletionTimestamp" not in meta(item):
                await self._delete(kind, item)
        if not items:
            return
        label = f"{kind.plural}.{kind.group}"
        for item in (await self._world.client.list(kind, namespace))[0]:
            left[label] += 1
            held.update(meta(item).get("finalizers") or [])

    async def _delete(self, kind: GVR, item: Object) -> None:
        namespace, name = key_of(item)
        try:
            await self._world.client.delete(kind, name, namespace, propagation="Background")
        except ApiError as error:
            if not error.not_found:
                raise
