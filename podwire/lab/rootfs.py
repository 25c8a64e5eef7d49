"""A node's own file system: planned as a list of steps (pure), then carried out in the node's mount namespace.

One tmpfs is the node's root, so /etc, /var, /run, /opt, /tmp and /root are private and vanish with the node. /usr is
the private Debian root laid over the host's own, read-only. Python and this program are seen at their host paths.
The kernel's own trees are fresh: /proc of the node's processes, /sys of its network namespace with the cgroups kept.
Writable kernel settings are those of the node's network only: /proc/sys (but net) and /sys are read-only, so nothing
done in a node reaches the host's.
"""

from __future__ import annotations

import os
import stat
import sys
from dataclasses import dataclass, field
from pathlib import Path

import podwire
from podwire.lab import syscalls

_MERGED = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty", "net/tun", "fuse")
_DIRECTORIES = {
    "/proc": 0o555,
    "/sys": 0o555,
    "/dev": 0o755,
    "/dev/pts": 0o755,
    "/dev/shm": 0o1777,
    "/etc": 0o755,
    "/usr": 0o755,
    "/run": 0o755,
    "/run/netns": 0o755,
    "/run/podwire": 0o755,
    "/tmp": 0o1777,
    "/root": 0o700,
    "/home": 0o755,
    "/mnt": 0o755,
    "/opt/cni/bin": 0o755,
    "/var/tmp": 0o1777,
    "/var/log/pods": 0o755,
    "/var/lib/podwire": 0o700,
    "/var/lib/kubelet/pods": 0o750,
    "/var/lib/cni/results": 0o700,
}
_LINKS = {
    "/var/run": "/run",
    "/dev/fd": "/proc/self/fd",
    "/dev/stdin": "/proc/self/fd/0",
    "/dev/stdout": "/proc/self/fd/1",
    "/dev/stderr": "/proc/self/fd/2",
    "/dev/ptmx": "pts/ptmx",
}


@dataclass(frozen=True, slots=True)
class Directory:
    """mkdir -p with a mode for the last part."""

    path: str
    mode: int = 0o755


@dataclass(frozen=True, slots=True)
class Symlink:
    """A symbolic link."""

    path: str
    target: str


@dataclass(frozen=True, slots=True)
class File:
    """A file with its content."""

    path: str
    content: bytes
    mode: int = 0o644


@dataclass(frozen=True, slots=True)
class Bind:
    """A host path shown at `path`; a source that begins with `@` is a path in the node's own root."""

    source: str
    path: str
    read_only: bool = False
    recursive: bool = False


@dataclass(frozen=True, slots=True)
class Overlay:
    """Directories laid over one another, the first on top; writable when there is room for changes in `changes`."""

    path: str
    lowers: tuple[str, ...]
    changes: str = ""


@dataclass(frozen=True, slots=True)
class KernelFs:
    """A file system that the kernel makes up."""

    kind: str
    path: str
    options: str = ""
    read_only: bool = False


Step = Directory | Symlink | File | Bind | Overlay | KernelFs


@dataclass(frozen=True, slots=True)
class Host:
    """What the plan must know of the host."""

    debian: str
    """The private Debian root; empty or `/` when the host's /usr serves alone."""
    merged: tuple[tuple[str, str], ...]
    """Top level links of a merged /usr, such as ("bin", "usr/bin"), or directories as (name, "")."""
    programs: tuple[str, ...]
    """Directories that hold Python and this program."""
    devices: tuple[str, ...]
    cache: str
    cgroups: bool = True
    rootless: bool = False


@dataclass(frozen=True, slots=True)
class NodeFiles:
    """What is the node's own: its name and address, files to write, and host paths to show."""

    name: str
    address: str
    hosts: tuple[tuple[str, str], ...] = ()
    files: tuple[File, ...] = ()
    binds: tuple[Bind, ...] = field(default=())


def look_at_host(debian: Path, cache: Path, *, cgroups: bool, rootless: bool) -> Host:
    """Gather the facts for `plan`."""
    top = debian if (debian / "bin").exists() else Path("/")
    merged = []
    for name in _MERGED:
        path = top / name
        if path.is_symlink():
            merged.append((name, str(path.readlink())))
        elif path.is_dir():
            merged.append((name, ""))
    return Host(
        debian="" if debian == Path("/") else str(debian),
        merged=tuple(merged),
        programs=program_directories(),
        devices=tuple(name for name in _DEVICES if _is_device(f"/dev/{name}")),
        cache=str(cache),
        cgroups=cgroups,
        rootless=rootless,
    )


def program_directories() -> tuple[str, ...]:
    """Where Python, its packages and this program are, outside /usr; none inside another."""
    packages = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    roots = {sys.base_prefix, sys.prefix, str(Path(podwire.__file__).resolve().parent.parent), *packages}
    paths = sorted({str(Path(root).resolve()) for root in roots if Path(root).is_dir()})
    kept: list[str] = []
    for path in paths:
        if path == "/" or any(Path(path).is_relative_to(other) for other in ("/usr", *kept)):
            continue
        kept.append(path)
    return tuple(kept)


def _is_device(path: str) -> bool:
    try:
        return stat.S_ISCHR(Path(path).stat().st_mode)
    except OSError:
        return False


def plan(host: Host, node: NodeFiles) -> list[Step]:
    """Every step that makes the node's file system, in order."""
    steps: list[Step] = [Directory(path, mode) for path, mode in _DIRECTORIES.items()]
    steps += _usr(host)
    steps += [Symlink(path, target) for path, target in _LINKS.items()]
    steps += _kernel_trees(host)
    steps += [Bind(f"/dev/{name}", f"/dev/{name}") for name in host.devices]
    steps += [Bind(path, path, read_only=True) for path in host.programs]
    steps.append(Bind(host.cache, host.cache))
    steps += _etc(node)
    steps += node.files
    steps += node.binds
    return steps


