"""Pure: a container of a pod spec as the OCI runtime's config.json.

Sources: OCI runtime-spec 1.0.2; defaults of capabilities, masked and read-only paths as containerd gives pods.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from podwire.model.quantity import parse_quantity

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
DEFAULT_CAPABILITIES = (
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
)
_MORE_CAPABILITIES = (
    "CAP_AUDIT_CONTROL CAP_AUDIT_READ CAP_BLOCK_SUSPEND CAP_BPF CAP_CHECKPOINT_RESTORE CAP_DAC_READ_SEARCH CAP_IPC_LOCK"
    " CAP_IPC_OWNER CAP_LEASE CAP_LINUX_IMMUTABLE CAP_MAC_ADMIN CAP_MAC_OVERRIDE CAP_NET_ADMIN CAP_NET_BROADCAST"
    " CAP_PERFMON CAP_SYS_ADMIN CAP_SYS_BOOT CAP_SYS_MODULE CAP_SYS_NICE CAP_SYS_PACCT CAP_SYS_PTRACE CAP_SYS_RAWIO"
    " CAP_SYS_RESOURCE CAP_SYS_TIME CAP_SYS_TTY_CONFIG CAP_SYSLOG CAP_WAKE_ALARM"
)
ALL_CAPABILITIES = DEFAULT_CAPABILITIES + tuple(_MORE_CAPABILITIES.split())
MASKED = (
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
)
READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
_DEVICES = ((1, 3), (1, 8), (1, 7), (5, 0), (1, 5), (1, 9), (5, 1), (5, 2), (136, None))


_NUMBERED = (  # linux/capability.h, by number
    "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE"
    " NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN"
    " SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE"
)


class SpecError(ValueError):
    """The pod asks for something that cannot be run; the text is what kubelet shows as CreateContainerConfigError."""


@dataclass(frozen=True, slots=True)
class User:
    """Numeric ids of the process, looked up in the image."""

    uid: int = 0
    gid: int = 0
    groups: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Mount:
    """A bind mount of something on the node into the container."""

    source: str
    target: str
    read_only: bool = False
    propagation: str = "rprivate"


@dataclass(frozen=True, slots=True)
class Launch:
    """Everything decided about one container before the runtime's file is written.

    `namespaces` maps an OCI namespace type to the path to join; "" makes a new one, absent types are the node's.
    `cgroup` is the path below each hierarchy's root; "" leaves control groups alone.
    """

    rootfs: str
    argv: tuple[str, ...]
    env: tuple[str, ...]
    cwd: str
    user: User
    hostname: str
    namespaces: Mapping[str, str]
    mounts: Sequence[Mount] = ()
    tty: bool = False
    cgroup: str = ""
    shm: str = ""
    oom_score: int | None = None
    security: Mapping[str, Any] = field(default_factory=dict)
    resources: Mapping[str, Any] = field(default_factory=dict)
    devices: Sequence[Mapping[str, Any]] = ()
    allowed: frozenset[str] | None = None  # capabilities that can be given at all; None: all
    tty_group: bool = True  # whether there is a group 5 to own terminals


def command(container: Mapping[str, Any], entrypoint: Sequence[str], cmd: Sequence[str]) -> list[str]:
    """What is executed: `command` replaces the image's entrypoint and its cmd, `args` replaces its cmd alone."""
    if container.get("command"):
        return [*container["command"], *(container.get("args") or [])]
    return [*entrypoint, *(container.get("args") or cmd)]


def merged_security(pod: Mapping[str, Any] | None, container: Mapping[str, Any] | None) -> dict[str, Any]:
    """The container's securityContext over those fields of the pod's that containers inherit."""
    inherited = ("runAsUser", "runAsGroup", "runAsNonRoot", "supplementalGroups", "fsGroup", "seccompProfile")
    merged = {key: (pod or {})[key] for key in inherited if (pod or {}).get(key) is not None}
    merged.update({key: value for key, value in (container or {}).items() if value is not None})
    return merged


