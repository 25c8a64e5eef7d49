"""The standard streams of a running container: into its log, and to whoever is attached.

Without a terminal they are FIFOs that the container holds open for reading *and* writing: while no kubelet is there,
nothing gets lost and no write fails; a full FIFO just blocks. With a terminal the kubelet holds the pty's master: when
it ends, the kernel hangs the terminal up, and what runs there gets SIGHUP, as with a terminal window that is closed.

   container ──stdout/stderr──▶ FIFO or pty ──▶ pump ──▶ log file
                                                   └───▶ taps (attached clients)
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable
from pathlib import Path

from podwire.kubelet import fdio
from podwire.kubelet.logs import LogFile

log = logging.getLogger(__name__)
_CHUNK = 64 * 1024
_TAP_LIMIT = 1024 * 1024
_STREAMS = ("stdout", "stderr")


class Tap:
    """One attached client's copy of a stream: a pipe, and what does not fit into it yet. A client that does not read
    loses what exceeds a mebibyte; the container never waits for it."""

    def __init__(self) -> None:
        self.read_end, self._write_end = os.pipe()
        os.set_blocking(self._write_end, False)
        self._rest = bytearray()
        self._closing = False

    def put(self, chunk: bytes) -> bool:
        """Offer a chunk; False when the client is gone."""
        if self._write_end < 0:
            return False
        if len(self._rest) < _TAP_LIMIT:
            self._rest += chunk
        return self._flush()

    def _flush(self) -> bool:
        loop = asyncio.get_running_loop()
        try:
            while self._rest:
                sent = os.write(self._write_end, self._rest[:_CHUNK])
                del self._rest[:sent]
        except BlockingIOError:
            loop.add_writer(self._write_end, self._flush)
            return True
        except OSError:
            self._close()
            return False
        loop.remove_writer(self._write_end)
        if self._closing:
            self._close()
        return True

    def end(self) -> None:
        """The stream ended: close once everything is delivered."""
        self._closing = True
        if self._write_end >= 0:
            self._flush()

    def _close(self) -> None:
        if self._write_end >= 0:
            asyncio.get_running_loop().remove_writer(self._write_end)
            os.close(self._write_end)
            self._write_end = -1


class Streams:
    """Made before the container starts (`child_fds` go to runc), then pumped until it ends."""

    def __init__(self, directory: Path, *, tty: bool, stdin: bool, stdin_once: bool) -> None:
        self._directory = directory
        self._tty = tty
        self._stdin = stdin
        self._once = stdin_once
        self._child: dict[str, int] = {}
        self._readers: dict[str, int] = {}
        self._stdin_writer = -1
        self._master = -1
        self._log: LogFile | None = None
        self._taps: dict[str, list[Tap]] = {name: [] for name in _STREAMS}

    def prepare(self) -> None:
        """Make the FIFOs and open the container's ends. Raises OSError."""
        if self._tty:
            return
        for name in _STREAMS:
            os.mkfifo(self._directory / name, 0o600)
            self._child[name] = os.open(self._directory / name, os.O_RDWR | os.O_CLOEXEC)
        if not self._stdin:
            self._child["stdin"] = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
            return
        path = self._directory / "stdin"
        os.mkfifo(path, 0o600)
        both = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        if not self._once:
            self._child["stdin"] = both
            return
        self._child["stdin"] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._stdin_writer = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        os.close(both)

    @property
    def child_fds(self) -> tuple[int, int, int] | None:
        """stdin, stdout, stderr for runc; None with a terminal."""
        return None if self._tty else (self._child["stdin"], self._child["stdout"], self._child["stderr"])

    def started(self, log_path: Path, master: int | None = None) -> None:
        """The container runs: let its ends go and pump into the log from now on. Also called to take up the streams of
        a container that a former kubelet started (without `prepare`)."""
        with contextlib.suppress(OSError):  # a disk that is full: the container runs on without a log
            self._log = LogFile(log_path)
        if master is not None:
            os.set_blocking(master, False)
            self._master = master
            self._listen("stdout", master)
        elif not self._tty:
            for name in _STREAMS:
                with contextlib.suppress(FileNotFoundError):
                    self._listen(name, os.open(self._directory / name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
            if self._stdin and not self._once and self._stdin_writer < 0:
                self._stdin_writer = os.open(self._directory / "stdin", os.O_RDWR | os.O_CLOEXEC)
        self.release_child()

    def release_child(self) -> None:
        """Close the container's ends in this process."""
        for fd in self._child.values():
            os.close(fd)
        self._child.clear()

    def _listen(self, name: str, fd: int) -> None:
        self._readers[name] = fd
        asyncio.get_running_loop().add_reader(fd, self._read, name)

    def _read(self, name: str) -> bool:
        """Move one chunk; False when there is none (now, or any more)."""
        fd = self._readers.get(name, -1)
        if fd < 0:
            return False
        try:
            chunk = fdio.read_now(fd)
        except BlockingIOError:
            return False
        except OSError:
            chunk = b""
        if not chunk:
            self._finish(name)
            return False
        if self._log is not None:
            try:
                self._log.write(name, chunk)
            except OSError as error:
                log.error("kubelet: log of %s: %s", self._directory.name, error)
        self._taps[name] = [tap for tap in self._taps[name] if tap.put(chunk)]
        return True

    def _finish(self, name: str) -> None:
        fd = self._readers.pop(name, -1)
        if fd < 0:
            return
        asyncio.get_running_loop().remove_reader(fd)
        os.close(fd)
        if fd == self._master:
            self._master = -1
        if self._log is not None:
            with contextlib.suppress(OSError):
                self._log.end(name)
        for tap in self._taps[name]:
            tap.end()
        self._taps[name] = []

    def drain(self) -> None:
        """The container ended: read what is left, then close everything."""
        for name in _STREAMS:
            while self._read(name):
                pass
            self._finish(name)
        if self._stdin_writer >= 0:
            os.close(self._stdin_writer)
            self._stdin_writer = -1
        self.release_child()
        if self._log is not None:
            self._log.close()
            self._log = None

    def attach(self) -> tuple[int | None, int | None, int | None, Callable[[int, int], None]]:
        """(stdin, stdout, stderr, resize) for one client, who owns the descriptors. With stdinOnce the first client
        gets the only writing end: closing it ends the container's input."""
        stdin: int | None = None
        if self._master >= 0 and self._stdin:
            stdin = os.dup(self._master)
        elif self._stdin_writer >= 0:
            stdin = self._stdin_writer if self._once else os.dup(self._stdin_writer)
            self._stdin_writer = -1 if self._once else self._stdin_writer
        taps = {name: Tap() for name in (_STREAMS[:1] if self._tty else _STREAMS)}
        for name, tap in taps.items():
            if name in self._readers:
                self._taps[name].append(tap)
            else:
                tap.end()
        stderr = taps["stderr"].read_end if "stderr" in taps else None
        return stdin, taps["stdout"].read_end, stderr, self.resize

    def resize(self, rows: int, columns: int) -> None:
        """Set the terminal's size; nothing without one."""
        if self._master >= 0:
            set_size(self._master, rows, columns)


def set_size(fd: int, rows: int, columns: int) -> None:
    """TIOCSWINSZ; a terminal that is already gone is not an error."""
    import termios

    with contextlib.suppress(termios.error, OSError):
        termios.tcsetwinsize(fd, (rows, columns))
