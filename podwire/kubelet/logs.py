"""Container logs in the CRI format, one file per container start: `<RFC 3339 time> stdout|stderr F|P <text>`.

A text longer than 16 KiB is written in partial (P) lines, the last of which is F. Files are rotated at 10 MiB; five
are kept.
"""

from __future__ import annotations

import io
import time
from pathlib import Path

LINE_LIMIT = 16 * 1024
ROTATE_AT = 10 * 1024 * 1024
KEEP = 5


def timestamp(nanoseconds: int) -> str:
    """RFC 3339 with nine digits, UTC."""
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{rest:09d}Z"


class LineSplitter:
    """Turns chunks of one stream into (tag, line) pairs; keeps what has no end yet."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, chunk: bytes) -> list[tuple[str, bytes]]:
        """Lines that became complete, and parts of overlong ones."""
        data = self._rest + chunk
        found: list[tuple[str, bytes]] = []
        start = 0
        while True:
            end = data.find(b"\n", start)
            stop = end if end >= 0 else len(data)
            while stop - start > LINE_LIMIT:
                found.append(("P", data[start : start + LINE_LIMIT]))
                start += LINE_LIMIT
            if end < 0:
                break
            found.append(("F", data[start:end]))
            start = end + 1
        self._rest = data[start:]
        return found

    def flush(self) -> list[tuple[str, bytes]]:
        """What is left when the stream ends."""
        rest, self._rest = self._rest, b""
        return [("F", rest)] if rest else []


class LogFile:
    """Appends CRI lines to a file and rotates it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._open()
        self._splitters = {"stdout": LineSplitter(), "stderr": LineSplitter()}

    def _open(self) -> io.FileIO:
        return io.FileIO(self._path, "ab")

    def write(self, stream: str, chunk: bytes) -> None:
        """Take a chunk as read from the container; raises OSError (disk full)."""
        self._append(stream, self._splitters[stream].feed(chunk))

    def end(self, stream: str) -> None:
        """The stream has ended: an unfinished last line is written."""
        self._append(stream, self._splitters[stream].flush())

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _append(self, stream: str, lines: list[tuple[str, bytes]]) -> None:
        if not lines:
            return
        head = f"{timestamp(time.time_ns())} {stream} ".encode()
        self._file.write(b"".join(head + tag.encode() + b" " + line + b"\n" for tag, line in lines))
        if self._file.tell() >= ROTATE_AT:
            self._rotate()

    def _rotate(self) -> None:
        self._file.close()
        stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
        self._path.rename(self._path.with_name(f"{self._path.name}.{stamp}"))
        old = sorted(self._path.parent.glob(f"{self._path.name}.*"))
        for path in old[: max(0, len(old) - (KEEP - 1))]:
            path.unlink(missing_ok=True)
        self._file = self._open()
