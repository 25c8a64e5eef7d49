"""The stages of a verdict table: tiers, orders, actions and ends of tiers made flat.

Rules for anybody and rules for some cannot share a stage. A rule goes into the last stage of its kind if it may go
before what came since: rules of one action may, and so may rules about other ports. So plain NetworkPolicies, which
only allow, need two stages however they alternate. A Pass leads to the stage where the next tier begins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

from podwire.calc.clauses import EVERYBODY, FAMILIES, Asked, Clause, Named, Ports, Service, Who, outline, region
from podwire.calc.prefixes import Marks
from podwire.calc.region import EVERYTHING, Paint, Painting, Region, Row, disjoint
from podwire.calc.verdicts import Decision, RuleRef
from podwire.model.policy import Action, Direction, Rule, Tier

Behind = Callable[[Marks, Named | Service], Ports]

OPEN = Decision(True, RuleRef(None, ""))
"""What happens behind the last tier."""
_COMPARED = 64


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


@dataclass(slots=True)
class PlannedStage:
    classed: bool
    entries: list[Entry] = field(default_factory=list)
    by_mark: dict[int, list[int]] = field(default_factory=dict)
    always: list[int] = field(default_factory=list)
    read: set[int] = field(default_factory=set)
    named: bool = False

    def admits(self, entry: Entry) -> bool:
        """The entry may go before everything in this stage."""
        others = [each for each in self.entries if each.clause.rule.action is not entry.clause.rule.action]
        same = {each.clause.rule.action for each in self.entries} | {entry.clause.rule.action}
        if not others and Action.LOG not in same:
            return True
        return len(self.entries) <= _COMPARED and all(disjoint(each.outline, entry.outline) for each in self.entries)

    def index(self) -> None:
        for place, entry in enumerate(self.entries):
            self.read |= entry.who.none.union(*entry.who.each)
            self.named = self.named or entry.region is None
            if not entry.who.each:
                self.always.append(place)
            else:
                for mark in min(entry.who.each, key=len):
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
        places = self.stages[number].meant(marks)
        painting = Painting()
        for place in places:
            entry = self.stages[number].entries[place]
            about = entry.region
            if about is None:
                about = region(entry.clause, self.inside.lookup, partial(behind, marks), self.source_port)
            assert entry.paint is not None
            painting.paint(about, entry.paint)
        return painting.rows(number + 1) if places else []


def plan(
    tiers: Sequence[tuple[Tier, Iterable[Clause]]],
    inside: Inside,
    mark: Callable[[Asked], int],
    source_port: int | None,
) -> Plan:
    """The stages of the tiers that govern a pod in one direction, in order; not empty."""
    stages: list[PlannedStage] = []
    began = 0  # the first stage that a rule may still go into
    versions = iter(inside.versions)
    passes: list[tuple[Entry, int | None]] = []
    default = OPEN
    for place, (tier, clauses) in enumerate(tiers):
        last = place == len(tiers) - 1
        waiting: list[Entry] = []
        for clause in clauses:
            entry = _entry(clause, inside, versions, mark, source_port)
            if entry is None:
                continue
            if clause.rule.action is Action.PASS:
                if last:
                    entry.paint = OPEN
                else:
                    waiting.append(entry)
            _place(stages, began, entry)
        if tier.default is Action.DENY:
            default = Decision(False, RuleRef(None, tier.name))
            if not waiting:
                break
            _close(stages, began, default)
        else:
            default = OPEN
        if waiting:
            began = len(stages)
            passes += [(entry, began) for entry in waiting]
    for entry, onward in passes:
        entry.paint = Decision(False, entry.clause.ref, (), onward)
    for stage in stages:
        stage.index()
    return Plan(stages, default, source_port, inside)


def _entry(
    clause: Clause,
    inside: Inside,
    versions: Iterable[frozenset[int] | None],
    mark: Callable[[Asked], int],
    port: int | None,
) -> Entry | None:
    """The clause in this table, None if it can match nothing there."""
    rule = clause.rule
    meant: frozenset[int] | None = None
    if clause.local != EVERYBODY:
        meant = next(iter(versions))
    if rule.version is not None:
        meant = frozenset((rule.version,)) if meant is None else meant & {rule.version}
    who = clause.peer
    if meant is not None:
        if not meant:
            return None
        who = Who((*who.each, frozenset(mark(FAMILIES[version]) for version in meant)), who.none)
    about = None if clause.named else region(clause, inside.lookup, _nobody, port)
    if about is not None and about.empty:
        return None
    paint: Paint | None = None
    match rule.action:
        case Action.ALLOW | Action.DENY:
            paint = Decision(rule.action is Action.ALLOW, clause.ref)
        case Action.LOG:
            paint = clause.ref
    return Entry(clause, who, about, paint, outline(rule))


def _nobody(what: Named | Service) -> Ports:
    return frozenset()


def _place(stages: list[PlannedStage], began: int, entry: Entry) -> None:
    classed = not entry.anybody
    at = len(stages) - 1
    if at >= began and stages[at].classed == classed:
        stages[at].entries.append(entry)
    elif at - 1 >= began and stages[at].admits(entry):
        stages[at - 1].entries.append(entry)
    else:
        stages.append(PlannedStage(classed, [entry]))


def _close(stages: list[PlannedStage], began: int, decision: Decision) -> None:
    """Nothing goes beyond but by a Pass."""
    nobody = Clause(Rule(Action.DENY), decision.rule, Direction.INGRESS, EVERYBODY, EVERYBODY, False)
    if len(stages) == began or stages[-1].classed:
        stages.append(PlannedStage(False))
    stages[-1].entries.append(Entry(nobody, EVERYBODY, EVERYTHING, decision, EVERYTHING))
