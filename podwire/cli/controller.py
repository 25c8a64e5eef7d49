"""`podwire controller`: the cluster-wide duties as a process of their own, in the foreground."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.option("--config", default="/etc/podwire/agent.toml", show_default=True, metavar="FILE", help="The agent's.")
@click.option(
    "--log-format", default=None, type=click.Choice(["text", "json"]), help="How to log. [default: as set, else text]"
)
@click.option(
    "--health-port", type=click.IntRange(0, 65535), default=0, show_default=True, metavar="PORT",
    help="Answer /livez, /readyz and /metrics on this port of every address; 0: nowhere.",
)  # fmt: skip
def controller(config: str, log_format: str | None, health_port: int) -> None:
    """Free what nodes that vanished held: addresses, blocks, handles. Of several such processes, and of the agents that
    have cluster_duties on, the one that holds the Lease podwire-controller does it.

    \b
    podwire controller --config /etc/podwire/agent.toml
    """
    import socket

    from podwire.agent import duties, logs
    from podwire.agent.config import ConfigError, load

    try:
        settings = load(Path(config), node_name=duties.NOBODY, log_format=log_format)
    except ConfigError as error:
        raise click.UsageError(str(error)) from error
    logs.start(settings.log_format, socket.gethostname())
    duties.run(settings, health_port)
