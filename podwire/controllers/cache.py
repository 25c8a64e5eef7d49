"""The picture of the cluster that all controllers share: one watch a kind, indexes, and our own writes at once.

A Store never goes back behind a write that went through its World: the answer of a create, update or patch enters the
store before the watch tells it, and older news is dropped (resource versions grow). So a controller that runs again
right after its own write sees that write, and needs no book of expectations. Objects in a store are shared: clone one
before changing it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from typing import Any

from podwire.controllers.objects import Object, meta, owners, uid_of
from podwire.kube.client import Api, ApiError
from podwire.kube.events import Recorder
from podwire.kube.watch import InSync
from podwire.model.gvr import GVR

log = logging.getLogger(__name__)

Key = tuple[str, str]
Handler = Callable[[Object | None, Object | None], None]
Indexer = Callable[[Object], Iterable[str]]

REMEMBERED = 10_000  # ended objects a kind


def key_of(obj: Object) -> Key:
    """(namespace, name); namespace is empty for what lives in none."""
    metadata = meta(obj)
    return metadata.get("namespace", ""), metadata["name"]


def version_of(obj: Object) -> int:
    """The resource version as a number, -1 when it is none."""
    return number(meta(obj).get("resourceVersion", ""))


def number(version: str) -> int:
    """A resource version as a number, -1 when it is none."""
    return int(version) if version.isdigit() else -1


class Store:
    """All objects of one kind, as far as known, with indexes. `synced` is set after the first complete list."""

    def __init__(self, gvr: GVR) -> None:
        self.gvr = gvr
        self.synced = asyncio.Event()
        self._objects: dict[Key, Object] = {}
        self._handlers: list[Handler] = []
        self._indexers: dict[str, Indexer] = {}
        self._indexes: dict[str, dict[str, dict[Key, Object]]] = {}
        self._doomed: set[str] = set()
        self._gone: OrderedDict[str, None] = OrderedDict()
        self.index("namespace", lambda obj: (key_of(obj)[0],))
        self.index("owner", lambda obj: [ref["uid"] for ref in owners(obj)])
        self.index("uid", lambda obj: (uid_of(obj),))

    def __iter__(self) -> Iterator[Object]:
        return iter(list(self._objects.values()))

    def __len__(self) -> int:
        return len(self._objects)

    def get(self, name: str, namespace: str = "") -> Object | None:
        return self._objects.get((namespace, name))

    def by(self, index: str, value: str) -> list[Object]:
        """The objects that an index holds under a value."""
        return list(self._indexes[index].get(value, {}).values())

    def index(self, name: str, values: Indexer) -> None:
        """Keep an index (once per name): `values` gives what an object is found under."""
        if name in self._indexers:
            return
        self._indexers[name], self._indexes[name] = values, {}
        for key, obj in self._objects.items():
            self._file(name, key, obj)

    def subscribe(self, handler: Handler) -> None:
        """Call `handler(old, new)` for each change from now on, and at once for everything held already."""
        self._handlers.append(handler)
        for obj in self:
            handler(None, obj)

    def leaving(self, obj: Object) -> bool:
        """On its way out: marked for deletion, or we have asked for it."""
        return "deletionTimestamp" in meta(obj) or uid_of(obj) in self._doomed

    def doom(self, obj: Object) -> None:
        """Remember that the API accepted a deletion, until the watch says the same."""
        held = self._objects.get(key_of(obj))
        if held is not None and uid_of(held) == uid_of(obj):
            self._doomed.add(uid_of(obj))
            self._tell(held, held)

    def repeat(self, key: Key) -> None:
        """Tell an object again, as if it were new."""
        held = self._objects.get(key)
        if held is not None:
            self._tell(None, held)

    def apply(self, key: Key, obj: Object | None, version: int = -1) -> None:
        """Take one piece of news; what is older than what is held is dropped. `version`: when there was nothing any
        more (-1: as of now). A name may have been given again by a write of ours before the watch tells of its first
        bearer's end; that end must not take the second one along."""
        old = self._objects.get(key)
        if obj is None:
            if old is None or 0 <= version < version_of(old):
                return
            del self._objects[key]
            self._gone[uid_of(old)] = None
            if len(self._gone) > REMEMBERED:
                self._gone.popitem(last=False)
        else:
            if uid_of(obj) in self._gone:  # the answer of a write that was overtaken by the news of the object's end
                return
            if old is not None and 0 <= version_of(obj) <= version_of(old):
                return
            self._objects[key] = obj
        if old is not None:
            self._unfile(key, old)
            if obj is None or uid_of(obj) != uid_of(old):
                self._doomed.discard(uid_of(old))
        if obj is not None:
            for name in self._indexers:
                self._file(name, key, obj)
        self._tell(old, obj)

    def _tell(self, old: Object | None, new: Object | None) -> None:
        for handler in self._handlers:
            try:
                handler(old, new)
            except Exception:
                # One malformed object must not keep the others from being seen.
                log.exception("controllers: a %s could not be taken in", self.gvr.kind)

    def _file(self, index: str, key: Key, obj: Object) -> None:
        try:
            values = list(self._indexers[index](obj))
        except (KeyError, TypeError, AttributeError) as error:
            log.warning("controllers: %s %s/%s has no place in index %s: %s", self.gvr.kind, *key, index, error)
            return
        for value in values:
            self._indexes[index].setdefault(value, {})[key] = obj

    def _unfile(self, key: Key, obj: Object) -> None:
        for name, values in self._indexers.items():
            try:
                for value in values(obj):
                    slot = self._indexes[name].get(value)
                    if slot is not None:
                        slot.pop(key, None)
                        if not slot:
                            del self._indexes[name][value]
            except (KeyError, TypeError, AttributeError):
                continue


