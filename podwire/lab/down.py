"""Take a lab down and leave nothing: processes, cgroups, files, kubeconfig entry. Also what a killed run left."""

from __future__ import annotations

from podwire.lab import cgroups, kubeconfig
from podwire.lab.kubeconfig import Before
from podwire.lab.processes import unrecorded_supervisor
from podwire.lab.state import LabError, LabState, Supervisor, kill_and_wait, locked


def clear_remains(state: LabState) -> None:
    """End what still runs of the lab and remove its cgroups. Files stay."""
    if not state.exists():
        return
    running = _carrier(state)
    if running is not None:
        kill_and_wait(running)
    cgroups.remove(state.cgroup)
    (state.directory / "supervisor.json").unlink(missing_ok=True)
    (state.directory / "nodes.json").unlink(missing_ok=True)


def _carrier(state: LabState) -> Supervisor | None:
    try:
        recorded = state.supervisor()
    except LabError:
        recorded = None  # damaged: all the same, it must end
    return recorded or unrecorded_supervisor(state)


def down(state: LabState) -> bool:
    """Take the lab down. False when there was none."""
    with locked(state):
        if not state.exists():
            return False
        clear_remains(state)
        known = _before(state)
        try:
            if known is not None:
                kubeconfig.uninstall(state.name, known)
        finally:  # a kubeconfig that cannot be changed is told of, but keeps nothing alive
            state.remove()
        return True


def _before(state: LabState) -> Before | None:
    try:
        value = state.read_json("kubeconfig.json")
        return Before(str(value["path"]), bool(value["existed"]), str(value["context"])) if value else None
    except (LabError, KeyError):
        return Before(str(kubeconfig.user_path()), existed=True, context="")  # damaged: look in the usual place
