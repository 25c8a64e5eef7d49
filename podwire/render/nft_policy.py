"""The ruleset that enforces policy: `inet podwire_policy`, and `bridge podwire_policy` for pods on bridges.

What happens to the first packet of a connection: its other end's address gives a *class* (maps `pod4`, `net4`, and
those of IPv6), the pod's interface gives the *slot* of its verdict table (map `egress`, `ingress`), and the maps of the
slot give a *code*. Classes and codes pass through `meta priority`, which nobody reads in between and which is zero
again after. A code has its top bit set: 15 bits of action (allow, deny, or the stage to go on with) and 16 of the Log
rules passed. Code maps hold plain data, so a change of a table is a change of elements that no rule has to be checked
for; counters of elements count by class, port and rule. Rules and slots never change; slots are made beforehand.

Connections that stand pass at the top. Traffic that a node sends itself is not judged: it comes by no pod's interface,
and to the pod it comes by no forwarding. Bridge ports: the bridge hands IP frames of pods to the node, which routes
them back; so one place judges all, with connection tracking. There pods are known by their addresses, which the guard
has checked.

The shape of a slot is a word: `s` if source ports lead elsewhere, then one letter a stage, `c` (classed) or `a` (any).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import NamedTuple

from podwire.model.policy import Direction
from podwire.render.elements import Part, Row, declaration, interface, row

TABLE, BRIDGE = "inet podwire_policy", "bridge podwire_policy"
PORTS = "ports"
LOG_GROUP = 5
"""NFLOG group of Log rules."""
LOG_PREFIX = "podwire "

CODE = 0x8000_0000
ALLOW, DENY, ONWARD = 0, 1, 2
"""Actions; ONWARD + n goes on with stage n."""

_WAYS = {Direction.EGRESS: "out", Direction.INGRESS: "in"}


def code(action: int, log: int = 0) -> int:
    return CODE | action << 16 | log


class Slot(NamedTuple):
    """The chains and maps that one verdict table fills."""

    direction: Direction
    number: int
    shape: str

    @property
    def name(self) -> str:
        return f"{_WAYS[self.direction]}{self.number}_{self.shape}"

    @property
    def stages(self) -> str:
        return self.shape.removeprefix("s")

    def map(self, stage: int, kind: str) -> str:
        return f"{self.name}_{stage}_{kind}"

    def maps(self) -> list[str]:
        """Every map of it, by name."""
        found = [self.map(stage, kind) for stage in range(len(self.stages)) for kind in KINDS]
        return [*found, f"{self.name}_end", *([f"{self.name}_source"] if self.shape.startswith("s") else [])]


def slot_of(chain: str) -> Slot | None:
    """The slot whose first chain has this name."""
    head, joint, shape = chain.partition("_")
    way = head.rstrip("0123456789")
    if way not in _WAYS.values() or not head[len(way) :] or not joint or set(shape) - set("sca"):
        return None
    return Slot(next(d for d, word in _WAYS.items() if word == way), int(head[len(way) :]), shape)


_BY_CLASS = "meta priority . "
_KEYS = {
    "port": "meta l4proto . th dport",
    "ports": "meta l4proto . th dport",
    "icmp": "meta l4proto . th sport",
    "icmps": "meta l4proto . th sport",
    "protocol": "meta l4proto",
}
KINDS = (*_KEYS, "every")
"""The maps of a stage, asked in this order. Type and code of ICMP stand where others have their source port."""


def _key(letter: str, kind: str) -> str:
    if kind == "every":
        return "meta priority" if letter == "c" else "meta protocol"
    return (_BY_CLASS if letter == "c" else "") + _KEYS[kind]


_LOGGED = f"meta priority >= {CODE:#x} meta priority & 0xffff vmap @logs"


def _decided(way: str) -> str:
    return f"meta priority & 0xffff0000 vmap {{ {code(ALLOW):#x} : return, {code(DENY):#x} : goto deny_{way} }}"


def slot(one: Slot) -> str:
    """Text that makes its maps and its chains, or puts the chains right; what the maps hold stays."""
    way, name = _WAYS[one.direction], one.name
    chains = [name, *(f"{name}_{at}" for at in range(len(one.stages)))]
    parts = [
        _map(
            one.map(at, kind), f"{_key(letter, kind)} : meta priority", counted=True, ranges=kind in ("ports", "icmps")
        )
        for at, letter in enumerate(one.stages)
        for kind in KINDS
    ]
    parts.append(_map(f"{name}_end", "meta protocol : meta priority", counted=True))
    chain = []
    if one.shape.startswith("s"):
        parts.append(_map(f"{name}_source", "meta l4proto . th sport : verdict", ranges=True))
        chain.append(f"meta l4proto . th sport vmap @{name}_source")
    for at, letter in enumerate(one.stages):
        parts.append(_chain(f"{name}_{at}", _stage(one, at, letter, way)))
        chain += [f"meta priority < {code(ONWARD + at + 1):#x} jump {name}_{at}", _decided(way)]
    chain += [f"meta priority set meta protocol map @{name}_end", _LOGGED, _decided(way), "drop"]
    parts.append(_chain(name, chain))
    anew = "".join(f"add chain {TABLE} {each}\nflush chain {TABLE} {each}\n" for each in chains)
    return f"{anew}table {TABLE} {{\n{''.join(parts)}}}\n"


def _stage(one: Slot, at: int, letter: str, way: str) -> list[str]:
    """A class makes way for the first code found, and then no other key of the stage fits; without classes the
    register's emptiness says that nothing was found yet."""
    first, guard = (f"jump class_{way}", "") if letter == "c" else ("meta priority set none", "meta priority none ")
    asked = [f"{guard}meta priority set {_key(letter, kind)} map @{one.map(at, kind)}" for kind in KINDS]
    return [first, *asked, _LOGGED]


