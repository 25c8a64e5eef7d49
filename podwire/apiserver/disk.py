"""The store's file: SQLite in WAL mode behind one writer thread with group commit.

Writes handed in while a commit runs go together into the next one. A commit that fails (disk full, I/O error) leaves
the file as it was and takes every later write of the same epoch with it, as those were computed on top of the failed
ones; the writer begins a new epoch when it hears of it. With synchronous=NORMAL a killed process loses nothing that
was committed; only a machine that loses power can lose the last moments, and never half a transaction.
"""

from __future__ import annotations

import queue
import sqlite3
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

_SCHEMA = """
CREATE TABLE IF NOT EXISTS objects (
  resource TEXT NOT NULL, namespace TEXT NOT NULL, name TEXT NOT NULL, revision INTEGER NOT NULL, value BLOB NOT NULL,
  PRIMARY KEY (resource, namespace, name)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
INSERT OR IGNORE INTO meta VALUES ('schema', 1), ('revision', 0);
"""
_PUT = "INSERT OR REPLACE INTO objects (revision, value, resource, namespace, name) VALUES (?, ?, ?, ?, ?)"
_DELETE = "DELETE FROM objects WHERE resource = ? AND namespace = ? AND name = ?"
_REVISION = "UPDATE meta SET value = ? WHERE key = 'revision'"
_GROUP = 512


@dataclass(frozen=True, slots=True)
class Write:
    """One row to write; `value` None removes it."""

    epoch: int
    resource: str
    namespace: str
    name: str
    revision: int
    value: bytes | None


class StorageError(Exception):
    """SQLite refused; the message is its own words."""


Done = Callable[[list[Write], str], None]


class Disk:
    """`done(writes, error)` is called in the writer thread after each group; error is "" when it is committed. After
    an error it is not called for the remaining writes of that epoch: they are gone."""

    def __init__(self, path: Path, done: Done) -> None:
        self.path = path
        self._done = done
        self._queue: queue.SimpleQueue[Write | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._failed_epoch = -1
        self._connection = self._open(path)

    @staticmethod
    def _open(path: Path) -> sqlite3.Connection:
        try:
            connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")
            connection.execute("PRAGMA wal_autocheckpoint=2000")
            connection.executescript(_SCHEMA)
        except sqlite3.Error as error:
            raise StorageError(f"{path}: {error}") from error
        return connection

    def revision(self) -> int:
        """The last committed revision."""
        row = self._connection.execute("SELECT value FROM meta WHERE key = 'revision'").fetchone()
        return int(row[0])

    def rows(self) -> Iterator[Write]:
        """Every stored row, in key order. Raises StorageError. Call before `start`."""
        try:
            query = "SELECT resource, namespace, name, revision, value FROM objects ORDER BY resource, namespace, name"
            for row in self._connection.execute(query):
                yield Write(0, *row)
        except sqlite3.Error as error:
            raise StorageError(f"{self.path}: {error}") from error

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="store-writer", daemon=True)
        self._thread.start()

    def write(self, write: Write) -> None:
        """Queue a row; revisions must grow."""
        self._queue.put(write)

    def close(self) -> None:
        """Commit what is queued and close the file."""
        if self._thread:
            self._queue.put(None)
            self._thread.join()
            self._thread = None
        self._connection.close()

    def _run(self) -> None:
        ending = False
        while not ending:
            gathered, ending = self._gather()
            group = [write for write in gathered if write.epoch > self._failed_epoch]
            if not group:
                continue
            error = self._commit(group)
            if error:
                self._failed_epoch = group[-1].epoch
            self._done(group, error)

    def _gather(self) -> tuple[list[Write], bool]:
        first = self._queue.get()
        if first is None:
            return [], True
        rest, ending = self._drain()
        return [first, *rest], ending

    def _drain(self) -> tuple[list[Write], bool]:
        found: list[Write] = []
        while len(found) < _GROUP:
            try:
                each = self._queue.get_nowait()
            except queue.Empty:
                return found, False
            if each is None:
                return found, True
            found.append(each)
        return found, False

    def _commit(self, group: list[Write]) -> str:
        connection = self._connection
        try:
            connection.execute("BEGIN IMMEDIATE")
            for each in group:
                if each.value is None:
                    connection.execute(_DELETE, (each.resource, each.namespace, each.name))
                else:
                    connection.execute(_PUT, (each.revision, each.value, each.resource, each.namespace, each.name))
            connection.execute(_REVISION, (group[-1].revision,))
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            try:
                connection.execute("ROLLBACK")
            except sqlite3.Error:
                pass  # the failure itself already rolled back
            return str(error)
        return ""
