"""`podwire lab prepare`: fetch ahead of time what the first lab would fetch."""

from __future__ import annotations

import click

from podwire.cli.errors import reported


@click.command()
def prepare() -> None:
    """Fetch and build what labs need (the private Debian root, the CNI shim) into the cache; nothing is started.

    \b
    podwire lab prepare      then labs come up without a package archive in reach
    """
    from podwire.lab.up import prepare_cache

    with reported():
        prepare_cache(lambda words: click.echo(f"  {words}", err=True))