def without(one: Slot) -> str:
    """Text that removes a slot that nobody leads to."""
    chains = [one.name, *(f"{one.name}_{at}" for at in range(len(one.stages)))]
    lines = [f"flush chain {TABLE} {chain}" for chain in chains]
    lines += [f"delete chain {TABLE} {chain}" for chain in chains]
    return "\n".join([*lines, *(f"delete map {TABLE} {name}" for name in one.maps())]) + "\n"


def log_chain(number: int) -> str:
    return f"log{number}"


def log(number: int) -> str:
    """Text of what the Log rules of this number do: the reader knows them by it."""
    words = f'log prefix "{LOG_PREFIX}{number} " group {LOG_GROUP}'
    name = log_chain(number)
    return f"add chain {TABLE} {name}\nflush chain {TABLE} {name}\nadd rule {TABLE} {name} {words}\n"


_MAPS = {
    "pod4": "ip saddr : meta priority",
    "pod6": "ip6 saddr : meta priority",
    "net4": "ip saddr : meta priority",
    "net6": "ip6 saddr : meta priority",
    "egress": "iifname : verdict",
    "ingress": "oifname : verdict",
    "egress4": "ip saddr : verdict",
    "egress6": "ip6 saddr : verdict",
    "ingress4": "ip daddr : verdict",
    "ingress6": "ip6 daddr : verdict",
    "logs": "meta priority : verdict",
}
_SETS = {"others": "iifname", "bridges": "iifname"}
_REFUSED = {
    f"refused_{way}{digit}": f"{family} {end}"
    for way, end in (("out", "saddr"), ("in", "daddr"))
    for digit, family in ((4, "ip"), (6, "ip6"))
}
_DENIED = {
    f"denied_{way}{digit}": f"{family} saddr . {family} daddr . meta l4proto . th dport"
    for way in ("out", "in")
    for digit, family in ((4, "ip"), (6, "ip6"))
}
MAPS = (*_MAPS, *_SETS)
"""Maps and sets whose elements the engine writes, beside those of slots."""


