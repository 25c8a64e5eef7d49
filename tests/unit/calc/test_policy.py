"""Tables made by the calculation say what the rules say, one by one."""

from __future__ import annotations

import random

import pytest

from podwire.calc.policy import PolicyCalc
from podwire.calc.verdicts import Pod, class_of, judge
from podwire.model.address import parse_ip
from podwire.model.policy import PORTED, Direction
from tests.unit.calc import policyworlds
from tests.unit.calc.policyworlds import Flow, World


def verdict(calc: PolicyCalc, pod: Pod, direction: Direction, flow: Flow, *, staged: bool = False) -> bool | None:
    state = calc.state
    governed = state.staged.get(pod, state.pods[pod]) if staged else state.pods[pod]
    table = governed.ingress if direction is Direction.INGRESS else governed.egress
    if table is None:
        return None
    peer = flow.source if direction is Direction.INGRESS else flow.destination
    number = class_of(state, peer, *parse_ip(peer))
    source_port = flow.source_port if flow.protocol in PORTED else None
    return judge(state.tables, table, number, flow.protocol, flow.port, source_port).allow


def differences(world: World, calc: PolicyCalc, rng: random.Random, flows: int) -> list[object]:
    found: list[object] = []
    for _ in range(flows):
        flow = policyworlds.flow(rng, world)
        for direction, address in ((Direction.INGRESS, flow.destination), (Direction.EGRESS, flow.source)):
            for pod in world.holders(address):
                if pod not in calc.state.pods or len(world.holders(address)) > 1:
                    continue
                for staged in (False, True):
                    want = world.allowed(pod, direction, flow, staged=staged)
                    have = verdict(calc, pod, direction, flow, staged=staged)
                    if want != have:
                        found.append((pod, direction, flow, staged, "want", want, "have", have))
    return found


@pytest.mark.parametrize("seed", range(150))
def test_tables_say_what_the_rules_say(seed: int) -> None:
    rng = random.Random(seed)
    world = policyworlds.world(rng)
    calc = world.calc()
    calc.flush()
    assert calc.state.pods.keys() == {key for key in world.local if world.pods[key].governed}
    assert differences(world, calc, rng, 60) == []