def capabilities(security: Mapping[str, Any]) -> tuple[str, ...]:
    """The bounding set: the defaults, `drop` taken out, `add` put in (`ALL` means all); everything when privileged."""
    if security.get("privileged"):
        return ALL_CAPABILITIES
    change = security.get("capabilities") or {}
    add = [_capability(name) for name in change.get("add") or []]
    drop = [_capability(name) for name in change.get("drop") or []]
    chosen = set() if "CAP_ALL" in drop else set(DEFAULT_CAPABILITIES) - set(drop)
    chosen |= set(ALL_CAPABILITIES) if "CAP_ALL" in add else set(add)
    chosen -= set(drop) - set(add)
    unknown = chosen - set(ALL_CAPABILITIES)
    if unknown:
        raise SpecError(f"unknown capability {sorted(unknown)[0]!r} to add")
    return tuple(name for name in ALL_CAPABILITIES if name in chosen)


def bounding_set(status: str) -> frozenset[str]:
    """The names of CapBnd in the text of /proc/<pid>/status."""
    for line in status.splitlines():
        if line.startswith("CapBnd:"):
            mask = int(line.split()[1], 16)
            return frozenset(f"CAP_{name}" for number, name in enumerate(_NUMBERED.split()) if mask >> number & 1)
    return frozenset()


def is_mapped(table: str, number: int) -> bool:
    """Whether the user namespace whose uid_map or gid_map reads `table` knows that id (user_namespaces(7))."""
    ranges = [line.split() for line in table.splitlines()]
    return any(int(first) <= number < int(first) + int(count) for first, _, count in ranges)


def _capability(name: str) -> str:
    upper = name.upper()
    return upper if upper.startswith("CAP_") else f"CAP_{upper}"


def check_user(security: Mapping[str, Any], user: User, image_user: str) -> None:
    """runAsNonRoot. Raises SpecError in kubelet's words."""
    if not security.get("runAsNonRoot") or user.uid != 0:
        return
    if security.get("runAsUser") == 0:
        raise SpecError("container's runAsUser breaks non-root policy")
    if image_user and not image_user.partition(":")[0].isdigit():
        raise SpecError(f"container has runAsNonRoot and image has non-numeric user ({image_user})")
    raise SpecError("container has runAsNonRoot and image will run as root")


def linux_resources(resources: Mapping[str, Any]) -> dict[str, Any]:
    """requests and limits as CPU shares, CFS quota and memory limit."""
    limits, requests = resources.get("limits") or {}, resources.get("requests") or {}
    shares = requests.get("cpu", limits.get("cpu"))
    cpu: dict[str, Any] = {"shares": max(2, int(parse_quantity(shares) * 1024)) if shares is not None else 2}
    if limits.get("cpu") is not None and parse_quantity(limits["cpu"]) > 0:
        cpu["period"] = 100_000
        cpu["quota"] = max(1000, int(parse_quantity(limits["cpu"]) * 100_000))
    found: dict[str, Any] = {"cpu": cpu}
    if limits.get("memory") is not None and parse_quantity(limits["memory"]) > 0:
        found["memory"] = {"limit": int(parse_quantity(limits["memory"]))}
    return found


def oom_score(qos: str, resources: Mapping[str, Any], memory_capacity: int) -> int:
    """oom_score_adj by quality of service. Source: kubelet pkg/kubelet/qos."""
    if qos == "Guaranteed":
        return -997
    if qos == "BestEffort":
        return 1000
    request = parse_quantity((resources.get("requests") or {}).get("memory", 0))
    score = 1000 - int(Decimal(1000) * request / max(1, memory_capacity))
    return min(max(score, 3), 999)


def process(launch: Launch) -> dict[str, Any]:
    """The `process` object, which an exec into the container starts from, too."""
    names = [one for one in capabilities(launch.security) if launch.allowed is None or one in launch.allowed]
    user: dict[str, Any] = {"uid": launch.user.uid, "gid": launch.user.gid}
    if launch.user.groups:
        user["additionalGids"] = list(launch.user.groups)
    sets: dict[str, list[str]] = {"bounding": names, "permitted": names, "effective": names}
    if launch.user.uid != 0:  # an unprivileged user gains them only through file capabilities
        sets = {"bounding": names}
    found: dict[str, Any] = {
        "terminal": launch.tty,
        "user": user,
        "args": list(launch.argv),
        "env": list(launch.env),
        "cwd": launch.cwd or "/",
        "capabilities": sets,
        "noNewPrivileges": launch.security.get("allowPrivilegeEscalation") is False,
    }
    if launch.oom_score is not None:
        found["oomScoreAdj"] = launch.oom_score
    return found


