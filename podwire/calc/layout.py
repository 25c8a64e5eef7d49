"""The stages of a verdict table: tiers, orders, actions and ends of tiers made flat.

Rules for anybody and rules for some cannot share a stage. A rule goes into the last stage of its kind if it may go
before what came since: rules of one action may, and so may rules about other ports. So plain NetworkPolicies, which
only allow, need two stages however they alternate. A Pass leads to the stage where the next tier begins.

Rules for many classes (all pods, all of IPv4) would need a row for each of them. Where that is more than it is worth,
they stand in a stage for anybody behind a *gate*: a stage with one row for each class that is meant, or for each that
is not, whichever is fewer.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from podwire.calc.clauses import EVERYBODY, FAMILIES, Asked, Clause, Named, Ports, Service, Who, outline, region
from podwire.calc.plans import Entry, Gate, Inside, Plan, PlannedStage, onward
from podwire.calc.region import EVERYTHING, Paint, Region
from podwire.calc.verdicts import Decision, RuleRef
from podwire.model.policy import Action, Direction, Rule, Tier

Tiers = Sequence[tuple[Tier, Sequence[Clause]]]
Count = Callable[[Who], tuple[int, int]]
"""How many classes somebody is, and how many there are."""

OPEN = Decision(True, RuleRef(None, ""))
"""What happens behind the last tier."""
WORTH = 64
"""Rows that a gate must save."""
_GATES = 8
"""What a table may have of them: each is two lookups more, or three."""
_BACK = _GATES + 2
"""Stages that a rule may go back over: one of each kind, so that rules of one action need no more than these."""


def plan(tiers: Tiers, inside: Inside, mark: Callable[[Asked], int], count: Count, source_port: int | None) -> Plan:
    """The stages of the tiers that govern a pod in one direction, in order; not empty."""
    versions = iter(inside.versions)
    entries = [
        [each for clause in clauses if (each := _entry(clause, inside, versions, mark, source_port)) is not None]
        for _, clauses in tiers
    ]
    many = _many([each for tier in entries for each in tier], count)
    drafts: list[_Draft] = []
    began = 0  # the first stage that a rule may still go into
    passes: list[tuple[Entry, int]] = []
    default = OPEN
    for place, (tier, _) in enumerate(tiers):
        last = place == len(tiers) - 1
        waiting = [each for each in entries[place] if each.paint is None]
        for entry in entries[place]:
            if entry.paint is None and last:
                entry.paint = OPEN
            _place(drafts, began, entry, _kind(entry, many))
        default = OPEN
        if tier.default is Action.DENY:
            default = Decision(False, RuleRef(None, tier.name))
            if last or not waiting:
                break
            _place(drafts, began, _end(default), EVERYBODY, back=1)
        if waiting and not last:
            began = len(drafts)
            passes += [(entry, began) for entry in waiting]
    stages, starts = _stages(drafts, many)
    for entry, draft in passes:
        entry.paint = onward(starts[draft], entry.clause.ref)
    for stage in stages:
        stage.index()
    return Plan(stages, default, source_port, inside)


def _entry(
    clause: Clause,
    inside: Inside,
    versions: Iterator[frozenset[int] | None],
    mark: Callable[[Asked], int],
    port: int | None,
) -> Entry | None:
    """The clause in this table, None if it can match nothing there."""
    rule = clause.rule
    meant: frozenset[int] | None = None
    if clause.local != EVERYBODY:
        meant = next(versions)
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


def _end(decision: Decision) -> Entry:
    """The end of a tier that goes on by a Pass only."""
    nobody = Clause(Rule(Action.DENY), decision.rule, Direction.INGRESS, EVERYBODY, EVERYBODY, False)
    return Entry(nobody, EVERYBODY, EVERYTHING, decision, EVERYTHING)


# -- drafts of stages -------------------------------------------------------------------------------------------------

Kind = Who | None
"""Whom all rules of a stage are for; None: each for its own."""


@dataclass(slots=True)
class _Draft:
    kind: Kind
    entries: list[Entry] = field(default_factory=list)
    covers: dict[Action, _Cover] = field(default_factory=dict)

    def add(self, entry: Entry) -> None:
        self.entries.append(entry)
        self.covers.setdefault(entry.clause.rule.action, _Cover()).add(entry.outline)

    def lets_by(self, entry: Entry) -> bool:
        """The entry may go before everything in this stage."""
        action = entry.clause.rule.action
        return not any(
            cover.meets(entry.outline)
            for other, cover in self.covers.items()
            if other is not action or action is Action.LOG
        )


class _Cover:
    """All that some rules are about, or a little more."""

    def __init__(self) -> None:
        self._rest = False
        self._ranges: dict[int, tuple[list[int], list[int]]] = {}  # disjoint: firsts and lasts

    def add(self, about: Region) -> None:
        self._rest = self._rest or about.rest
        for protocol, ranges in about.by.items():
            firsts, lasts = self._ranges.setdefault(protocol, ([], []))
            for first, last in ranges:
                low, high = self._span(protocol, first, last)
                if low < high:
                    first, last = min(first, firsts[low]), max(last, lasts[high - 1])
                firsts[low:high], lasts[low:high] = [first], [last]

    def meets(self, about: Region) -> bool:
        if self._rest or about.rest:
            return True
        return any(
            low < high
            for protocol, ranges in about.by.items()
            if protocol in self._ranges
            for low, high in (self._span(protocol, first, last) for first, last in ranges)
        )

    def _span(self, protocol: int, first: int, last: int) -> tuple[int, int]:
        """The places of the ranges that overlap this one."""
        firsts, lasts = self._ranges[protocol]
        low = bisect_right(firsts, first)
        low -= low > 0 and lasts[low - 1] >= first
        return low, bisect_right(firsts, last)


def _kind(entry: Entry, many: dict[Who, bool]) -> Kind:
    if entry.region is None or (entry.who != EVERYBODY and entry.who not in many):
        return None
    return entry.who


def _many(entries: list[Entry], count: Count) -> dict[Who, bool]:
    """Who is worth a gate, and whether the gate is better told of those who are not meant."""
    rows: dict[Who, int] = {}
    for entry in entries:
        if entry.region is not None and entry.who != EVERYBODY:
            size = int(entry.region.rest) + sum(map(len, entry.region.by.values()))
            rows[entry.who] = rows.get(entry.who, 0) + size
    saved: list[tuple[int, Who, bool]] = []
    for who, each in rows.items():
        some, everybody = count(who)
        behind = min(some, everybody - some) + each
        if some * each > 2 * behind + WORTH:
            saved.append((some * each - behind, who, some > everybody - some))
    saved.sort(key=lambda one: -one[0])
    return {who: others for _, who, others in saved[:_GATES]}


def _place(drafts: list[_Draft], began: int, entry: Entry, kind: Kind, back: int = _BACK) -> None:
    """Stages in which every rule is for its own go before the others where they may: policies that say the same have
    the same stages, whichever rule comes first."""
    at = len(drafts)
    for place in range(len(drafts) - 1, max(began, len(drafts) - back) - 1, -1):
        if drafts[place].kind == kind:
            drafts[place].add(entry)
            return
        if not drafts[place].lets_by(entry):
            break
        at = place
    new = _Draft(kind)
    new.add(entry)
    drafts.insert(at if kind is None else len(drafts), new)


def _stages(drafts: list[_Draft], many: dict[Who, bool]) -> tuple[list[PlannedStage], list[int]]:
    """The stages, and where each draft begins (and where all end)."""
    stages: list[PlannedStage] = []
    starts = []
    for draft in drafts:
        starts.append(len(stages))
        if draft.kind is None:
            stages.append(PlannedStage(True, draft.entries))
            continue
        if draft.kind != EVERYBODY and many[draft.kind]:
            stages.append(PlannedStage(True, gate=Gate(draft.kind, True, len(stages) + 2)))
        elif draft.kind != EVERYBODY:
            stages.append(PlannedStage(True, gate=Gate(draft.kind, False, len(stages) + 2)))
            stages.append(PlannedStage(False, [_end(onward(len(stages) + 2))]))
        stages.append(PlannedStage(False, draft.entries))
    return stages, [*starts, len(stages)]
