"""A node: PID 1 of its own pid, mount, UTS and IPC namespaces, in the network namespace it was handed.

It builds its file system, then forks and keeps the node's daemons: kubelet, agent, and on the first node the control
plane. They are functions of modules that are loaded already; no program is started.
"""

from __future__ import annotations

import os
import socket
import sys
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path

from podwire.genuine.settings import BIN
from podwire.lab import cgroups, genuinehome, keeper, kubeconfig, rootfs, syscalls
from podwire.lab.job import Job
from podwire.lab.keeper import Keeper
from podwire.lab.kubeconfig import Credentials
from podwire.lab.logs import open_log
from podwire.lab.places import CLUSTER, PKI
from podwire.lab.rootfs import Bind, File, NodeFiles
from podwire.lab.topology import CONTROL_PLANE, CONTROL_PLANE_KEY, NO_NETWORK, ROUTED, NodePlan
from podwire.lab.underlay import API_PORT

_NEW = syscalls.CLONE_NEWNS | syscalls.CLONE_NEWUTS | syscalls.CLONE_NEWIPC | syscalls.CLONE_NEWPID


def start(job: Job, node: NodePlan, space: int) -> int:
    """Fork the node's PID 1 and answer its pid (as the caller's pid namespace numbers it). Raises OSError."""
    reader, writer = os.pipe()
    middle = os.fork()
    if middle == 0:
        os.close(reader)
        _fork_inner(job, node, space, writer)
    os.close(writer)
    os.waitpid(middle, 0)
    with os.fdopen(reader, "rb") as answer:
        text = answer.read()
    if not text.isdigit():
        raise OSError(f"node {node.name} could not be started: {text.decode() or 'its log says why'}")
    return int(text)


def _fork_inner(job: Job, node: NodePlan, space: int, writer: int) -> None:
    """In between: enter and make the namespaces, fork PID 1, tell its pid, leave. Never returns."""
    try:
        syscalls.setns(space, syscalls.CLONE_NEWNET)
        syscalls.unshare(_NEW)
        pid = os.fork()
        if pid == 0:
            os.close(writer)
            _be_node(job, node)
        os.write(writer, str(pid).encode())
    except OSError as error:
        os.write(writer, str(error).encode())
    os._exit(0)


def _be_node(job: Job, node: NodePlan) -> None:
    """PID 1 of the node. Never returns."""
    log = open_log(job.state.logs / f"{node.name}.log")
    code = 1
    try:
        keeper.become_daemon(f"podwire node {node.name}", log)
        _run(job, node, log)
        code = 0
    except BaseException:  # noqa: BLE001 - the end of a process: its log must say why
        traceback.print_exc(file=sys.stderr)
    finally:
        os._exit(code)


def _run(job: Job, node: NodePlan, log: int) -> None:
    socket.sethostname(node.name)
    daemons = genuinehome.daemons(job, node, partial(_run_agent, job, node)) if job.genuine else _daemons(job, node)
    logs = {name: open_log(job.state.logs / f"{node.name}-{name}.log") for name, _ in daemons}
    files = node_files(job, node)
    if job.genuine:
        cgroups.renew(job.cgroup, node.name)
        files = genuinehome.node_files(job, job.genuine, node, files)
    steps = rootfs.plan(job.host, files)
    rootfs.build(steps, job.state.mount_point, rootless=job.host.rootless)
    if job.genuine:  # what a pod mounts with Bidirectional propagation must be seen by the node, and by other pods
        syscalls.mount("none", "/", flags=syscalls.MS_REC | syscalls.MS_SHARED)
    os.environ.clear()
    os.environ.update(environment(node.name))
    kept = Keeper(log=log)
    for name, work in daemons:
        title = f"podwire {name} {node.name}"
        kept.add(name, partial(keeper.spawn, title, work, logs[name]))
    kept.run()


def environment(node: str) -> dict[str, str]:
    """The environment of a node's daemons, and of a shell in it: this program itself first, since the folder of
    the plugins has a `podwire`, too."""
    own = Path(sys.executable).parent
    return {
        "PATH": f"{own}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:{BIN}:/opt/cni/bin",
        "HOME": "/root",
        "HOSTNAME": node,
        "LANG": "C.UTF-8",
    }


