"""How the watches of this process fare, by resource: plain numbers that `reflect` keeps and metrics read."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Tally:
    """`lists`: everything was learned; `resumes`: a stream was opened; `failures`: one or the other was cut off;
    `last`: when anything was told, bookmarks included (monotonic clock, 0: never)."""

    lists: int = 0
    resumes: int = 0
    failures: int = 0
    last: float = 0.0


tallies: dict[str, Tally] = {}


def of(what: str) -> Tally:
    """That of the resource which the name of a watch begins with ("nodes of https://…")."""
    return tallies.setdefault(what.partition(" ")[0], Tally())