def refused() -> dict[Direction, list[str]]:
    """Sets that count what was denied, by the pod's address."""
    return {way: [name for name in _REFUSED if f"_{word}" in name] for way, word in _WAYS.items()}


def _classes(end: str) -> list[str]:
    none = "meta priority none "
    return [
        "meta priority set none",
        f"meta priority set ip {end} map @pod4",
        f"meta priority set ip6 {end} map @pod6",
        f"{none}meta priority set ip {end} map @net4",
        f"{none}meta priority set ip6 {end} map @net6",
    ]


def _deny(way: str) -> list[str]:
    """What is full ends its rule, and no more: the packet is dropped nevertheless."""
    refused = [f"update @{name} {{ {key} counter }}" for name, key in _REFUSED.items() if f"_{way}" in name]
    denied = [
        f"meta l4proto {{ 6, 17, 132 }} update @{name} {{ {key} counter }}"
        for name, key in _DENIED.items()
        if f"_{way}" in name
    ]
    return [*refused, *denied, "drop"]


def _chains(prefix: str) -> dict[str, list[str]]:
    return {
        "class_out": _classes("daddr"),
        "class_in": _classes("saddr"),
        "deny_out": _deny("out"),
        "deny_in": _deny("in"),
        "broken": [
            f"{way}ifname {what} counter drop" for way in ("i", "o") for what in (f'"{prefix}*"', "@others", "@bridges")
        ],
        "from_pod": ["iifname vmap @egress", "counter drop"],
        "to_pod": ["oifname vmap @ingress", "counter drop"],
        "from_bridge": ["ip saddr vmap @egress4", "ip6 saddr vmap @egress6"],
        "to_bridge": ["ip daddr vmap @ingress4", "ip6 daddr vmap @ingress6"],
        "from": [
            f'iifname "{prefix}*" goto from_pod',
            "iifname @others goto from_pod",
            "iifname @bridges goto from_bridge",
        ],
        "to": [f'oifname "{prefix}*" goto to_pod', "oifname @others goto to_pod", "oifname @bridges goto to_bridge"],
    }


def _standing(*, strict: bool) -> list[str]:
    """Connections that stand. In the strict form what their first end sends is judged again, each packet."""
    if not strict:
        return ["ct state vmap { established : accept, related : accept, invalid : jump broken }"]
    return [
        "ct state vmap { related : accept, invalid : jump broken }",
        "ct state established ct direction reply accept",
    ]


_NEIGHBOURS = [
    "icmpv6 type { 133, 135, 136 } ip6 hoplimit 255 accept",
    "icmpv6 type { 131, 132, 143 } accept",
]
"""Neighbour discovery (RFC 4861) and multicast listener reports: how a pod finds its gateway is no connection."""


def _hooks(*, strict: bool) -> dict[str, tuple[str, list[str]]]:
    standing = _standing(strict=strict)
    return {
        "forward": (
            "type filter hook forward priority filter + 1; policy accept;",
            [*standing, "jump from", "jump to", "meta priority set none"],
        ),
        "input": (
            "type filter hook input priority filter + 1; policy accept;",
            [*_NEIGHBOURS, *standing, "jump from", "meta priority set none"],
        ),
    }


def structure(prefix: str) -> str:
    """Text that makes maps, sets and chains, or brings those of another version up to date; what maps hold stays.
    Nothing is judged yet: that begins with `hooks`."""
    maps = [_map(name, kind, ranges=name in ("net4", "net6")) for name, kind in _MAPS.items()]
    sets = [_set(name, kind) for name, kind in _SETS.items()]
    sets += [_set(name, kind, "size 4096", "flags dynamic") for name, kind in _REFUSED.items()]
    sets += [_set(name, kind, "size 4096", "flags dynamic,timeout", "timeout 5m") for name, kind in _DENIED.items()]
    chains = _chains(prefix)
    head = "".join(f"add chain {TABLE} {name}\n" for name in chains)
    flush = "".join(f"flush chain {TABLE} {name}\n" for name in chains)
    body = "".join(_chain(name, rules) for name, rules in chains.items())
    return (
        f"add table {TABLE}\n{head}{flush}table {TABLE} {{\n{''.join([*maps, *sets])}}}\ntable {TABLE} {{\n{body}}}\n"
    )