class World:
    """Every store, and the only way by which controllers write. `clock` gives the time in UTC."""

    def __init__(self, client: Api, clock: Callable[[], datetime] | None = None) -> None:
        self.client = client
        self.now = clock or (lambda: datetime.now(UTC))
        self._stores: dict[GVR, Store] = {}
        self._joined: list[Callable[[Store], None]] = []
        self._recorder = Recorder(client)
        self._telling: set[asyncio.Task[None]] = set()

    @property
    def stores(self) -> list[Store]:
        return list(self._stores.values())

    def store(self, gvr: GVR) -> Store:
        """The store of a kind, made (and, once followed, filled) on first use."""
        if gvr not in self._stores:
            self._stores[gvr] = Store(gvr)
            for joined in self._joined:
                joined(self._stores[gvr])
        return self._stores[gvr]

    def on_store(self, joined: Callable[[Store], None]) -> None:
        """Call for each store there is and each that will come."""
        self._joined.append(joined)
        for store in self.stores:
            joined(store)

    def tell(self, obj: Object, kind: str, reason: str, message: str, component: str) -> None:
        """Record an Event about `obj` without waiting for it; `kind` is Normal or Warning."""
        task = asyncio.get_running_loop().create_task(self._recorder.record(obj, kind, reason, message, component))
        self._telling.add(task)
        task.add_done_callback(self._told)

    def _told(self, task: asyncio.Task[None]) -> None:
        self._telling.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("controllers: an event could not be recorded", exc_info=error)

    async def close(self) -> None:
        """Let the events that are under way get out."""
        if self._telling:
            await asyncio.wait(self._telling, timeout=1.0)
        for task in self._telling:
            task.cancel()

    async def follow(self, gvr: GVR) -> None:
        """Keep a store up to date, for ever."""
        store = self.store(gvr)
        while True:
            seen: set[Key] | None = set()
            try:
                async for update in self.client.watch(gvr):
                    if isinstance(update, InSync):
                        for key in [key_of(obj) for obj in store if seen is not None and key_of(obj) not in seen]:
                            store.apply(key, None)
                        seen = None
                        store.synced.set()
                        continue
                    if seen is not None:
                        seen.add(update.key)
                    store.apply(update.key, update.object, number(update.version))
            except Exception:
                log.exception("controllers: the watch of %s broke", gvr.plural)
            await asyncio.sleep(1.0)  # a watch never ends by itself: this is for implementations that do

    async def create(self, gvr: GVR, obj: Object) -> Object:
        """Raises ApiError, like all of these."""
        made = await self.client.create(gvr, obj, meta(obj).get("namespace", ""))
        return self._took(gvr, made)

    async def update(self, gvr: GVR, obj: Object, *, subresource: str = "") -> Object:
        return self._took(gvr, await self.client.update(gvr, obj, subresource=subresource))

    async def update_status(self, gvr: GVR, obj: Object, status: dict[str, Any]) -> Object:
        """Replace the status, if it differs. Compare-and-swap with the version of `obj`."""
        if obj.get("status") == status:
            return obj
        return await self.update(gvr, {**obj, "status": status}, subresource="status")

    async def patch(self, gvr: GVR, obj: Object, patch: Any, *, kind: str = "merge", subresource: str = "") -> Object:
        namespace, name = key_of(obj)
        return self._took(gvr, await self.client.patch(gvr, name, patch, namespace, kind=kind, subresource=subresource))

    async def delete(self, gvr: GVR, obj: Object, *, grace: int | None = None, propagation: str = "") -> None:
        """Delete exactly this object (by uid); that it has gone already, or was replaced, is no error."""
        namespace, name = key_of(obj)
        try:
            await self.client.delete(gvr, name, namespace, uid=uid_of(obj), grace=grace, propagation=propagation)
        except ApiError as error:
            if error.status not in (404, 409):
                raise
        self.store(gvr).doom(obj)

    def _took(self, gvr: GVR, obj: Object) -> Object:
        if obj.get("kind") == gvr.kind:  # a Status or Scale is not the object
            store = self.store(gvr)
            # What the answer shows as finished (last finalizer gone) is gone: the watch will not tell it otherwise.
            if "deletionTimestamp" not in meta(obj):
                store.apply(key_of(obj), obj)
        return obj
