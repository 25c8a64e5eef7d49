"""`podwire lab`: its verbs, each in a page of its own."""

from __future__ import annotations

import click

from podwire.cli.lazy import LazyGroup

VERBS = {
    "up": ("podwire.cli.lab_up", "up", "Bring a lab up, or make sure that it is."),
    "down": ("podwire.cli.lab_down", "down", "Take a lab down and leave nothing."),
    "list": ("podwire.cli.lab_status", "list_labs", "The labs of this machine."),
    "status": ("podwire.cli.lab_status", "status", "Nodes, agents, pods, addresses and memory of a lab."),
    "inspect": ("podwire.cli.lab_status", "inspect", "The nodes as containerlab shows them."),
    "kubeconfig": ("podwire.cli.lab_status", "kubeconfig", "Print a lab's kubeconfig."),
    "exec": ("podwire.cli.lab_exec", "execute", "Run a command, such as a shell, inside a node."),
    "prepare": ("podwire.cli.lab_prepare", "prepare", "Fetch ahead of time what the first lab would fetch."),
    "load": ("podwire.cli.lab_load", "load", "Load a container image from an archive."),
    "demo": ("podwire.cli.lab_demo", "demo", "A lab with a small web app, and the proof that its network is flat."),
    "run": ("podwire.cli.lab_run", "run", "Walk one of the labs of the documentation."),
}


@click.group(cls=LazyGroup, verbs=VERBS)
def lab() -> None:
    """A cluster of several nodes on this machine: no container engine, no virtual machine, nothing left behind.

    \b
    podwire lab up                            one control plane, two workers
    podwire lab up --config kind.yaml         from a kind or containerlab file
    podwire lab exec -it lab-worker bash      look around in a node
    podwire lab down
    """
