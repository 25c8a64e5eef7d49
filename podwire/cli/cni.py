"""`podwire cni install` and `uninstall`: the plugin's files on one node."""

from __future__ import annotations

from pathlib import Path

import click


@click.group()
def cni() -> None:
    """The CNI plugin's files on this node: its configuration and its executable."""


@cni.command()
@click.option("--mtu", type=click.IntRange(576, 65535), default=1450, show_default=True, help="MTU of pods.")
@click.option("--cache", default="", metavar="DIR", help="Where the plugin is built. [default: Podwire's cache]")
def install(mtu: int, cache: str) -> None:
    """Put the configuration into /etc/cni/net.d and the plugin into /opt/cni/bin.

    \b
    podwire cni install
    """
    from podwire.cni import install as page
    from podwire.cni.build import ShimError, build
    from podwire.lab.state import cache_root

    try:
        shim = build(Path(cache) if cache else cache_root())
    except ShimError as error:
        raise click.ClickException(str(error)) from error
    for path in page.install(shim, mtu):
        click.echo(f"installed {path}")


@cni.command()
def uninstall() -> None:
    """Remove them again; other plugins' files stay.

    \b
    podwire cni uninstall
    """
    from podwire.cni import install as page

    for path in page.uninstall():
        click.echo(f"removed {path}")
