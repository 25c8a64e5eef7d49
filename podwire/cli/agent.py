"""`podwire agent`: the node daemon, in the foreground."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.option("--config", default="/etc/podwire/agent.toml", show_default=True, metavar="FILE", help="Its settings.")
@click.option(
    "--log-format", default=None, type=click.Choice(["text", "json"]), help="How to log. [default: as set, else text]"
)
@click.option("--node-name", default=None, metavar="NAME", help="The Node object that this machine is.")
def agent(config: str, log_format: str | None, node_name: str | None) -> None:
    """Run the node daemon in the foreground until SIGTERM. PODWIRE_* variables override the file's settings.

    \b
    podwire agent --config /etc/podwire/agent.toml
    """
    from podwire.agent import priority

    priority.prefer()
    from podwire.agent import logs
    from podwire.agent.config import ConfigError, load
    from podwire.agent.main import run

    try:
        settings = load(Path(config), node_name=node_name, log_format=log_format)
    except ConfigError as error:
        raise click.UsageError(str(error)) from error
    logs.start(settings.log_format, settings.node_name)
    run(settings)