def node_files(job: Job, node: NodePlan) -> NodeFiles:
    """The files of one node: its identities, its settings, and the host paths the plan shows it."""
    pki = job.state.pki
    files = [
        File(f"{PKI}/ca.crt", (pki / "ca.crt").read_bytes()),
        File(f"{PKI}/kubelet.crt", (pki / f"{node.name}-kubelet.crt").read_bytes()),
        File(f"{PKI}/kubelet.key", (pki / f"{node.name}-kubelet.key").read_bytes(), 0o600),
        File("/etc/kubernetes/kubelet.kubeconfig", _client(job, f"{node.name}-client"), 0o600),
        File("/etc/podwire/kubeconfig", _client(job, f"{node.name}-agent"), 0o600),
        File("/root/.bashrc", b"PS1='root@\\h:\\w# '\n"),
    ]
    binds = [Bind(mount.host_path, mount.node_path, mount.read_only, recursive=True) for mount in node.mounts]
    if node.role == CONTROL_PLANE:
        for name in ("apiserver.crt", "apiserver.key", "apiserver-kubelet-client.crt", "apiserver-kubelet-client.key"):
            files.append(File(f"{PKI}/{name}", (pki / name).read_bytes(), 0o600))
        files.append(File(f"{PKI}/token.key", (pki / "token.key").read_bytes(), 0o600))
        files.append(File("/etc/kubernetes/admin.conf", _client(job, "admin"), 0o600))
        binds.append(Bind(str(job.state.cluster), str(CLUSTER)))
    return NodeFiles(
        name=node.name,
        address=node.address,
        hosts=tuple((other.address, other.name) for other in job.plan.nodes),
        files=tuple(files),
        binds=tuple(binds),
    )


def credentials(pki: Path, stem: str, server: str) -> Credentials:
    """What a client of that certificate needs."""
    authority, certificate, key = ((pki / name).read_text() for name in ("ca.crt", f"{stem}.crt", f"{stem}.key"))
    return Credentials(server, authority, certificate, key)


def _client(job: Job, stem: str) -> bytes:
    server = f"https://{job.plan.control_plane.address}:{API_PORT}"
    found = credentials(job.state.pki, stem, server)
    return kubeconfig.text(kubeconfig.document("lab", found)).encode()


def _daemons(job: Job, node: NodePlan) -> list[tuple[str, Callable[[], None]]]:
    found: list[tuple[str, Callable[[], None]]] = []
    if node.role == CONTROL_PLANE:
        found.append(("control-plane", partial(_run_control_plane, job)))
    found.append(("agent", partial(_run_agent, job, node)))
    found.append(("kubelet", partial(_run_kubelet, job, node)))
    return found


def _run_control_plane(job: Job) -> None:
    from podwire.lab import controlplane

    controlplane.run(job.plan, [job.api, *job.inside])


def _run_kubelet(job: Job, node: NodePlan) -> None:
    from podwire.kubelet import main as kubelet

    labels = {"beta.kubernetes.io/os": "linux", **dict(node.labels)}
    taints: list[dict[str, str]] = []
    if node.role == CONTROL_PLANE:
        labels[CONTROL_PLANE_KEY] = ""
        labels["node.kubernetes.io/exclude-from-external-load-balancers"] = ""
    if node.tainted:
        taints.append({"key": CONTROL_PLANE_KEY, "effect": "NoSchedule"})
    kubelet.run(
        kubelet.KubeletConfig(
            node_name=node.name,
            node_ip=node.address,
            kubeconfig=Path("/etc/kubernetes/kubelet.kubeconfig"),
            ca_file=PKI / "ca.crt",
            cert_file=PKI / "kubelet.crt",
            key_file=PKI / "kubelet.key",
            cache=job.cache,
            cluster_dns=job.plan.cluster_dns,
            labels=labels,
            taints=taints,
            max_pods=node.max_pods,
            cgroup_parent=f"/{job.cgroup}/{node.name}" if job.cgroup else "",
            rootless=job.host.rootless,
            api_service=(job.plan.api_service, 443),
        )
    )


def _run_agent(job: Job, node: NodePlan) -> None:
    from podwire.agent import main as agent
    from podwire.agent.config import load

    agent.run(
        load(
            defaults={"policy_enforce": job.plan.policy},
            environment={},
            node_name=node.name,
            kubeconfig=Path("/etc/podwire/kubeconfig"),
            node_ip=node.address,
            install_cni=job.plan.default_cni,
            network=ROUTED if job.plan.network == NO_NETWORK else job.plan.network,
            ipam=job.plan.ipam,
            shim=job.shim,
        )
    )
