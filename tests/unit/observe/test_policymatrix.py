"""The matrix says of each pair what the oracle says, and names a rule that says so."""

from __future__ import annotations

import random
import sys
from collections import Counter
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import randomscenes
from scenes import policy, scene

from podwire.calc.oracle import End, Flow, Judgement, World, judge
from podwire.observe.policymatrix import Matrix, Probe, parse_ports
from podwire.observe.policyquestions import ECHO, QuestionError

PROBES = parse_ports("TCP/80,UDP/53,SCTP/1,TCP/8080,ICMP")


@pytest.mark.parametrize(
    ("text", "probes"),
    [
        ("TCP/80", (Probe("TCP", 80),)),
        ("80, udp/53,53/UDP", (Probe("TCP", 80), Probe("UDP", 53))),
        ("ICMP,sctp/7", (Probe("ICMP", 0), Probe("SCTP", 7))),
    ],
)
def test_ports(text: str, probes: tuple[Probe, ...]) -> None:
    assert parse_ports(text) == probes


@pytest.mark.parametrize("text", ["", "TCP", "TCP/0", "TCP/65536", "FOO/1", "ICMP/8", "TCP/http", "/", "80/"])
def test_what_are_no_ports(text: str) -> None:
    with pytest.raises(QuestionError):
        parse_ports(text)


def _judged(world: World, row: dict[str, object], addresses: dict[str, list[str]]) -> dict[str, Judgement]:
    """By family."""
    found = {}
    for one in addresses[str(row["from"])]:
        for other in addresses[str(row["to"])]:
            if (":" in one) != (":" in other):
                continue
            number = {"TCP": 6, "UDP": 17, "SCTP": 132, "ICMP": 58 if ":" in one else 1}[str(row["protocol"])]
            kind = ECHO["ICMPV6" if number == 58 else "ICMP"] if row["protocol"] == "ICMP" else 0
            source_port = 40_000 if row["port"] else 0
            flow = Flow(End(one), End(other), number, int(str(row["port"])), source_port, kind)
            found["IPv6" if ":" in one else "IPv4"] = judge(world, flow)
    return found


def test_it_agrees_with_the_oracle() -> None:
    counted: Counter[tuple[bool, bool]] = Counter()
    for seed in range(40):
        rng = random.Random(seed)
        made = randomscenes.scene(randomscenes.base(rng) + randomscenes.policies(rng, rng.randint(1, 5)))
        world = World.of(made.objects)
        addresses = {str(pod): list(pod.addresses) for pod in made.ported}
        seen: Counter[tuple[str, str, Probe]] = Counter()
        for row in Matrix(made, PROBES).rows():
            judged = _judged(world, row, addresses)
            family = row.get("family")
            for name, one in judged.items():
                if family in (None, name):
                    counted[one.egress.allowed, one.ingress.allowed] += 1
                    assert (row["egress"], row["ingress"]) == (one.egress.allowed, one.ingress.allowed), (seed, row)
                    assert row["allowed"] is one.allowed
            seen[row["from"], row["to"], Probe(row["protocol"], row["port"])] += 1
            decisive = [side for one in judged.values() for side in (one.egress, one.ingress) if side.policy]
            rules = {f"{side.policy} {side.rule}" for side in decisive}
            rules |= {f"{policy} {rule}" for side in decisive for policy, rule in side.also}
            rules |= {"no policy", "a pod reaches itself"} if row["allowed"] else set()
            assert str(row["rule"]).startswith("end of tier") or row["rule"] in rules, (seed, row, rules)
        assert len(seen) == len(addresses) ** 2 * len(PROBES)
    assert min(counted[both] for both in ((True, True), (True, False), (False, True), (False, False))) > 100, counted


def test_groups_are_few() -> None:
    pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: w%d, namespace: shop, labels: {app: web, n: n%d}}\n"
    pod += "spec: {nodeName: n1}\nstatus: {podIPs: [{ip: 10.244.7.%d}]}\n"
    pods = "---\n".join(pod % (number, number, number) for number in range(1, 51))
    found = Matrix(scene(pods, policy("p", "{podSelector: {matchLabels: {app: api}}}")), PROBES)
    assert sorted(len(crowd.pods) for crowd in found.crowds) == [1, 1, 51]
    assert sum(1 for _ in found.rows()) == 53 * 53 * len(PROBES)
