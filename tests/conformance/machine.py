"""A node's file system with Debian's programs in it, and their own processes: where runtimes are run for these tests.

The root is an overlay of the unpacked packages with memory on top, so that /var/lib/cni, /run and /etc start empty and
nothing that a runtime writes remains. The process id 1 in there reaps; when it ends, the kernel ends all the others.
Run as a program, this page is what makes it: `machine.py NETNS DEBIAN SHARED...` (each SHARED
folder appears in there; the first is scratch room, too).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from podwire.kernel import netns
from podwire.lab import syscalls

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_ENVIRONMENT = {"PATH": PATH, "HOME": "/root"}
_MS_SLAVE, _MS_SHARED = 1 << 19, 1 << 20


class Machine:
    """Programs of `debian` in the network namespace at `space`; `cgroup` is the name of its own group."""

    def __init__(self, space: str, debian: Path, *shared: Path) -> None:
        self.cgroup = f"podwire-conformance-{os.getpid()}-{id(self):x}"
        self._keeper = subprocess.Popen(
            [sys.executable, __file__, space, str(debian), *map(str, shared)], stdout=subprocess.PIPE, text=True
        )
        assert self._keeper.stdout is not None
        line = self._keeper.stdout.readline()
        assert line, "the machine did not start; its words are above"
        self.pid = int(line)
        self._root = Path(f"/proc/{self.pid}/root")

    def command(self, *program: str) -> list[str]:
        """How to run `program` in there, from here."""
        return [shutil.which("nsenter") or "nsenter", f"--target={self.pid}", "--mount", "--net", "--pid", *program]

    def try_run(self, *program: str, seconds: float = 90, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*program),
            env=_ENVIRONMENT | env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=seconds,
        )

    def run(self, *program: str, **env: str) -> str:
        done = self.try_run(*program, **env)
        assert done.returncode == 0, f"{' '.join(program)}: exit code {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout

    def start(self, *program: str, log: Path, **env: str) -> subprocess.Popen[bytes]:
        """A daemon in there; it ends with the machine at the latest."""
        with log.open("ab") as output:
            return subprocess.Popen(
                self.command(*program),
                env=_ENVIRONMENT | env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def path(self, inside: str) -> Path:
        """A file of the machine, seen from here."""
        return self._root / inside.lstrip("/")

    def write(self, inside: str, text: str, mode: int = 0o644) -> None:
        target = self.path(inside)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        target.chmod(mode)

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        self._keeper.wait(20)
        assert self._keeper.stdout is not None
        self._keeper.stdout.close()
        for group in cgroup_roots():
            for folder, _, _ in os.walk(group / self.cgroup, topdown=False):
                os.rmdir(folder)  # noqa: PTH106 - files of a cgroup cannot be removed, nor need they be


def cgroup_roots() -> list[Path]:
    """Where cgroup hierarchies are mounted."""
    rows = (line.split() for line in Path("/proc/self/mounts").read_text().splitlines())
    return [Path(row[1]) for row in rows if row[2] in ("cgroup", "cgroup2")]


def _keep(space: str, debian: Path, shared: list[Path]) -> None:
    syscalls.die_with_parent()
    descriptor = netns.open_path(space)
    syscalls.setns(descriptor, syscalls.CLONE_NEWNET)
    os.close(descriptor)
    syscalls.unshare(syscalls.CLONE_NEWNS | syscalls.CLONE_NEWPID)
    syscalls.mount("none", "/", flags=syscalls.MS_REC | _MS_SLAVE)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        syscalls.die_with_parent()
        _populate(debian, shared)
        os.write(write, b"x")
        _reap()
    os.close(write)
    if os.read(read, 1):
        print(child, flush=True)
    os.waitpid(child, 0)


def _populate(debian: Path, shared: list[Path]) -> None:
    scratch = shared[0] / "machine"
    scratch.mkdir()
    syscalls.mount("tmpfs", scratch, "tmpfs")
    for name in ("upper", "work", "root", "cgroup"):
        (scratch / name).mkdir()
    root = scratch / "root"
    options = f"lowerdir={debian.resolve()},upperdir={scratch}/upper,workdir={scratch}/work"
    syscalls.mount("overlay", root, "overlay", 0, options)
    for name in ("proc", "sys", "dev", "run", "tmp", "root", "etc", "var/lib/cni"):
        (root / name).mkdir(parents=True, exist_ok=True)
    syscalls.mount("proc", root / "proc", "proc")
    syscalls.mount("/dev", root / "dev", flags=syscalls.MS_BIND | syscalls.MS_REC)
    syscalls.mount("sysfs", root / "sys", "sysfs")
    syscalls.mount("/sys/fs/cgroup", root / "sys/fs/cgroup", flags=syscalls.MS_BIND | syscalls.MS_REC)
    syscalls.mount("tmpfs", root / "run", "tmpfs")
    syscalls.mount("tmpfs", root / "tmp", "tmpfs")
    for path in shared:
        target = root / str(path).lstrip("/")
        target.mkdir(parents=True, exist_ok=True)
        syscalls.mount(str(path), target, flags=syscalls.MS_BIND)
    syscalls.pivot_into(root)
    syscalls.mount("none", "/", flags=syscalls.MS_REC | _MS_SHARED)
    Path("/etc/resolv.conf").write_text("")
    Path("/etc/hosts").write_text("127.0.0.1 localhost\n")
    Path("/etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    Path("/etc/group").write_text("root:x:0:\n")


def _reap() -> None:
    """Process 1 of the machine: waits for orphans until it is killed."""
    signal.signal(signal.SIGCHLD, lambda *_: None)
    while True:
        try:
            os.wait()
        except ChildProcessError:
            signal.sigtimedwait({signal.SIGCHLD}, 1)


if __name__ == "__main__":
    _keep(sys.argv[1], Path(sys.argv[2]), [Path(text) for text in sys.argv[3:]])
