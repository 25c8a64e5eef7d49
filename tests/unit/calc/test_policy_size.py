"""Tables stay as small as the rules they come from."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from podwire.calc import layout
from podwire.model.address import Cidr
from podwire.model.member import Namespace
from podwire.model.meta import Meta
from podwire.model.pod import Pod, PodIP, PodStatus
from podwire.model.policy import ANYBODY, TCP, Action, Entity, Peers, Policy, PolicyKey, PortRange, Rule
from tests.unit.calc import policyworlds
from tests.unit.calc.policyworlds import World
from tests.unit.calc.test_policy import differences

MANY = 5_000
KEY = PolicyKey("NetworkPolicy", "a", "p")
PORTS = [
    Rule(Action.ALLOW, destination=Entity(ports=(PortRange(at, at),)), protocol=TCP, label=f"ingress[{at}]")
    for at in range(1, MANY + 1)
]
NETS = [
    replace(
        rule,
        source=Entity(nets=(Cidr((10 << 24) + (at << 8), 24),)),
        destination=Entity(ports=(PortRange(at + MANY, at + MANY),)),
    )
    for at, rule in enumerate(PORTS, 1)
]


def act(rules: list[Rule], action: Action) -> list[Rule]:
    return [replace(rule, action=action, destination=ANYBODY, protocol=None) for rule in rules]


def policy(rules: list[Rule], tier: str = "default", name: str = "p") -> Policy:
    return Policy(replace(KEY, name=name), Peers("all()"), tuple(rules), None, tier)


EVERY_IPV4 = [replace(rule, source=Entity(nets=(Cidr(0, 0),))) for rule in PORTS]


@pytest.mark.parametrize(
    "policies",
    [
        pytest.param([policy(PORTS + NETS)], id="any peers, then prefixes"),
        pytest.param([policy([rule for pair in zip(PORTS, NETS, strict=True) for rule in pair])], id="by turns"),
        pytest.param([policy(act(NETS, Action.DENY) + PORTS)], id="prefixes denied, then any peers"),
        pytest.param([policy(act(NETS, Action.LOG) + PORTS)], id="prefixes logged, then any peers"),
        pytest.param([policy(act(NETS, Action.PASS), "kube-admin"), policy(PORTS, name="q")], id="prefixes passed on"),
        pytest.param([policy(EVERY_IPV4 + NETS)], id="all of IPv4 at each port, and prefixes"),
    ],
)
def test_rows_are_as_many_as_rules(policies: list[Policy]) -> None:
    world = World({"a": Namespace(Meta("a"))}, local={("a", "p")})
    world.pods["a", "p"] = Pod(Meta("p", "a"), status=PodStatus("Running", podIPs=(PodIP("10.99.0.1"),)))
    world.policies = {each.key: each for each in policies}
    calc = world.calc()
    calc.flush()
    (table,) = calc.state.tables.values()
    assert sum(len(stage.rows) for stage in table.stages) <= 2 * MANY + 10
    assert len(table.stages) <= 4
    assert len({*calc.state.ranges.values()}) >= MANY


@pytest.mark.parametrize("seed", range(60))
def test_gates_say_what_the_rules_say(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "WORTH", -100)
    rng = random.Random(seed)
    world = policyworlds.world(rng)
    calc = world.calc()
    calc.flush()
    assert differences(world, calc, rng, 40) == []
