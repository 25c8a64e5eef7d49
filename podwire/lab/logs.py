"""The log files of a lab's daemons: appended to, and cut in place when they grow (a node cannot rename them).

Each daemon writes to an open file (its own root does not show the path). Whoever writes a record keeps it bounded: past
LIMIT bytes the older half goes.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

from podwire.agent.logs import TextLines

LIMIT = 2 << 20
"""Bytes of one daemon's log."""


def open_log(path: Path) -> int:
    """A log file to append to; /dev/null where it cannot be opened (a full disk must not stop the lab)."""
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    except OSError:
        return os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)


def cut(log: int, limit: int = LIMIT) -> None:
    """Keep the younger half of a log that is longer than `limit` bytes, from a line's beginning. Best effort."""
    try:
        size = os.fstat(log).st_size
        if size <= limit:
            return
        kept = os.pread(log, limit // 2, size - limit // 2)
        os.ftruncate(log, 0)
        os.write(log, kept[kept.find(b"\n") + 1 :])
    except OSError:
        return  # not a file, or the disk is full: the daemon matters more than its log


class _Bounded(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes to standard error, and keeps the file behind it bounded."""

    def emit(self, record: logging.LogRecord) -> None:
        super().emit(record)
        cut(2)

    def handleError(self, record: logging.LogRecord) -> None:
        """Nothing: the disk may be full, and standard error is the log itself."""


def start() -> None:
    """Log INFO and above of this process to its standard error."""
    root = logging.getLogger()
    handler = _Bounded(os.fdopen(2, "w", buffering=1, errors="replace", closefd=False))
    handler.setFormatter(TextLines())
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
