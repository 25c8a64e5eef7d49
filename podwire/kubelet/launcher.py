"""Starting one container of a pod: image, environment, files, OCI configuration, runc, in the kubelet's order and with
its reasons when a step fails."""

from __future__ import annotations

import asyncio
import os
import stat
import time
from pathlib import Path
from typing import Any

from podwire.kube.api import ApiError
from podwire.kubelet import dnsfiles, env, oci, rootfs
from podwire.kubelet.context import Context
from podwire.kubelet.image import Image, ImageError, ImageNotFound
from podwire.kubelet.reference import InvalidReference
from podwire.kubelet.runtime import Container, Record, RuntimeFailure
from podwire.kubelet.sandbox import Sandbox, new_id
from podwire.kubelet.slots import Slot
from podwire.kubelet.status import qos_class
from podwire.kubelet.volumes import VolumeError, decoded, inside
from podwire.model.gvr import CONFIGMAPS, SECRETS

Object = dict[str, Any]
_TERMINATION_LOG = "/dev/termination-log"
_CAP_SYS_RESOURCE = 24
_RUNC_MAKES = ("console", "ptmx", "null", "zero", "full", "random", "urandom", "tty")


class StartProblem(Exception):
    """A container could not be started. `reason` is that of the waiting state; `image` says that the image failed."""

    def __init__(self, reason: str, message: str, *, image: bool = False) -> None:
        super().__init__(message)
        self.reason = reason
        self.image = image


def log_directory(context: Context, pod: Object) -> Path:
    """Where a pod's logs are."""
    metadata = pod["metadata"]
    return context.config.logs / f"{metadata['namespace']}_{metadata['name']}_{metadata['uid']}"


def pod_directory(context: Context, pod: Object) -> Path:
    """Where a pod's volumes and files are."""
    return context.config.pods / str(pod["metadata"]["uid"])


def write_pod_files(context: Context, pod: Object, sandbox: Sandbox) -> None:
    """/etc/hosts, /etc/hostname and /etc/resolv.conf of a pod. Blocking."""
    config, directory = context.config, pod_directory(context, pod)
    directory.mkdir(parents=True, exist_ok=True)
    resolver = dnsfiles.resolver(pod, context.resolver, config.cluster_dns, config.cluster_domain)
    node_hosts = Path("/etc/hosts").read_text() if pod["spec"].get("hostNetwork") else ""
    hosts = dnsfiles.hosts(pod, sandbox.addresses, config.cluster_domain, node_hosts)
    files = {"etc-hosts": hosts, "resolv.conf": resolver.text(), "hostname": f"{sandbox.hostname}\n"}
    for name, text in files.items():
        (directory / name).write_text(text)


async def image_for(context: Context, pod: Object, slot: Slot) -> Image:
    """Find the image. Raises StartProblem (ErrImagePull, ErrImageNeverPull, InvalidImageName)."""
    name = str(slot.spec.get("image") or "")
    try:
        image = await context.children.call(lambda: context.resolve(name))
    except InvalidReference as error:
        words = f'Failed to apply default image tag "{name}": couldn\'t parse image name "{name}": {error}'
        raise StartProblem("InvalidImageName", words, image=True) from error
    except ImageNotFound as error:
        if slot.spec.get("imagePullPolicy") == "Never":
            words = f'Container image "{name}" is not present with pull policy of Never'
            raise StartProblem("ErrImageNeverPull", words, image=True) from error
        raise StartProblem("ErrImagePull", str(error), image=True) from error
    except (ImageError, OSError) as error:
        raise StartProblem("ErrImagePull", str(error), image=True) from error
    words = f'Container image "{name}" already present on machine'
    if image.stand_in:
        words += f" (it is served by a stand-in: {image.stand_in})"
    context.tell(pod, "Normal", "Pulled", words, slot.name, slot.init)
    return image


async def launch(context: Context, pod: Object, slot: Slot, sandbox: Sandbox, image: Image) -> Container:
    """Create and start. Raises StartProblem."""
    record = _record(context, pod, slot, sandbox, image)
    try:
        environment = await _environment(context, pod, slot, sandbox, image)
        root = await context.runtime.prepare(record, image.layers)
        try:
            launch = await context.children.call(
                lambda: _describe(context, pod, slot, sandbox, image, record, environment, root)
            )
        except BaseException:
            await context.runtime.discard(record)
            raise
    except (env.EnvError, oci.SpecError, VolumeError, ApiError) as error:
        raise StartProblem("CreateContainerConfigError", str(error)) from error
    except (RuntimeFailure, OSError) as error:
        raise StartProblem("CreateContainerError", str(error)) from error
    context.tell(pod, "Normal", "Created", "Container created", slot.name, slot.init)
    try:
        container = await context.runtime.start(record, launch)
    except RuntimeFailure as error:
        raise StartProblem("RunContainerError", str(error)) from error
    context.tell(pod, "Normal", "Started", "Container started", slot.name, slot.init)
    return container


