"""Containers through runc: start, signal, exec, attach, remove; and finding them again after a restart.

Every container has a directory `state`/containers/<id> (record, bundle, FIFOs: gone at reboot, like itself) and one
`containers`/<id> (root file system). runc is run detached and leaves at once; see children.py for exit codes.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from podwire.kubelet import children as processes
from podwire.kubelet import oci, rootfs, syscalls
from podwire.kubelet.children import Children
from podwire.kubelet.console import ConsoleSocket
from podwire.kubelet.stdio import Streams, set_size


class RuntimeFailure(Exception):
    """A container could not be started or entered; the text is what a container runtime says."""


@dataclass
class ExecProcess:
    """A process in a container and this side of its streams (file descriptors; the holder closes them). With a terminal
    stdin and stdout are the pty's master and stderr is None."""

    stdin: int | None
    stdout: int | None
    stderr: int | None
    resize: Callable[[int, int], None]
    wait: Callable[[], Awaitable[int]]
    kill: Callable[[], None]


class Record(msgspec.Struct):
    """What is remembered of a container on disk. Times are seconds since the epoch; `finished` 0: it runs."""

    id: str
    pod_uid: str
    sandbox_id: str
    name: str
    attempt: int
    image: str
    image_id: str
    log_path: str
    created: float
    tty: bool = False
    stdin: bool = False
    stdin_once: bool = False
    cgroup: str = ""
    pid: int = 0
    pid_started: int = 0
    started: float = 0.0
    finished: float = 0.0
    exit_code: int = 0
    reason: str = ""
    message: str = ""


class Container:
    """A container that was started by this kubelet or a former one."""

    def __init__(self, record: Record, streams: Streams) -> None:
        self.record = record
        self.streams = streams
        self.exited = asyncio.Event()

    @property
    def running(self) -> bool:
        return bool(self.record.pid) and not self.exited.is_set()  # set when its end is told, not a moment sooner

    def signal(self, number: signal.Signals) -> bool:
        """Send a signal to its first process; False when that is gone."""
        return self.running and processes.kill(self.record.pid, self.record.pid_started, number)

    def attach(self) -> ExecProcess:
        """Join its streams; `wait` gives the container's exit code, `kill` does nothing to it."""
        stdin, stdout, stderr, resize = self.streams.attach()

        async def wait() -> int:
            await self.exited.wait()
            return self.record.exit_code

        return ExecProcess(stdin, stdout, stderr, resize, wait, lambda: None)


