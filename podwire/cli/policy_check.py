"""`podwire policy check`."""

from __future__ import annotations

import shutil
import textwrap
from typing import Any

import click

from podwire.cli.connect import Target
from podwire.cli.errors import reported
from podwire.cli.output import output_option, show
from podwire.cli.policy_scene import scene_of, scene_options
from podwire.observe.policyfinding import ERROR, HINT, WARNING, Finding
from podwire.observe.policylint import lint
from podwire.observe.policyscene import Scene, number
from podwire.observe.policytraps import unenforced

_COLOURS = {ERROR: "red", WARNING: "yellow", HINT: "cyan"}


@click.command("check")
@scene_options
@click.option("--no-hints", is_flag=True, help="Leave out what may well be meant.")
@output_option
def check_policies(
    files: tuple[str, ...], recursive: bool, kubeconfig: str, context: str, no_hints: bool, form: str
) -> None:
    """What is wrong with policies: each finding with object, field, what is the matter, and the way out.

    Errors are what does not do what it says, warnings what can hardly be meant, hints what is easily forgotten. Exits
    with 1 when there is an error or a warning, with 2 when a file cannot be read.

    \b
    podwire policy check                          the cluster's policies, and whether its nodes enforce them
    podwire policy check -f policies/ -R          files, before they are applied
    podwire policy check -f world.json -o json
    kustomize build . | podwire policy check -f -
    """
    with reported():
        scene, where = scene_of(files, recursive, kubeconfig, context)
        found = [*_nodes(where), *lint(scene)]
    if no_hints:
        found = [one for one in found if one.level != HINT]
    blind = unseen(scene, where)
    show({"findings": found, "checked": checked(scene), "blind": blind}, form, lambda: report(found, scene, blind))
    if any(one.level != HINT for one in found):
        raise SystemExit(1)


def _nodes(where: Target | None) -> list[Finding]:
    """Nodes that do not enforce what the cluster's policies say. Raises LabError."""
    if where is None:
        return []
    from podwire.cli.nodes import seen_of

    return unenforced(seen_of(where, (), (), local=False))


def checked(scene: Scene) -> dict[str, Any]:
    """How much was looked at."""
    kinds = sorted({one.object["kind"] for one in scene.manifests})
    return {kind: len(scene.of_kind(kind)) for kind in kinds}


def unseen(scene: Scene, where: Target | None) -> list[str]:
    """What could not be judged for want of objects, or because it is out of sight."""
    found = []
    if not scene.pods:
        found.append("whom policies select, their peers and port names: no Pod is there" + ("" if where else " (-f)"))
    if where is not None and where.lab is None:
        found.append("whether its nodes enforce them (`podwire node status --local` on a node says so)")
    return found


def report(found: list[Finding], scene: Scene, blind: list[str]) -> str:
    """Each finding as a paragraph; the count at the end."""
    width = min(120, shutil.get_terminal_size((100, 40)).columns)
    parts = [_paragraph(one, width) for one in found]
    levels = [level for level in (ERROR, WARNING, HINT) if any(one.level == level for one in found)]
    counts = [number(sum(one.level == level for one in found), level) for level in levels]
    end = f"{', '.join(counts) or 'nothing found'} in {scene.counted()}"
    return "\n\n".join([*parts, "\n".join([end, *(f"not looked at: {what}" for what in blind)])])


def _paragraph(one: Finding, width: int) -> str:
    where = f"   {one.where}" if one.where else ""
    head = f"{click.style(one.level, fg=_COLOURS[one.level], bold=True)}: {f'{one.object} {one.field}'.strip()}{where}"
    lines = [head]
    for lead, text in (("  ", f"{one.kind}: {one.problem}"), ("  → ", one.remedy)):
        lines += textwrap.wrap(
            text, width, initial_indent=lead, subsequent_indent=" " * len(lead), break_on_hyphens=False
        )
    return "\n".join(lines)
