"""`podwire policy matrix`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from itertools import islice

import click

from podwire.cli.errors import BadInput, reported
from podwire.cli.output import output_option, show
from podwire.cli.policy_scene import scene_of, scene_options
from podwire.observe.policymatrix import Cell, Crowd, Matrix, parse_ports
from podwire.observe.policyquestions import QuestionError
from podwire.observe.policyscene import number

MANY = 40
_YES, _NO, _SELF, _NONE = "●", "·", "\\", " "
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


@click.command("matrix")
@click.option("--ports", default="TCP/80", show_default=True, metavar="LIST", help="TCP/80,UDP/53,SCTP/7,ICMP")
@click.option("--groups", "grouped", is_flag=True, help="Pods that no policy tells apart as one.")
@click.option("-n", "--namespace", "spaces", multiple=True, metavar="NAME", help="Only pods of this namespace.")
@scene_options
@output_option
def show_matrix(
    ports: str,
    grouped: bool,
    spaces: tuple[str, ...],
    files: tuple[str, ...],
    recursive: bool,
    kubeconfig: str,
    context: str,
    form: str,
) -> None:
    """Who may reach whom: each pod (or group of pods) against each other, at these ports.

    Rows connect to columns. With -o json there is a row for each pair and port:
    {from, to, protocol, port, ingress, egress, allowed, rule}; `ingress` and `egress` are the verdicts of the two ends,
    `rule` is what decided. A row has `family` only where IPv4 and IPv6 fare differently.

    \b
    podwire policy matrix --ports TCP/80,UDP/53
    podwire policy matrix --ports TCP/443 --groups           for clusters of many pods
    podwire policy matrix -n shop -n default --ports ICMP
    podwire policy matrix -f world.json --ports TCP/80 -o json | jq '.[] | select(.allowed | not)'
    """
    try:
        probes = parse_ports(ports)
    except QuestionError as error:
        raise BadInput(f"--ports: {error}") from None
    with reported():
        scene, _ = scene_of(files, recursive, kubeconfig, context)
    matrix = Matrix(scene, probes)
    crowds = shown(matrix, spaces, grouped=grouped)
    if not crowds:
        raise BadInput("no pod with an address" + (f" in {', '.join(spaces)}" if spaces else ""))
    if form == "json":
        _stream(_rows(matrix, crowds, grouped=grouped))
        return
    if form == "table" and len(crowds) > MANY and not grouped:
        click.echo(f"{len(crowds)} pods: --groups shows them in groups that fare alike, -n one namespace", err=True)
    show(list(_rows(matrix, crowds, grouped=grouped)) if form == "yaml" else None, form, lambda: table(matrix, crowds))


def shown(matrix: Matrix, spaces: tuple[str, ...], *, grouped: bool) -> list[Crowd]:
    """The rows and columns: groups, or each pod as one; those of some namespaces alone."""
    found = []
    for crowd in matrix.crowds:
        pods = tuple(name for name in crowd.pods if not spaces or name.partition("/")[0] in spaces)
        if pods:
            found += [Crowd(pods, crowd.seen)] if grouped else [Crowd((name,), crowd.seen) for name in pods]
    return sorted(found, key=lambda crowd: crowd.pods)


def _rows(matrix: Matrix, crowds: list[Crowd], *, grouped: bool) -> Iterator[dict[str, object]]:
    names = {name for crowd in crowds for name in crowd.pods}
    if grouped:
        yield from matrix.group_rows(crowds)
    else:
        yield from (row for row in matrix.rows() if row["from"] in names and row["to"] in names)


def _stream(rows: Iterator[dict[str, object]]) -> None:
    """JSON as it comes: there may be millions."""
    lead = "[\n  "
    while chunk := list(islice(rows, 5_000)):
        click.echo(lead + ",\n  ".join(map(json.dumps, chunk)), nl=False)
        lead = ",\n  "
    click.echo("\n]" if lead[0] == "," else "[]")


def table(matrix: Matrix, crowds: list[Crowd]) -> str:
    """Numbered rows against numbered columns, in as many parts as the terminal needs, and a legend."""
    width = shutil.get_terminal_size((100, 40)).columns
    marks = max(2, len(matrix.probes))
    digits = len(str(len(crowds)))
    cell = max(marks, digits) + 1
    names = [label(crowd, max(16, width // 2 - digits - 2)) for crowd in crowds]
    left = digits + 2 + max(len(name) for name in names)
    across = max(1, (width - left - 1) // cell)
    parts = []
    for begin in range(0, len(crowds), across):
        columns = range(begin, min(begin + across, len(crowds)))
        lines = [" " * left + "".join(str(at + 1).rjust(cell) for at in columns)]
        for at, source in enumerate(crowds):
            cells = "".join(_cell(matrix, source, crowds[to], cell) for to in columns)
            lines.append(f"{str(at + 1).rjust(digits)}  {names[at].ljust(left - digits - 2)}{cells}".rstrip())
        parts.append("\n".join(lines))
    return "\n\n".join([*parts, legend(matrix, crowds)])


def label(crowd: Crowd, width: int) -> str:
    """Its first pods, and how many more."""
    name = crowd.pods[0]
    more = f" +{len(crowd.pods) - 1}" if len(crowd.pods) > 1 else ""
    room = width - len(more)
    return (name if len(name) <= room else name[: room - 1] + "…") + more


def _cell(matrix: Matrix, source: Crowd, destination: Crowd, width: int) -> str:
    """A mark for each port. A pair without a family in common has none."""
    if source is destination and len(source.pods) == 1:
        return click.style(_SELF.rjust(width), dim=True)
    text, verdicts = "", []
    for at, probe in enumerate(matrix.probes):
        found = matrix.cells(source, destination, probe)
        yes = all(one.allowed for one in found)
        verdicts.append(yes)
        text += _mark(found, at, many=len(matrix.probes) > 1)
    colour = "green" if all(verdicts) else "red" if not any(verdicts) else "yellow"
    return " " * (width - len(text)) + click.style(text, fg=colour)


def _mark(found: list[Cell], at: int, *, many: bool) -> str:
    if not found:
        return _NONE
    if len({one.allowed for one in found}) > 1:
        return "~"
    if not found[0].allowed:
        return _NO
    return _LETTERS[at % len(_LETTERS)] if many else _YES


def legend(matrix: Matrix, crowds: list[Crowd]) -> str:
    """What the marks mean, and the count."""
    probes = matrix.probes
    if len(probes) > 1:
        told = ", ".join(f"{_LETTERS[at % len(_LETTERS)]} {probe}" for at, probe in enumerate(probes))
        marks = f"{told} allowed; {_NO} denied"
    else:
        marks = f"{_YES} {probes[0]} allowed; {_NO} denied"
    split = any(
        len({one.allowed for one in matrix.cells(a, b, probe)}) > 1 for a in crowds for b in crowds for probe in probes
    )
    marks += "; ~ IPv4 and IPv6 differ (-o json)" if split else ""
    pods = sum(len(crowd.pods) for crowd in crowds)
    count = number(pods, "pod") if pods == len(crowds) else f"{number(pods, 'pod')} in {number(len(crowds), 'group')}"
    return f"rows connect to columns: {marks}; {_SELF} itself\n{count}"
