"""Where a lab is kept on disk, its lock, and the record of the process that carries it.

    LABS/NAME/            plan.json  supervisor.json  port  kubeconfig.json
             /pki/        certificates and keys      /cluster/  the API's database
             /logs/       one file per daemon        /root/     empty; nodes mount their file systems on it
    LABS/.NAME.lock       held by whoever changes the lab

LABS is $PODWIRE_STATE, else /var/lib/podwire/labs (root), else ~/.local/share/podwire/labs.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from podwire.lab import topology
from podwire.lab.topology import LabPlan


class LabError(Exception):
    """A lab could not be brought up, found or taken down; the text is for the user."""


def labs_root() -> Path:
    """The directory that holds every lab of this user."""
    if override := os.environ.get("PODWIRE_STATE"):
        return Path(override).absolute()
    if os.geteuid() == 0:
        return Path("/var/lib/podwire/labs")
    share = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local/share")
    return Path(share) / "podwire/labs"


def cache_root() -> Path:
    """The directory of downloads and unpacked images, shared by all labs of this user."""
    if override := os.environ.get("PODWIRE_CACHE"):
        return Path(override).absolute()
    if os.geteuid() == 0:
        return Path("/var/cache/podwire")
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(cache) / "podwire"


def write_atomically(path: Path, text: str, mode: int = 0o644) -> None:
    """Replace `path` by `text` in one step, so that a reader or a crash never sees half of it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@dataclass(frozen=True, slots=True)
class Supervisor:
    """The process that carries a lab: its pid on the host, its start time in clock ticks, and its boot."""

    pid: int
    started: int
    boot: str

    def alive(self) -> bool:
        """Whether that very process still runs (pids are reused; start times within a boot are not)."""
        return self.boot == _boot_id() and _start_time(self.pid) == self.started


@dataclass(frozen=True, slots=True)
class LabState:
    """The directory of one lab."""

    name: str
    root: Path

    @property
    def directory(self) -> Path:
        """This lab's own directory."""
        return self.root / self.name

    @property
    def pki(self) -> Path:
        """Certificates and keys."""
        return self.directory / "pki"

    @property
    def logs(self) -> Path:
        """One log file per daemon."""
        return self.directory / "logs"

    @property
    def cluster(self) -> Path:
        """The API's database."""
        return self.directory / "cluster"

    @property
    def mount_point(self) -> Path:
        """An empty directory that nodes mount their root file system on (in their own mount namespace)."""
        return self.directory / "root"

    @property
    def disks(self) -> Path:
        """An empty directory where a lab of genuine Kubernetes has its nodes' disks (in its own mount namespace)."""
        return self.directory / "disks"

    @property
    def loaded(self) -> Path:
        """Images that were loaded while a lab of genuine Kubernetes ran."""
        return self.directory / "loaded"

    @property
    def cgroup(self) -> str:
        """The name of this lab's cgroup; labs kept outside the usual place carry a mark of where they are."""
        usual = Path("/var/lib/podwire/labs")
        mark = "" if self.root == usual else "-" + hashlib.sha256(str(self.root).encode()).hexdigest()[:6]
        return f"podwire-{self.name}{mark}"

    def exists(self) -> bool:
        """Whether anything of this lab is on disk."""
        return self.directory.is_dir()

    def create(self) -> None:
        """Make the directories. Keys and the database are for the owner only."""
        for directory, mode in (
            (self.directory, 0o755),
            (self.pki, 0o700),
            (self.logs, 0o755),
            (self.cluster, 0o700),
            (self.mount_point, 0o755),
            (self.disks, 0o755),
        ):
            directory.mkdir(mode=mode, parents=True, exist_ok=True)

    def remove(self) -> None:
        """Remove the lab's directory, and the directories above it that Podwire made and that are empty now."""
        shutil.rmtree(self.directory, ignore_errors=True)
        if self.directory.exists():
            raise LabError(f"cannot remove {self.directory}: remove it by hand")

    def read_plan(self) -> LabPlan | None:
        """The plan this lab was made from, if it got that far."""
        value = self.read_json("plan.json")
        try:
            return topology.from_dict(value) if value else None
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise self.damaged("plan.json", f"{type(error).__name__}: {error}") from None

    def write_plan(self, plan: LabPlan) -> None:
        """Remember the plan."""
        self.write_json("plan.json", topology.to_dict(plan))

    def read_json(self, name: str) -> dict[str, Any]:
        """A small JSON file of this lab; empty when it is absent."""
        try:
            value = json.loads((self.directory / name).read_text())
        except FileNotFoundError:
            return {}
        except ValueError as error:
            raise self.damaged(name, str(error)) from None
        if not isinstance(value, dict):
            raise self.damaged(name, "not a JSON object")
        return value

    def damaged(self, name: str, why: str) -> LabError:
        """The error to raise for a file of this lab that cannot be what Podwire wrote."""
        clear = f"`podwire lab down --name {self.name}` clears the lab"
        return LabError(f"{self.directory / name} is damaged ({why}); {clear}")

    def write_json(self, name: str, value: dict[str, Any]) -> None:
        """Write a small JSON file of this lab in one step."""
        write_atomically(self.directory / name, json.dumps(value, indent=1) + "\n", 0o600)

    def supervisor(self) -> Supervisor | None:
        """The living supervisor, or None."""
        value = self.read_json("supervisor.json")
        if not value:
            return None
        try:
            found = Supervisor(int(value["pid"]), int(value["started"]), str(value["boot"]))
        except (KeyError, TypeError, ValueError):
            raise self.damaged("supervisor.json", "pid, started or boot are not there") from None
        return found if found.alive() else None

    def record_supervisor(self, pid: int) -> None:
        """Remember who carries this lab."""
        self.write_json("supervisor.json", asdict(identify(pid)))


