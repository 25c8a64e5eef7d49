"""Bring a lab up, or make sure that it is: the work behind `podwire lab up`.

Idempotent. A lab that runs and is right is left alone; one whose supervisor is gone is taken up again from its
database; a half-made one is cleared of what is in the way first.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from podwire.lab import cgroups, genuinehome, kubeconfig, ports, rootfs, rootless, supervisor
from podwire.lab.api import Reader, Unreachable, is_ready
from podwire.lab.down import clear_remains
from podwire.lab.job import Job
from podwire.lab.nodes import credentials
from podwire.lab.state import LabError, LabState, cache_root, locked
from podwire.lab.topology import LabPlan, to_dict

Say = Callable[[str], None]

_ROOM = 4_000_000
"""Bytes that must be free where a lab is kept: its database, keys and first logs."""

_PROGRAMS = {"runc": "runc", "nft": "nftables", "ip": "iproute2", "mount": "mount"}


@dataclass(frozen=True, slots=True)
class Outcome:
    """How it went: the lab there is, whether anything was done, whether nodes are Ready, and seconds from the call."""

    plan: LabPlan
    started: bool
    ready: bool
    context: str
    seconds: float


def up(plan: LabPlan, state: LabState, say: Say, *, wait: float = 60.0, asked: bool = True) -> Outcome:
    """Bring the lab up. `asked` is False when the user gave no settings: then an existing lab keeps its own.

    Raises LabError, with nothing left behind of a lab that did not exist before.
    """
    begin = time.monotonic()
    with locked(state):
        there = state.read_plan() if state.exists() else None
        if there is not None and not asked:
            plan = there
        if there is not None and there != plan:
            raise LabError(_in_use(state, there, plan))
        running = state.supervisor() if there else None
        started = running is None
        if running is None:
            _start(plan, state, say, fresh=there is None)
        try:
            ready = _wait(plan, state, say, begin, wait)
        except LabError:
            if there is None:
                _undo(state, fresh=True)
            raise
        except KeyboardInterrupt:
            if started:  # nobody asked for a lab that runs on behind an interrupted command
                say("interrupted: the lab is taken down again")
                _undo(state, fresh=there is None)
            raise
        context = _merge_kubeconfig(plan, state, say)
    return Outcome(plan, started, ready, context, time.monotonic() - begin)


def _in_use(state: LabState, there: LabPlan, plan: LabPlan) -> str:
    old, new = to_dict(there), to_dict(plan)
    keys = ", ".join(key for key in new if old.get(key) != new[key])
    how = "runs" if state.supervisor() else "exists"
    return (
        f"a lab named {state.name} {how} already, with other settings ({keys}). Take it down first "
        f"(podwire lab down --name {state.name}), or choose another --name"
    )


def _start(plan: LabPlan, state: LabState, say: Say, *, fresh: bool) -> None:
    try:
        clear_remains(state)
        kubeconfig.check()
        check_database(state)
        state.create()
        _check_room(state)
        state.write_plan(plan)
        job = _prepare(plan, state, say)
        _follow(job, _launch(job), say)
    except BaseException as error:
        words = _last_words(state) if fresh else ""  # its log goes away with the lab
        _undo(state, fresh=fresh)
        if isinstance(error, OSError):
            raise LabError(_explain(error, state)) from error
        if isinstance(error, LabError) and words:
            raise LabError(f"{error}\n{words}") from error
        raise


def _last_words(state: LabState, name: str = "supervisor.log", count: int = 3) -> str:
    """The end of a log."""
    try:
        lines = (state.logs / name).read_text(errors="replace").splitlines()
    except OSError:
        return ""
    return "\n".join(lines[-count:])


def _check_room(state: LabState) -> None:
    """Raise LabError when the disk is so full that the API's database could not begin."""
    free = shutil.disk_usage(state.directory).free
    if free < _ROOM:
        raise LabError(
            f"no space left on the disk of {state.directory}: {free // 1000} kB are free, a lab needs {_ROOM // 1000}"
        )


