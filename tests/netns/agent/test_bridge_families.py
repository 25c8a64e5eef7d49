"""IPv6 and both families on a bridge, with packets: from files and from blocks, in and out, and by nobody's name."""

from __future__ import annotations

import os
import socket
import struct
from typing import Any

import pytest

from podwire.kernel import netns
from podwire.model.gvr import IPPOOLS
from tests.netns.agent.onbridge import add, host_end, shape

__all__ = ["shape"]

FOUR, SIX = {"subnet": "10.77.1.0/24"}, {"subnet": "fd77:1::/120"}
BLOCKS = {
    "both": {"type": "podwire-ipam", "assign_ipv4": "true", "assign_ipv6": "true"},
    "six": {"type": "podwire-ipam", "assign_ipv4": "false", "assign_ipv6": "true"},
}


@pytest.fixture
def six(world: Any) -> Any:
    """The world with a pool of IPv6 addresses, and nodes that have some."""
    pool = {"cidr": "fd00:10:244::/48", "blockSize": 122, "natOutgoing": False, "nodeSelector": "all()"}
    world.api.do(world.api.fake.create(IPPOOLS, {"metadata": {"name": "six"}, "spec": pool}))
    for number, node in enumerate(world.nodes, 2):
        node.space.run("ip", "address", "add", f"fd18::{number}/64", "dev", "eth0", "nodad")
    return world


def addresses(pod: Any) -> list[str]:
    return [str(one["address"]).partition("/")[0] for one in pod.result["ips"]]


def ask(source: Any, target: Any, address: str, bind: str = "") -> str:
    """Who asks, as `target` sees it over UDP; "" when nothing arrives."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with (
        target.socket(socket.SOCK_DGRAM, family) as receiver,
        source.socket(socket.SOCK_DGRAM, family) as sender,
    ):
        receiver.bind((address, 9))
        receiver.settimeout(0.3 if bind else 5)
        if bind:
            sender.bind((bind, 0))
        sender.sendto(b"x", (address, 9))
        try:
            return str(receiver.recvfrom(10)[1][0])
        except TimeoutError:
            return ""


@pytest.mark.parametrize("ranges", [[[SIX]], [[FOUR], [SIX]]], ids=["six", "both"])
def test_from_files(six: Any, shape: dict[str, Any], ranges: list[Any]) -> None:
    node, other = six.nodes
    shape["ipam"]["ranges"] = ranges
    a, b = add(node.pod("a"), shape), add(node.pod("b"), shape)
    assert addresses(a)[-1] == "fd77:1::2" and len(addresses(a)) == len(ranges)
    assert "fd77:1::1/120" in node.space.run("ip", "-6", "address", "show", "cbr0")
    assert "tentative" not in a.space.run("ip", "-6", "address", "show", "eth0")
    for mine, theirs in zip(addresses(a), addresses(b), strict=True):
        assert ask(a.space, b.space, theirs) == mine
    assert ask(node.space, a.space, "fd77:1::2") == "fd77:1::1"
    assert ask(a.space, node.space, "fd77:1::1") == "fd77:1::2"
    assert ask(a.space, other.space, "fd18::3") == "fd18::2"  # ipMasq
    assert a.call("CHECK", **shape, prevResult=a.result) == (0, "")
    before = node.space.run("nft", "-s", "list", "ruleset")
    node.restart()
    assert node.space.run("nft", "-s", "list", "ruleset") == before
    assert a.call("DEL", **shape, prevResult=a.result) == (0, "")
    assert "fd77:1::2" not in node.space.run("nft", "list", "ruleset") + node.space.run("ip", "-6", "neigh")


@pytest.mark.parametrize("kind", BLOCKS)
def test_from_blocks(six: Any, shape: dict[str, Any], kind: str) -> None:
    node = six.nodes[0]
    shape = {**shape, "ipMasq": False, "ipam": BLOCKS[kind]}
    a, b = add(node.pod("a"), shape), add(node.pod("b"), shape)
    assert [":" in address for address in addresses(a)] == ([False, True] if kind == "both" else [True])
    for mine, theirs in zip(addresses(a), addresses(b), strict=True):
        assert ask(a.space, b.space, theirs) == mine
        assert ask(node.space, a.space, mine)
    assert a.call("CHECK", **shape, prevResult=a.result) == (0, "")
    assert a.call("DEL", **shape, prevResult=a.result) == (0, "")
    assert addresses(a)[-1] not in node.space.run("ip", "-6", "route")


def advertisement(mac: str, source: str, target: str, claimed: str) -> bytes:
    """A neighbour advertisement: `claimed` is at `mac`. Solicited, override; with the option of the target's MAC,
    and with one (experimental) that marks it at its end."""
    ends = socket.inet_pton(socket.AF_INET6, source) + socket.inet_pton(socket.AF_INET6, target)
    raw = bytes.fromhex(mac.replace(":", ""))
    body = struct.pack(">BBHI", 136, 0, 0, 0x60000000) + socket.inet_pton(socket.AF_INET6, claimed) + b"\2\1" + raw
    body += b"\xfd\1" + os.urandom(6)
    total = sum(struct.unpack(f">{(len(ends) + len(body)) // 2}H", ends + body)) + len(body) + 58
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    checked = body[:2] + struct.pack(">H", 0xFFFF - total) + body[4:]
    return struct.pack(">IHBB", 0x60000000, len(body), 58, 255) + ends + checked


def test_nobody_speaks_for_another(six: Any, shape: dict[str, Any]) -> None:
    """Neither by a source address, nor by advertising a neighbour's."""
    node = six.nodes[0]
    shape["ipam"]["ranges"] = [[SIX]]
    a, b = add(node.pod("a"), shape), add(node.pod("b"), shape)
    mac, other = (str(pod.result["interfaces"][2]["mac"]) for pod in (a, b))
    assert ask(a.space, b.space, "fd77:1::3") == "fd77:1::2"
    a.space.run("ip", "-6", "address", "add", "fd77:1::99/128", "dev", "eth0", "nodad")
    assert ask(a.space, b.space, "fd77:1::3", bind="fd77:1::99") == ""

    def arrives(*packets: bytes) -> list[bool]:
        """Which of a's packets b's interface gets; the last one is honest, and ends the wait."""
        with netns.inside(b.space.fd):
            receiver = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
            receiver.bind(("eth0", 3))
        with netns.inside(a.space.fd):
            sender = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
            sender.bind(("eth0", 0))
        marks = [packet[-6:] for packet in packets]
        found = set()
        with receiver, sender:
            head = bytes.fromhex(other.replace(":", "") + mac.replace(":", "") + "86dd")
            for packet in packets:
                sender.send(head + packet)
            receiver.settimeout(5)
            while marks[-1] not in found:
                found.add(receiver.recv(2000)[-6:])
        return [mark in found for mark in marks]

    mine, theirs, gateway = "fd77:1::2", "fd77:1::3", "fd77:1::1"
    honest = advertisement(mac, mine, theirs, mine)
    assert arrives(
        advertisement(mac, mine, theirs, gateway),
        advertisement(mac, gateway, theirs, gateway),
        advertisement(mac, "fe80::1", theirs, gateway),
        advertisement(mac, mine, theirs, "fe80::1"),
        honest,
    ) == [False, False, False, True, True]
    node.space.run(
        "nft",
        "delete",
        "element",
        "bridge",
        "podwire",
        "targets6",
        f'{{ "{host_end(a)}" . {0xFD770001 << 96 | 2:#x} }}',
    )
    code, output = a.call("CHECK", **shape, prevResult=a.result)
    assert code == 1 and "is not admitted in bridge podwire targets6" in output
