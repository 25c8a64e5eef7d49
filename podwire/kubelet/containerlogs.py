"""Read a container's log file (CRI format) the way `kubectl logs` asks for it."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

_BLOCK = 64 << 10
_POLL = 0.1


@dataclass(frozen=True, slots=True)
class LogOptions:
    """The query of /containerLogs. `since` is a point in time (seconds since the epoch), -1 for none."""

    follow: bool = False
    timestamps: bool = False
    previous: bool = False
    tail: int = -1
    limit: int = -1
    since: float = -1
    stream: str = "All"


def options(query: Mapping[str, Sequence[str]], now: float | None = None) -> LogOptions:
    """Of a request's query. Raises ValueError with the name of the parameter that is wrong."""
    since = -1.0
    if seconds := _number(query, "sinceSeconds", least=1):
        since = (time.time() if now is None else now) - seconds
    if text := _text(query, "sinceTime"):
        if since >= 0:
            raise ValueError("at most one of sinceTime or sinceSeconds may be specified")
        since = parse_time(text)
    stream = _text(query, "stream") or "All"
    if stream not in ("All", "Stdout", "Stderr"):
        raise ValueError(f'stream: "{stream}" is not one of All, Stdout, Stderr')
    tail, limit = _number(query, "tailLines", least=0), _number(query, "limitBytes", least=1)
    return LogOptions(
        follow=_flag(query, "follow"),
        timestamps=_flag(query, "timestamps"),
        previous=_flag(query, "previous"),
        tail=-1 if tail is None else tail,
        limit=-1 if limit is None else limit,
        since=since,
        stream=stream,
    )


def parse_time(text: str) -> float:
    """RFC 3339, with any number of fractional digits, to seconds since the epoch. Raises ValueError."""
    try:
        return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()
    except ValueError as error:
        raise ValueError(f'sinceTime: "{text}" is not an RFC 3339 time') from error


def render(line: bytes, wanted: LogOptions) -> bytes:
    """What the client gets of one line of the file; b"" if that is nothing (too old, other stream, malformed)."""
    stamp, stream, tag, text = [*line.split(b" ", 3), b"", b"", b""][:4]
    if stream not in (b"stdout", b"stderr") or not tag:
        return b""
    if wanted.stream != "All" and stream != wanted.stream.lower().encode():
        return b""
    if wanted.since >= 0:
        try:
            if parse_time(stamp.decode("ascii", "replace")) < wanted.since:
                return b""
        except ValueError:
            return b""
    if not tag.startswith(b"P"):
        text += b"\n"
    return stamp + b" " + text if wanted.timestamps else text


async def stream(path: Path, wanted: LogOptions, alive: Callable[[], bool]) -> AsyncIterator[bytes]:
    """The log in pieces. With `follow` it goes on until `alive()` is false and all is read, over rotations too."""
    left = wanted.limit
    async for block in _blocks(path, wanted, alive):
        if wanted.limit >= 0:
            block = block[:left]
            left -= len(block)
        if block:
            yield block
        if wanted.limit >= 0 and left <= 0:
            return


async def _blocks(path: Path, wanted: LogOptions, alive: Callable[[], bool]) -> AsyncIterator[bytes]:
    rest = b""
    file = _open(path)
    if file is not None and wanted.tail >= 0:
        file.seek(tail_offset(file, wanted.tail, wanted.stream))
    try:
        while True:
            going = wanted.follow and alive()
            if file is not None:
                for data in _chunks(file):
                    *lines, rest = (rest + data).split(b"\n")
                    yield b"".join(render(line, wanted) for line in lines)
                    await asyncio.sleep(0)
            if file is None or _replaced(path, file):
                fresh = _open(path)
                if fresh is not None:
                    if file is not None:
                        file.close()
                    file, rest = fresh, b""
                    continue
            if not going:
                return
            await asyncio.sleep(_POLL)
    finally:
        if file is not None:
            file.close()


def tail_offset(file: BinaryIO, lines: int, stream: str = "All") -> int:
    """Where the last `lines` lines begin. A line written in parts counts as one, another stream's not at all."""
    end = file.seek(0, os.SEEK_END)
    if lines == 0:
        return end
    window = _BLOCK
    while True:
        begin = max(0, end - window)
        file.seek(begin)
        starts = _line_starts(file.read(end - begin))
        if begin > 0:
            del starts[0]  # what the window cut in two
        counted = [start + len(line) + 1 for start, line in starts if _counts(line, stream)]
        if len(counted) > lines:
            return begin + counted[-lines - 1]
        if begin == 0:
            return 0
        window *= 4


def _line_starts(block: bytes) -> list[tuple[int, bytes]]:
    """Offset and text of the whole lines of a block."""
    starts, offset = [], 0
    for line in block.split(b"\n")[:-1]:
        starts.append((offset, line))
        offset += len(line) + 1
    return starts


def _counts(line: bytes, stream: str) -> bool:
    _, name, tag, *_ = [*line.split(b" ", 3), b"", b"", b""]
    return tag.startswith(b"F") and (stream == "All" or name == stream.lower().encode())


def _open(path: Path) -> BinaryIO | None:
    try:
        return path.open("rb")
    except FileNotFoundError:
        return None


def _chunks(file: BinaryIO) -> Iterator[bytes]:
    while data := file.read(_BLOCK):
        yield data


def _replaced(path: Path, file: BinaryIO) -> bool:
    try:
        return path.stat().st_ino != os.fstat(file.fileno()).st_ino
    except FileNotFoundError:
        return False


def _text(query: Mapping[str, Sequence[str]], name: str) -> str:
    return query.get(name, [""])[0]


def _flag(query: Mapping[str, Sequence[str]], name: str) -> bool:
    return _text(query, name).lower() in ("1", "true", "t")


def _number(query: Mapping[str, Sequence[str]], name: str, least: int) -> int | None:
    text = _text(query, name)
    if not text:
        return None
    try:
        value = int(text)
    except ValueError as error:
        raise ValueError(f'{name}: "{text}" is not a number') from error
    if value < least:
        raise ValueError(f"{name}: {value} must be at least {least}")
    return value
