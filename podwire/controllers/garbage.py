"""The garbage collector: what belongs to an owner goes with it.

An object whose owners are all gone is deleted. An owner deleted in the foreground waits for those of its dependents
that block it; one deleted with `orphan` lets them go first. That an owner is absent is believed only when the API
says so itself, not because a watch has not told of it yet.
Source: k8s.io/kubernetes pkg/controller/garbagecollector.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Hashable, Iterable
from dataclasses import dataclass

from podwire.controllers import kinds
from podwire.controllers.cache import Store, World, key_of
from podwire.controllers.loop import Controller, Queue
from podwire.controllers.objects import Object, meta, owners, uid_of
from podwire.kube.client import ApiError
from podwire.model.gvr import CRDS, GVR

log = logging.getLogger(__name__)

FOREGROUND, ORPHAN = "foregroundDeletion", "orphan"

Item = tuple[GVR, str, str]  # kind, namespace, name


@dataclass(frozen=True)
class Verdict:
    """What to do with a dependent: `action` is keep, drop (these uids from its references) or delete (how)."""

    action: str
    propagation: str = ""
    uids: tuple[str, ...] = ()


def judge(obj: Object, solid: set[str], waiting: set[str], *, has_blocking_dependents: bool) -> Verdict:
    """`solid`: uids of owners that stay; `waiting`: of those that wait for their dependents' end; the rest is gone."""
    refs = owners(obj)
    if not refs:
        return Verdict("keep")
    lost = tuple(ref["uid"] for ref in refs if ref["uid"] not in solid)
    if any(ref["uid"] in solid for ref in refs):
        return Verdict("drop", uids=lost) if lost else Verdict("keep")
    finalizers = meta(obj).get("finalizers") or []
    if any(ref["uid"] in waiting for ref in refs) and has_blocking_dependents:
        return Verdict("delete", "Foreground")
    if ORPHAN in finalizers:
        return Verdict("delete", "Orphan")
    if FOREGROUND in finalizers:
        return Verdict("delete", "Foreground")
    return Verdict("delete", "Background")


def waits(obj: Object) -> bool:
    """Being deleted in the foreground."""
    return "deletionTimestamp" in meta(obj) and FOREGROUND in (meta(obj).get("finalizers") or [])


def orphans(obj: Object) -> bool:
    """Being deleted, and its dependents are to stay."""
    return "deletionTimestamp" in meta(obj) and ORPHAN in (meta(obj).get("finalizers") or [])


def blocks(dependent: Object, owner: str) -> bool:
    return any(ref.get("uid") == owner and ref.get("blockOwnerDeletion") for ref in owners(dependent))