class Runtime:
    """All containers of the node. `on_exit` is called on the event loop when one ends."""

    def __init__(self, state: Path, containers: Path, children: Children, *, rootless: bool) -> None:
        self._state = state
        self._directories = containers
        self._children = children
        self._rootless = rootless
        self._tasks: set[asyncio.Task[None]] = set()
        self._held: dict[str, Container] = {}
        self.on_exit: Callable[[Container], None] = lambda container: None

    def find(self, container_id: str) -> Container | None:
        """A container by its id."""
        return self._held.get(container_id)

    async def prepare(self, record: Record, layers: Sequence[Path]) -> Path:
        """Mount the root file system; its path. Raises RuntimeFailure."""

        def work() -> Path:
            links = self._state / "l"
            return rootfs.mount_overlay(self._directories / record.id, layers, links, rootless=self._rootless)

        try:
            return await self._children.call(work)
        except OSError as error:
            await self.discard(record)
            raise RuntimeFailure(f"failed to mount the root file system: {error}") from error

    async def start(self, record: Record, launch: oci.Launch) -> Container:
        """Start a prepared container. Raises RuntimeFailure; then everything of it is taken away."""
        bundle = self._state / "containers" / record.id
        streams = Streams(bundle, tty=record.tty, stdin=record.stdin, stdin_once=record.stdin_once)
        try:
            master = await self._children.call(lambda: self._launch(record, launch, bundle, streams))
        except (OSError, RuntimeFailure) as error:
            streams.drain()
            await self.discard(record)
            text = str(error).replace("runc run failed", "runc create failed")
            raise RuntimeFailure(
                f"failed to create container task: OCI runtime create failed: {text}: unknown"
            ) from error
        record.started = time.time()
        streams.started(Path(record.log_path), master)
        container = Container(record, streams)
        self._save(record)
        self._follow(container)
        return container

    def _launch(self, record: Record, launch: oci.Launch, bundle: Path, streams: Streams) -> int | None:
        """In a worker thread: write the bundle, run runc, note the pid; the pty's master with a terminal."""
        bundle.mkdir(parents=True, exist_ok=True)
        (bundle / "config.json").write_bytes(msgspec.json.encode(oci.config(launch)))
        streams.prepare()
        argv = ["run", "--detach", "--bundle", str(bundle), "--pid-file", str(bundle / "pid")]
        pid, master = self._detached([*argv, record.id], bundle, streams.child_fds)
        record.pid, record.pid_started = pid, syscalls.start_time(pid) or 0
        return master

    def _runc(self, log: Path) -> list[str]:
        found = ["runc", "--root", str(self._state / "runc"), "--log", str(log), "--log-format", "json"]
        return [*found, "--rootless", "true"] if self._rootless else found

    def _detached(self, argv: list[str], directory: Path, fds: tuple[int, int, int] | None) -> tuple[int, int | None]:
        """Run runc with its log and pid file in `directory`; with a console socket when `fds` is None. Raises
        RuntimeFailure with runc's last words, OSError."""
        log = directory / "runc.log"
        console = ConsoleSocket(self._state / "tty") if fds is None else None
        try:
            verb, *rest = argv
            words = [*self._runc(log), verb, *(["--console-socket", str(console.path)] if console else []), *rest]
            null = subprocess.DEVNULL
            stdin, stdout, stderr = fds or (null, null, null)
            process = subprocess.Popen(words, stdin=stdin, stdout=stdout, stderr=stderr, cwd="/")
            if process.wait() != 0:
                raise RuntimeFailure(_last_words(log) or f"runc ended with status {process.returncode}")
            master = console.receive() if console else None
        finally:
            if console is not None:
                console.close()
        return int((directory / "pid").read_text()), master

    async def exec(self, container_id: str, argv: list[str], *, tty: bool, stdin: bool) -> ExecProcess:
        """Run a process in a running container. Raises RuntimeFailure."""
        container = self._held.get(container_id)
        if container is None or not container.running:
            raise RuntimeFailure(f'failed to exec in container: container "{container_id}" is not running')
        return await self._children.call(lambda: self._exec(container_id, argv, tty, stdin))

    def _exec(self, container_id: str, argv: list[str], tty: bool, stdin: bool) -> ExecProcess:
        directory = self._state / "exec" / os.urandom(8).hex()
        directory.mkdir(parents=True)
        ours: list[int | None] = [None, None, None]
        theirs: list[int] = []
        try:
            if not tty:
                _open_pipes(ours, theirs, stdin)
            words = ["exec", "--detach", "--pid-file", str(directory / "pid")]
            words += ["--tty", "--env", "TERM=xterm"] if tty else []
            fds = None if tty else (theirs[0], theirs[1], theirs[2])
            pid, master = self._detached([*words, container_id, *argv], directory, fds)
        except (OSError, RuntimeFailure) as error:
            for fd in ours:
                if fd is not None:
                    os.close(fd)
            text = str(error).replace("exec failed: exec failed", "exec failed")
            raise RuntimeFailure(
                f"failed to exec in container: failed to start exec: OCI runtime exec failed: {text}: unknown"
            ) from error
        finally:
            for fd in theirs:
                os.close(fd)
            shutil.rmtree(directory, ignore_errors=True)
        return self._exec_process(pid, master, ours)

    def _exec_process(self, pid: int, master: int | None, ours: list[int | None]) -> ExecProcess:
        started = syscalls.start_time(pid)

        def resize(rows: int, columns: int) -> None:
            if master is not None:
                set_size(master, rows, columns)

        async def wait() -> int:
            return await self._children.wait(pid)

        def kill() -> None:
            processes.kill(pid, started)

        if master is not None:
            ours = [master, master, None]
        return ExecProcess(ours[0], ours[1], ours[2], resize, wait, kill)

    async def exec_sync(self, container_id: str, argv: list[str], timeout: float) -> tuple[int, bytes]:
        """Run a process to its end, as probes and hooks do: exit code and output (at most 10 KiB of it). Raises
        RuntimeFailure, TimeoutError (the process is killed)."""
        process = await self.exec(container_id, argv, tty=False, stdin=False)
        output = bytearray()

        async def collect(fd: int) -> None:
            while chunk := await _read(fd):
                if len(output) < 10 * 1024:
                    output.extend(chunk)

        readers = [asyncio.ensure_future(collect(fd)) for fd in (process.stdout, process.stderr) if fd is not None]
        waiting = asyncio.ensure_future(process.wait())
        try:
            code = await asyncio.wait_for(asyncio.shield(waiting), timeout)
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(asyncio.gather(*readers), 1.0)
            return code, bytes(output[: 10 * 1024])
        except (TimeoutError, asyncio.CancelledError):
            process.kill()
            await waiting
            raise
        finally:
            for reader in readers:
                reader.cancel()
            await asyncio.gather(*readers, return_exceptions=True)
            for fd in (process.stdout, process.stderr):
                if fd is not None:
                    os.close(fd)

    def _follow(self, container: Container) -> None:
        self._held[container.record.id] = container
        task = asyncio.ensure_future(self._await_exit(container))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _await_exit(self, container: Container) -> None:
        record = container.record
        lost = syscalls.start_time(record.pid) != record.pid_started and not _is_child(record.pid)
        code = processes.UNKNOWN_EXIT if lost else await self._children.wait(record.pid)
        container.streams.drain()
        record.finished = time.time()
        record.exit_code = code
        if code == processes.UNKNOWN_EXIT and rootfs.out_of_memory(record.cgroup):
            record.reason = "OOMKilled"
        self._save(record)
        await self._children.call(lambda: self._clean(record, keep_files=True))
        container.exited.set()
        self.on_exit(container)

    def _save(self, record: Record) -> None:
        directory = self._state / "containers" / record.id
        with contextlib.suppress(FileNotFoundError):  # removed meanwhile
            fresh = directory / "record.new"
            fresh.write_bytes(msgspec.json.encode(record))
            fresh.replace(directory / "record.json")

    def save(self, record: Record) -> None:
        """Write a record that was changed (a reason or message was added)."""
        self._save(record)

    def adopt(self) -> list[Container]:
        """Take up what a former kubelet started; dead ones are there, too, with their exit as far as known."""
        found = []
        top = self._state / "containers"
        for directory in sorted(top.iterdir()) if top.is_dir() else ():
            try:
                record = msgspec.json.decode((directory / "record.json").read_bytes(), type=Record)
            except (OSError, msgspec.DecodeError, msgspec.ValidationError):
                self._abandon(directory)
                continue
            streams = Streams(directory, tty=record.tty, stdin=record.stdin, stdin_once=record.stdin_once)
            container = Container(record, streams)
            found.append(container)
            if record.finished:
                container.exited.set()
                self._held[record.id] = container
            else:
                streams.started(Path(record.log_path))
                self._follow(container)
        return found

    def _abandon(self, directory: Path) -> None:
        """A start that a former kubelet did not finish: what runs of it is killed."""
        with contextlib.suppress(OSError, ValueError):
            pid = int((directory / "pid").read_text())
            if directory.name in Path(f"/proc/{pid}/mountinfo").read_text():
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(self._state / "runc" / directory.name, ignore_errors=True)
        rootfs.remove(self._directories / directory.name)
        shutil.rmtree(directory, ignore_errors=True)

    def _clean(self, record: Record, *, keep_files: bool) -> None:
        """What runc and the kernel still hold of a dead container; its record and files unless they are kept."""
        rootfs.remove_cgroup(record.cgroup)
        shutil.rmtree(self._state / "runc" / record.id, ignore_errors=True)
        rootfs.remove(self._directories / record.id)
        if not keep_files:
            shutil.rmtree(self._state / "containers" / record.id, ignore_errors=True)

    async def discard(self, record: Record) -> None:
        """Kill the container if it still runs and take everything of it away, but not its log. Idempotent."""
        container = self._held.get(record.id)
        if container is not None and container.running:
            container.signal(signal.SIGKILL)
            await container.exited.wait()
        self._held.pop(record.id, None)
        await self._children.call(lambda: self._clean(record, keep_files=False))

    async def close(self) -> None:
        """Stop following; containers run on."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for container in self._held.values():
            container.streams.drain()


def _is_child(pid: int) -> bool:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return int(fields[1]) == os.getpid()


def _open_pipes(ours: list[int | None], theirs: list[int], stdin: bool) -> None:
    if stdin:
        read_end, write_end = os.pipe()
        theirs.append(read_end)
        ours[0] = write_end
    else:
        theirs.append(os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC))
    for index in (1, 2):
        read_end, write_end = os.pipe()
        theirs.append(write_end)
        ours[index] = read_end


async def _read(fd: int) -> bytes:
    """One chunk of a pipe; empty at its end."""
    os.set_blocking(fd, False)
    while True:
        try:
            return os.read(fd, 65536)
        except BlockingIOError:
            await processes.readable(fd)


def _last_words(log: Path) -> str:
    """The last error in runc's JSON log."""
    try:
        lines = log.read_bytes().splitlines()
    except OSError:
        return ""
    for line in reversed(lines):
        with contextlib.suppress(msgspec.DecodeError):
            entry = msgspec.json.decode(line)
            if isinstance(entry, dict) and entry.get("level") in ("error", "fatal"):
                return str(entry.get("msg", ""))
    return ""