def identify(pid: int) -> Supervisor:
    """That process, told apart from any later one of its number."""
    return Supervisor(pid, _start_time(pid), _boot_id())


def every_lab(root: Path | None = None) -> list[LabState]:
    """The labs of this user, by name."""
    root = root or labs_root()
    if not root.is_dir():
        return []
    return [LabState(entry.name, root) for entry in sorted(root.iterdir()) if entry.is_dir()]


@contextlib.contextmanager
def locked(state: LabState, waiting: str = "") -> Iterator[None]:
    """Hold the lab's lock. Says on standard error that it waits, and for what, when somebody else holds it."""
    path = state.root / f".{state.name}.lock"
    said = False
    while True:
        _make_root(state.root)  # the former holder may have removed the last lab, and the directory with it
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not said:
                said = True
                os.write(2, f"{waiting or f'another command works on lab {state.name}; waiting for it'}\n".encode())
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if _same_file(descriptor, path):
            break
        os.close(descriptor)  # the former holder removed the file; take the new one
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)
        _remove_empty(state.root)


def drop_stale_locks(root: Path) -> None:
    """Take away lock files that killed commands left, and the labs' directory if nothing else is in it."""
    for path in root.glob(".*.lock"):
        with contextlib.suppress(OSError), path.open("r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _same_file(file.fileno(), path):
                path.unlink()
    _remove_empty(root)


def _make_root(root: Path) -> None:
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LabError(f"cannot make {root}: {error.strerror}; PODWIRE_STATE names another place") from None


def _remove_empty(root: Path) -> None:
    """Take away the labs' directory (and podwire's above it) when the last lab is gone."""
    with contextlib.suppress(OSError):
        root.rmdir()
        if root.parent.name == "podwire":
            root.parent.rmdir()


def _same_file(descriptor: int, path: Path) -> bool:
    mine = os.fstat(descriptor)
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    return (mine.st_dev, mine.st_ino) == (there.st_dev, there.st_ino)


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _start_time(pid: int) -> int:
    """Start time of a process in clock ticks since boot; 0 when it is gone or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return 0 if fields[0] in "ZX" else int(fields[19])


def kill_and_wait(supervisor: Supervisor, seconds: float = 15.0) -> None:
    """End the supervisor; the kernel ends everything inside with it. Returns when all is gone. Raises LabError."""
    try:
        descriptor = os.pidfd_open(supervisor.pid)
    except ProcessLookupError:
        return
    try:
        if supervisor.alive():
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
    except ProcessLookupError:
        return
    finally:
        os.close(descriptor)
    deadline = time.monotonic() + seconds
    while supervisor.alive():
        if time.monotonic() > deadline:
            raise LabError(f"process {supervisor.pid} of the lab does not end; see its state in /proc/{supervisor.pid}")
        time.sleep(0.01)
