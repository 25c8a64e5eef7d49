"""After every step of any sequence of events the calculation holds what it would hold if it had just begun, and it has
told of every change."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from podwire.calc import classes
from podwire.calc.numbers import Exhausted
from podwire.calc.tables import Tables
from podwire.calc.verdicts import UNKNOWN, PolicyChanges, PolicyState, Table
from podwire.model.policy import PolicyKey
from tests.unit.calc import policyworlds
from tests.unit.calc.policyworlds import SPACES
from tests.unit.calc.test_policy import differences

PODS = [(space, f"p{number}") for space in SPACES for number in range(4)]
POLICIES = [PolicyKey("NetworkPolicy", space, f"p{number}") for space in SPACES for number in range(2)]
SEEDS = st.integers(0, 2**32)


def normal(state: PolicyState) -> dict[str, Any]:
    """The state with no numbers in it: classes are named by who is of them, tables by what they say."""
    members: dict[int, set[Any]] = {}
    for place, number in (*state.addresses.items(), *state.ranges.items()):
        members.setdefault(number, set()).add(place)
    name = {number: frozenset(places) for number, places in members.items()} | {UNKNOWN: frozenset()}

    def said(table: Table | None) -> Any:
        if table is None:
            return None
        stages = tuple(
            (stage.classed, frozenset((name[match.number], match[1:], said) for match, said in stage.rows.items()))
            for stage in table.stages
        )
        parts = tuple((first, last, said(state.tables[other])) for first, last, other in table.by_source_port)
        return table.direction, stages, table.default, parts

    def governed(pods: dict[Any, Any]) -> dict[Any, Any]:
        return {
            pod: tuple(None if number is None else said(state.tables[number]) for number in numbers)
            for pod, numbers in pods.items()
        }

    return {
        "addresses": {place: name[number] for place, number in state.addresses.items()},
        "ranges": {place: name[number] for place, number in state.ranges.items()},
        "pods": governed(state.pods),
        "staged": governed(state.staged),
        "tables": len(state.tables),
    }


def follow(copied: PolicyState, state: PolicyState, changes: PolicyChanges) -> None:
    """Bring a copy up to date by what the changes name, and nothing else."""
    named: list[tuple[dict[Any, Any], dict[Any, Any], frozenset[Any]]] = [
        (copied.addresses, state.addresses, changes.addresses),
        (copied.ranges, state.ranges, changes.ranges),
        (copied.tables, state.tables, changes.tables),
        (copied.pods, state.pods, changes.pods),
        (copied.staged, state.staged, changes.pods),
    ]
    for held, now, keys in named:
        for key in keys:
            held.pop(key, None)
            if key in now:
                held[key] = copy.deepcopy(now[key])
    for number, rows in changes.rows.items():
        for stage, match in rows:
            held, now = copied.tables[number].stages[stage].rows, state.tables[number].stages[stage].rows
            held.pop(match, None)
            if match in now:
                held[match] = now[match]


class Steps(RuleBasedStateMachine):
    @initialize(seed=SEEDS)
    def begin(self, seed: int) -> None:
        self.world = policyworlds.world(random.Random(seed))
        self.calc = self.world.calc()
        self.copied = PolicyState()
        self.retired: frozenset[int] = frozenset()
        self.removed: set[int] = set()
        self.seed = seed

    def _set(self, held: dict[Any, Any], key: Any, value: Any, tell: Callable[[Any, Any], None]) -> None:
        held.pop(key, None)
        if value is not None:
            held[key] = value
        tell(key, value)

    @rule(seed=SEEDS, key=st.sampled_from(PODS))
    def pod_changes(self, seed: int, key: tuple[str, str]) -> None:
        self._set(self.world.pods, key, policyworlds.pod(random.Random(seed), key), self.calc.on_pod)

    @rule(key=st.sampled_from(PODS))
    def pod_goes(self, key: tuple[str, str]) -> None:
        self._set(self.world.pods, key, None, self.calc.on_pod)

    @rule(key=st.sampled_from(PODS), here=st.booleans())
    def pod_is_local(self, key: tuple[str, str], here: bool) -> None:
        (self.world.local.add if here else self.world.local.discard)(key)
        self.calc.on_local(key, here or None)

    @rule(seed=SEEDS, key=st.sampled_from(POLICIES))
    def policy_changes(self, seed: int, key: PolicyKey) -> None:
        self._set(self.world.policies, key, policyworlds.policy(random.Random(seed), key), self.calc.on_policy)

    @rule(key=st.sampled_from(POLICIES))
    def policy_goes(self, key: PolicyKey) -> None:
        self._set(self.world.policies, key, None, self.calc.on_policy)

    @rule(seed=SEEDS, name=st.sampled_from(SPACES), there=st.booleans())
    def namespace_changes(self, seed: int, name: str, there: bool) -> None:
        new = policyworlds.namespace(random.Random(seed), name) if there else None
        self._set(self.world.namespaces, name, new, self.calc.on_namespace)

    @rule(seed=SEEDS, name=st.sampled_from(SPACES), there=st.booleans())
    def account_changes(self, seed: int, name: str, there: bool) -> None:
        key = (name, "robot")
        new = policyworlds.account(random.Random(seed), key) if there else None
        self._set(self.world.accounts, key, new, self.calc.on_service_account)

    @rule(seed=SEEDS, there=st.booleans())
    def node_changes(self, seed: int, there: bool) -> None:
        self._set(
            self.world.nodes, "n", policyworlds.node(random.Random(seed), "n") if there else None, self.calc.on_node
        )

    @rule(seed=SEEDS, name=st.sampled_from(("s0", "s1")), there=st.booleans())
    def set_changes(self, seed: int, name: str, there: bool) -> None:
        new = policyworlds.network_set(random.Random(seed), name) if there else None
        self._set(self.world.sets, name, new, self.calc.on_network_set)

    @rule(seed=SEEDS, name=st.sampled_from(("e0", "e1")), there=st.booleans())
    def slice_changes(self, seed: int, name: str, there: bool) -> None:
        new = policyworlds.endpoint_slice(random.Random(seed), ("a", name)) if there else None
        self._set(self.world.slices, ("a", name), new, self.calc.on_slice)

    @rule(seed=SEEDS, name=st.sampled_from(("first", "default")), there=st.booleans())
    def tier_changes(self, seed: int, name: str, there: bool) -> None:
        new = policyworlds.tier(random.Random(seed), name) if there else None
        self._set(self.world.tiers, name, new, self.calc.on_tier)

    @rule()
    def all_is_told_again(self) -> None:
        for key, pod in self.world.pods.items():
            self.calc.on_pod(key, pod)
        for name, namespace in self.world.namespaces.items():
            self.calc.on_namespace(name, namespace)

    @invariant()
    def as_from_nothing(self) -> None:
        before = set(self.calc.state.tables)
        held = {*self.calc.state.addresses.values(), *self.calc.state.ranges.values()}
        changes = self.calc.flush()
        state = self.calc.state
        now = {*state.addresses.values(), *state.ranges.values()}
        assert not (now - held) & self.retired, "a class's number was used again at once"
        assert not (state.tables.keys() - before) & self.removed, "a table's number was used again at once"
        assert not now & changes.retired
        assert held - now <= changes.retired
        if changes:
            self.retired, self.removed = changes.retired, before - state.tables.keys()
        follow(self.copied, state, changes)
        assert self.copied == state
        fresh = self.world.calc()
        fresh.flush()
        assert normal(state) == normal(fresh.state)
        assert not self.calc.flush()
        assert state.pods.keys() == {
            key
            for key in self.world.local & self.world.pods.keys()
            if self.world.pods[key].governed and key[0] in self.world.namespaces
        }
        assert differences(self.world, self.calc, random.Random(self.seed), 5) == []


TestSteps = Steps.TestCase
# Worlds come from seeds: there is nothing to shrink but the steps, and that takes minutes.
TestSteps.settings = settings(max_examples=40, stateful_step_count=20, phases=(Phase.explicit, Phase.generate))


def test_a_node_that_ran_out_of_classes_recovers(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(5)
    world = policyworlds.world(rng)
    calc = world.calc()
    copied = PolicyState()
    monkeypatch.setattr(classes, "LARGEST", 1)
    calc._classes = classes.Classes()
    calc._tables = Tables(calc.state.tables, calc._classes, calc._peers)
    for _ in range(2):
        with pytest.raises(Exhausted, match="more than 1 classes"):
            calc.flush()
    monkeypatch.undo()
    follow(copied, calc.state, calc.flush())
    fresh = world.calc()
    fresh.flush()
    assert copied == calc.state
    assert normal(calc.state) == normal(fresh.state)
    assert len({*calc.state.addresses.values(), *calc.state.ranges.values()}) > 1
    assert not calc.flush()
