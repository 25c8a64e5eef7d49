"""Looking at nodes from inside: this machine itself, or the nodes of a lab on it."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click

from podwire.cli.connect import Target
from podwire.lab.state import LabError, LabState
from podwire.model.seen import NodeSeen

RECORDS = Path("/var/lib/podwire/attachments")


def local_seen(directories: Sequence[str] = ()) -> NodeSeen:
    """This machine, as a node. Raises ClickException on settings that cannot be read."""
    from podwire.agent import config as page
    from podwire.agent.look import look

    try:
        found = page.load(node_name=_own_name(page))
    except page.ConfigError as error:
        raise click.ClickException(str(error)) from None
    return look(found, directories)


def _own_name(page: Any) -> str | None:
    """None when the settings name the node; a node without settings of its own is called as its host is."""
    try:
        page.load()
    except page.ConfigError:
        return socket.gethostname().lower()
    return None


def lab_seen(state: LabState, names: Sequence[str] = (), directories: Sequence[str] = ()) -> list[NodeSeen]:
    """The nodes of a lab, those named or all. Raises LabError."""
    import msgspec

    from podwire.lab import inside

    def work(node: str) -> bytes:
        return msgspec.json.encode(_look_as(node, directories))

    answers = [inside.call(state, node, partial(work, node)) for node in lab_nodes(state, names)]
    return [msgspec.json.decode(answer, type=NodeSeen) for answer in answers]


def lab_nodes(state: LabState, names: Sequence[str] = ()) -> list[str]:
    """The lab's nodes, or those named. Raises LabError for a name that is none of them."""
    plan = state.read_plan()
    known = [node.name for node in plan.nodes] if plan else []
    if wrong := [name for name in names if name not in known]:
        raise LabError(f"lab {state.name} has no node {wrong[0]}; its nodes are {', '.join(known)}")
    return [name for name in known if not names or name in names]


def _look_as(node: str, directories: Sequence[str]) -> NodeSeen:
    from podwire.agent import config as page
    from podwire.agent.look import look

    return look(page.load(environment={}, node_name=node), directories)


def seen_of(where: Target, names: Sequence[str], directories: Sequence[str], *, local: bool) -> list[NodeSeen]:
    """What can be seen from here: this machine with `local`, a lab's nodes, or nothing. Raises LabError."""
    # imported here, on this machine's files: inside of a node they are out of sight
    from podwire.agent import look  # noqa: F401

    if local:
        return [local_seen(directories)]
    return lab_seen(where.lab, names, directories) if where.lab else []