def check_database(state: LabState) -> None:
    """Raise LabError when the API's database is there and SQLite finds it damaged."""
    path = state.cluster / "state.sqlite"
    if not path.exists():
        return
    import sqlite3

    try:
        with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=rw", uri=True)) as connection:
            answer = str(connection.execute("PRAGMA quick_check(1)").fetchone()[0])
    except sqlite3.Error as error:
        answer = str(error)
    if answer != "ok":
        raise state.damaged("cluster/state.sqlite", answer)


def _undo(state: LabState, *, fresh: bool) -> None:
    """After a failure: end what runs; remove the lab if it was new, keep its database if not."""
    clear_remains(state)
    if fresh:
        state.remove()


def _explain(error: OSError, state: LabState) -> str:
    if error.errno == errno.ENOSPC:
        return f"no space left on the disk of {error.filename or state.directory}"
    return str(error)


def _prepare(plan: LabPlan, state: LabState, say: Say) -> Job:
    """Everything that must be done on the host, before the namespaces: programs, files, sockets, cgroups."""
    cache = cache_root()
    debian, shim = prepare_cache(say)
    without_root = rootless.needed()
    for node in plan.nodes:
        for mount in node.mounts:
            if not Path(mount.host_path).exists():
                raise LabError(f"extraMounts of {node.name}: hostPath {mount.host_path} does not exist")
    genuine = genuinehome.prepare(plan, cache, say) if plan.genuine else None
    names = [node.name for node in plan.nodes]
    limits = not without_root and cgroups.create(state.cgroup, names)
    if not limits and genuine:
        raise LabError("this machine's cgroups cannot be written: genuine kubelets do not run without")
    if not limits and not without_root:
        say("this machine's cgroups cannot be written: pods run without limits")
    shown = limits or bool(
        without_root and cgroups.hierarchies()
    )  # runc wants to see them, even where it may not write
    saved = int(state.read_json("port.json").get("port", 0))
    api = ports.open_api(saved)
    port = int(api.getsockname()[1])
    state.write_json("port.json", {"port": port})
    if saved and port != saved:
        say(f"port {saved} of the API is taken by another program; it is {port} now")
    return Job(
        plan=plan,
        state=state,
        host=rootfs.look_at_host(debian, cache, cgroups=shown, rootless=without_root),
        shim=shim,
        api=api,
        mappings=ports.open_mappings(plan),
        cgroup=state.cgroup if limits else "",
        report=-1,
        genuine=genuine,
    )


def prepare_cache(say: Say) -> tuple[Path, Path]:
    """The private Debian root and the CNI shim, made when they are missing. Raises LabError."""
    from podwire.kubelet import debroot

    cache = cache_root()
    cache.mkdir(parents=True, exist_ok=True)
    if rootless.needed() and cache.stat().st_uid != os.geteuid():
        raise LabError(
            f"{cache} belongs to another user, whom a lab without root cannot be; PODWIRE_CACHE names a cache"
        )
    try:
        debian = debroot.ensure(cache, say)
    except debroot.DebrootError as error:
        raise LabError(str(error)) from error
    check_programs(debian)
    return debian, _shim(cache)


def _shim(cache: Path) -> Path:
    from podwire.cni.build import ShimError, build

    try:
        return build(cache)
    except ShimError as error:
        raise LabError(f"the CNI plugin could not be built: {error}") from error


def check_programs(debian: Path) -> None:
    """Raise LabError naming a program that nodes need and neither the private root nor the host has."""
    places = [str(top / where) for top in {debian, Path("/")} for where in ("usr/sbin", "usr/bin", "sbin", "bin")]
    for program, package in _PROGRAMS.items():
        if shutil.which(program, path=os.pathsep.join(places)) is None:
            raise LabError(f"{program} is missing: `apt-get install {package}` (or your system's package) brings it")


