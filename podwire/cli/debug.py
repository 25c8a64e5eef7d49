"""`podwire debug`: everything an agent knows, in a file, and whether it follows from what the agent was told."""

from __future__ import annotations

import contextlib
import json
import os
from functools import partial
from pathlib import Path
from typing import Any

import click

from podwire.cli.errors import reported
from podwire.cli.output import columns, output_option, show

SOCKET = Path("/run/podwire/debug.sock")


@click.group()
def debug() -> None:
    """Look into a running agent.

    \b
    podwire debug dump --node lab-worker --out dump.json
    podwire debug replay dump.json
    """


@debug.command("dump")
@click.option("--node", default="", metavar="NAME", help="A node of a lab on this machine. [default: this machine]")
@click.option("--socket", "path", default=str(SOCKET), show_default=True, metavar="PATH", help="The agent's.")
@click.option("--out", default="", metavar="FILE", help="Write JSON there (mode 0600) and print a summary.")
@output_option
def dump(node: str, path: str, out: str, form: str) -> None:
    """What the agent of a node knows: calculated state, kernel tables wanted and actual, attachments, blocks, settings,
    versions, health, recent log lines, metrics, and the journal of what it was told. Secrets are left out.

    Without -o the summary is printed.

    \b
    podwire debug dump                                 on a node
    podwire debug dump --node lab-worker -o json       of a lab's node
    podwire debug dump --node lab-worker --out FILE    for `podwire debug replay FILE`
    kubectl -n kube-system exec POD -- podwire debug dump -o json
    """
    with reported():
        raw = _of_lab(node, path) if node else _fetched(path)
    if out:
        _write(Path(out), raw)
    found: dict[str, Any] = json.loads(raw)
    show(found, form, lambda: summary(found))


@debug.command("replay")
@click.argument("file", type=click.Path(exists=True, dir_okay=False))
def replay(file: str) -> None:
    """Calculate again what the journal in a dump's FILE says, offline, and compare it with the dumped state.

    Exits with 1 when something differs: the agent's state is not what follows from what it was told.

    \b
    podwire debug replay dump.json
    """
    from podwire.agent import replay as page

    try:
        found = page.replay(Path(file).read_bytes())
    except page.ReplayError as error:
        raise click.ClickException(f"{file}: {error}") from error
    for line in found:
        click.echo(line)
    click.echo("equal: the journal gives the dumped state" if not found else f"{len(found)} differences")
    if found:
        raise SystemExit(1)


def _fetched(path: str) -> bytes:
    """Raises ClickException."""
    from podwire.agent.dump import fetch

    try:
        return fetch(Path(path))
    except OSError as error:
        raise click.ClickException(
            f"the agent does not answer on {path}: {error}. Run this as root on a node with a running agent, "
            "or give --node NAME for a node of a lab"
        ) from error


def _of_lab(node: str, path: str) -> bytes:
    """Raises LabError, ClickException."""
    from podwire.agent.dump import fetch  # imported here: inside of a node this machine's files are out of sight
    from podwire.cli.nodes import lab_nodes
    from podwire.lab import inside
    from podwire.lab.state import LabError, every_lab

    known: list[str] = []
    for state in every_lab():
        with contextlib.suppress(LabError):  # damaged; the others may still be found
            nodes = lab_nodes(state)
            known += nodes
            if node not in nodes:
                continue
        if node in known:
            return inside.call(state, node, partial(fetch, Path(path)))
    raise click.ClickException(f"no lab of this machine has a node {node}; there are {', '.join(known) or 'none'}")


def _write(path: Path, raw: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(raw)


def summary(found: dict[str, Any]) -> str:
    """The parts of a dump, and what in them asks for a look."""
    health, journal = found["health"], found["calculation"]["journal"]
    attachments: dict[str, int] = {}
    for one in found["attachments"]:
        attachments[one["state"]] = attachments.get(one["state"], 0) + 1
    facts = [
        ("node", found["node"]),
        ("taken", found["taken"]),
        *found["versions"].items(),
        ("ready", "yes" if health["ready"] else "; ".join(f"{part}: {why}" for part, why in health["reasons"].items())),
        ("attachments", ", ".join(f"{count} {state}" for state, count in sorted(attachments.items())) or "none"),
        ("blocks", ", ".join(sorted(found["ipam"].get("blocks", {}))) or "none"),
        ("journal", f"{len(journal['snapshot']['objects'])} objects, {len(journal['updates'])} updates after them"),
    ]
    rows = [
        (
            name,
            str(len(table["wanted"])),
            "in doubt" if table["doubt"] else str(len(table["actual"])),
            str(len(table["pending_writes"]) + len(table["pending_removals"])),
        )
        for name, table in found["tables"].items()
    ]
    warnings = [line for line in found["log"] if line["level"] in ("warning", "error", "critical")][-10:]
    texts = [
        " ".join([line["ts"], line["level"], line["event"], *(f"{k}={v}" for k, v in line.items() if k not in _HEAD)])
        for line in warnings
    ]
    parts = [columns(("", ""), facts).lstrip("\n"), "", columns(("TABLE", "WANTED", "ACTUAL", "PENDING"), rows)]
    return "\n".join([*parts, *(["", "Latest warnings:", *texts] if texts else [])])


_HEAD = ("ts", "level", "event", "logger")
