"""Child processes: programs that are run to their end, and long-lived ones (containers, pause) whose exit is awaited.

Containers are started by runc, which leaves; as subreaper this process inherits them and reads their exit codes. Those
that a former kubelet started belong to the node's init: their end is seen, their exit code only where the kernel
keeps it.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from podwire.kubelet import syscalls

T = TypeVar("T")
UNKNOWN_EXIT = 137
_WORKERS = 24


@dataclass(frozen=True, slots=True)
class Finished:
    """How a program ended: exit code (128 + signal when killed) and what it printed."""

    code: int
    stdout: bytes
    stderr: bytes


class Children:
    """Runs programs in worker threads (spawning and reading pipes blocks) and awaits exits on the event loop."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(_WORKERS, thread_name_prefix="child")
        self._awaited: set[int] = set()
        self._suspects: set[int] = set()

    async def call(self, work: Callable[[], T]) -> T:
        """Run blocking work in a worker thread."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    async def run(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        stdin: bytes = b"",
        timeout: float | None = None,
    ) -> Finished:
        """Run a program to its end. Raises OSError (not there, busy) and TimeoutError; then the program is killed."""

        def work() -> Finished:
            try:
                done = subprocess.run(argv, env=env, input=stdin, capture_output=True, timeout=timeout, check=False)
            except subprocess.TimeoutExpired as error:
                raise TimeoutError(f"{argv[0]} did not end within {timeout} s") from error
            code = done.returncode if done.returncode >= 0 else 128 - done.returncode
            return Finished(code, done.stdout, done.stderr)

        return await self.call(work)

    async def wait(self, pid: int) -> int:
        """The exit code of a child or of an adopted process (128 + signal when killed, UNKNOWN_EXIT when lost)."""
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            return UNKNOWN_EXIT
        self._awaited.add(pid)
        try:
            await readable(pidfd)
            return await _collect(pidfd)
        finally:
            os.close(pidfd)
            self._awaited.discard(pid)

    def sweep(self) -> None:
        """Bury orphans that nobody awaits. Called now and then; a process must be dead on two visits, because worker
        threads wait for their own children."""
        dead = {pid for pid in _children() if pid not in self._awaited and syscalls.start_time(pid) is None}
        for pid in dead & self._suspects:
            try:
                os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                continue
        self._suspects = dead

    def close(self) -> None:
        """Let the worker threads go."""
        self._pool.shutdown(wait=False, cancel_futures=True)


async def readable(fd: int) -> None:
    """Until a descriptor can be read: data, an end, or (for a pidfd) the process's death."""
    loop = asyncio.get_running_loop()
    ready = loop.create_future()
    loop.add_reader(fd, _settle, ready)
    try:
        await ready
    finally:
        loop.remove_reader(fd)


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


async def _collect(pidfd: int) -> int:
    try:
        found = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)
    except ChildProcessError:
        return await _foreign_exit(pidfd)
    if found is None:
        return UNKNOWN_EXIT
    if found.si_code == os.CLD_EXITED:
        return found.si_status
    return 128 + found.si_status


async def _foreign_exit(pidfd: int) -> int:
    """The kernel tells the code only after the real parent has reaped; give it a moment."""
    for _ in range(20):
        status = syscalls.exit_status_of(pidfd)
        if status is not None:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code
        await asyncio.sleep(0.01)
    return UNKNOWN_EXIT


def _children() -> set[int]:
    found: set[int] = set()
    for task in os.listdir("/proc/self/task"):  # noqa: PTH208 (names are wanted)
        try:
            with open(f"/proc/self/task/{task}/children") as file:  # noqa: PTH123
                found.update(int(word) for word in file.read().split())
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def kill(pid: int, started: int | None, number: signal.Signals = signal.SIGKILL) -> bool:
    """Signal a process that may be gone; False when it is."""
    return syscalls.signal_process(pid, started, number)
