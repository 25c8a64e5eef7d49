"""List, then watch, for ever: a stream of updates that always converges on what the API holds.

`reflect` turns any Source (HTTP, in process, fake) into Update and InSync. Its promises:
 - the newest value of every key comes, or None once it is gone; values in between may be left out, or come twice;
 - InSync comes once, after the first complete list;
 - a broken stream resumes where it stopped; when that is too old (410) a new list is compared with what was told
   before, so that no deletion is lost;
 - errors are retried with a jittered, growing pause, and logged.
Source: the behaviour of client-go's Reflector.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from typing import Any, Protocol

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
    """One watch event: `type` is ADDED, MODIFIED, DELETED or BOOKMARK; `record.version` is where to resume."""

    type: str
    record: Record


class Gone(Exception):
    """The version to resume from is no longer kept (410): list again."""


class Interrupted(Exception):
    """The source failed for now; the message says how. The stream is taken up again after a pause."""


class Source(Protocol):
    """Where a reflector reads. Both raise Gone and Interrupted."""

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

    def seconds(self, failures: int) -> float:
        return min(self.longest, self.first * 2.0 ** min(failures, 30)) * random.uniform(0.5, 1.0)


async def reflect(source: Source, what: str, pause: Pause | None = None) -> AsyncIterator[Update | InSync]:
    """Updates of one kind. `what` names it in the log."""
    wait, loop = pause or Pause(), asyncio.get_running_loop()
    known: dict[Key, str] = {}
    version, synced, failures = "", False, 0
    while True:
        try:
            if not version:
                records, version = await source.snapshot()
                for update in _compare(known, records, version):
                    yield update
                if not synced:
                    synced = True
                    yield InSync()
            stream = source.changes(version)
            opened = loop.time()
            try:
                async for change in stream:
                    failures = 0
                    version = change.record.version or version
                    if change.type != "BOOKMARK":
                        yield _take(known, change)
            finally:
                if loop.time() - opened > STEADY_SECONDS:
                    failures = 0
                await stream.aclose()
            # A server that closes streams at once must not be asked in a busy loop.
            await asyncio.sleep(wait.seconds(0))
        except Gone:
            log.info("watch: %s: history is gone, listing again", what)
            version = ""
            if failures:
                await asyncio.sleep(wait.seconds(failures))
            failures += 1
        except Interrupted as error:
            level = logging.DEBUG if failures == 0 else logging.WARNING
            log.log(level, "watch: %s: %s (failure %d)", what, error, failures + 1)
            await asyncio.sleep(wait.seconds(failures))
            failures += 1


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