def _launch(job: Job) -> int:
    """Start the supervisor; answers the pipe it reports on."""
    reader, writer = os.pipe()
    job.report = writer
    try:
        supervisor.launch(job)
    except BaseException:
        os.close(reader)
        raise
    finally:
        os.close(writer)
        job.api.close()
        if job.genuine:
            os.close(job.genuine.held)
        for opened in job.mappings:
            opened.sock.close()
    return reader


def _follow(job: Job, reader: int, say: Say) -> None:
    """Pass on what the supervisor reports until it says that all is started. Raises LabError with its words."""
    with os.fdopen(reader, "rb", buffering=0) as lines:  # unbuffered: what was read ahead, select would not see
        while True:
            if not select.select([lines], [], [], 60)[0]:
                raise LabError(f"the lab does not start; see {job.state.logs / 'supervisor.log'}")
            line = lines.readline()
            if not line:
                raise LabError(f"the lab's supervisor ended; see {job.state.logs / 'supervisor.log'}")
            words = json.loads(line)
            if "error" in words:
                raise LabError(str(words["error"]))
            if "step" in words:
                say(str(words["step"]))
            if "started" in words:
                return


def _wait(plan: LabPlan, state: LabState, say: Say, begin: float, seconds: float) -> bool:
    """Wait until every node is Ready, or only known where no CNI plugin is to be installed. False when time is up."""
    reader = Reader(int(state.read_json("port.json")["port"]), state.pki)
    wanted = {node.name for node in plan.nodes}
    seen_api, trouble = False, "the API does not answer"
    try:
        while time.monotonic() - begin < seconds:
            try:
                nodes = reader.nodes()
            except Unreachable as error:
                trouble = str(error)
                _check_alive(state)
                time.sleep(0.03)
                continue
            if not seen_api:
                seen_api = True
                say("the API answers")
            names = {node["metadata"]["name"] for node in nodes}
            ready = {node["metadata"]["name"] for node in nodes if is_ready(node)}
            enough = wanted <= ready or (not plan.default_cni and wanted <= names)
            if enough and reader.has_default_account():
                say("every node is Ready" if wanted <= ready else "nodes wait for a CNI plugin (network none)")
                return wanted <= ready
            trouble = "not Ready: " + ", ".join(sorted(wanted - ready))
            _check_alive(state)
            time.sleep(0.03)
    finally:
        reader.close()
    if not seen_api:
        daemon = "kube-apiserver" if plan.genuine else "control-plane"
        words = _last_words(state, f"{plan.control_plane.name}-{daemon}.log", 1)
        raise LabError(f"after {seconds:.0f} s: {trouble}; see the logs in {state.logs}\n{words}".rstrip())
    say(f"after {seconds:.0f} s: {trouble}; see the logs in {state.logs}")
    return False


def _check_alive(state: LabState) -> None:
    if state.supervisor() is None:
        raise LabError(f"the lab's supervisor ended; see {state.logs / 'supervisor.log'}")


def admin(state: LabState) -> kubeconfig.Credentials:
    """The administrator's way to the API, from the host."""
    port = state.read_json("port.json").get("port")
    if not port or not (state.pki / "admin.crt").exists():
        raise LabError(f"lab {state.name} has no API yet; `podwire lab up --name {state.name}` brings it up")
    return credentials(state.pki, "admin", f"https://127.0.0.1:{port}")


def _merge_kubeconfig(plan: LabPlan, state: LabState, say: Say) -> str:
    known = state.read_json("kubeconfig.json")
    before = kubeconfig.install(plan.name, admin(state))
    context = kubeconfig.entry_name(plan.name)
    if before is None:
        return context
    if known.get("path") == before.path:
        mine = before.context == context
        before = replace(before, existed=bool(known["existed"]), context=known["context"] if mine else before.context)
    state.write_json("kubeconfig.json", {"path": before.path, "existed": before.existed, "context": before.context})
    say(f"context {context} is current in {before.path}")
    return context
