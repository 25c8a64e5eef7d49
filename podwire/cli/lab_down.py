"""`podwire lab down`."""

from __future__ import annotations

import click

from podwire.cli.errors import reported
from podwire.cli.which import lab_state, name_option
from podwire.lab.state import drop_stale_locks, every_lab, labs_root


@click.command()
@name_option
@click.option("--all", "every", is_flag=True, help="Every lab of this user.")
def down(name: str, every: bool) -> None:
    """Take a lab down: its processes, namespaces, files and kubeconfig entry. Downloads in the cache stay.

    \b
    podwire lab down
    podwire lab down --name five
    """
    from podwire.lab.down import down as take_down

    with reported():
        if every:
            states = every_lab()
        elif not name and not every_lab():
            drop_stale_locks(labs_root())
            click.echo("There is no lab.")
            return
        else:
            states = [lab_state(name)]
        for state in states:
            take_down(state)
            click.echo(f"Lab {state.name} is down; nothing of it is left.")
