"""Pod sandboxes: a pause process that holds a pod's net, IPC and UTS namespaces, so that they outlive its containers.

The namespaces are made by a thread of this process that unshares, mounts its network namespace at
`/run/netns/cni-<uuid>` and starts the pause program; no other program is run. A sandbox is written to disk, so that a
restarted kubelet finds it, addresses and all.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import subprocess
import threading
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from podwire.kubelet import children, syscalls

_SHM_SIZE = "size=65536k,mode=1777"
_PAUSE = ("/pause", "infinity")
_REAPER = ("/pause", "-c", "trap 'exit 0' TERM; while :; do sleep 2147483647 & wait $!; done")


class SandboxError(Exception):
    """A sandbox's namespaces or processes could not be made; the text names the step."""


@dataclass(frozen=True, slots=True)
class Namespaces:
    """Which namespaces the pod has of its own; the others are the node's."""

    net: bool = True
    ipc: bool = True
    uts: bool = True
    shared_pid: bool = False


class Sandbox(msgspec.Struct, frozen=True):
    """A running sandbox. Paths of namespaces are "" where the node's is used. `pid_started` tells the pause process
    from a later one of that number."""

    id: str
    pod_uid: str
    namespace: str
    name: str
    pid: int
    pid_started: int
    netns: str
    ipc: str
    uts: str
    pid_ns: str
    shm: str
    hostname: str
    created: float
    attempt: int
    addresses: tuple[str, ...] = ()
    attached: bool = False

    @property
    def alive(self) -> bool:
        """Whether the pause process is still the one that was started."""
        return syscalls.start_time(self.pid) == self.pid_started


def new_id() -> str:
    """A container id: 64 hexadecimal digits."""
    return secrets.token_hex(32)


