"""The processes of a lab as the host sees them: found by descent from the supervisor, weighed by PSS."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

from podwire.lab.state import LabError, LabState, Supervisor, identify


@dataclass(frozen=True, slots=True)
class Process:
    """One process: its pid on the host, parent, pids in each nested namespace (the innermost last), and its title."""

    pid: int
    parent: int
    inner: tuple[int, ...]
    title: str


def read(pid: int) -> Process | None:
    """One process, or None when it has gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        title = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    inner = tuple(int(word) for word in fields.get("NSpid", str(pid)).split())
    return Process(pid, int(fields["PPid"]), inner, title or fields["Name"].strip())


def of_lab(supervisor: Supervisor) -> list[Process]:
    """The supervisor and all its descendants."""
    every = [found for entry in Path("/proc").iterdir() if entry.name.isdigit() and (found := read(int(entry.name)))]
    children: dict[int, list[Process]] = {}
    for process in every:
        children.setdefault(process.parent, []).append(process)
    top = next((process for process in every if process.pid == supervisor.pid), None)
    family = [top] if top else []
    for process in family:  # grows while it is walked: parents stand before their children
        family += children.get(process.pid, [])
    return family


def unrecorded_supervisor(state: LabState) -> Supervisor | None:
    """The process that carries the lab though no readable record says so: its `up` was killed, or the file damaged.

    It is known by its title and by the log file that it writes to.
    """
    log = str(state.logs / "supervisor.log")
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            title = (entry / "cmdline").read_bytes().rstrip(b"\0").decode(errors="replace")
            if title == f"podwire lab {state.name}" and str((entry / "fd/2").readlink()) == log:
                return identify(int(entry.name))
    return None


def node_pid(state: LabState, node: str) -> int:
    """The host's pid of a node's PID 1. Raises LabError."""
    supervisor = state.supervisor()
    if supervisor is None:
        raise LabError(f"lab {state.name} is not running; `podwire lab up --name {state.name}` takes it up again")
    wanted = int(state.read_json("nodes.json").get(node, 0))
    for process in of_lab(supervisor):
        if process.parent == supervisor.pid and process.inner[-2:] == (wanted, 1):
            return process.pid
    raise LabError(f"node {node} is not running (it is being started again); see {state.logs / f'{node}.log'}")


def proportional_set_size(pid: int) -> int:
    """Bytes of memory that are this process's share; 0 when it has gone."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return 0
    return next((int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("Pss:")), 0)
