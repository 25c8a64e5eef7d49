"""What a change allows or denies is exactly what the oracle says of each single connection, before and after."""

from __future__ import annotations

import ipaddress
import random
import sys
from collections import Counter
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import randomscenes
from scenes import policy, scene

from podwire.calc.oracle import End, Flow, World, judge
from podwire.model.address import parse_ip
from podwire.observe.policydiff import ALLOWED, DENIED, OUTSIDE, Change, difference
from podwire.observe.policyquestions import NAMES
from podwire.observe.policyreach import Reach, groups
from podwire.observe.policyscene import Scene

PROBED = (1, 53, 73, 80, 81, 82, 101, 8080, 8101, 65535)
WORLDS = 40


def _holds(name: str, address: str) -> bool:
    """A stretch of addresses, as a change names it."""
    if "-" in name:
        first, _, last = name.partition("-")
        return parse_ip(first)[1] == parse_ip(address)[1] and parse_ip(first) <= parse_ip(address) <= parse_ip(last)
    try:
        return ipaddress.ip_address(address) in ipaddress.ip_network(name)
    except ValueError:
        return False


def _named(names: tuple[str, ...], end: tuple[str, str], stretches: set[str]) -> bool:
    name, address = end
    if name:
        return name in names
    around = [address] if address in stretches else [each for each in stretches if _holds(each, address)]
    assert len(around) < 2
    return (around or [OUTSIDE])[0] in names


def _claims(change: Change, flow: Flow) -> bool:
    if change.source_ports and not change.source_ports[0] <= flow.source_port <= change.source_ports[1]:
        return False
    if ("IPv4" if flow.version == 4 else "IPv6") not in change.families:
        return False
    name = NAMES.get(flow.protocol, str(flow.protocol))
    if not change.protocol:
        return name not in change.but
    port = flow.icmp_type << 8 | flow.icmp_code if flow.protocol in (1, 58) else flow.port
    return name == change.protocol and any(first <= port <= last for first, last in change.ports)


def _flows(old: Scene) -> list[tuple[tuple[str, str], tuple[str, str], Flow]]:
    """Between all ends, a flow for everything that policies may tell apart."""
    ends = [(str(pod), End(address, (pod.namespace, pod.name))) for pod in old.ported for address in pod.addresses]
    ends += [(f"node/{name}", End(address, node=name)) for name, address in old.node_addresses]
    ends += [("", End(address)) for address in randomscenes.OUTSIDE if address not in old.by_address]
    found = []
    for source, one in ends:
        for destination, other in ends:
            if (":" in one.address) != (":" in other.address) or (one.pod is None and other.pod is None):
                continue
            if one.pod is not None and one.pod == other.pod:
                continue
            if one.node is not None and other.pod is not None and old.pods[other.pod].node == one.node:
                continue
            about = (source, one.address), (destination, other.address)
            for protocol in (6, 17, 132):
                found += [
                    (*about, Flow(one, other, protocol, port, sport)) for port in PROBED for sport in (1234, 40000)
                ]
            icmp = 58 if ":" in one.address else 1
            found += [(*about, Flow(one, other, icmp, 0, 0, kind, code)) for kind, code in ((8, 0), (8, 1), (3, 4))]
            found.append((*about, Flow(one, other, 47)))
    return found


def _check(old: Scene, new: Scene) -> Counter[str]:
    found = difference(old, new)
    before, after = World.of(old.objects), World.of(new.objects)
    views = [(each, Reach.of(each)) for each in (old, new)]
    stretches = {end.name for group in groups(views) for end in group.ends if end.kind == "outside" and end.name}
    counted: Counter[str] = Counter()
    for source, destination, flow in _flows(old):
        was, will = judge(before, flow).allowed, judge(after, flow).allowed
        said = {
            one.change
            for one in found.changes
            if _named(one.sources, source, stretches)
            and _named(one.destinations, destination, stretches)
            and _claims(one, flow)
        }
        expected = set() if was == will else {ALLOWED if will else DENIED}
        assert said == expected, (source, destination, flow, was, will)
        counted[next(iter(said), "same")] += 1
    assert all(one.example.confirmed for one in found.changes)
    return counted


@pytest.mark.timeout(600)
def test_it_is_exact() -> None:
    counted: Counter[str] = Counter()
    for seed in range(WORLDS):
        rng = random.Random(seed)
        base, old = randomscenes.base(rng), randomscenes.policies(rng, rng.randint(0, 4))
        new = randomscenes.changed(rng, old)
        try:
            counted += _check(randomscenes.scene(base + old), randomscenes.scene(base + new))
        except AssertionError as error:
            raise AssertionError(f"world {seed}: {error}") from None
    assert min(counted[each] for each in (ALLOWED, DENIED, "same")) > 5_000, counted


def test_a_change_as_it_is_told() -> None:
    spec = (
        "{podSelector: {matchLabels: {app: api}}, ingress: [{from: [{podSelector: {matchLabels: {app: front}}}], %s}]}"
    )
    old = scene(policy("api", spec % "ports: [{port: http}]"))
    new = scene(policy("api", spec % "ports: [{port: http}, {port: 53, protocol: UDP}]"))
    found = difference(old, new)
    (one,) = found.changes
    assert (one.change, one.sources, one.destinations) == (ALLOWED, ("shop/front",), ("shop/api",))
    assert (one.protocol, one.ports, one.families) == ("UDP", ((53, 53),), ("IPv4",))
    assert (one.example.source_address, one.example.port, one.example.confirmed) == ("10.244.1.2", 53, True)
    assert one.example.new.where == "1.yaml:4" and not one.example.old.policy
    (back,) = difference(new, old).changes
    assert back.change == DENIED
    assert difference(old, old).changes == ()


def test_pods_of_one_side_alone_are_named() -> None:
    more = "apiVersion: v1\nkind: Pod\nmetadata: {name: late}\nspec: {nodeName: n1}\nstatus: {podIP: 10.244.1.44}\n"
    found = difference(scene(), scene(more))
    assert (found.changes, found.gone, found.come) == ((), (), ("default/late",))


def test_a_pod_that_moved_is_the_same_pod() -> None:
    isolated = policy("api", "{podSelector: {matchLabels: {app: api}}}")
    moved = scene(isolated).manifests
    text = next(one for one in moved if one.object["metadata"]["name"] == "api" and one.object["kind"] == "Pod")
    other = {**text.object, "status": {"podIPs": [{"ip": "10.244.2.99"}]}}
    new = Scene(tuple(one if one is not text else type(one)(other, one.source, one.node) for one in moved))
    assert difference(scene(isolated), new).changes == ()
