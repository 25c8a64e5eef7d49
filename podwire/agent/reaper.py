"""Gives back what answered DELs left: doomed links (in one go), claimed addresses, records.

An address is released only after the link that used it is gone from the kernel.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

from podwire.agent import wiring as wire
from podwire.agent.attachments import DELETED, Attachment, Attachments, Key
from podwire.agent.points import reached
from podwire.agent.turns import Turns
from podwire.agent.wiring import Sockets
from podwire.kernel.netlink import KernelError

log = logging.getLogger(__name__)

GATHER_SECONDS = 0.05
RETRY_SECONDS = 1.0
AT_ONCE = 64
"""Handles given back in one go: enough to share a block's write, few enough to leave room for an ADD between."""

Release = Callable[[Sequence[str]], Sequence[Exception | None]]


class Reaper:
    """A thread. `release` gives back the addresses of handles, and says of each why that is not possible now."""

    def __init__(self, records: Attachments, sockets: Sockets, release: Release, turns: Turns) -> None:
        self._records = records
        self._sockets = sockets
        self._release = release
        self._turns = turns
        self._pending: dict[Key, None] = {}
        self._guard = threading.Lock()
        self._round = threading.Lock()
        self._news = threading.Event()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="reaper", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._news.set()
        self._thread.join(timeout=5)

    def add(self, key: Key) -> None:
        """The attachment's record says "deleted": finish it."""
        with self._guard:
            self._pending[key] = None
        self._news.set()

    def wake(self) -> None:
        """There are doomed links."""
        self._news.set()

    def finish(self, key: Key) -> None:
        """Finish one attachment now, in the caller's thread: its identity is wanted again. Raises what went wrong."""
        with self._turns.waiting(), self._round:
            record = self._records.get(key)
            if record is not None:
                wire.reap(self._sockets.route())
                [outcome] = self._released([record])
                if outcome is not None:
                    raise outcome
                self._records.remove(key)
        with self._guard:
            self._pending.pop(key, None)

    def _run(self) -> None:
        while not self._stopped.is_set():
            self._news.wait()
            self._news.clear()
            self._stopped.wait(GATHER_SECONDS)  # links that go together share the kernel's grace period
            if not self._stopped.is_set() and not self._once():
                self._stopped.wait(RETRY_SECONDS)
                self._news.set()

    def _once(self) -> bool:
        """One round; False when something is left to do."""
        with self._guard:
            keys = list(self._pending)
        done = True
        with self._round:
            try:
                wire.reap(self._sockets.route())
            except KernelError as error:
                log.warning("reap failed error=%s", error)
                return False
            for start in range(0, len(keys), AT_ONCE):
                done &= self._give_back(keys[start : start + AT_ONCE])
        return done

    def _give_back(self, keys: Sequence[Key]) -> bool:
        """Whether all of them are done."""
        found = [record for key in keys if (record := self._records.get(key)) is not None and record.state == DELETED]
        left: set[Key] = set()
        for record, outcome in zip(found, self._released(found), strict=True):
            try:
                if outcome is not None:
                    raise outcome
                reached("released")
                self._records.remove(record.key)
            except Exception as error:  # noqa: BLE001 - whatever the API said: it is tried again
                log.warning("release failed handle=%s error=%s", record.handle, error)
                left.add(record.key)
        with self._guard:
            for key in keys:
                if key not in left:
                    self._pending.pop(key, None)
        return not left

    def _released(self, records: Sequence[Attachment]) -> list[Exception | None]:
        """What became of each record's addresses; some never had any."""
        named = [record for record in records if record.handle]
        try:
            outcomes = list(self._release([record.handle for record in named])) if named else []
        except Exception as error:  # noqa: BLE001 - told of each
            outcomes = [error] * len(named)
        by_key = {record.key: outcome for record, outcome in zip(named, outcomes, strict=True)}
        return [by_key.get(record.key) for record in records]
