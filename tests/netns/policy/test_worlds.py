"""Random worlds of policies through calculation and kernel: packets fare as the policies say, rule by rule.

One engine goes from world to world by changes alone; now and then another one, which knows nothing, finds nothing to
write in what is there. PODWIRE_EXPLORE=1 draws other worlds.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest

from podwire.calc.policy import PolicyCalc
from podwire.calc.verdicts import PolicyChanges
from podwire.kernel import netlink
from podwire.kernel.conntrack import ConntrackSocket
from podwire.kernel.netlink import Message
from podwire.model.pod import PodIP
from podwire.model.policy import ICMP, ICMPV6, Direction
from tests.netns.policy import wires
from tests.netns.policy.wires import Node
from tests.unit.calc import policyworlds
from tests.unit.calc.policyworlds import World

WORLDS, FLOWS = 60, 40
_FORGET_ALL = 1 << 8 | 2


@dataclass
class Followed:
    """A calculation that goes from world to world by events."""

    calc: PolicyCalc = field(default_factory=PolicyCalc)
    world: World = field(default_factory=World)

    def go(self, to: World) -> None:
        calc, before = self.calc, self.world
        turn(before.namespaces, to.namespaces, calc.on_namespace)
        turn(before.accounts, to.accounts, calc.on_service_account)
        turn(before.tiers, to.tiers, calc.on_tier)
        turn(before.policies, to.policies, calc.on_policy)
        turn(before.nodes, to.nodes, calc.on_node)
        turn(before.sets, to.sets, calc.on_network_set)
        turn(before.slices, to.slices, calc.on_slice)
        turn(before.pods, to.pods, calc.on_pod)
        turn(dict.fromkeys(before.local, True), dict.fromkeys(to.local, True), calc.on_local)
        self.world = to


def turn(before: Mapping[Any, Any], after: Mapping[Any, Any], tell: Callable[[Any, Any], None]) -> None:
    for key in before.keys() | after.keys():
        if before.get(key) != after.get(key):
            tell(key, after.get(key))


@pytest.fixture
def node() -> Iterator[Node]:
    made = Node()
    try:
        made.outside()
        for number, key in enumerate(keys(), 1):
            made.pod("/".join(key), f"10.0.0.{number}", f"fd00::{number}")
        made.silent()
        yield made
    finally:
        made.close()


def keys() -> list[tuple[str, str]]:
    return [(space, f"p{number}") for space in policyworlds.SPACES for number in range(3)]


def world(rng: random.Random) -> World:
    """One whose pods all run on this node, each with addresses of its own."""
    found = policyworlds.world(rng)
    for number, key in enumerate(keys(), 1):
        ips = PodIP(f"10.0.0.{number}"), PodIP(f"fd00::{number}")
        pod = found.pods[key]
        spec = msgspec.structs.replace(pod.spec, hostNetwork=False)
        found.pods[key] = msgspec.structs.replace(
            pod, spec=spec, status=msgspec.structs.replace(pod.status, phase="Running", podIPs=ips)
        )
    found.local = set(found.pods)
    return found


def flows(rng: random.Random, found: World) -> list[policyworlds.Flow]:
    """Such as a connection could begin with, no two of them of one connection."""
    own = {address for pod in found.pods.values() for address in pod.addresses}
    chosen: dict[frozenset[Any], policyworlds.Flow] = {}
    while len(chosen) < FLOWS:
        one = policyworlds.flow(rng, found)
        if one.source == one.destination or not {one.source, one.destination} & own:
            continue
        if one.protocol in (ICMP, ICMPV6) and one.port >> 8 != (8 if one.protocol == ICMP else 128):
            continue
        ends = frozenset({(one.source, one.source_port), (one.destination, one.port)})
        chosen.setdefault(frozenset({one.protocol, ends}), one)
    return list(chosen.values())


def allowed(found: World, one: policyworlds.Flow) -> bool:
    """By the rules, of both ends."""
    for direction, end in ((Direction.EGRESS, one.source), (Direction.INGRESS, one.destination)):
        for key in found.holders(end):
            if found.allowed(key, direction, one) is False:
                return False
    return True


def test_packets_fare_as_the_rules_say(node: Node) -> None:
    seed = random.randrange(1 << 30) if os.environ.get("PODWIRE_EXPLORE") else 6
    rng, followed, verdicts = random.Random(seed), Followed(), [0, 0]
    node.engine.restore(
        wires.Binding(pod.interface, tuple(name.split("/")), pod.addresses)  # type: ignore[arg-type]
        for name, pod in node.pods.items()
    )
    for number in range(WORLDS):
        there = world(rng)
        followed.go(there)
        node.apply(followed.calc.state, followed.calc.flush(), first=number == 0)
        drawn = flows(rng, there)
        wanted = [allowed(there, one) for one in drawn]
        sent = [wires.Flow(one.source, one.destination, one.protocol, one.port, one.source_port) for one in drawn]
        passed = node.passing(sent)
        wrong = [(one, want) for one, want, got in zip(drawn, wanted, passed, strict=True) if want != got]
        assert wrong == [], f"seed {seed}, world {number}: {there.policies}"
        for want in wanted:
            verdicts[want] += 1
        if number % 10 == 9:
            nothing_to_write(node, followed.calc)
        with node.inside(), ConntrackSocket() as socket:
            socket.change(Message("forget everything", _FORGET_ALL, 0, bytes(4)))
    assert sum(verdicts) >= 2000
    assert min(verdicts) >= 400, verdicts


def nothing_to_write(node: Node, calc: PolicyCalc) -> None:
    """What changes led to is what somebody without a past would write."""
    with node.inside():
        node.engine.settle()
    other = node.another()
    other.restore(node.engine.bound().values())
    with node.inside():
        netlink.writes.clear()
        before = wires.listing(node)
        assert [str(error) for error in other.apply(calc.state, PolicyChanges())] == []
        assert not netlink.writes, difference(before, wires.listing(node))


def difference(before: str, after: str) -> list[str]:
    old, new = before.splitlines(), after.splitlines()
    return [f"- {line}" for line in old if line not in new] + [f"+ {line}" for line in new if line not in old]
