"""The verdict tables that pods of this node need, kept up to date as classes and policies come and go.

A table is for one direction, one row of policies and one `Inside` (what its rules ask of the governed pod itself); pods
for which these are the same share it. A changed policy changes rows where the stages stay as they were; otherwise the
table is a new one under a new number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from podwire.calc.classes import Classes
from podwire.calc.clauses import Clause, Named, Ports, Service, Who, source_edges, source_protocols
from podwire.calc.layout import Tiers, plan
from podwire.calc.numbers import Numbers
from podwire.calc.peers import Peerage
from podwire.calc.plans import Inside, Plan
from podwire.calc.verdicts import UNKNOWN, WHOLE, Decision, Match, Stage, Table
from podwire.model.policy import Direction, PolicyKey

LARGEST = 65_535

Touched = dict[int, set[tuple[int, Match]]]


class TableKey:
    """Asked for often: its hash is reckoned once."""

    __slots__ = ("_hash", "direction", "inside", "policies")

    def __init__(self, direction: Direction, policies: tuple[PolicyKey, ...], inside: Inside) -> None:
        self.direction, self.policies, self.inside = direction, policies, inside
        self._hash = hash((direction, policies, inside))

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return self is other or (
            isinstance(other, TableKey)
            and self._hash == other._hash
            and (self.direction, self.policies, self.inside) == (other.direction, other.policies, other.inside)
        )


@dataclass(slots=True)
class _Program:
    """A table and how it came about. `keys` are the rows of each class in each stage. `others` are the tables by
    source port, (first, last, place in `parts`)."""

    number: int
    plan: Plan
    table: Table
    keys: list[dict[int, list[Match]]]
    parts: list[_Program] = field(default_factory=list)
    names: dict[str, set[Ports]] = field(default_factory=dict)

    def all(self) -> Iterable[_Program]:
        yield self
        yield from self.parts


class Tables:
    """`tables` is written here and nowhere else."""

    def __init__(self, tables: dict[int, Table], classes: Classes, peers: Peerage) -> None:
        self._tables, self._classes, self._peers = tables, classes, peers
        self._numbers = Numbers("verdict tables", LARGEST)
        self._programs: dict[TableKey, _Program] = {}

    def number(self, key: TableKey) -> int:
        return self._programs[key].number

    def settle(
        self,
        wanted: Mapping[TableKey, Tiers],
        unwanted: Iterable[TableKey],
        fresh: frozenset[int],
        gone: frozenset[int],
    ) -> tuple[set[int], Touched, set[TableKey]]:
        """Make the wanted tables (anew, if they are there) and take the unwanted ones away. In the others follow the
        classes: `fresh` are new or have other marks, `gone` are no more. Answers the numbers of tables that came or
        went, the touched rows of others, and what has another number now."""
        changed: set[int] = set()
        moved: set[TableKey] = set()
        touched: Touched = {}
        for key in unwanted:
            changed |= self._remove(self._programs.pop(key))
        if fresh or gone:
            made = {id(self._programs[key]) for key in wanted if key in self._programs}
            for program in self._programs.values():
                if id(program) not in made:
                    for each in program.all():
                        self._move_classes(each, fresh, gone, touched)
        for key, tiers in wanted.items():
            old, new = self._programs.get(key), self._compile(tiers, key)
            if old is None:
                changed |= self._add(key, new)
                moved.add(key)
            elif not old.parts and not new.parts and old.plan.shape == new.plan.shape:
                self._become(old, new, touched)
            else:
                changed |= self._remove(old) | self._add(key, new)
                moved.add(key)
        return changed, {number: rows for number, rows in touched.items() if rows}, moved

    def rest(self) -> None:
        """A change is complete: the numbers that the one before freed may be used again."""
        self._numbers.settle()

    def outdated(self) -> list[TableKey]:
        """Tables whose parts by source port follow numbers that peers no longer have."""
        return [key for key, each in self._programs.items() if each.names and each.names != self._named(each.names)]

    def _add(self, key: TableKey, program: _Program) -> set[int]:
        self._programs[key] = program
        for each in program.all():
            each.number = self._numbers.take()
            self._tables[each.number] = each.table
        places = program.table.by_source_port
        program.table.by_source_port = tuple((low, high, program.parts[at].number) for low, high, at in places)
        return {each.number for each in program.all()}

    def _remove(self, program: _Program) -> set[int]:
        for each in program.all():
            self._numbers.free(each.number)
            del self._tables[each.number]
        return {each.number for each in program.all()}

    # -- from nothing --------------------------------------------------------------------------------------------------

    def _compile(self, tiers: Tiers, key: TableKey) -> _Program:
        """A program without a number."""
        main = self._program(key, plan(tiers, key.inside, self._peers.mark, self._count, None))
        clauses = [clause for _, each in tiers for clause in each if _by_source(clause)]
        if clauses:
            self._by_source_port(main, clauses, tiers, key)
        return main

    def _program(self, key: TableKey, made: Plan) -> _Program:
        stages, keys = [], []
        for number, stage in enumerate(made.stages):
            rows: dict[Match, Decision] = {}
            of_class: dict[int, list[Match]] = {}
            if not stage.classed:
                rows = {Match(UNKNOWN, *row[:3]): row[3] for row in made.anybody(number)}
            else:
                everybody = self._classes.marks.keys()
                some = everybody if stage.always else {c for mark in stage.by_mark for c in self._classes.of(mark)}
                for each in some:
                    if found := _rows(made, number, each, self._classes.marks[each], self._peers):
                        rows |= found
                        of_class[each] = list(found)
            stages.append(Stage(stage.classed, rows))
            keys.append(of_class)
        return _Program(0, made, Table(key.direction, tuple(stages), made.default), keys)

    def _count(self, who: Who) -> tuple[int, int]:
        """How many classes somebody is, and how many there are."""
        marks = self._classes.marks
        if not who.each:
            return sum(who.fits(each) for each in marks.values()), len(marks)
        some = {number for mark in min(who.each, key=len) for number in self._classes.of(mark)}
        return sum(who.fits(marks[number]) for number in some), len(marks)

    def _by_source_port(self, main: _Program, clauses: list[Clause], tiers: Tiers, key: TableKey) -> None:
        """Add a part for every stretch of source ports that is judged otherwise than packets without ports."""
        main.names = self._named(port.name for clause in clauses for port in clause.names_of_source())
        peers = [_one(name, ports) for name, behind in main.names.items() for ports in behind]
        edges = {WHOLE[0]}
        for clause in clauses:
            edges |= source_edges(clause, key.inside.lookup, peers)

        def view(port: int | None) -> tuple[object, ...]:
            return tuple(source_protocols(clause, key.inside.lookup, peers, port) for clause in clauses)

        views = {view(None): -1}
        found: list[tuple[int, int, int]] = []
        starts = sorted(edges)
        for first, after in zip(starts, [*starts[1:], WHOLE[1] + 1], strict=True):
            seen = view(first)
            if seen not in views:
                views[seen] = len(main.parts)
                main.parts.append(self._program(key, plan(tiers, key.inside, self._peers.mark, self._count, first)))
            place = views[seen]
            if place >= 0 and found and found[-1][1] == first - 1 and found[-1][2] == place:
                found[-1] = (found[-1][0], after - 1, place)
            elif place >= 0:
                found.append((first, after - 1, place))
        main.table.by_source_port = tuple(found)

    def _named(self, names: Iterable[str]) -> dict[str, set[Ports]]:
        """The numbers behind port names of those peers that there are."""
        return {
            name: {ports for mark, ports in self._peers.numbers(Named(name)).items() if self._classes.of(mark)}
            for name in names
        }

    # -- from what there is --------------------------------------------------------------------------------------------

    def _move_classes(self, program: _Program, fresh: frozenset[int], gone: frozenset[int], touched: Touched) -> None:
        for number, stage in enumerate(program.plan.stages):
            if not stage.classed:
                continue
            rows, keys = program.table.stages[number].rows, program.keys[number]
            for each in gone:
                for match in keys.pop(each, ()):
                    del rows[match]
                    touched.setdefault(program.number, set()).add((number, match))
            for each in fresh:
                marks = self._classes.marks[each]
                if each not in keys and not stage.always and stage.by_mark.keys().isdisjoint(marks):
                    continue
                found = _rows(program.plan, number, each, marks, self._peers)
                _refresh(rows, keys.pop(each, []), found, touched.setdefault(program.number, set()), number)
                if found:
                    keys[each] = list(found)

    def _become(self, program: _Program, new: _Program, touched: Touched) -> None:
        """The rows change, the table stays."""
        mine = touched.setdefault(program.number, set())
        for number, stage in enumerate(new.table.stages):
            rows = program.table.stages[number].rows
            _refresh(rows, list(rows), stage.rows, mine, number)
        program.plan, program.keys, program.names = new.plan, new.keys, new.names


def _refresh(
    rows: dict[Match, Decision],
    before: Iterable[Match],
    after: Mapping[Match, Decision],
    touched: set[tuple[int, Match]],
    stage: int,
) -> None:
    for match in before:
        if match not in after:
            del rows[match]
            touched.add((stage, match))
    for match, decision in after.items():
        if rows.get(match) != decision:
            rows[match] = decision
            touched.add((stage, match))


def _rows(made: Plan, stage: int, number: int, marks: frozenset[int], peers: Peerage) -> dict[Match, Decision]:
    found = made.rows(stage, marks, peers.behind)
    return {Match(number, protocol, first, last): said for protocol, first, last, said in found}


def _by_source(clause: Clause) -> bool:
    return bool(clause.rule.source.ports or clause.rule.source.not_ports)


def _one(name: str, ports: Ports) -> Callable[[Named | Service], Ports]:
    return lambda what: ports if what == Named(name) else frozenset()
