"""The `podwire` command: one group, verbs loaded when they are called."""

from __future__ import annotations

import os
import sys

import click

from podwire import __version__
from podwire.cli.lazy import LazyGroup

VERBS = {
    "lab": ("podwire.cli.lab", "lab", "A cluster of several nodes on this machine."),
    "agent": ("podwire.cli.agent", "agent", "The node daemon: addresses, wires and routes of one node's pods."),
    "install": ("podwire.cli.install", "install", "Podwire onto a Kubernetes cluster."),
    "uninstall": ("podwire.cli.install", "uninstall", "Podwire off a Kubernetes cluster."),
    "controller": ("podwire.cli.controller", "controller", "What one process does for all nodes of a cluster."),
    "cni": ("podwire.cli.cni", "cni", "The CNI plugin's files on one node."),
    "ipam": ("podwire.cli.ipam", "ipam", "Addresses of pods: who has them, and whether that is right."),
    "policy": ("podwire.cli.policy", "policy", "Network policies: checked, asked, compared and tested."),
    "node": ("podwire.cli.node", "node", "What a node's agent has on record, and what its kernel holds."),
    "debug": ("podwire.cli.debug", "debug", "Look into a running agent: everything it knows, and why."),
    "bench": ("podwire.cli.bench", "bench", "Measure, and write the figures as JSON."),
}


@click.group(cls=LazyGroup, verbs=VERBS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="podwire")
def group() -> None:
    """A complete pod network for Kubernetes, and a lab to run it in.

    \b
    Begin with:
      podwire lab up          a cluster of three nodes, in seconds
      kubectl get nodes       your kubectl speaks to it
      podwire lab down        and nothing is left of it
    """


def main() -> None:
    """Run the command; an error that is the user's to know is one line on standard error and exit code 1."""
    try:
        sys.exit(_run())
    except BrokenPipeError:  # whoever reads has read enough; nor may the interpreter's last flush complain
        nothing = os.open(os.devnull, os.O_WRONLY)
        for descriptor in (1, 2):
            os.dup2(nothing, descriptor)
        sys.exit(1)


def _run() -> int:
    try:
        code = group.main(standalone_mode=False)
        return code if isinstance(code, int) else 0
    except click.exceptions.Abort:
        click.echo("interrupted", err=True)
        return 130
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except BrokenPipeError:
        raise
    except OSError as error:
        click.echo(f"Error: {error}", err=True)
        return 1
