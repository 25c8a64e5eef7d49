"""Without root: a user namespace in which the caller is root, where the kernel permits one.

The parent (still outside) writes the map: with newuidmap and an entry in /etc/subuid a whole range, so that images may
run as other users; else only the caller's own id. Where the kernel forbids, the message names the setting.
"""

from __future__ import annotations

import errno
import json
import os
import pwd
import shutil
import subprocess
from pathlib import Path

from podwire.lab import syscalls
from podwire.lab.state import LabError

_SETTINGS = (
    ("/proc/sys/kernel/unprivileged_userns_clone", "kernel.unprivileged_userns_clone", "0", "1"),
    ("/proc/sys/user/max_user_namespaces", "user.max_user_namespaces", "0", "15000"),
    (
        "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
        "kernel.apparmor_restrict_unprivileged_userns",
        "1",
        "0",
    ),
)


def needed() -> bool:
    """Whether this process must make a user namespace to be allowed anything."""
    return os.geteuid() != 0


def forbidding(root: Path = Path("/")) -> list[str]:
    """What of this kernel's settings forbids user namespaces to ordinary users, as commands that allow them."""
    found = []
    for path, name, bad, good in _SETTINGS:
        try:
            value = (root / path.lstrip("/")).read_text().strip()
        except OSError:
            continue
        if value == bad:
            found.append(f"sysctl -w {name}={good}")
    return found


def explain(error: OSError) -> str:
    """What to tell the user when namespaces were refused."""
    if error.errno not in (errno.EPERM, errno.ENOSPC, errno.EUSERS, errno.EINVAL, errno.EACCES):
        return str(error)
    settings = forbidding()
    if settings:
        return (
            f"this kernel forbids user namespaces without root ({error.strerror}). Allow them (as root): "
            + "; ".join(settings)
        )
    if os.geteuid() == 0:
        return (
            f"namespaces cannot be made here ({error}): this root has no CAP_SYS_ADMIN. In a container, give it that "
            "capability, and look at its seccomp and AppArmor profiles"
        )
    return (
        f"namespaces cannot be made here ({error}). Run as root, or look at kernel.unprivileged_userns_clone, "
        "user.max_user_namespaces and kernel.apparmor_restrict_unprivileged_userns (sysctl), and in a container at its "
        "seccomp profile; inside a chroot the kernel allows none"
    )


def leave_user_namespace() -> None:
    """Enter a new user namespace (its map is written by the parent)."""
    syscalls.unshare(syscalls.CLONE_NEWUSER)


def map_user(pid: int, ready: bytes) -> None:
    """Write the maps of the child `pid`, which has said whether it is in its namespace. Raises LabError."""
    if not ready.startswith(b"unshared"):
        if b"error" in ready:
            raise LabError(str(json.loads(ready)["error"]))
        raise LabError("the supervisor ended before it had its user namespace")
    uid, gid = os.geteuid(), os.getegid()
    user = _user_name(uid)
    uids, gids = sub_range(user, uid, "/etc/subuid"), sub_range(user, uid, "/etc/subgid")
    if uids and gids and shutil.which("newuidmap") and shutil.which("newgidmap") and _ranges(pid, uid, gid, uids, gids):
        return
    try:
        Path(f"/proc/{pid}/setgroups").write_text("deny")
        Path(f"/proc/{pid}/uid_map").write_text(f"0 {uid} 1\n")
        Path(f"/proc/{pid}/gid_map").write_text(f"0 {gid} 1\n")
    except OSError as error:
        raise LabError(explain(error)) from None


def _ranges(pid: int, uid: int, gid: int, uids: tuple[int, int], gids: tuple[int, int]) -> bool:
    for program, own, (first, count) in (("newuidmap", uid, uids), ("newgidmap", gid, gids)):
        command = [program, str(pid), "0", str(own), "1", "1", str(first), str(count)]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            return False
    return True


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def sub_range(user: str, uid: int, path: str) -> tuple[int, int] | None:
    """The first range that /etc/subuid (or subgid) gives the user, as (first, count)."""
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        fields = line.strip().split(":")
        if len(fields) == 3 and fields[0] in (user, str(uid)) and fields[1].isdigit() and fields[2].isdigit():
            return int(fields[1]), int(fields[2])
    return None
