"""Which lab a command means: `--name`, else the only one there is, else the one called `lab`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from podwire.lab import topology
from podwire.lab.state import LabError, LabState, every_lab, labs_root
from podwire.lab.topology import LabPlan, PlanError

F = TypeVar("F", bound=Callable[..., Any])


def name_option(command: F) -> F:
    """`--name NAME`."""
    words = "The lab; not needed when there is only one."
    return click.option("--name", default=None, callback=not_empty, metavar="NAME", help=words)(command)


def not_empty(_: click.Context, parameter: click.Parameter, value: str | None) -> str:
    """An option's value, "" when it was not given; given and empty (an unset variable of a script) is refused."""
    if value == "":
        raise click.BadParameter("is empty", param=parameter)
    return value or ""


def lab_state(name: str) -> LabState:
    """The lab meant. Raises LabError when it does not exist."""
    known = every_lab()
    if name:
        try:
            topology.check_name(name)
        except PlanError as error:
            raise LabError(str(error)) from None
        found = LabState(name, labs_root())
    elif len(known) == 1:
        found = known[0]
    else:
        found = LabState(topology.DEFAULT_NAME, labs_root())
    if not found.exists():
        others = f"; there are {', '.join(state.name for state in known)} (--name)" if known else ""
        raise LabError(f"there is no lab named {found.name}{others}")
    return found


def lab_plan(state: LabState) -> LabPlan:
    """What the lab was made from. Raises LabError when its `up` never got that far."""
    plan = state.read_plan()
    if plan is None:
        raise LabError(f"lab {state.name} was never finished; `podwire lab up --name {state.name}` begins again")
    return plan
