"""One verdict table as it was planned: which rules stand in which stage, and the rows that they make for a class.

`calc.layout` makes plans, `calc.tables` fills tables by them and keeps up with the classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

from podwire.calc.clauses import EVERYBODY, Clause, Named, Ports, Service, Who, region
from podwire.calc.prefixes import Marks
from podwire.calc.region import Paint, Painting, Region, Row
from podwire.calc.verdicts import EVERY, WHOLE, Decision, RuleRef

Behind = Callable[[Marks, Named | Service], Ports]


class Inside(NamedTuple):
    """What a table knows of the pods it governs: the numbers behind names, and for each rule that asks about the
    governed pod itself, in order, the IP versions in which it is meant (None: all that the pod has)."""

    names: tuple[tuple[str, Ports], ...] = ()
    versions: tuple[frozenset[int] | None, ...] = ()

    def lookup(self, what: Named | Service) -> Ports:
        return dict(self.names).get(what.name, frozenset()) if isinstance(what, Named) else frozenset()


@dataclass(slots=True)
class Entry:
    """A clause as one table has it. `region` is None where it depends on the peer."""

    clause: Clause
    who: Who
    region: Region | None
    paint: Paint | None  # None: a Pass, until the stage is known
    outline: Region

    @property
    def anybody(self) -> bool:
        return self.who == EVERYBODY and self.region is not None


class Gate(NamedTuple):
    """A stage that only tells who goes on at stage `onward`: those who are `who`, or those who are not (`others`)."""

    who: Who
    others: bool
    onward: int


@dataclass(slots=True)
class PlannedStage:
    classed: bool
    entries: list[Entry] = field(default_factory=list)
    gate: Gate | None = None
    by_mark: dict[int, list[int]] = field(default_factory=dict)
    always: list[int] = field(default_factory=list)
    read: set[int] = field(default_factory=set)
    named: bool = False

    def index(self) -> None:
        """Must be called when all entries are there."""
        for place, entry in enumerate(self.entries):
            self.named = self.named or entry.region is None
            self._index(place, entry.who, False)
        if self.gate is not None:
            self._index(0, self.gate.who, self.gate.others)

    def _index(self, place: int, who: Who, others: bool) -> None:
        self.read |= who.none.union(*who.each)
        if others or not who.each:
            self.always.append(place)
        else:
            for mark in min(who.each, key=len):
                self.by_mark.setdefault(mark, []).append(place)

    def meant(self, marks: Marks) -> tuple[int, ...]:
        """The entries that mean a peer with these marks, in order."""
        found = set(self.always)
        for mark in self.by_mark.keys() & marks:
            found.update(self.by_mark[mark])
        return tuple(sorted(place for place in found if self.entries[place].who.fits(marks)))


@dataclass(slots=True)
class Plan:
    stages: list[PlannedStage]
    default: Decision
    source_port: int | None
    inside: Inside
    _painted: dict[tuple[int, Marks], list[Row]] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[object, ...]:
        """Tables of one shape can become each other row by row."""
        return tuple(stage.classed for stage in self.stages), self.default

    def anybody(self, number: int) -> list[Row]:
        """The rows of a stage that is not classed."""
        painting = Painting()
        for entry in self.stages[number].entries:
            if entry.region is not None and entry.paint is not None:
                painting.paint(entry.region, entry.paint)
        return painting.rows(number + 1)

    def rows(self, number: int, marks: Marks, behind: Behind) -> list[Row]:
        """The rows of a classed stage for peers with these marks."""
        stage = self.stages[number]
        key = number, marks if stage.named else marks & stage.read
        if key not in self._painted:
            self._painted[key] = self._paint(number, marks, behind)
        return self._painted[key]

    def _paint(self, number: int, marks: Marks, behind: Behind) -> list[Row]:
        stage = self.stages[number]
        if stage.gate is not None:
            goes = stage.gate.who.fits(marks) != stage.gate.others
            return [(EVERY, *WHOLE, onward(stage.gate.onward))] if goes else []
        places = stage.meant(marks)
        painting = Painting()
        for place in places:
            entry = stage.entries[place]
            about = entry.region
            if about is None:
                about = region(entry.clause, self.inside.lookup, partial(behind, marks), self.source_port)
            assert entry.paint is not None
            painting.paint(about, entry.paint)
        return painting.rows(number + 1) if places else []


def onward(stage: int, ref: RuleRef | None = None) -> Decision:
    """Nothing is decided yet."""
    return Decision(False, ref or RuleRef(None, ""), (), stage)
