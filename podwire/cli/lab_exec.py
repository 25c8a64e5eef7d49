"""`podwire lab exec`."""

from __future__ import annotations

import sys

import click

from podwire.cli.errors import reported


@click.command("exec", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("-i", "stdin", is_flag=True, help="Hand standard input to the command.")
@click.option("-t", "terminal", is_flag=True, help="Give the command a terminal.")
@click.argument("node")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def execute(stdin: bool, terminal: bool, node: str, command: tuple[str, ...]) -> None:
    """Run COMMAND inside NODE, in the node's namespaces; its exit code becomes ours.

    \b
    podwire lab exec -it lab-worker bash
    podwire lab exec lab-worker ip route
    podwire lab exec lab-worker -- ls -l /etc/cni/net.d
    """
    from podwire.lab import exec as page

    words = command[1:] if command[0] == "--" else command
    if not words:
        raise click.UsageError("a command is missing")
    with reported():
        code = page.run(node, words, stdin=stdin, terminal=terminal)
    sys.exit(code)
