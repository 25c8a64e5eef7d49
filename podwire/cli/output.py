"""Listings in three forms: a table for people, JSON and YAML for programs."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


def output_option(command: F) -> F:
    """`-o table|json|yaml`."""
    return click.option(
        "-o",
        "--output",
        "form",
        type=click.Choice(["table", "json", "yaml"]),
        default="table",
        show_default=True,
        help="How to print.",
    )(command)


def plain(value: Any) -> Any:
    """Dataclasses as dictionaries, through lists, tuples and dictionaries."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return value


def show(value: Any, form: str, table: Callable[[], str]) -> None:
    """Print `value` in the form asked for."""
    if form == "json":
        click.echo(json.dumps(plain(value), indent=2))
    elif form == "yaml":
        import yaml

        # by way of JSON: tuples become lists
        click.echo(yaml.safe_dump(json.loads(json.dumps(plain(value))), sort_keys=False), nl=False)
    else:
        click.echo(table())


def columns(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Left-aligned columns with three spaces between, as kubectl prints them."""
    lines = [list(header), *(list(row) for row in rows)]
    widths = [max(len(line[index]) for line in lines) for index in range(len(header))]
    texts = ["   ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines]
    return "\n".join(line.rstrip() for line in texts)


def boxed(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table with round corners, as containerlab draws it; a cell may have several lines."""
    split = [[cell.split("\n") for cell in row] for row in rows]
    widths = [
        max([len(title), *(len(line) for row in split for line in row[index])]) for index, title in enumerate(header)
    ]
    rule = ["─" * (width + 2) for width in widths]
    lines = [
        "╭" + "┬".join(rule) + "╮",
        _line([title.center(width) for title, width in zip(header, widths, strict=True)]),
    ]
    for row in split:
        lines.append("├" + "┼".join(rule) + "┤")
        for index in range(max(len(cell) for cell in row)):
            cells = [cell[index] if index < len(cell) else "" for cell in row]
            lines.append(_line([text.ljust(width) for text, width in zip(cells, widths, strict=True)]))
    lines.append("╰" + "┴".join(rule) + "╯")
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return "│ " + " │ ".join(cells) + " │"


def megabytes(size: int) -> str:
    """Bytes as MB (10^6)."""
    return f"{size / 1e6:.0f} MB"
