"""Every object of the API server: in memory for reading, on disk before anything becomes visible.

One thread of control (the event loop) reads, computes and *stages* writes without awaiting in between, so a staged
write is a compare-and-swap that cannot lose. Staged values are seen by later writers (`latest`) but by no reader until
the disk has them; then memory, history and watchers get them together, in the order of their revisions. When the disk
refuses, everything staged is dropped and its writers are told: memory never holds what the file does not.

Revisions are one counter for all kinds, kept on disk, so that they go on after a restart. Each kind keeps a bounded
history of changes: watches resume from it, and lists at an older revision are made by undoing it.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from podwire.apiserver.disk import Disk, Write
from podwire.apiserver.errors import StatusError, expired, storage_failed, too_large_version

Key = tuple[str, str]
Object = dict[str, Any]

HISTORY = 4096
WAKE_SECONDS = 0.004
_decode = msgspec.json.Decoder(dict[str, Any]).decode
encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Stored:
    """One version of an object. `object` is shared: never change it, `copy()` it."""

    object: Object
    json: bytes
    revision: int

    def copy(self) -> Object:
        return _decode(self.json)


@dataclass(slots=True, eq=False)
class Change:
    """A committed write. `new` is None for a removal; `old` is None for a creation. `forms` keeps encodings that
    watchers share, by form."""

    sequence: int
    revision: int
    key: Key
    old: Stored | None
    new: Stored | None
    forms: dict[Any, bytes] = field(default_factory=dict)


class Collection:
    """All objects of one kind, sorted by (namespace, name), and their recent changes."""

    def __init__(self, name: str, floor: int) -> None:
        self.name = name
        self.objects: dict[Key, Stored] = {}
        self.keys: list[Key] = []
        self.staged: dict[Key, deque[Stored | None]] = {}
        self.history: deque[Change] = deque()
        self.floor = floor  # changes after this revision are all in `history`
        self.sequence = 0
        self.batches: dict[Any, Any] = {}  # what watchers share until the next change
        self._waiters: set[asyncio.Future[bool]] = set()
        self._woken = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def load(self, key: Key, stored: Stored) -> None:
        self.objects[key] = stored
        self.keys.append(key)

    def latest(self, key: Key) -> Stored | None:
        """What a writer must build on: the newest staged value, else the committed one."""
        staged = self.staged.get(key)
        return staged[-1] if staged else self.objects.get(key)

    def all_latest(self) -> Iterator[Stored]:
        """`latest` of every object, staged creations included, in no order."""
        for key, stored in self.objects.items():
            if key not in self.staged:
                yield stored
        for waiting in self.staged.values():
            if waiting[-1] is not None:
                yield waiting[-1]

    def keys_in(self, namespace: str, after: Key | None = None) -> list[Key]:
        """Sorted keys, of one namespace unless it is empty, behind `after` if given."""
        first = bisect_left(self.keys, (namespace, "")) if namespace else 0
        last = bisect_left(self.keys, (namespace + "\0", "")) if namespace else len(self.keys)
        if after is not None:
            first = max(first, bisect_left(self.keys, (after[0], after[1] + "\0")))
        return self.keys[first:last]

    def at(self, revision: int) -> dict[Key, Stored]:
        """The objects as they were at `revision`. Raises 410 when history does not reach back."""
        if revision < self.floor:
            raise expired(
                f"The provided continue parameter is too old to display a consistent list result: {revision} "
                f"({self.floor})"
            )
        found = dict(self.objects)
        for change in reversed(self.history):
            if change.revision <= revision:
                break
            if change.old is None:
                found.pop(change.key, None)
            else:
                found[change.key] = change.old
        return found

    def commit(self, key: Key, new: Stored | None, revision: int) -> Change:
        old = self.objects.get(key)
        if new is None:
            self.objects.pop(key, None)
            position = bisect_left(self.keys, key)
            if position < len(self.keys) and self.keys[position] == key:
                del self.keys[position]
        else:
            if old is None:
                insort(self.keys, key)
            self.objects[key] = new
        self.sequence += 1
        change = Change(self.sequence, revision, key, old, new)
        self.history.append(change)
        if len(self.history) > HISTORY:
            self.floor = self.history.popleft().revision
        self.batches.clear()
        return change

    def after(self, sequence: int) -> list[Change]:
        """The changes behind a position. Raises 410 when some of them are no longer kept."""
        missing = self.sequence - sequence
        if missing > len(self.history):
            raise expired(f"too old resource version: the watch fell {missing} changes behind")
        if missing == 0:
            return []
        length = len(self.history)
        return [self.history[position] for position in range(length - missing, length)]

    def position(self, revision: int) -> int:
        """The sequence number of the last change at or before `revision`. Raises 410."""
        if revision < self.floor:
            raise expired(f"too old resource version: {revision} ({self.floor})")
        missing = 0
        for change in reversed(self.history):
            if change.revision <= revision:
                break
            missing += 1
        return self.sequence - missing

    async def changed(self, sequence: int, seconds: float = float("inf")) -> bool:
        """Wait until there is a change behind `sequence`, at most so long; whether there is one."""
        if self.sequence > sequence:
            return True
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[bool] = loop.create_future()
        self._waiters.add(waiter)
        timer = loop.call_later(seconds, _tell, waiter, False) if seconds < float("inf") else None
        try:
            return await waiter
        finally:
            self._waiters.discard(waiter)
            if timer:
                timer.cancel()

    def wake(self) -> None:
        """Tell the waiting watchers, at once when it was quiet, else a few milliseconds later all together."""
        loop = asyncio.get_running_loop()
        if self._timer is not None:
            return
        wait = self._woken + WAKE_SECONDS - loop.time()
        if wait <= 0:
            self._wake_now()
        else:
            self._timer = loop.call_later(wait, self._wake_now)

    def _wake_now(self) -> None:
        self._timer = None
        self._woken = asyncio.get_running_loop().time()
        waiters, self._waiters = self._waiters, set()
        for waiter in waiters:
            _tell(waiter, True)


def _tell(waiter: asyncio.Future[bool], changed: bool) -> None:
    if not waiter.done():
        waiter.set_result(changed)


Listener = Callable[[str, Change], None]


class Store:
    """Collections by name (`pods`, `deployments.apps`), the revision counter and the disk behind them."""

    def __init__(self, path: Path) -> None:
        self._collections: dict[str, Collection] = {}
        self._pending: deque[tuple[Write, Stored | None, asyncio.Future[Stored | None]]] = deque()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._listeners: list[Listener] = []
        self._refusals: list[Callable[[], None]] = []
        self._epoch = 0
        self._disk = Disk(path, self._committed)
        self.revision = self._staged_revision = self._disk.revision()
        for row in self._disk.rows():
            assert row.value is not None
            stored = Stored(_decode(row.value), row.value, row.revision)
            self.collection(row.resource).load((row.namespace, row.name), stored)

    def start(self) -> None:
        """Begin to take writes; call in the event loop that will use the store."""
        self._loop = asyncio.get_running_loop()
        self._disk.start()

    def close(self) -> None:
        self._disk.close()

    def collection(self, name: str) -> Collection:
        """The collection of that name, made empty when it is new."""
        found = self._collections.get(name)
        if found is None:
            found = self._collections[name] = Collection(name, self.revision)
        return found

    def listen(self, listener: Listener) -> None:
        """Call `listener(collection name, change)` at every commit, in order, before watchers are woken."""
        self._listeners.append(listener)

    def listen_refusals(self, listener: Callable[[], None]) -> None:
        """Call `listener()` when staged writes were dropped: what was derived from them must be derived again."""
        self._refusals.append(listener)

    def put(self, name: str, key: Key, obj: Object) -> asyncio.Future[Stored | None]:
        """Stage an object: its metadata.resourceVersion is set here; the future is done when disk and memory have
        it, and raises StatusError 507 when the disk refused. `obj` belongs to the store from now on."""
        revision = self._staged_revision + 1
        obj["metadata"]["resourceVersion"] = str(revision)
        stored = Stored(obj, encode(obj), revision)
        return self._stage(name, key, stored, revision)

    def remove(self, name: str, key: Key) -> asyncio.Future[Stored | None]:
        """Stage a removal; the future gives None."""
        return self._stage(name, key, None, self._staged_revision + 1)

    async def settled(self) -> None:
        """Wait until what is staged now is decided: a writer that lost against a staged value would otherwise read
        the old one again and lose again."""
        if self._pending:
            await asyncio.wait([self._pending[-1][2]])

    def _stage(self, name: str, key: Key, stored: Stored | None, revision: int) -> asyncio.Future[Stored | None]:
        assert self._loop is not None, "start() comes first"
        self._staged_revision = revision
        self.collection(name).staged.setdefault(key, deque()).append(stored)
        future: asyncio.Future[Stored | None] = self._loop.create_future()
        write = Write(self._epoch, name, key[0], key[1], revision, stored.json if stored else None)
        self._pending.append((write, stored, future))
        self._disk.write(write)
        return future

    def _committed(self, group: list[Write], error: str) -> None:
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(self._settle, len(group), error)
        except RuntimeError:
            pass  # the loop ended while the last writes went to disk: nobody is left to tell

    def _settle(self, count: int, error: str) -> None:
        if error:
            self._drop_staged(storage_failed(error))
            return
        touched: dict[str, Collection] = {}
        for _ in range(count):
            write, stored, future = self._pending.popleft()
            collection = self.collection(write.resource)
            self._unstage(collection, (write.namespace, write.name))
            change = collection.commit((write.namespace, write.name), stored, write.revision)
            self.revision = write.revision
            touched[collection.name] = collection
            for listener in self._listeners:
                listener(collection.name, change)
            if not future.done():
                future.set_result(stored)
        for collection in touched.values():
            collection.wake()

    def _drop_staged(self, refused: StatusError) -> None:
        """The disk refused the oldest staged write: forget all of them, and count revisions on from what it has."""
        self._epoch += 1
        self._staged_revision = self.revision
        dropped, self._pending = self._pending, deque()
        for write, _, future in dropped:
            self._unstage(self.collection(write.resource), (write.namespace, write.name))
            if not future.done():
                future.set_exception(refused)
        for listener in self._refusals:
            listener()

    @staticmethod
    def _unstage(collection: Collection, key: Key) -> None:
        waiting = collection.staged[key]
        waiting.popleft()
        if not waiting:
            del collection.staged[key]

    def check_version(self, asked: int) -> None:
        """Refuse a revision from the future. Raises 504."""
        if asked > self.revision:
            raise too_large_version(asked, self.revision)
