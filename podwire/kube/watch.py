"""Learn what there is, then watch, for ever: a stream of updates that always converges on what the API holds.

`reflect` turns any Source (HTTP, in process, fake) into Update and InSync. Its promises:
 - the newest value of every key comes, or None once it is gone; values in between may be left out, or come twice;
 - InSync comes once, after everything that there was at the beginning;
 - what there is comes as a stream where the server serves that (WatchList), else as a list, page by page;
 - a broken stream resumes where it stopped, or at the last bookmark; when that is too old (410) everything is learned
   anew and compared with what was told before, so that no deletion is lost;
 - errors are retried with a jittered, growing pause, or after what the server asks for (Retry-After), and logged;
   before everything is learned anew there is a random pause: other clients have lost their history at the same moment.
Source: the behaviour of client-go's Reflector.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from typing import Any, Protocol

from podwire.kube import tallies
from podwire.model.api import InSync, Key, Update

__all__ = ["InSync", "Key", "Update", "reflect"]

log = logging.getLogger(__name__)

STEADY_SECONDS = 10.0  # a stream that lasted this long was healthy, also if it had nothing to tell


@dataclass(frozen=True, slots=True)
class Record:
    """One object as a Source gives it. `value` is None when it could not be decoded."""

    key: Key
    version: str
    value: Any | None


@dataclass(frozen=True, slots=True)
class Change:
    """One watch event: `type` is ADDED, MODIFIED, DELETED, BOOKMARK or LEARNED (a bookmark: everything that there was
    has been told); `record.version` is where to resume."""

    type: str
    record: Record


class Gone(Exception):
    """The version to resume from is no longer kept (410): list again."""


class Interrupted(Exception):
    """The source failed for now; the message says how. The stream is taken up again after a pause, which lasts `after`
    seconds at least."""

    def __init__(self, message: str = "", after: float = 0.0) -> None:
        super().__init__(message)
        self.after = after


class Unstreamed(Exception):
    """The server does not tell what there is as a stream: list."""


class Source(Protocol):
    """Where a reflector reads. All raise Gone and Interrupted."""

    def stream(self) -> AsyncGenerator[Change, None]:
        """Everything that there is, then LEARNED, then what happens. Raises Unstreamed where that is not served."""
        ...

    async def snapshot(self) -> tuple[list[Record], str]:
        """Every object and the version of the list."""
        ...

    def changes(self, version: str) -> AsyncGenerator[Change, None]:
        """What happened after `version`. Ends whenever the server closes the stream."""
        ...


@dataclass(frozen=True, slots=True)
class Pause:
    """Exponential back-off in seconds; the real pause is a random part (half to whole) of it."""

    first: float = 0.1
    longest: float = 30.0
    spread: float = 2.0  # at most so long before everything is learned anew

    def seconds(self, failures: int) -> float:
        return min(self.longest, self.first * 2.0 ** min(failures, 30)) * random.uniform(0.5, 1.0)

    def relist(self, failures: int) -> float:
        return random.uniform(0.0, min(self.spread, self.longest)) + (self.seconds(failures) if failures else 0.0)


async def reflect(source: Source, what: str, pause: Pause | None = None) -> AsyncIterator[Update | InSync]:
    """Updates of one kind. `what` names it in the log."""
    wait, loop = pause or Pause(), asyncio.get_running_loop()
    tally = tallies.of(what)
    known: dict[Key, str] = {}
    version, synced, streamed, failures = "", False, True, 0
    while True:
        learning = _Learning(known) if not version and streamed else None
        try:
            if not version and learning is None:
                records, version = await source.snapshot()
                tally.lists, tally.last = tally.lists + 1, loop.time()
                for update in _compare(known, records, version):
                    yield update
                if not synced:
                    synced = True
                    yield InSync()
            changes = source.changes(version) if learning is None else source.stream()
            tally.resumes += learning is None
            opened = loop.time()
            try:
                async for change in changes:
                    failures, tally.last = 0, loop.time()
                    if learning is not None:
                        for update in learning.take(change):
                            yield update
                        if not learning.done:
                            continue
                        learning = None
                        tally.lists += 1
                        if not synced:
                            synced = True
                            yield InSync()
                    elif change.type not in ("BOOKMARK", "LEARNED"):
                        yield _take(known, change)
                    version = change.record.version or version
            finally:
                if loop.time() - opened > STEADY_SECONDS:
                    failures = 0
                await changes.aclose()
            # A server that closes streams at once must not be asked in a busy loop.
            await asyncio.sleep(wait.seconds(0))
        except Unstreamed:
            log.info("watch not streamed, listing what=%s", what)
            streamed = False
        except Gone:
            tally.failures += 1
            log.info("watch lost its history what=%s", what)
            version = ""
            await asyncio.sleep(wait.relist(failures))
            failures += 1
        except Interrupted as error:
            tally.failures += 1
            level = logging.DEBUG if failures == 0 else logging.WARNING
            log.log(level, "watch interrupted what=%s failures=%d error=%s", what, failures + 1, error)
            await asyncio.sleep(max(wait.seconds(failures), error.after * random.uniform(1.0, 1.5)))
            failures += 1


class _Learning:
    """A streamed list on its way into `known`. Cut off in the middle, it is begun again; nothing is told as gone before
    it is complete."""

    def __init__(self, known: dict[Key, str]) -> None:
        self._known = known
        self._present: set[Key] = set()
        self.done = False

    def take(self, change: Change) -> list[Update]:
        record = change.record
        if change.type == "LEARNED":
            self.done = True
            gone = [key for key in self._known if key not in self._present]
            for key in gone:
                del self._known[key]
            return [Update(key, None, record.version) for key in gone]
        if change.type == "BOOKMARK":
            return []
        if change.type == "DELETED":
            self._present.discard(record.key)
            return [_take(self._known, change)]
        self._present.add(record.key)
        if self._known.get(record.key) == record.version:
            return []
        return [_take(self._known, change)]


def _take(known: dict[Key, str], change: Change) -> Update:
    key = change.record.key
    if change.type == "DELETED":
        known.pop(key, None)
        return Update(key, None, change.record.version)
    known[key] = change.record.version
    return Update(key, change.record.value)


def _compare(known: dict[Key, str], records: list[Record], version: str) -> list[Update]:
    """What a fresh list, of this version, changes in what was told before; `known` is brought up to date."""
    updates = [Update(record.key, record.value) for record in records if known.get(record.key) != record.version]
    present = {record.key: record.version for record in records}
    updates += [Update(key, None, version) for key in known if key not in present]
    known.clear()
    known.update(present)
    return updates
