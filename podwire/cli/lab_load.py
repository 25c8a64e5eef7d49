"""`podwire lab load`."""

from __future__ import annotations

from pathlib import Path

import click

from podwire.cli.errors import reported


@click.command()
@click.argument("archive", type=click.Path(exists=True, dir_okay=False))
def load(archive: str) -> None:
    """Load the images of ARCHIVE (docker save, or an OCI layout in a tar) into the cache that every lab's nodes read.
    Nodes of genuine Kubernetes that run get them at once.

    \b
    docker save my/app:1 -o app.tar && podwire lab load app.tar
    """
    from podwire.kubelet.archive import ArchiveError
    from podwire.kubelet.archive import load as take
    from podwire.lab.loading import into_running
    from podwire.lab.state import cache_root

    cache = cache_root()
    cache.mkdir(parents=True, exist_ok=True)
    try:
        names = take(Path(archive), cache)
    except ArchiveError as error:
        raise click.ClickException(f"{archive}: {error}") from error
    for name in names:
        click.echo(f"loaded {name}")
    with reported():
        for lab in into_running(names, cache):
            click.echo(f"imported into the nodes of {lab}")
