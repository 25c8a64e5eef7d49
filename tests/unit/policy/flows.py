"""Flows that a world's policies are likely to tell apart: ends, ports and types are taken from what the policies name."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from podwire.calc.oracle import End, Flow
from podwire.model.address import Cidr, format_ip
from tests.unit.policy.objects import Object
from tests.unit.policy.worlds import HERE, NUMBERS, THERE, World

OUTSIDE = ("192.0.2.7", "192.0.2.200", "203.0.113.9", "198.51.100.1", "2001:db8::7", "2001:db8::9", "2a00::1")
ICMP_TYPES = ((8, 0), (8, 1), (0, 0), (3, 1), (3, 0))
ICMPV6_TYPES = ((128, 0), (128, 1), (129, 0), (1, 0))


def flows(seed: int, world: World, count: int, *, spoken: bool = False) -> Iterator[Flow]:
    """`count` flows with a pod of this world at one end at least; `spoken` leaves out what takes raw sockets to send
    (odd protocols, ICMP other than echo) and what does not leave a pod."""
    chance = random.Random(seed)
    pods = [end for obj in world.of_kind("Pod") if obj["status"]["phase"] == "Running" for end in _ends(obj)]
    policed = [end for end in pods if end.node is None]
    others = {family: [*_others(world, family, chance)] for family in (4, 6)}
    ports = _ports(world)
    made = 0
    while made < count:
        own = chance.choice(policed)
        family = 6 if ":" in own.address else 4
        among = [end for end in pods if (":" in end.address) == (family == 6)]
        other = chance.choice(among) if chance.random() < 0.65 else chance.choice(others[family])
        if spoken and other.pod == own.pod:
            continue
        source, destination = (own, other) if chance.random() < 0.5 else (other, own)
        made += 1
        yield Flow(source, destination, *_kind(chance, family, ports, spoken))


def _kind(chance: random.Random, family: int, ports: list[int], spoken: bool) -> tuple[int, ...]:
    protocol = chance.choices(
        (6, 17, 132, 1, 136 if chance.random() < 0.5 else 47), (10, 5, 1.5, 3, 0 if spoken else 0.5)
    )[0]
    if protocol in (6, 17, 132):
        source = chance.choice((40_000, 30_000, 1023, 80, chance.randint(1, 65_535)))
        return protocol, chance.choice(ports), 40_001 if spoken else source
    if protocol == 1:
        kinds = ICMP_TYPES if family == 4 else ICMPV6_TYPES
        return (
            1 if family == 4 else 58,
            0,
            0,
            *(kinds[0] if spoken or chance.random() < 0.4 else chance.choice(kinds)),
        )
    return protocol, 0, 0


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
                yield End(item["address"], node=obj["metadata"]["name"])
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


def _ports(world: World) -> list[int]:
    """The numbers that anybody names, most often; their neighbours, and the ends of ranges."""
    edges = [49, 50, 90, 91, 79, 81, 82, 444, 7999, 8000, 9091, 65_535]
    return [*NUMBERS * 6, *edges]


def nodes() -> tuple[str, str]:
    return HERE, THERE
