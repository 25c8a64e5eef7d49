"""PID 1 of a lab's outer namespace: makes the wires, starts the nodes, keeps them, and takes all down by dying.

`launch` is called by `podwire lab up`; it forks, leaves the host's namespaces and answers with the pid. From then on
the lab lives by itself: the kernel ends every process in it when this one ends, and with the processes go the
namespaces, links and mounts.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import signal
import threading
import traceback
from functools import partial
from pathlib import Path

from podwire.genuine import registry
from podwire.lab import keeper, nodes, outside, ports, rootless, syscalls, underlay
from podwire.lab.job import Job
from podwire.lab.keeper import Keeper
from podwire.lab.logs import open_log
from podwire.lab.state import LabError, Supervisor
from podwire.lab.topology import GATEWAY, KUBENET
from podwire.lab.underlay import Wiring

_NEW = (
    syscalls.CLONE_NEWPID | syscalls.CLONE_NEWNET | syscalls.CLONE_NEWNS | syscalls.CLONE_NEWIPC | syscalls.CLONE_NEWUTS
)

PRELOADED = (
    "encodings.idna",
    "aiohttp",  # clients load it at their first call, each its own copy unless it is here already
    "uvloop",
    "podwire.lab.controlplane",
    "podwire.agent.main",
    "podwire.kubelet.main",
    "podwire.kubelet.kubelet",
)


def launch(job: Job) -> Supervisor:
    """Start the lab's PID 1, detached from this process, and record it. Raises LabError where the kernel forbids it."""
    to_parent, from_child = os.pipe()
    from_parent, to_child = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(to_parent)
        os.close(to_child)
        _be_launcher(job, from_child, from_parent)
    os.close(from_child)
    os.close(from_parent)
    with os.fdopen(to_parent, "rb") as answers:
        try:
            if job.host.rootless:
                rootless.map_user(pid, answers.readline())
                os.write(to_child, b"mapped\n")
            answer = json.loads(answers.readline() or b'{"error": "the supervisor ended before it began"}')
        finally:
            os.close(to_child)
            os.waitpid(pid, 0)
    if "error" in answer:
        raise LabError(str(answer["error"]))
    job.state.record_supervisor(int(answer["pid"]))
    found = job.state.supervisor()
    if found is None:
        raise LabError(f"the supervisor ended at once; see {job.state.logs / 'supervisor.log'}")
    return found


def _be_launcher(job: Job, answers: int, orders: int) -> None:
    """In between: new session, namespaces, fork PID 1, tell its pid, leave. Never returns, also when the command has
    been killed meanwhile; then PID 1 must not begin either, for nobody would know of it."""
    pid = -1
    try:
        os.setsid()
        if job.host.rootless:
            rootless.leave_user_namespace()
            os.write(answers, b"unshared\n")
            if not os.read(orders, 16):
                os._exit(1)
        syscalls.unshare(_NEW)
        pid = os.fork()
        if pid == 0:
            os.close(answers)
            os.close(orders)
            _be_supervisor(job)
        os.write(answers, json.dumps({"pid": pid}).encode() + b"\n")
    except OSError as error:
        if pid > 0:
            os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(OSError):
            os.write(answers, json.dumps({"error": rootless.explain(error)}).encode() + b"\n")
    finally:
        os._exit(0)


def _be_supervisor(job: Job) -> None:
    """PID 1. Never returns."""
    code = 1
    try:
        log = open_log(job.state.logs / "supervisor.log")
        keeper.become_daemon(f"podwire lab {job.plan.name}", log)
        _close_inherited(job, log)
        _run(job, log)
        code = 0
    except BaseException as error:  # noqa: BLE001 - the end of a process: tell the waiting command, and the log
        job.tell(error=f"{type(error).__name__}: {error}")
        traceback.print_exc()
    finally:
        os._exit(code)


def _close_inherited(job: Job, log: int) -> None:
    """Close what the command had open: its lock and pipes must not live on here."""
    keep = {0, 1, 2, log, job.report, job.api.fileno(), *(opened.sock.fileno() for opened in job.mappings)}
    if job.genuine:
        keep.add(job.genuine.held)
    for number in [int(entry.name) for entry in Path("/proc/self/fd").iterdir()]:
        if number not in keep:
            with contextlib.suppress(OSError):
                os.close(number)


def _run(job: Job, log: int) -> None:
    syscalls.mount("none", "/", flags=syscalls.MS_REC | syscalls.MS_PRIVATE)
    syscalls.mount("proc", "/proc", "proc", syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC)
    certificates = keeper.spawn("podwire certificates", partial(_make_certificates, job), log)
    wiring = underlay.build(job.plan)
    plane = job.plan.control_plane
    if job.genuine:
        syscalls.mount("podwire-disks", job.state.disks, "tmpfs", 0, "mode=755")
    else:
        addresses = [(plane.address, underlay.API_PORT), (job.plan.api_service, 443)]
        job.inside = underlay.listen_in(wiring.nodes[plane.name], addresses)
    job.tell(step="network between the nodes is there")
    preload()
    if os.waitpid(certificates, 0)[1]:
        raise LabError(f"certificates could not be made; see {job.state.logs / 'supervisor.log'}")
    kept = Keeper(log=log)
    _start_all(job, wiring, kept, log)
    job.tell(step=f"{len(job.plan.nodes)} nodes started")
    job.tell(started="yes")
    job.done()
    kept.run()


def _make_certificates(job: Job) -> None:
    """In a process of its own, beside the loading of modules: it alone needs the cryptography library."""
    from podwire.lab import pki

    pki.ensure(job.plan, job.state.pki)


def preload() -> None:
    """Load what daemons need, once, before they are forked; what was loaded is shared memory from then on."""
    gc.disable()
    for name in PRELOADED:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name and error.name.startswith("podwire"):
                raise
    gc.enable()
    gc.collect()
    gc.freeze()
    assert threading.active_count() == 1, "a module started a thread when it was loaded"


def _start_all(job: Job, wiring: Wiring, kept: Keeper, log: int) -> None:
    pids: dict[str, int] = {}

    def start_node(name: str) -> int:
        plan = job.plan.node(name)
        assert plan is not None
        if job.genuine and name in pids:
            wiring.nodes[name] = underlay.renew(job.plan, job.plan.nodes.index(plan), wiring.nodes[name])
        pids[name] = nodes.start(job, plan, wiring.nodes[name])
        job.state.write_json("nodes.json", dict(pids))
        return pids[name]

    for node in job.plan.nodes:
        kept.add(node.name, partial(start_node, node.name))
    kept.add("outside", partial(keeper.spawn, "podwire outside", partial(outside.run, wiring.outside), log))
    if job.plan.network == KUBENET:
        kept.add("routes", partial(keeper.spawn, "podwire routes", partial(_run_routes, job), log))
    published = list(job.mappings)
    if job.genuine:
        published.append(ports.Opened(job.api, (job.plan.control_plane.address, underlay.API_PORT)))
        images = partial(registry.run, job.genuine.store, job.state.loaded, GATEWAY)
        kept.add("images", partial(keeper.spawn, "podwire images", images, log))
    if published:
        kept.add("ports", partial(keeper.spawn, "podwire ports", partial(ports.run, published), log))


def _run_routes(job: Job) -> None:
    """The cloud's part of kubenet; loaded only where there is one."""
    from podwire.lab import cloudroutes

    server = f"https://{job.plan.control_plane.address}:{underlay.API_PORT}"
    cloudroutes.run(nodes.credentials(job.state.pki, "admin", server), job.plan.pod_subnet)