def _record(context: Context, pod: Object, slot: Slot, sandbox: Sandbox, image: Image) -> Record:
    metadata, spec = pod["metadata"], slot.spec
    container_id = new_id()
    parent = context.config.cgroup_parent.rstrip("/")
    log = log_directory(context, pod) / slot.name / f"{slot.starts}.log"
    return Record(
        id=container_id,
        pod_uid=metadata["uid"],
        sandbox_id=sandbox.id,
        name=slot.name,
        attempt=slot.starts,
        image=image.reference or str(spec.get("image", "")),
        image_id=image.image_id,
        log_path=str(log),
        created=time.time(),
        tty=bool(spec.get("tty")),
        stdin=bool(spec.get("stdin")),
        stdin_once=bool(spec.get("stdinOnce")),
        cgroup=f"{parent}/{metadata['uid']}/{container_id}" if parent else "",
    )


async def _environment(context: Context, pod: Object, slot: Slot, sandbox: Sandbox, image: Image) -> dict[str, str]:
    """Raises EnvError, ApiError."""
    maps, secrets = env.references(slot.spec)
    namespace = pod["metadata"]["namespace"]

    async def fetch(gvr: Any, kind: str, name: str) -> dict[str, str] | None:
        try:
            obj = await context.api.get(gvr, name, namespace)
        except ApiError as error:
            if error.not_found:
                return None
            raise
        obj.setdefault("kind", kind)
        return {key: value.decode(errors="replace") for key, value in decoded(obj).items()}

    map_names, secret_names = sorted(maps), sorted(secrets)
    fetched = await asyncio.gather(
        *(fetch(CONFIGMAPS, "ConfigMap", name) for name in map_names),
        *(fetch(SECRETS, "Secret", name) for name in secret_names),
    )
    links = pod["spec"].get("enableServiceLinks") is not False
    known = env.Sources(
        node=context.facts,
        addresses=sandbox.addresses,
        config_maps=dict(zip(map_names, fetched, strict=False)),
        secrets=dict(zip(secret_names, fetched[len(map_names) :], strict=True)),
        services=env.service_variables(context.services.values(), namespace, links, context.config.api_service),
    )
    values = env.build(pod, slot.spec, image.env, sandbox.hostname, known)
    values.setdefault("PATH", oci.DEFAULT_PATH)
    if slot.spec.get("tty"):
        values.setdefault("TERM", "xterm")
    return values


def _describe(
    context: Context,
    pod: Object,
    slot: Slot,
    sandbox: Sandbox,
    image: Image,
    record: Record,
    environment: dict[str, str],
    root: Path,
) -> oci.Launch:
    """All decisions about the container as a value. Blocking. Raises SpecError, VolumeError, OSError."""
    spec = pod["spec"]
    security = oci.merged_security(spec.get("securityContext"), slot.spec.get("securityContext"))
    argv = oci.command(slot.spec, image.entrypoint, image.cmd)
    if not argv:
        raise oci.SpecError("no command specified")
    replaces = bool(slot.spec.get("command"))
    expanded = [env.expand(word, environment) for word in argv] if replaces or slot.spec.get("args") else argv
    user = _user(root, security, image.user)
    oci.check_user(security, user, image.user)
    user = _available(user)
    parent = context.config.cgroup_parent
    memory = int(context.facts.memory)
    return oci.Launch(
        rootfs=str(root),
        argv=tuple(expanded),
        env=tuple(f"{key}={value}" for key, value in environment.items()),
        cwd=slot.spec.get("workingDir") or image.workdir or "/",
        user=user,
        hostname=sandbox.hostname,
        namespaces=_namespaces(spec, sandbox),
        mounts=_mounts(context, pod, slot, record, environment),
        tty=record.tty,
        cgroup=record.cgroup,
        shm=sandbox.shm,
        oom_score=_oom_score(oci.oom_score(qos_class(spec), slot.spec.get("resources") or {}, memory))
        if parent
        else None,
        security=security,
        resources=slot.spec.get("resources") or {},
        allowed=oci.bounding_set(Path("/proc/self/status").read_text()),
        tty_group=oci.is_mapped(Path("/proc/self/gid_map").read_text(), 5),
        devices=_node_devices() if security.get("privileged") and not context.config.rootless else (),
    )


