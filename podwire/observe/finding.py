"""What a check finds: its kinds, and what can be done about each. Pure.

A check reads while the cluster goes on: something may look wrong for a moment only. Whoever reports findings reads
twice and keeps those that are in both (`persistent`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

LEAKED = "leaked address"
DOUBLE = "double use"
OUTSIDE = "outside pools"
UNALLOCATED = "not allocated"
HOLDER = "wrong holder"
HANDLE = "handle mismatch"
AFFINITY = "affinity orphan"
BROKEN = "broken object"

# What `ipam release --from-report` can do about a finding.
RELEASE, RECOUNT, DROP_AFFINITY, MAKE_AFFINITY, SCRUB, REMOVE_FILE = (
    "release",
    "recount",
    "drop-affinity",
    "make-affinity",
    "scrub",
    "remove-file",
)


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that should not be. `object` names where it is, `problem` what is wrong, `remedy` what to do about it.
    `cure` is what `ipam release` does ('' where a person has to decide); the rest is what the cure needs, and makes
    sure that it is still the same thing: `handle` and `sequence` of an allocation, the `interface` of a route, the
    `directory` and `network` of a file."""

    kind: str
    address: str
    object: str
    node: str
    problem: str
    remedy: str
    cure: str = ""
    block: str = ""
    handle: str = ""
    sequence: int | None = None
    interface: str = ""
    directory: str = ""
    network: str = ""


def persistent(first: Iterable[Finding], second: Iterable[Finding]) -> list[Finding]:
    """The findings of a second look that the first had as well, however their words changed."""
    known = {_identity(one) for one in first}
    return [one for one in second if _identity(one) in known]


def _identity(one: Finding) -> tuple[object, ...]:
    return one.kind, one.address, one.object, one.handle, one.sequence, one.interface, one.directory, one.network