def _usr(host: Host) -> list[Step]:
    steps: list[Step] = []
    if host.debian:
        steps.append(Overlay("/usr", (f"{host.debian}/usr", "/usr")))
        steps.append(Directory("/.etc", 0o700))
        steps.append(Overlay("/etc", (f"{host.debian}/etc",), changes="/.etc"))
    else:
        steps.append(Bind("/usr", "/usr", read_only=True))
        steps.append(File("/etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n"))
        steps.append(File("/etc/group", b"root:x:0:\n"))
        steps.append(Bind("/etc/alternatives", "/etc/alternatives", read_only=True))
    for name, target in host.merged:
        if target:
            steps.append(Symlink(f"/{name}", target))
        else:
            steps.append(Bind(f"/{name}", f"/{name}", read_only=True))
    return steps


def _kernel_trees(host: Host) -> list[Step]:
    group = "" if host.rootless else ",gid=5"
    steps: list[Step] = [
        KernelFs("proc", "/proc"),
        Bind("@/proc/sys", "/proc/sys", read_only=True),
        Bind("@/proc/sys/net", "/proc/sys/net"),
        KernelFs("sysfs", "/sys", read_only=True),
    ]
    if host.cgroups:
        steps.append(Bind("/sys/fs/cgroup", "/sys/fs/cgroup", recursive=True))
    if not host.rootless:
        steps.append(KernelFs("bpf", "/sys/fs/bpf"))
    steps.append(KernelFs("devpts", "/dev/pts", f"newinstance,ptmxmode=0666,mode=0620{group}"))
    return steps


def _etc(node: NodeFiles) -> list[Step]:
    hosts = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"
    hosts += "".join(f"{address}\t{name}\n" for address, name in node.hosts)
    return [
        File("/etc/hostname", f"{node.name}\n".encode()),
        File("/etc/hosts", hosts.encode()),
        File("/etc/resolv.conf", b"# a node of a Podwire lab: there is no name server outside the cluster\n"),
        Directory("/etc/cni/net.d"),
        Directory("/etc/kubernetes/pki", 0o700),
        Directory("/etc/podwire"),
    ]


def build(steps: list[Step], root: Path, *, rootless: bool) -> None:
    """Carry the steps out on a fresh tmpfs at `root`, then make it this mount namespace's root.

    Call in a mount namespace of one's own. Raises OSError that names the step.
    """
    syscalls.mount("none", "/", flags=syscalls.MS_REC | syscalls.MS_PRIVATE)
    syscalls.mount("podwire", root, "tmpfs", 0, "mode=755")
    for step in steps:
        _carry_out(step, root, rootless)
    syscalls.pivot_into(root)


def _carry_out(step: Step, root: Path, rootless: bool) -> None:
    path = Path(f"{root}{step.path}")
    if isinstance(step, Directory):
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(step.mode)
    elif isinstance(step, Symlink):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(step.target)
    elif isinstance(step, File):
        _write(path, step)
    elif isinstance(step, Bind):
        _bind(step, path, root)
    elif isinstance(step, Overlay):
        _overlay(step, path, root, rootless)
    else:
        syscalls.mount(step.kind, path, step.kind, syscalls.MS_RDONLY if step.read_only else 0, step.options)


def _write(path: Path, step: File) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_symlink():
        path.unlink()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, step.mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(step.content)
    path.chmod(step.mode)


def _bind(step: Bind, path: Path, root: Path) -> None:
    source = Path(f"{root}{step.source[1:]}" if step.source.startswith("@") else step.source)
    if not source.exists():
        raise FileNotFoundError(2, "No such file or directory", str(source))
    if not path.exists():
        if source.is_dir():
            path.mkdir(parents=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    syscalls.mount(str(source), path, flags=syscalls.MS_BIND | (syscalls.MS_REC if step.recursive else 0))
    inside = step.source.startswith("@")  # such a bind may come from below one that is read-only: say which it is
    if step.read_only or inside:
        access = syscalls.MS_RDONLY if step.read_only else 0
        syscalls.mount("none", path, flags=syscalls.MS_BIND | syscalls.MS_REMOUNT | access | _kept_flags(path))


def _kept_flags(path: Path) -> int:
    """Flags that a remount must repeat: a user namespace may not drop those of the mount it was bound from."""
    have = os.statvfs(path).f_flag
    relatime = 1 << 21 if have & 4096 else 0  # ST_RELATIME is another bit than MS_RELATIME
    return (have & (syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC | 1024 | 2048)) | relatime


def _overlay(step: Overlay, path: Path, root: Path, rootless: bool) -> None:
    options = "lowerdir=" + ":".join(_escaped(lower) for lower in step.lowers)
    if step.changes:
        room = Path(f"{root}{step.changes}")
        (room / "upper").mkdir()
        (room / "work").mkdir()
        (room / "upper").chmod(0o755)
        options += f",upperdir={_escaped(str(room / 'upper'))},workdir={_escaped(str(room / 'work'))}"
    if rootless:
        options += ",userxattr"
    syscalls.mount("overlay", path, "overlay", 0 if step.changes else syscalls.MS_RDONLY, options)


def _escaped(path: str) -> str:
    return path.replace("\\", "\\\\").replace(":", "\\:").replace(",", "\\,")
