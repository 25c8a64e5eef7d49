"""After every event the tables say what the oracle says of the world as it is now, and hold what they would hold had
the calculation just begun (but for gates, which say the same in other rows)."""

from __future__ import annotations

import random

import pytest

from podwire.calc import layout
from podwire.calc.oracle import World, judge
from tests.unit.calc.test_policy_steps import normal
from tests.unit.policy.compiled import Compiled, differences
from tests.unit.policy.flows import flows
from tests.unit.policy.steps import steps
from tests.unit.policy.worlds import world


@pytest.mark.timeout(600)
@pytest.mark.parametrize("part", range(4))
def test_after_every_event(part: int, monkeypatch: pytest.MonkeyPatch) -> None:
    if part % 2:
        monkeypatch.setattr(layout, "WORTH", -1_000)  # gates wherever they may be
    for seed in range(part, 60, 4):
        made = world(seed)
        compiled = Compiled(everywhere=seed % 8 < 4)
        listed = list(made.by_key.items())
        random.Random(seed).shuffle(listed)
        for key, obj in listed:
            compiled.put(key, obj)
        compiled.calc.flush()
        for number, (key, obj) in enumerate(steps(seed, made, 25)):
            compiled.put(key, obj)
            compiled.calc.flush()
            place = f"world {seed}, step {number}: {key}"
            if not part % 2:  # where gates are worth it depends on how many classes there were
                fresh = Compiled.of(made, everywhere=compiled.everywhere)
                assert normal(compiled.state) == normal(fresh.state), place
            oracle = World.of(made.objects)
            for flow in flows(seed + number, made, 8):
                assert not differences(compiled, flow, judge(oracle, flow)), f"{place}, {flow}"
