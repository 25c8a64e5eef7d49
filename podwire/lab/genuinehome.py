"""Nodes of a lab with genuine Kubernetes: what must be there before, their files, and the programs that they keep.

Namespaces, wires, teardown, exec and Podwire's agent are the same as those of a node with the embedded kubelet. A
node's /var/lib, /var/log, /etc/cni and /opt/cni are its disk: in memory, outliving the node but not the lab.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from podwire.controllers.pool import default_pool, default_pool6
from podwire.genuine import components, demands, firstobjects, registry, settings, store, waiting
from podwire.genuine.settings import BIN, CONFIG, HOSTS, KUBELET_CONFIG, PROXY_CONFIG, STORE, Cluster, Machine
from podwire.kubelet import archive as imagearchive
from podwire.kubelet import clusterimages
from podwire.kubelet.image import ImageError
from podwire.lab import kubeconfig
from podwire.lab.job import Genuine, Job
from podwire.lab.places import CLUSTER, PKI
from podwire.lab.rootfs import Bind, File, NodeFiles
from podwire.lab.state import LabError
from podwire.lab.topology import (
    CONTROL_PLANE,
    CONTROL_PLANE_KEY,
    GATEWAY,
    KUBE_PROXY,
    KUBENET,
    NODE_MASK6,
    SERVICE_SUBNET6,
    LabPlan,
    NodePlan,
)
from podwire.model.gvr import IPPOOLS, SERVICES

Daemon = tuple[str, Callable[[], None]]

_DISK = {"lib": "/var/lib", "log": "/var/log", "cni": "/etc/cni", "opt": "/opt/cni"}
_FOLDERS = {
    "lib/kubelet": 0o750,
    "lib/podwire": 0o700,
    "lib/cni": 0o700,
    "log/pods": 0o755,
    "cni/net.d": 0o755,
    "opt/bin": 0o755,
}
_KUBELET_HEALTH = 10248


def prepare(plan: LabPlan, cache: Path, say: Callable[[str], None]) -> Genuine:
    """Programs and images, and the certainty that this machine can run them. Raises LabError."""
    programs = Path(plan.programs)
    wanted = components.needed(proxy=plan.services == KUBE_PROXY)
    lacking = [name for name in wanted if not os.access(programs / name, os.X_OK)]
    if lacking:
        raise LabError(
            f"genuine Kubernetes is not in {programs}: {', '.join(lacking)} missing; `make kubernetes` builds it into "
            f"the cache, and `--kubernetes BIN_DIR` names another folder"
        )
    if refused := demands.refusals(_look(), len(plan.nodes)):
        raise LabError("genuine Kubernetes cannot run on this machine: " + "; ".join(refused))
    try:
        archive = clusterimages.ensure(cache, programs, imagearchive.names(cache))
        place = store.ensure(archive, programs, (cache / "kubernetes").resolve(), say)
        return Genuine(programs.resolve(), place, store.hold(place))
    except (ImageError, store.StoreError) as error:
        raise LabError(f"images for genuine Kubernetes: {error}") from error


def _look() -> demands.Found:
    mounts = Path("/proc/self/mounts").read_text()
    top = Path("/sys/fs/cgroup")
    unified = (top / "cgroup.controllers").exists()
    control = (top / "cgroup.subtree_control").read_text().split() if unified else []
    systems = frozenset(line.split()[-1] for line in Path("/proc/filesystems").read_text().splitlines())
    limit = int(Path("/proc/sys/fs/inotify/max_user_instances").read_text())
    return demands.Found(
        root=os.geteuid() == 0,
        v1=demands.v1_controllers(mounts),
        v2=frozenset(control) if unified else None,
        filesystems=systems,
        inotify_limit=limit,
        inotify_used=_inotify_used(),
    )


def _inotify_used() -> int:
    """inotify instances of this user, as far as can be seen."""
    count = 0
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if entry.stat().st_uid == os.getuid():
                for number in (entry / "fd").iterdir():
                    with contextlib.suppress(OSError):
                        count += str(number.readlink()) == "anon_inode:inotify"
    return count


def cluster(plan: LabPlan) -> Cluster:
    """What all nodes have in common."""
    dual = bool(plan.pod_subnet6)
    return Cluster(
        plane=plan.control_plane.address,
        pod_subnet=f"{plan.pod_subnet},{plan.pod_subnet6}" if dual else plan.pod_subnet,
        service_subnet=f"{plan.service_subnet},{SERVICE_SUBNET6}" if dual else plan.service_subnet,
        node_mask=plan.node_mask,
        dns=plan.cluster_dns,
        registry=f"{GATEWAY}:{registry.PORT}",
        node_mask6=NODE_MASK6 if dual else 0,
    )


def machine(job: Job, node: NodePlan) -> Machine:
    """What kubelet registers."""
    return Machine(
        name=node.name,
        address=node.address,
        cgroup=f"/{job.cgroup}/{node.name}",
        max_pods=node.max_pods,
        labels=node.labels,
        taint=CONTROL_PLANE_KEY if node.tainted else "",
    )


def node_files(job: Job, genuine: Genuine, node: NodePlan, files: NodeFiles) -> NodeFiles:
    """The node's files with those of genuine Kubernetes; makes the node's disk where it is not there yet."""
    own, shared = machine(job, node), cluster(job.plan)
    added = [
        File(str(KUBELET_CONFIG), settings.kubelet(shared, own).encode()),
        File(str(settings.CONTAINERD_CONFIG), settings.containerd().encode()),
        File(str(HOSTS), settings.hosts(shared).encode()),
        File(str(PROXY_CONFIG), settings.kube_proxy(shared, own, "nftables").encode()),
        File(str(CONFIG / "kube-proxy.conf"), _client(job, "kube-proxy"), 0o600),
        File(str(settings.MANIFESTS / ".kubelet-keep"), b""),
        *(File(f"{CONFIG}/sysctl/{name}", f"{value}\n".encode()) for name, value in settings.SYSCTLS.items()),
    ]
    if node.role == CONTROL_PLANE:
        added += [
            File(str(CONFIG / f"{name}.conf"), _client(job, name), 0o600)
            for name in ("controller-manager", "scheduler")
        ]
        names = ("ca.key", "sa.key", "sa.pub", "front-proxy-client.crt", "front-proxy-client.key")
        added += [File(f"{PKI}/{name}", (job.state.pki / name).read_bytes(), 0o600) for name in names]
    disk = job.state.disks / node.name
    for name, mode in _FOLDERS.items():
        (disk / name).mkdir(parents=True, exist_ok=True)
        (disk / name).chmod(mode)
    store.lay_out(genuine.store, Path(STORE), disk / "lib/containerd")
    binds = [
        *(Bind(str(disk / name), path) for name, path in _DISK.items()),
        Bind(str(genuine.programs), str(BIN), read_only=True),
        Bind(str(genuine.store), str(STORE), read_only=True),
        Bind("/dev/kmsg" if os.access("/dev/kmsg", os.R_OK) else "/dev/null", "/dev/kmsg"),
        *(Bind(f"@{CONFIG}/sysctl/{name}", f"/proc/sys/{name}") for name in settings.SYSCTLS),
    ]
    return replace(files, files=(*files.files, *added), binds=(*binds, *files.binds))


def _client(job: Job, stem: str) -> bytes:
    pki = job.state.pki
    authority, certificate, key = ((pki / name).read_text() for name in ("ca.crt", f"{stem}.crt", f"{stem}.key"))
    server = f"https://{job.plan.control_plane.address}:{settings.API_PORT}"
    return kubeconfig.text(
        kubeconfig.document("lab", kubeconfig.Credentials(server, authority, certificate, key))
    ).encode()


def daemons(job: Job, node: NodePlan, agent: Callable[[], None]) -> list[Daemon]:
    """Each program of the node with its name. Each waits by itself for what it needs."""
    plan, shared, own = job.plan, cluster(job.plan), machine(job, node)
    api = partial(waiting.for_api, shared.plane, settings.API_PORT, PKI)
    port = partial(waiting.for_port, shared.plane, settings.API_PORT)
    etcd = partial(waiting.for_port, "127.0.0.1", settings.ETCD_PORT)
    runtime = partial(waiting.for_socket, str(settings.CONTAINERD_SOCKET))
    served = partial(waiting.for_kind, Path(CONFIG) / "kubelet.kubeconfig", SERVICES.path())
    registered = partial(waiting.for_port, "127.0.0.1", _KUBELET_HEALTH)
    found: list[Daemon] = []
    if node.role == CONTROL_PLANE:
        found += [
            ("etcd", partial(become, components.etcd(f"{CLUSTER}/etcd"))),
            ("kube-apiserver", partial(become, components.apiserver(shared), etcd)),
            ("kube-controller-manager", partial(become, components.controller_manager(shared), port)),
            ("kube-scheduler", partial(become, components.scheduler(), api)),
            ("first-objects", partial(_make_first_objects, plan, port)),
        ]
    found.append(("containerd", partial(become, components.containerd())))
    found.append(("kubelet", partial(become, components.kubelet(own), runtime, served)))
    if plan.services == KUBE_PROXY:
        found.append(("kube-proxy", partial(become, components.kube_proxy(), api, registered)))
    if plan.default_cni:
        found.append(("agent", partial(_run_agent, agent)))
    return found


def _run_agent(agent: Callable[[], None]) -> None:
    """On a new node it waits for its kinds and rights, which are only being made. Later it must start without an API,
    too: pods rely on it."""
    if not Path("/var/lib/podwire/attachments").exists():
        waiting.for_kind(Path("/etc/podwire/kubeconfig"), IPPOOLS.path())
    agent()


def become(argv: tuple[str, ...], *waits: Callable[[], None]) -> None:
    """Wait, then become that program. Raises OSError."""
    for wait in waits:
        wait()
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    os.execve(argv[0], argv, os.environ)


def _make_first_objects(plan: LabPlan, port: Callable[[], None]) -> None:
    port()
    overlay = plan.network != KUBENET
    pools = [default_pool6(plan.pod_subnet6)] if plan.pod_subnet6 else []
    pools.append(default_pool(plan.pod_subnet, plan.node_mask, overlay=overlay, disabled=not overlay))
    labels = {node.name: dict(components.divided(node.labels)[1]) for node in plan.nodes}
    plane = {CONTROL_PLANE_KEY: "", "node.kubernetes.io/exclude-from-external-load-balancers": ""}
    labels[plan.control_plane.name] |= plane
    dns = plan.cluster_dns if plan.services == KUBE_PROXY else ""
    firstobjects.run(
        Path("/etc/kubernetes/admin.conf"), firstobjects.First(dns, tuple(pools) if plan.default_cni else (), labels)
    )
