"""Flows that a world's policies are likely to tell apart: ends, ports and types are among those that policies name."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from podwire.calc.oracle import End, Flow
from podwire.calc.oracle import World as Policies
from podwire.model.address import Cidr, format_ip
from tests.unit.policy.objects import Object
from tests.unit.policy.worlds import NUMBERS, World

OUTSIDE = ("192.0.2.7", "192.0.2.200", "203.0.113.9", "198.51.100.1", "2001:db8::7", "2001:db8::9", "2a00::1")
EDGES = (49, 50, 90, 91, 79, 81, 82, 444, 7999, 8000, 9091, 65_535)
ICMP_TYPES = ((8, 0), (8, 1), (0, 0), (3, 1), (3, 0))
ICMPV6_TYPES = ((128, 0), (128, 1), (129, 0), (1, 0))


def flows(seed: int, world: World, count: int, *, spoken: bool = False) -> Iterator[Flow]:
    """`count` flows with a pod of this world at one end at least, mostly one that policies govern in that direction;
    `spoken` leaves out what takes raw sockets to send (odd protocols, ICMP other than echo) and what does not leave a
    pod."""
    chance = random.Random(seed)
    running = [obj for obj in world.of_kind("Pod") if obj["status"]["phase"] == "Running"]
    ends = [(end, obj) for obj in running for end in _ends(obj)]
    policed = [(end, direction) for end, _ in ends if end.node is None for direction in ("ingress", "egress")]
    if not policed:
        return
    policies = Policies.of(world.objects)
    governed = [each for each in policed if _governed(policies, *each)]
    others = {family: [*_others(world, family, chance)] for family in (4, 6)}
    made = 0
    while made < count:
        own, direction = chance.choice(governed if governed and chance.random() < 0.8 else policed)
        family = 6 if ":" in own.address else 4
        among = [end for end, _ in ends if (":" in end.address) == (family == 6)]
        other = chance.choice(among) if chance.random() < 0.65 else chance.choice(others[family])
        if other.pod == own.pod and (spoken or chance.random() < 0.9):
            continue
        source, destination = (own, other) if direction == "egress" else (other, own)
        made += 1
        yield Flow(source, destination, *_kind(chance, family, _named(running, destination), spoken))


def _governed(world: Policies, end: End, direction: str) -> bool:
    pod = world.objects.pods[end.pod] if end.pod else None
    return pod is not None and any(
        policy.rules(direction) is not None and policy.governs(pod)
        for policies in world.policies.values()
        for policy in policies
    )


def _named(running: list[Object], end: End) -> list[tuple[int, int]]:
    """The ports that a pod gives names, as (protocol, number)."""
    for obj in running:
        if (obj["metadata"]["namespace"], obj["metadata"]["name"]) == end.pod:
            ports = obj["spec"]["containers"][0]["ports"]
            return [(6 if port["protocol"] == "TCP" else 17, port["containerPort"]) for port in ports]
    return []


def _kind(chance: random.Random, family: int, named: list[tuple[int, int]], spoken: bool) -> tuple[int, ...]:
    """Protocol, port, source port, type and code."""
    what = chance.choices(("ported", "icmp", "other"), (14, 6, 0 if spoken else 0.7))[0]
    if what == "icmp":
        kinds = ICMP_TYPES if family == 4 else ICMPV6_TYPES
        one = kinds[0] if spoken or chance.random() < 0.4 else chance.choice(kinds)
        return 1 if family == 4 else 58, 0, 0, *one
    if what == "other":
        return chance.choice((136, 47)), 0, 0
    source = 40_001 if spoken else chance.choice((40_000, 30_000, 1023, 80, chance.randint(1, 65_535)))
    if named and chance.random() < 0.35:
        return *chance.choice(named), source
    return chance.choices((6, 17, 132), (10, 5, 1.5))[0], chance.choice(NUMBERS * 6 + EDGES), source


def _ends(obj: Object) -> Iterator[End]:
    meta, spec = obj["metadata"], obj["spec"]
    for item in obj["status"].get("podIPs", ()):
        host = spec["nodeName"] if spec.get("hostNetwork") else None
        yield End(item["ip"], (meta["namespace"], meta["name"]), host)


def _others(world: World, family: int, chance: random.Random) -> Iterator[End]:
    """Nodes, outsiders, and the edges of the prefixes that policies and network sets name."""
    for obj in world.of_kind("Node"):
        for item in obj["status"]["addresses"]:
            if (":" in item["address"]) == (family == 6):
                yield from [End(item["address"], node=obj["metadata"]["name"])] * 6
    for address in OUTSIDE:
        if (":" in address) == (family == 6):
            yield End(address)
    taken = {item["ip"] for obj in world.of_kind("Pod") for item in obj["status"].get("podIPs", ())}
    for text in sorted({text for obj in world.objects for text in _texts(obj.get("spec")) if "/" in text}):
        try:
            net = Cidr.parse(text, host_bits=True)
        except ValueError:
            continue
        if net.width != (32 if family == 4 else 128) or net.length < 8:
            continue
        for number in (net.first, net.last, net.first - 1, net.last + 1, net.first + chance.randrange(net.size)):
            address = format_ip(number, net.width)
            if address not in taken:
                yield End(address)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for each in value.values():
            yield from _texts(each)
    elif isinstance(value, list):
        for each in value:
            yield from _texts(each)
    elif isinstance(value, str):
        yield value
