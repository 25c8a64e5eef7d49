"""WATCH: changes of a collection as a stream, each encoded once however many watch.

A watcher keeps only its position in the collection's history; when it falls further behind than history reaches, it
gets 410 and lists again. Watchers that ask for the same thing at the same position share the bytes.
Source: behaviour of k8s.io/apiserver endpoints/handlers/watch.go and storage/cacher (bookmarks, initial events).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

from podwire.apiserver.errors import StatusError
from podwire.apiserver.negotiation import Form
from podwire.apiserver.resources import Resource
from podwire.apiserver.rest import Rest
from podwire.apiserver.selection import Selection
from podwire.apiserver.store import Change, Collection, Object, Stored, encode
from podwire.apiserver.tables import partial, table

BOOKMARK_SECONDS = 50.0
INITIAL_END = "k8s.io/initial-events-end"


@dataclass(frozen=True, slots=True)
class Asked:
    """One watch request. `initial` sends what exists first; `ended` marks its end with a bookmark."""

    resource: Resource
    selection: Selection
    form: Form
    revision: int
    initial: bool
    ended: bool
    bookmarks: bool
    seconds: float


@dataclass(frozen=True, slots=True)
class Event:
    """What one watcher sees of one change."""

    type: str
    stored: Stored


def seen(change: Change, selection: Selection) -> Event | None:
    """A change through a selection: what leaves it is deleted, what enters it is added."""
    if selection.namespace and change.key[0] != selection.namespace:
        return None
    old, new = change.old, change.new
    if selection.selective:
        old = old if old and selection.matches(old.object) else None
        new = new if new and selection.matches(new.object) else None
    if new is not None:
        return Event("MODIFIED" if old else "ADDED", new)
    return Event("DELETED", _last(old, change.revision)) if old is not None else None


def _last(old: Stored, revision: int) -> Stored:
    """The last state of what is gone carries the revision at which it went."""
    obj = {**old.object, "metadata": {**old.object["metadata"], "resourceVersion": str(revision)}}
    return Stored(obj, encode(obj), revision)


class Watcher:
    """Encodes for one request."""

    def __init__(self, rest: Rest, asked: Asked, clock: Any) -> None:
        self.rest = rest
        self.asked = asked
        self.clock = clock
        self.collection: Collection = rest.collection(asked.resource)

    def begin(self) -> tuple[bytes, int]:
        """The first bytes (what exists, if asked for) and the position to go on from. Raises 410, 504."""
        asked = self.asked
        self.rest.store.check_version(asked.revision)
        if not asked.initial:
            return b"", self.collection.position(asked.revision)
        page = self.rest.list(asked.resource, asked.selection)
        said = [self.encode("ADDED", each) for each in page.items]
        if asked.ended:
            said.append(self.bookmark({INITIAL_END: "true"}))
        return b"".join(said), self.collection.sequence

    async def stream(self, first: bytes, position: int) -> AsyncGenerator[bytes, None]:
        loop = asyncio.get_running_loop()
        end = loop.time() + self.asked.seconds
        if first:
            yield first
        while True:
            wait = min(end - loop.time(), BOOKMARK_SECONDS)
            if wait <= 0:
                return
            if not await self.collection.changed(position, wait):
                if self.asked.bookmarks:
                    yield self.bookmark({})
                continue
            try:
                said, position = self.batch(position)
            except StatusError as error:
                yield encode({"type": "ERROR", "object": error.status()}) + b"\n"
                return
            if said:
                yield said

    def batch(self, position: int) -> tuple[bytes, int]:
        """Everything behind `position`, shared with those who ask for the same at the same moment."""
        key = (position, self.asked.selection, self.asked.form, self.asked.resource.gvr)
        shared: tuple[bytes, int] | None = self.collection.batches.get(key)
        if shared is None:
            said = []
            for change in self.collection.after(position):
                event = seen(change, self.asked.selection)
                if event:
                    said.append(self._encode_once(change, event))
            shared = self.collection.batches[key] = (b"".join(said), self.collection.sequence)
        return shared

    def _encode_once(self, change: Change, event: Event) -> bytes:
        key = (event.type, self.asked.form, self.asked.resource.gvr)
        found = change.forms.get(key)
        if found is None:
            stored = self.rest.versioned(self.asked.resource, event.stored)
            found = change.forms[key] = self.encode(event.type, stored)
        return found

    def encode(self, kind: str, stored: Stored) -> bytes:
        """One line of the stream."""
        form = self.asked.form
        if form.table:
            metadata = {"resourceVersion": stored.object["metadata"].get("resourceVersion", "")}
            body = table(self.asked.resource, [stored], form.table, self.clock(), metadata)
        elif form.partial:
            body = encode(partial(stored, form.partial))
        else:
            body = stored.json
        return b'{"type":"%b","object":%b}\n' % (kind.encode(), body)

    def bookmark(self, annotations: dict[str, str]) -> bytes:
        metadata: Object = {"resourceVersion": str(self.rest.store.revision), "creationTimestamp": None}
        if annotations:
            metadata["annotations"] = annotations
        gvr = self.asked.resource.gvr
        stored = Stored({"metadata": metadata}, b"", 0)
        if self.asked.form.table:
            return self.encode_bookmark_table(metadata)
        body: Object = {"kind": gvr.kind, "apiVersion": gvr.api_version, "metadata": metadata}
        if self.asked.form.partial:
            body = partial(stored, self.asked.form.partial)
        return encode({"type": "BOOKMARK", "object": body}) + b"\n"

    def encode_bookmark_table(self, metadata: Object) -> bytes:
        form = self.asked.form.table
        assert form
        gvr = self.asked.resource.gvr
        bare: Object = {"kind": gvr.kind, "apiVersion": gvr.api_version, "metadata": metadata}
        body = {
            "kind": "Table",
            "apiVersion": f"meta.k8s.io/{form.version}",
            "metadata": {"resourceVersion": metadata["resourceVersion"]},
            "columnDefinitions": [],
            "rows": [{"cells": [], "object": bare}],
        }
        return encode({"type": "BOOKMARK", "object": body}) + b"\n"
