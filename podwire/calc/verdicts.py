"""Policy as one node must hold it: peer classes, verdict tables, and which table governs which pod.

A *peer class* is a number for all addresses that no active rule tells apart. A *verdict table* answers, for one set of
policies and one direction: what happens to a new connection whose other end is of this class, by this protocol and
port? `calc` makes them, `render` writes them as elements, `judge` below says what they mean.

A table is a row of stages. The first stage with a row for the packet decides; within a stage the narrowest row does:
one port before a range, a range before the whole protocol, that before any protocol. The rows of a stage that is not
*classed* hold for every class, so that a rule for anybody is one row, not one for each class. A row may also send the
packet onward to a later stage: so a Pass, a Log or a hole in a wider row costs one row, not all that lies behind it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from podwire.model.policy import Direction, PolicyKey

UNKNOWN = 0
"""The class of an address that nothing is known of. Other classes are 1 to 65,535."""
EVERY = 0
"""`Match.protocol`: any protocol."""
WHOLE = (0, 65_535)
"""`Match.first` and `.last` of a row for a whole protocol."""


@dataclass(frozen=True, slots=True)
class RuleRef:
    """What decided: a rule by its label, the end of a tier (`policy` None, `label` the tier's name), or nobody ("": no
    policy governs the pod in this direction)."""

    policy: PolicyKey | None
    label: str

    def __str__(self) -> str:
        if self.policy is None:
            return f"end of tier {self.label}" if self.label else "no policy"
        return f"{self.policy} {self.label}"


@dataclass(frozen=True, slots=True)
class Decision:
    """`logs` are the Log rules passed on the way, first to last. With `onward` nothing is decided yet: what passes is
    logged, and the stage of that number goes on (the number of stages: the table's default); `allow` says nothing."""

    allow: bool
    rule: RuleRef
    logs: tuple[RuleRef, ...] = ()
    onward: int | None = None

    def after(self, logs: tuple[RuleRef, ...]) -> Decision:
        """The same, these logged before."""
        return replace(self, logs=logs + self.logs) if logs else self


class Match(NamedTuple):
    """The key of a row. `number` is the class (UNKNOWN in a stage that is not classed). `first` to `last` are
    destination ports of TCP, UDP and SCTP, or `type << 8 | code` of ICMP and ICMPv6; others only have WHOLE."""

    number: int
    protocol: int
    first: int = WHOLE[0]
    last: int = WHOLE[1]


@dataclass(slots=True)
class Stage:
    """No two ranges of one class and protocol overlap, but for single ports and WHOLE, which lie over ranges."""

    classed: bool
    rows: dict[Match, Decision] = field(default_factory=dict)


@dataclass(slots=True)
class Table:
    """`default` is for what no stage has. The stages' number and kinds never change: a table that would need others is
    a new table under a new number. `by_source_port`: disjoint ranges of source ports (TCP, UDP, SCTP) that another
    table judges instead: (first, last, its number)."""

    direction: Direction
    stages: tuple[Stage, ...]
    default: Decision
    by_source_port: tuple[tuple[int, int, int], ...] = ()


class Governed(NamedTuple):
    """The numbers of a pod's tables; None: every connection is allowed in that direction."""

    ingress: int | None = None
    egress: int | None = None


class Range(NamedTuple):
    """Addresses `first` to `last` as numbers; `width` 32 or 128."""

    width: int
    first: int
    last: int


Pod = tuple[str, str]


@dataclass(slots=True)
class PolicyState:
    """`addresses` are exact (pods, nodes, /32 and /128 peers) and go before `ranges`, which are disjoint. An address in
    neither is UNKNOWN. `pods` are those of this node. `staged` is the same for each pod as if staged policies were
    enforced, where there are any that govern it. Numbers of classes and tables are not used again before the change
    after the one that freed them."""

    addresses: dict[str, int] = field(default_factory=dict)
    ranges: dict[Range, int] = field(default_factory=dict)
    tables: dict[int, Table] = field(default_factory=dict)
    pods: dict[Pod, Governed] = field(default_factory=dict)
    staged: dict[Pod, Governed] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PolicyChanges:
    """Keys of PolicyState's maps that changed, came or went; `rows` are the changed rows of tables that were there
    before and still are: (stage, key) by table. `retired` are classes that no address has any more."""

    addresses: frozenset[str] = frozenset()
    ranges: frozenset[Range] = frozenset()
    tables: frozenset[int] = frozenset()
    rows: Mapping[int, frozenset[tuple[int, Match]]] = field(default_factory=dict)
    pods: frozenset[Pod] = frozenset()
    retired: frozenset[int] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.addresses or self.ranges or self.tables or self.rows or self.pods)


def judge(
    tables: Mapping[int, Table], number: int, peer: int, protocol: int, port: int = 0, source_port: int | None = None
) -> Decision:
    """What table `number` says of a packet to `port` (or of that `type << 8 | code`), its other end of class `peer`."""
    table = tables[number]
    for first, last, other in table.by_source_port:
        if source_port is not None and first <= source_port <= last:
            return judge(tables, other, peer, protocol, port)
    at, logs = 0, tuple[RuleRef, ...]()
    while at < len(table.stages):
        stage = table.stages[at]
        found = _narrowest(stage, peer if stage.classed else UNKNOWN, protocol, port)
        if found and found.onward is None:
            return found.after(logs)
        logs += found.logs if found else ()
        at = at + 1 if found is None or found.onward is None else found.onward
    return table.default.after(logs)


def _narrowest(stage: Stage, peer: int, protocol: int, port: int) -> Decision | None:
    """Slow and plain: the engines ask maps, this asks every row."""
    fitting = [
        (key.protocol == EVERY, key.last - key.first, decision)
        for key, decision in stage.rows.items()
        if key.number == peer and key.protocol in (EVERY, protocol) and key.first <= port <= key.last
    ]
    return min(fitting, key=lambda row: row[:2])[2] if fitting else None


def class_of(state: PolicyState, address: str, number: int, width: int) -> int:
    """The class of an address, given as text and as number."""
    if address in state.addresses:
        return state.addresses[address]
    for over, found in state.ranges.items():
        if over.width == width and over.first <= number <= over.last:
            return found
    return UNKNOWN