def hooks(prefix: str, *, strict: bool) -> str:
    """Text from which on is judged. The chain `version` says which text the table has."""
    found = _hooks(strict=strict)
    head = "".join(f"add chain {TABLE} {name} {{ {hook} }}\n" for name, (hook, _) in found.items())
    flush = "".join(f"flush chain {TABLE} {name}\n" for name in found)
    rules = "".join(f"add rule {TABLE} {name} {rule}\n" for name, (_, several) in found.items() for rule in several)
    return f"{head}{flush}{rules}add chain {TABLE} {version(prefix, strict=strict)}\n"


def version(prefix: str, *, strict: bool) -> str:
    """Name of the chain that marks the text of `structure` and `hooks`."""
    parts = [structure(prefix), *map(repr, _hooks(strict=strict).items()), slot(Slot(Direction.INGRESS, 0, "sca"))]
    return f"version_{hashlib.sha256(''.join(parts).encode()).hexdigest()[:12]}"


def rules(prefix: str, *, strict: bool) -> dict[str, int]:
    """How many rules each chain has, but for slots and logs."""
    found = {name: len(rules) for name, rules in _chains(prefix).items()}
    return found | {name: len(rules) for name, (_, rules) in _hooks(strict=strict).items()}


def slot_rules(one: Slot) -> dict[str, int]:
    """The same of a slot's chains."""
    head = 4 + 2 * len(one.stages) + one.shape.startswith("s")
    return {one.name: head} | {f"{one.name}_{at}": len(KINDS) + 2 for at in range(len(one.stages))}


def bridge(rows: Iterable[Row] = ()) -> str:
    """The body of `bridge podwire_policy`, `ports` filled. `ports` has the MAC of each port with a pod behind it (that
    of its end on the bridge): a frame for it is the node's. What says unicast in IP goes there, whatever the frame
    says. Neighbour discovery stays the bridge's."""
    return f"""\
{declaration("map", PORTS, "ifname : ether_addr", rows)}\
	chain prerouting {{
		type filter hook prerouting priority dstnat + 10; policy accept;
		ip daddr {{ 224.0.0.0/4, 255.255.255.255 }} accept
		ip6 daddr ff00::/8 accept
		icmpv6 type {{ 133, 134, 135, 136 }} ip6 hoplimit 255 accept
		ether type {{ ip, ip6 }} ether daddr set iifname map @ports meta pkttype set host
	}}"""


def port_row(name: str, mac: str) -> Row:
    """What makes the node take a port's frames."""
    return row(PORTS, interface(name), data=[Part(bytes.fromhex(mac.replace(":", "")), mac)])


def _map(name: str, kind: str, *, counted: bool = False, ranges: bool = False) -> str:
    lines = [f"\tmap {name} {{", f"\t\ttypeof {kind}"]
    lines += ["\t\tflags interval"] if ranges else []
    lines += ["\t\tcounter"] if counted else []
    return "\n".join([*lines, "\t}"]) + "\n"


def _set(name: str, kind: str, *options: str) -> str:
    return "\n".join([f"\tset {name} {{", f"\t\ttypeof {kind}", *(f"\t\t{one}" for one in options), "\t}"]) + "\n"


def _chain(name: str, rules: list[str]) -> str:
    return "\n".join([f"\tchain {name} {{", *(f"\t\t{rule}" for rule in rules), "\t}"]) + "\n"