def _mounts(launch: Launch, privileged: bool) -> list[dict[str, Any]]:
    sys_mode = "rw" if privileged else "ro"
    group = ["gid=5"] if launch.tty_group else []
    mounts: list[dict[str, Any]] = [
        _mount("/proc", "proc", "proc", "nosuid", "noexec", "nodev"),
        _mount("/dev", "tmpfs", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
        _mount("/dev/pts", "devpts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", *group),
        _mount("/dev/mqueue", "mqueue", "mqueue", "nosuid", "noexec", "nodev"),
        _mount("/sys", "sysfs", "sysfs", "nosuid", "noexec", "nodev", sys_mode),
    ]
    if launch.cgroup:
        mounts.append(_mount("/sys/fs/cgroup", "cgroup", "cgroup", "nosuid", "noexec", "nodev", "relatime", sys_mode))
    if launch.shm:
        mounts.append(_mount("/dev/shm", "bind", launch.shm, "rbind", "rw"))
    for mount in sorted(launch.mounts, key=lambda one: one.target.count("/") if one.target != "/" else 0):
        mode = "ro" if mount.read_only else "rw"
        mounts.append(_mount(mount.target, "bind", mount.source, "rbind", mount.propagation, mode))
    return mounts


def _mount(target: str, kind: str, source: str, *options: str) -> dict[str, Any]:
    return {"destination": target, "type": kind, "source": source, "options": list(options)}


def _device_rules(privileged: bool) -> list[dict[str, Any]]:
    if privileged:
        return [{"allow": True, "access": "rwm"}]
    rules: list[dict[str, Any]] = [{"allow": False, "access": "rwm"}]
    rules += [{"allow": True, "type": kind, "access": "m"} for kind in "cb"]
    for major, minor in _DEVICES:
        rule: dict[str, Any] = {"allow": True, "type": "c", "major": major, "access": "rwm"}
        if minor is not None:
            rule["minor"] = minor
        rules.append(rule)
    return rules


def config(launch: Launch) -> dict[str, Any]:
    """The whole config.json."""
    privileged = bool(launch.security.get("privileged"))
    namespaces: list[dict[str, str]] = []
    for kind, path in launch.namespaces.items():
        namespaces.append({"type": kind, "path": path} if path else {"type": kind})
    linux: dict[str, Any] = {"namespaces": namespaces, "rootfsPropagation": "rslave"}
    if launch.cgroup:
        linux["cgroupsPath"] = launch.cgroup
        linux["resources"] = {"devices": _device_rules(privileged), **linux_resources(launch.resources)}
    if not privileged:
        linux["maskedPaths"] = list(MASKED)
        linux["readonlyPaths"] = list(READ_ONLY)
    if launch.devices:
        linux["devices"] = [dict(device) for device in launch.devices]
    spec: dict[str, Any] = {
        "ociVersion": "1.0.2",
        "process": process(launch),
        "root": {"path": launch.rootfs, "readonly": bool(launch.security.get("readOnlyRootFilesystem"))},
        "mounts": _mounts(launch, privileged),
        "linux": linux,
    }
    if launch.namespaces.get("uts") == "":
        spec["hostname"] = launch.hostname
    return spec


def find_user(text: str, passwd: str, group: str) -> User:
    """An image's or a pod's `user[:group]` (names or numbers) by the container's own passwd and group files.

    Raises SpecError for a name that is not there. The primary group of a bare number is that of its passwd entry, or 0.
    """
    name, _, wanted_group = text.partition(":")
    users = [line.split(":") for line in passwd.splitlines() if line.count(":") >= 3]
    groups = [line.split(":") for line in group.splitlines() if line.count(":") >= 2]
    uid, gid, login = 0, 0, name
    if name:
        entry = next((one for one in users if name in (one[0], one[2])), None)
        if entry is not None:
            login, uid, gid = entry[0], int(entry[2]), int(entry[3] or 0)
        elif name.isdigit():
            uid = int(name)
        else:
            raise SpecError(f"unable to find user {name}: no matching entries in passwd file")
    if wanted_group:
        found = next((one for one in groups if wanted_group in (one[0], one[2])), None)
        if found is not None:
            gid = int(found[2])
        elif wanted_group.isdigit():
            gid = int(wanted_group)
        else:
            raise SpecError(f"unable to find group {wanted_group}: no matching entries in group file")
    extra = {int(one[2]) for one in groups if login and len(one) > 3 and login in one[3].split(",")}
    return User(uid, gid, tuple(sorted(extra - {gid})))
