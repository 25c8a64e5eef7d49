"""What the compiled tables say of a flow is what the oracle says, in thousands of worlds; and every clause matters."""

from __future__ import annotations

from collections import Counter
from functools import partial

import pytest

from podwire.calc import layout
from podwire.calc.oracle import Flow, World, judge
from tests.unit.policy import worlds
from tests.unit.policy.clauses import CUTS, decided, said
from tests.unit.policy.compiled import Compiled, differences
from tests.unit.policy.flows import flows
from tests.unit.policy.objects import Object
from tests.unit.policy.shrink import shrink, text

WORLDS, EACH, PARTS = 2_000, 60, 8
"""Worlds, flows in each, and parts that run beside one another."""
ENOUGH = 200
SEEN = ("end of tier", "Log", "own node", "itself", "IPv6")


def verdicts(objects: list[Object], flow: Flow, everywhere: bool) -> list[str]:
    """Differences for one flow, from nothing."""
    made = worlds.World({worlds.key_of(obj): obj for obj in objects})
    compiled = Compiled.of(made, everywhere=everywhere)
    world = World.of(objects)
    return [
        each
        for staged in (False, True)
        for each in differences(compiled, flow, judge(world, flow, staged=staged), staged=staged)
    ]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("part", range(PARTS))
def test_tables_say_what_the_oracle_says(part: int, monkeypatch: pytest.MonkeyPatch) -> None:
    if part % 2:
        monkeypatch.setattr(layout, "WORTH", -1_000)  # gates wherever they may be: these worlds are not worth one
    asked = 0
    for seed in range(part, WORLDS, PARTS):
        made, everywhere = worlds.world(seed), seed // PARTS % 2 == 0
        compiled, world = Compiled.of(made, everywhere=everywhere), World.of(made.objects)
        assert not world.problems
        staged = any("Staged" in obj["kind"] for obj in made.objects)
        for flow in flows(seed, made, EACH):
            asked += 1
            found = differences(compiled, flow, judge(world, flow))
            if staged:
                found += differences(compiled, flow, judge(world, flow, staged=True), staged=True)
            if found:
                least = shrink(made.objects, partial(verdicts, flow=flow, everywhere=everywhere))
                pytest.fail(f"world {seed}, {flow}: {'; '.join(verdicts(least, flow, everywhere))}\n{text(least)}")
    assert asked * PARTS >= 100_000


@pytest.mark.timeout(600)
def test_every_clause_decides() -> None:
    """A clause decides a flow whose verdict is another without it; those of SEEN are read off the verdict."""
    counts: Counter[str] = Counter()
    for seed in range(WORLDS):
        made = worlds.world(seed)
        world = World.of(made.objects)
        judged = [(flow, judge(world, flow)) for flow in flows(seed, made, EACH)]
        for flow, verdict in judged:
            counts.update(set(said(verdict)))
            if ":" in flow.source.address and (verdict.egress.rule or verdict.ingress.rule):
                counts["IPv6"] += 1
        for clause in CUTS:
            if counts[clause] < ENOUGH:
                counts[clause] += decided(clause, made.objects, judged)
        if all(counts[clause] >= ENOUGH for clause in (*CUTS, *SEEN)):
            break
    rare = {clause: counts[clause] for clause in (*CUTS, *SEEN) if counts[clause] < ENOUGH}
    assert not rare