class Garbage:
    """Follows every kind, those of CRDs included, as they come and go."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._queue: Queue | None = None
        self._followers: dict[GVR, asyncio.Task[None]] = {}
        self._listening: set[GVR] = set()

    def controller(self) -> Controller:
        return Controller("garbage", {}, self.reconcile, needs=kinds.BUILT_IN, optional=kinds.BUILT_IN)

    def listen(self, queue: Queue) -> None:
        """Feed `queue` from every store there is and will be, and have stores made for CRDs."""
        self._queue = queue
        for gvr in kinds.BUILT_IN:
            self._world.store(gvr)
        self._world.on_store(self._join)
        self._world.store(CRDS).subscribe(self._crd_changed)

    async def follow_optional(self) -> None:
        """Follow kinds that may not exist, once a list shows that they do; ends never."""
        missing = list(kinds.MAYBE)
        while missing:
            for gvr in list(missing):
                try:
                    await self._world.client.list(gvr, label_selector="podwire.invalid/probe")
                except ApiError as error:
                    log.debug("controllers: %s is not served: %s", gvr.plural, error)
                    continue
                missing.remove(gvr)
                self._follow(gvr)
            await asyncio.sleep(60.0)
        await asyncio.Event().wait()

    def close(self) -> None:
        for task in self._followers.values():
            task.cancel()

    def _crd_changed(self, old: Object | None, new: Object | None) -> None:
        before, after = (kinds.of_crd(one) if one is not None else None for one in (old, new))
        if before is not None and before != after:
            task = self._followers.pop(before, None)
            if task is not None:
                task.cancel()
            for held in self._world.store(before):
                self._world.store(before).apply(key_of(held), None)
        if after is not None:
            self._follow(after)

    def _follow(self, gvr: GVR) -> None:
        if gvr not in self._followers:
            self._world.store(gvr)
            self._followers[gvr] = asyncio.get_running_loop().create_task(self._world.follow(gvr))

    def _join(self, store: Store) -> None:
        if store.gvr in self._listening:
            return
        self._listening.add(store.gvr)
        store.index("dependent", lambda obj: [ref["uid"] for ref in owners(obj) if ref.get("uid")])

        def heard(old: Object | None, new: Object | None) -> None:
            queue = self._queue
            if queue is not None:
                for item in self._concerned(store.gvr, old, new):
                    queue.add(item)

        store.subscribe(heard)

    def _concerned(self, gvr: GVR, old: Object | None, new: Object | None) -> Iterable[Hashable]:
        found = new or old or {}
        replaced = new is not None and old is not None and uid_of(old) != uid_of(new)
        if new is None or replaced:
            # An owner ended: look at all that named it; a dependent ended: its owners may have waited for that.
            ended = old or {}
            yield from self._dependents(uid_of(ended))
            yield from self._owners(ended)
        if new is None:
            return
        leaving = "deletionTimestamp" in meta(found)
        if leaving and (waits(found) or orphans(found)):
            yield (gvr, *key_of(found))
        before = owners(old) if old is not None and not replaced else []
        # What has no owners is nobody's garbage; what has is looked at when it comes and when its owners change.
        if owners(found) and (owners(found) != before or (leaving and "deletionTimestamp" not in meta(old or {}))):
            yield (gvr, *key_of(found))
        if before and owners(found) != before:
            yield from self._owners(old or {})

    def _dependents(self, uid: str) -> list[Item]:
        return [(store.gvr, *key_of(obj)) for store, obj in self._dependent_objects(uid)]

    def _dependent_objects(self, uid: str) -> list[tuple[Store, Object]]:
        if not uid:
            return []
        stores = [store for store in self._world.stores if store.gvr in self._listening]
        return [(store, obj) for store in stores for obj in store.by("dependent", uid)]

    def _owners(self, obj: Object) -> list[Item]:
        found = []
        for ref in owners(obj):
            owner = self._by_uid(ref.get("uid", ""))
            if owner is not None and waits(owner[1]):
                found.append((owner[0].gvr, *key_of(owner[1])))
        return found

    def _by_uid(self, uid: str) -> tuple[Store, Object] | None:
        for store in self._world.stores:
            for obj in store.by("uid", uid):
                return store, obj
        return None

    async def reconcile(self, item: Item) -> float | None:
        gvr, namespace, name = item
        held = self._world.store(gvr).get(name, namespace)
        if held is None:
            return None
        if orphans(held):
            await self._let_go(gvr, held)
        elif waits(held):
            await self._finish_foreground(gvr, held)
        elif owners(held) and "deletionTimestamp" not in meta(held):
            await self._attempt(gvr, held)
        return None

    async def _attempt(self, gvr: GVR, obj: Object) -> None:
        solid, waiting = set(), set()
        for ref in owners(obj):
            state = await self._owner_state(obj, ref)
            if state == "solid":
                solid.add(ref["uid"])
            elif state == "waiting":
                waiting.add(ref["uid"])
        dependents = [one for _, one in self._dependent_objects(uid_of(obj))]
        blocking = any(blocks(one, uid_of(obj)) for one in dependents)
        verdict = judge(obj, solid, waiting, has_blocking_dependents=blocking)
        if verdict.action == "drop":
            await self._drop(gvr, obj, set(verdict.uids))
        elif verdict.action == "delete":
            log.debug("controllers: garbage: %s %s/%s", gvr.kind, *key_of(obj))
            await self._world.delete(gvr, obj, propagation=verdict.propagation)

    async def _owner_state(self, obj: Object, ref: Object) -> str:
        """solid, waiting or absent. An owner in another namespace does not exist for this purpose."""
        found = self._by_uid(ref.get("uid", ""))
        if found is not None:
            store, owner = found
            where = key_of(owner)[0]
            if store.gvr.kind == ref.get("kind") and where in ("", key_of(obj)[0]):
                return "waiting" if waits(owner) else "solid"
        gvr = self._kind(ref)
        if gvr is None:
            return "solid"  # a kind that we do not know: nobody can say that it is gone
        try:
            owner = await self._world.client.get(gvr, ref.get("name", ""), key_of(obj)[0] if gvr.namespaced else "")
        except ApiError as error:
            if error.not_found:
                return "absent"
            raise
        if uid_of(owner) != ref.get("uid"):
            return "absent"
        return "waiting" if waits(owner) else "solid"

    def _kind(self, ref: Object) -> GVR | None:
        group = str(ref.get("apiVersion", "")).rpartition("/")[0]
        for store in self._world.stores:
            if (store.gvr.group, store.gvr.kind) == (group, ref.get("kind")):
                return store.gvr
        return None

    async def _drop(self, gvr: GVR, obj: Object, uids: set[str]) -> None:
        """Take references to gone owners off."""
        left = [ref for ref in owners(obj) if ref.get("uid") not in uids]
        identity = {"uid": uid_of(obj), "resourceVersion": meta(obj).get("resourceVersion")}
        try:
            await self._world.patch(gvr, obj, {"metadata": {**identity, "ownerReferences": left or None}})
        except ApiError as error:
            if not error.not_found:
                raise

    async def _let_go(self, gvr: GVR, owner: Object) -> None:
        """Orphan: dependents forget the owner, then it may end."""
        for store, dependent in self._dependent_objects(uid_of(owner)):
            await self._drop(store.gvr, dependent, {uid_of(owner)})
        await self._take_off(gvr, owner, ORPHAN)

    async def _finish_foreground(self, gvr: GVR, owner: Object) -> None:
        """Delete the dependents; once none is left that blocks, the owner may end."""
        dependents = self._dependent_objects(uid_of(owner))
        if not any(blocks(one, uid_of(owner)) for _, one in dependents):
            await self._take_off(gvr, owner, FOREGROUND)
            return
        for store, dependent in dependents:
            if not store.leaving(dependent):
                await self._attempt(store.gvr, dependent)

    async def _take_off(self, gvr: GVR, obj: Object, finalizer: str) -> None:
        left = [one for one in meta(obj).get("finalizers") or [] if one != finalizer]
        identity = {"uid": uid_of(obj), "resourceVersion": meta(obj).get("resourceVersion")}
        namespace, name = key_of(obj)
        try:
            await self._world.client.patch(gvr, name, {"metadata": {**identity, "finalizers": left or None}}, namespace)
        except ApiError as error:
            if not error.not_found:
                raise
