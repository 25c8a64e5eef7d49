"""What genuine Kubernetes demands of a machine, and the words for each thing that is not there. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

V1_NEEDED = ("cpu", "cpuacct", "cpuset", "devices", "freezer", "memory", "pids")
V2_NEEDED = ("cpu", "cpuset", "memory", "pids")

INOTIFY_PLANE = 12
INOTIFY_NODE = 10
"""inotify instances of a control plane (10 seen), of a node (kubelet 6, containerd 2, kube-proxy 1); of pods none."""


@dataclass(frozen=True, slots=True)
class Found:
    """What was found of a machine. `v1` are the controllers that are mounted as hierarchies of their own; `v2` those
    that the root of a unified hierarchy hands on, None where /sys/fs/cgroup is none."""

    root: bool
    v1: frozenset[str]
    v2: frozenset[str] | None
    filesystems: frozenset[str]
    inotify_limit: int
    inotify_used: int


def refusals(found: Found, nodes: int) -> list[str]:
    """One sentence for each thing without which a cluster of so many nodes could not run."""
    return [
        *(["it needs root: kubelet and containerd manage devices, cgroups and mounts"] if not found.root else []),
        *_cgroups(found),
        *(
            [f"the kernel has no {name} file system" for name in ("overlay", "tmpfs") if name not in found.filesystems]
            if found.filesystems
            else []
        ),
        *_inotify(found, nodes),
    ]


def _cgroups(found: Found) -> list[str]:
    if found.v2 is not None:
        if missing := [name for name in V2_NEEDED if name not in found.v2]:
            return [f"cgroup v2 does not hand on: {', '.join(missing)} (see /sys/fs/cgroup/cgroup.subtree_control)"]
        return []
    if missing := [name for name in V1_NEEDED if name not in found.v1]:
        return [f"these cgroup hierarchies are not mounted below /sys/fs/cgroup: {', '.join(missing)}"]
    return []


def _inotify(found: Found, nodes: int) -> list[str]:
    wanted = INOTIFY_PLANE + INOTIFY_NODE * nodes
    if found.inotify_limit - found.inotify_used >= wanted:
        return []
    return [
        f"{nodes} nodes need about {wanted} inotify instances; fs.inotify.max_user_instances is {found.inotify_limit}, "
        f"of which {found.inotify_used} are in use: set it to {found.inotify_used + wanted}, or take fewer nodes"
    ]


def v1_controllers(mounts: str) -> frozenset[str]:
    """Controllers of the v1 hierarchies in the text of /proc/self/mounts."""
    found: set[str] = set()
    for line in mounts.splitlines():
        fields = line.split()
        if len(fields) > 3 and fields[2] == "cgroup":
            found |= set(fields[3].split(","))
    return frozenset(found)


def missing(needed: tuple[str, ...], there: Mapping[str, bool]) -> list[str]:
    """Programs that are not there."""
    return [name for name in needed if not there.get(name)]
