"""Attachments: which pod interface is wired how. One small file each, so that they outlive the agent.

Written without fsync on purpose: what must survive is the agent; with the machine the wiring itself is lost.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Iterable
from pathlib import Path

import msgspec

log = logging.getLogger(__name__)

WIRING = "wiring"  # begun: an address may be claimed, links may exist; nobody has been told
READY = "ready"  # the runtime has (or will have) its result
DELETED = "deleted"  # DEL was answered; links and address are still to be given back

Key = tuple[str, str]


class Attachment(msgspec.Struct, frozen=True):
    """One interface of one sandbox."""

    container_id: str
    interface: str
    network: str
    netns: str
    host_name: str
    pod_mac: str
    mtu: int
    handle: str
    address: str = ""
    namespace: str = ""
    pod: str = ""
    uid: str = ""
    state: str = WIRING
    boot: str = ""

    @property
    def key(self) -> Key:
        return self.container_id, self.interface


class Attachments:
    """The records in memory and on disk. Safe for use by several threads."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._records: dict[Key, Attachment] = {}
        self._guard = threading.Lock()

    def load(self) -> None:
        """Read what a former agent left; an unreadable file is set aside and logged, not trusted."""
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        for path in sorted(self._directory.glob("*.json")):
            try:
                record = msgspec.json.decode(path.read_bytes(), type=Attachment)
            except (OSError, msgspec.MsgspecError) as error:
                log.error("attachment unreadable file=%s error=%s", path, error)
                with contextlib.suppress(OSError):
                    path.rename(path.with_suffix(".broken"))
                continue
            self._records[record.key] = record

    def put(self, record: Attachment) -> None:
        """Raises OSError (a full disk, say); then nothing has changed."""
        path = self._path(record.key)
        temporary = path.with_suffix(".new")
        try:
            temporary.write_bytes(msgspec.json.encode(record))
            temporary.replace(path)
        except OSError:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
        with self._guard:
            self._records[record.key] = record

    def remove(self, key: Key) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path(key))  # noqa: PTH108 - on the DEL path
        with self._guard:
            self._records.pop(key, None)

    def get(self, key: Key) -> Attachment | None:
        with self._guard:
            return self._records.get(key)

    def all(self, *states: str) -> list[Attachment]:
        """Records in one of the states (none given: all)."""
        with self._guard:
            return [record for record in self._records.values() if not states or record.state in states]

    def owner(self, host_name: str, states: Iterable[str] = (WIRING, READY)) -> Attachment | None:
        """Who has the host end of that name now."""
        wanted = tuple(states)
        return next((record for record in self.all(*wanted) if record.host_name == host_name), None)

    def _path(self, key: Key) -> Path:
        return self._directory / f"{key[0]}.{key[1]}.json"
