"""`podwire lab demo`: what `make lab` shows."""

from __future__ import annotations

import click

from podwire.cli.errors import reported
from podwire.cli.lab_up import hints, plan_of, progress
from podwire.cli.output import columns
from podwire.cli.which import not_empty
from podwire.lab.reachability import Probe
from podwire.lab.state import LabState, labs_root


@click.command()
@click.option("--name", default=None, callback=not_empty, metavar="NAME", help="The lab's name. [default: lab]")
def demo(name: str) -> None:
    """A lab with a small web app, and a matrix that proves its network flat: who reached whom, from which address.

    \b
    podwire lab demo
    """
    from podwire.lab.demo import DemoError, prove
    from podwire.lab.kubeconfig import user_path
    from podwire.lab.up import up

    with reported():
        plan, asked = plan_of(name, None, "")
        state = LabState(plan.name, labs_root())
        say = progress()
        outcome = up(plan, state, say, asked=asked)
        try:
            probes = prove(user_path(), outcome.context, say)
        except DemoError as error:
            raise click.ClickException(str(error)) from error
    click.echo(matrix(probes))
    click.echo(hints(outcome.plan, outcome.ready, outcome.seconds))
    if not all(probe.flat for probe in probes):
        raise SystemExit(1)


def matrix(probes: list[Probe]) -> str:
    """Senders down, receivers across; each cell is the source address that the receiver saw."""
    receivers = list(dict.fromkeys(probe.receiver.name for probe in probes))
    senders = list(dict.fromkeys(probe.sender.name for probe in probes))
    cells = {(probe.sender.name, probe.receiver.name): _cell(probe) for probe in probes}
    rows = [(sender, *(cells.get((sender, receiver), "-") for receiver in receivers)) for sender in senders]
    wrong = [probe for probe in probes if not probe.flat]
    verdict = f"{len(probes) - len(wrong)} of {len(probes)} requests arrived with an address of the sender's own."
    return columns(("FROM / TO", *receivers), rows) + "\n" + verdict


def _cell(probe: Probe) -> str:
    if not probe.seen:
        return f"no answer: {probe.error}"
    return probe.seen if probe.flat else f"{probe.seen} (translated)"
