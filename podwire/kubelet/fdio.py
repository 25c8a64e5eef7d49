"""Awaitable reads and writes of pipes and terminals, by the event loop's readiness. Closing is the holder's."""

import asyncio
import errno
import os

CHUNK = 64 << 10


def read_now(fd: int) -> bytes:
    """Some bytes; b"" at the end. A terminal whose last process has gone (EIO) is at its end. `fd` is non-blocking;
    raises BlockingIOError when there is nothing yet."""
    for _ in range(2):  # the kernel may say EIO while a process's last words are still queued: the next read has them
        try:
            return os.read(fd, CHUNK)
        except OSError as error:
            if error.errno not in (errno.EIO, errno.ECONNRESET):
                raise
    return b""


async def read(fd: int) -> bytes:
    """`read_now` as soon as there is something."""
    while True:
        try:
            return read_now(fd)
        except BlockingIOError:
            await _ready(fd, writing=False)


async def write(fd: int, data: bytes) -> None:
    """All of `data`. Raises BrokenPipeError when nobody reads any more (a terminal: EIO). `fd` is non-blocking."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:
            await _ready(fd, writing=True)
        except OSError as error:
            if error.errno == errno.EIO:
                raise BrokenPipeError("the terminal is closed") from error
            raise


async def _ready(fd: int, *, writing: bool) -> None:
    """Wait for readiness on a duplicate: a terminal is read and written at once, and each has its own registration."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[None] = loop.create_future()
    watched = os.dup(fd)

    def settle() -> None:
        if not future.done():
            future.set_result(None)

    if writing:
        loop.add_writer(watched, settle)
    else:
        loop.add_reader(watched, settle)
    try:
        await future
    finally:
        if writing:
            loop.remove_writer(watched)
        else:
            loop.remove_reader(watched)
        os.close(watched)