def _oom_score(wanted: int) -> int:
    """The nearest score that this process may give: going below its own takes CAP_SYS_RESOURCE, which a container that
    holds the lab may lack."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:") and int(line.split()[1], 16) & 1 << _CAP_SYS_RESOURCE:
            return wanted
    return max(wanted, int(Path("/proc/self/oom_score_adj").read_text()))


def _user(root: Path, security: Object, image_user: str) -> oci.User:
    wanted = str(security["runAsUser"]) if security.get("runAsUser") is not None else image_user
    if security.get("runAsGroup") is not None:
        wanted = f"{wanted.partition(':')[0] or '0'}:{security['runAsGroup']}"
    user = rootfs.user_of(root, wanted)
    extra = [int(group) for group in security.get("supplementalGroups") or []]
    if security.get("fsGroup") is not None:
        extra.append(int(security["fsGroup"]))
    return oci.User(user.uid, user.gid, tuple(dict.fromkeys([*user.groups, *extra])))


def _available(user: oci.User) -> oci.User:
    """The user as this user namespace has it: without root there may be no other ids than 0, and no further groups.

    Raises SpecError for an id that does not exist here.
    """
    for kind, number in (("user", user.uid), ("group", user.gid)):
        if not oci.is_mapped(Path(f"/proc/self/{kind[0]}id_map").read_text(), number):
            raise oci.SpecError(
                f"{kind} {number} does not exist in a lab that runs without root and without subordinate ids "
                f"(/etc/sub{kind[0]}id, newuidmap)"
            )
    groups = Path("/proc/self/setgroups").read_text().strip() == "allow"
    return user if groups else oci.User(user.uid, user.gid)


def _namespaces(spec: Object, sandbox: Sandbox) -> dict[str, str]:
    found = {"mount": ""}
    for kind, path in (("network", sandbox.netns), ("ipc", sandbox.ipc), ("uts", sandbox.uts)):
        if path:
            found[kind] = path
    if not spec.get("hostPID"):
        found["pid"] = sandbox.pid_ns
    if Path("/sys/fs/cgroup/cgroup.controllers").exists():
        found["cgroup"] = ""
    return found


def _mounts(context: Context, pod: Object, slot: Slot, record: Record, environment: dict[str, str]) -> list[oci.Mount]:
    directory = pod_directory(context, pod)
    found = [
        oci.Mount(str(directory / "etc-hosts"), "/etc/hosts"),
        oci.Mount(str(directory / "hostname"), "/etc/hostname"),
        oci.Mount(str(directory / "resolv.conf"), "/etc/resolv.conf"),
    ]
    message = directory / "containers" / slot.name / record.id[:8]
    message.parent.mkdir(parents=True, exist_ok=True)
    message.touch()
    message.chmod(0o666)
    found.append(oci.Mount(str(message), slot.spec.get("terminationMessagePath") or _TERMINATION_LOG))
    volumes = {volume["name"]: volume for volume in pod["spec"].get("volumes") or []}
    chosen = {}
    for mount in slot.spec.get("volumeMounts") or []:
        if mount["name"] not in volumes:
            raise VolumeError(f'volume mount "{mount["name"]}" has no volume')
        chosen[mount["mountPath"]] = _volume_mount(context, pod, volumes[mount["name"]], mount, environment)
    return [one for one in found if one.target not in chosen] + list(chosen.values())


def _volume_mount(
    context: Context, pod: Object, volume: Object, mount: Object, environment: dict[str, str]
) -> oci.Mount:
    source = context.volumes.path(pod, volume)
    part = mount.get("subPath") or (env.expand(mount["subPathExpr"], environment) if mount.get("subPathExpr") else "")
    if part:
        source = inside(source, part)
    if not source.exists():
        source.mkdir(parents=True, exist_ok=True)
    modes = {"HostToContainer": "rslave", "Bidirectional": "rshared"}
    propagation = modes.get(mount.get("mountPropagation") or "", "rprivate")
    return oci.Mount(str(source), mount["mountPath"], bool(mount.get("readOnly")), propagation)


def _node_devices() -> list[Object]:
    """The node's devices, for a privileged container."""
    found: list[Object] = []
    for top, directories, names in os.walk("/dev"):
        directories[:] = [name for name in directories if name not in ("pts", "shm", "mqueue", "fd")]
        for name in names:
            path = os.path.join(top, name)  # noqa: PTH118 (os.walk gives text)
            facts = os.lstat(path)
            kind = "c" if stat.S_ISCHR(facts.st_mode) else "b" if stat.S_ISBLK(facts.st_mode) else ""
            if kind and name not in _RUNC_MAKES:
                major, minor = os.major(facts.st_rdev), os.minor(facts.st_rdev)
                mode = stat.S_IMODE(facts.st_mode)
                owner = {"uid": facts.st_uid, "gid": facts.st_gid}
                found.append({"path": path, "type": kind, "major": major, "minor": minor, "fileMode": mode, **owner})
    return found


def termination_message(context: Context, pod: Object, slot: Slot, record: Record) -> str:
    """What a container left in its termination log; the end of its output where the pod prefers that."""
    path = pod_directory(context, pod) / "containers" / slot.name / record.id[:8]
    try:
        text = path.read_bytes()[:4096].decode(errors="replace")
    except OSError:
        text = ""
    fallback = slot.spec.get("terminationMessagePolicy") == "FallbackToLogsOnError"
    if not text and fallback and record.exit_code != 0:
        try:
            lines = Path(record.log_path).read_text(errors="replace").splitlines()[-80:]
        except OSError:
            return ""
        text = "".join(line.split(" ", 3)[-1] + "\n" for line in lines)[-2048:]
    return text