class Sandboxes:
    """Makes and removes sandboxes; their records are kept in `state`/sandboxes, one file each."""

    def __init__(self, state: Path, netns_dir: Path) -> None:
        self._records = state / "sandboxes"
        self._netns_dir = netns_dir

    def create(
        self,
        pod_uid: str,
        namespace: str,
        name: str,
        hostname: str,
        own: Namespaces,
        *,
        created: float,
        attempt: int,
        sysctls: Mapping[str, str] | None = None,
    ) -> Sandbox:
        """Blocking: run it in a worker thread. Raises SandboxError; then nothing is left behind."""
        sandbox_id = new_id()
        made: list[Sandbox] = []
        failed: list[OSError] = []

        def work() -> None:
            try:
                made.append(
                    self._create(sandbox_id, pod_uid, namespace, name, hostname, own, created, attempt, sysctls or {})
                )
            except OSError as error:
                failed.append(error)

        # a thread of its own: its namespaces are of no use to anybody afterwards
        thread = threading.Thread(target=work, name=f"sandbox-{sandbox_id[:8]}")
        thread.start()
        thread.join()
        if failed:
            raise SandboxError(f"failed to create sandbox for pod {namespace}/{name}: {failed[0]}") from failed[0]
        self.save(made[0])
        return made[0]

    def _create(
        self,
        sandbox_id: str,
        pod_uid: str,
        namespace: str,
        name: str,
        hostname: str,
        own: Namespaces,
        created: float,
        attempt: int,
        sysctls: Mapping[str, str],
    ) -> Sandbox:
        """Runs in a thread that is given up afterwards."""
        flags = (syscalls.CLONE_NEWNET if own.net else 0) | (syscalls.CLONE_NEWIPC if own.ipc else 0)
        flags |= (syscalls.CLONE_NEWUTS if own.uts else 0) | (syscalls.CLONE_NEWPID if own.shared_pid else 0)
        with contextlib.ExitStack() as undo:
            if flags:
                syscalls.unshare(flags)
            if own.uts:
                syscalls.set_hostname(hostname)
            netns = ""
            if own.net:
                netns = self._mount_netns(undo)
                syscalls.loopback_up()
            _write_sysctls(sysctls, own.net)
            shm = self._mount_shm(sandbox_id, undo) if own.ipc else "/dev/shm"
            program, argv = ("/bin/sh", _REAPER) if own.shared_pid else ("/bin/sleep", _PAUSE)
            process = subprocess.Popen(
                argv,
                executable=program,
                cwd="/",
                env={"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            process.returncode = 0  # its exit is seen by Children or not at all; keep Popen from waiting for it
            undo.callback(os.kill, process.pid, 9)
            started = syscalls.start_time(process.pid)
            if started is None:
                raise OSError("the pause process ended at once")
            undo.pop_all()
            proc = f"/proc/{process.pid}/ns"
            return Sandbox(
                id=sandbox_id,
                pod_uid=pod_uid,
                namespace=namespace,
                name=name,
                pid=process.pid,
                pid_started=started,
                netns=netns,
                ipc=f"{proc}/ipc" if own.ipc else "",
                uts=f"{proc}/uts" if own.uts else "",
                pid_ns=f"{proc}/pid" if own.shared_pid else "",
                shm=shm,
                hostname=hostname,
                created=created,
                attempt=attempt,
            )

    def _mount_netns(self, undo: contextlib.ExitStack) -> str:
        _share_netns_dir(self._netns_dir)
        path = self._netns_dir / f"cni-{uuid.uuid4()}"
        path.touch(mode=0o444)
        undo.callback(path.unlink, missing_ok=True)
        syscalls.bind("/proc/thread-self/ns/net", path, recursive=False)
        undo.callback(syscalls.unmount, path)
        return str(path)

    def _mount_shm(self, sandbox_id: str, undo: contextlib.ExitStack) -> str:
        path = self._records / sandbox_id / "shm"
        path.mkdir(parents=True)
        undo.callback(shutil.rmtree, path.parent, ignore_errors=True)
        syscalls.mount("shm", path, "tmpfs", syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC, _SHM_SIZE)
        undo.callback(syscalls.unmount, path)
        return str(path)

    def save(self, sandbox: Sandbox) -> None:
        """Write the record, whole or not at all."""
        directory = self._records / sandbox.id
        directory.mkdir(parents=True, exist_ok=True)
        fresh = directory / "record.new"
        fresh.write_bytes(msgspec.json.encode(sandbox))
        fresh.replace(directory / "record.json")

    def load(self) -> list[Sandbox]:
        """All sandboxes on record, dead ones too; a record that cannot be read is removed with its mounts."""
        found = []
        for directory in sorted(self._records.iterdir()) if self._records.is_dir() else ():
            try:
                found.append(msgspec.json.decode((directory / "record.json").read_bytes(), type=Sandbox))
            except (OSError, msgspec.DecodeError, msgspec.ValidationError):
                self._forget(directory.name)
        return found

    def ids(self) -> list[str]:
        """Every sandbox that there may be, whatever its record says. Raises OSError when that cannot be told."""
        try:
            return os.listdir(self._records)  # noqa: PTH208 (names are wanted)
        except FileNotFoundError:
            return []

    def stop(self, sandbox: Sandbox) -> None:
        """End the pause process; the network namespace stays until `remove`. Idempotent."""
        children.kill(sandbox.pid, sandbox.pid_started)

    def remove(self, sandbox: Sandbox) -> None:
        """End the pause process and take mounts, namespace and record away. Idempotent; blocking."""
        self.stop(sandbox)
        if sandbox.netns:
            syscalls.unmount(sandbox.netns)
            Path(sandbox.netns).unlink(missing_ok=True)
        self._forget(sandbox.id)

    def _forget(self, sandbox_id: str) -> None:
        directory = self._records / sandbox_id
        syscalls.unmount(directory / "shm")
        shutil.rmtree(directory, ignore_errors=True)


_sharing = threading.Lock()


def _share_netns_dir(directory: Path) -> None:
    """Make /run/netns a shared mount of its own, as `ip netns` does, so that other mount namespaces see new names."""
    with _sharing:
        directory.mkdir(parents=True, exist_ok=True)
        # not os.path.ismount: it does not see a bind mount within one file system, and each further one on a shared
        # mount doubles all below it
        if any(line.split()[4] == str(directory) for line in Path("/proc/self/mountinfo").read_text().splitlines()):
            return
        syscalls.bind(directory, directory)
        syscalls.mount("none", directory, flags=syscalls.MS_SHARED | syscalls.MS_REC)


def _write_sysctls(sysctls: Mapping[str, str], own_net: bool) -> None:
    """Set kernel parameters of the calling thread's namespaces: unprivileged ping and low ports (as containerd does),
    then the pod's own."""
    wanted = {"net.ipv4.ping_group_range": "0 2147483647", "net.ipv4.ip_unprivileged_port_start": "0"}
    for key, value in {**(wanted if own_net else {}), **sysctls}.items():
        path = Path("/proc/sys") / key.replace(".", "/")
        try:
            path.write_text(value)
        except OSError as error:
            if key in sysctls:
                raise OSError(error.errno, f"sysctl {key}: {error.strerror}") from error
