"""`podwire ipam`: its verbs, each in a page of its own."""

from __future__ import annotations

import click

from podwire.cli.lazy import LazyGroup

VERBS = {
    "show": ("podwire.cli.ipam_show", "show_addresses", "Pools, blocks and addresses, and who has them."),
    "check": ("podwire.cli.ipam_check", "check_addresses", "Leaks, double use, and kernel against API."),
    "release": (
        "podwire.cli.ipam_release",
        "release_addresses",
        "Give back what nobody uses; mend what a check found.",
    ),
}


@click.group(cls=LazyGroup, verbs=VERBS)
def ipam() -> None:
    """Addresses of pods: where they come from, who has them, and whether that is right.

    \b
    podwire ipam show                         pools and nodes, and how full they are
    podwire ipam show --show-blocks           the blocks of each pool
    podwire ipam show --ip 10.244.1.7         one address explained
    podwire ipam check                        what is wrong, and what to do about it
    podwire ipam release --ip 10.244.1.7      give back an address that nobody uses
    """
