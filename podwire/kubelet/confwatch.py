"""Notices within milliseconds when files of a directory come, change or go (inotify)."""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
from collections.abc import Callable
from pathlib import Path

log = logging.getLogger(__name__)
_IN_NONBLOCK, _IN_CLOEXEC = 0o4000, 0o2000000
_EVENTS = 0x8 | 0x40 | 0x80 | 0x100 | 0x200  # CLOSE_WRITE, MOVED_FROM, MOVED_TO, CREATE, DELETE


class DirectoryWatch:
    """Calls `changed` on the event loop; the directory is made if it is not there. Raises OSError."""

    def __init__(self, directory: Path, changed: Callable[[], None]) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        libc = ctypes.CDLL(None, use_errno=True)
        self._fd = libc.inotify_init1(_IN_NONBLOCK | _IN_CLOEXEC)
        if self._fd < 0 or libc.inotify_add_watch(self._fd, os.fsencode(directory), _EVENTS) < 0:
            number = ctypes.get_errno()
            self.close()
            raise OSError(number, f"inotify on {directory}: {os.strerror(number)}")
        self._changed = changed
        asyncio.get_running_loop().add_reader(self._fd, self._read)

    def _read(self) -> None:
        try:
            os.read(self._fd, 65536)
        except BlockingIOError:
            return
        self._changed()

    def close(self) -> None:
        """Stop watching."""
        if self._fd >= 0:
            asyncio.get_running_loop().remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1
