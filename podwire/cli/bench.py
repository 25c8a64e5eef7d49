"""`podwire bench`: run a measurement of the repository's `bench/`."""

from __future__ import annotations

import importlib
import inspect
import json
import signal
import sys
from pathlib import Path

import click

import podwire

ROOT = Path(podwire.__file__).resolve().parent.parent
_NOT_BENCHES = {
    "__init__",
    "apiload",
    "clusteragent",
    "clusterfill",
    "clusterpods",
    "clustersite",
    "clusterworld",
    "cnisite",
    "policycalc",
    "policyscale",
    "record",
    "session",
}


def names() -> list[str]:
    """The benches of this checkout."""
    return sorted(path.stem for path in (ROOT / "bench").glob("*.py") if path.stem not in _NOT_BENCHES)


@click.command()
@click.argument("name", default="")
@click.option("--json", "file", default="", metavar="FILE", help="Write the records to FILE as well.")
@click.option("--runs", type=click.IntRange(1), default=10, show_default=True, help="Runs per measurement.")
@click.option("--quick", is_flag=True, help="Only as much as shows that it measures (cluster).")
def bench(name: str, file: str, runs: int, quick: bool) -> None:
    """Measure NAME and print a JSON list of records: name, unit, ours, peer, ratio, runs, spread. Without NAME: list.

    \b
    podwire bench lab
    podwire bench pod --json pod.json
    podwire bench cluster --json cluster.json
    """
    known = names()
    if not known:
        raise click.ClickException("the benches are part of a source checkout; this installation has none")
    if not name:
        click.echo("\n".join(known))
        return
    if name not in known:
        raise click.UsageError(f"there is no bench {name}; there are {', '.join(known)}")
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # so that what was started is ended
    sys.path.insert(0, str(ROOT))
    measure = importlib.import_module(f"bench.{name}").measure
    if quick and "quick" not in inspect.signature(measure).parameters:
        raise click.UsageError(f"bench {name} has no quick form")
    try:
        records = measure(runs, **({"quick": True} if quick else {}))
    except RuntimeError as error:
        raise click.ClickException(f"bench {name}: {error}") from error
    text = json.dumps(records, indent=2)
    click.echo(text)
    if file:
        Path(file).write_text(text + "\n")
