"""Frames made by hand, for tests of who may speak as whom; and what of them arrives."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from typing import Any

from podwire.kernel import netns

BROADCAST = "ff:ff:ff:ff:ff:ff"
HOST_MAC = "ee:ee:ee:ee:ee:ee"
ANY, IPV4, IPV6, ARP = 3, 0x0800, 0x86DD, 0x0806


def mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def ethernet(target: str, source: str, kind: int, payload: bytes, vlan: int | None = None) -> bytes:
    tag = b"" if vlan is None else struct.pack(">HH", 0x8100, vlan)
    return mac(target) + mac(source) + tag + struct.pack(">H", kind) + payload


def total(raw: bytes) -> int:
    """The Internet checksum."""
    padded = raw + b"\0" * (len(raw) % 2)
    found = sum(struct.unpack(f">{len(padded) // 2}H", padded))
    while found > 0xFFFF:
        found = (found & 0xFFFF) + (found >> 16)
    return 0xFFFF - found


def ip(source: str, target: str, protocol: int, payload: bytes) -> bytes:
    """An IPv4 or IPv6 packet, hop limit 255."""
    if ":" in source:
        ends = socket.inet_pton(socket.AF_INET6, source) + socket.inet_pton(socket.AF_INET6, target)
        return struct.pack(">IHBB", 0x60000000, len(payload), protocol, 255) + ends + payload
    ends = socket.inet_aton(source) + socket.inet_aton(target)
    head = struct.pack(">BBHHHBB", 0x45, 0, 20 + len(payload), 1, 0, 255, protocol)
    return head + struct.pack(">H", total(head + b"\0\0" + ends)) + ends + payload


def _pseudo(source: str, target: str, protocol: int, payload: bytes) -> bytes:
    family = socket.AF_INET6 if ":" in source else socket.AF_INET
    ends = socket.inet_pton(family, source) + socket.inet_pton(family, target)
    return ends + struct.pack(">II", len(payload), protocol) + payload


def udp(source: str, target: str, payload: bytes, ports: tuple[int, int] = (9999, 9)) -> bytes:
    body = struct.pack(">HHHH", *ports, 8 + len(payload), 0) + payload
    body = body[:6] + struct.pack(">H", total(_pseudo(source, target, 17, body)) or 0xFFFF) + body[8:]
    return ip(source, target, 17, body)


def icmp(source: str, target: str, kind: int, rest: bytes) -> bytes:
    """ICMP or ICMPv6, code 0 (1 for a redirect of IPv4); `rest` is what stands behind the checksum."""
    body = struct.pack(">BBH", kind, 1 if kind == 5 else 0, 0) + rest
    six = ":" in source
    body = body[:2] + struct.pack(">H", total(_pseudo(source, target, 58, body) if six else body)) + body[4:]
    return ip(source, target, 58 if six else 1, body)


def arp(operation: int, sender_mac: str, sender: str, wanted: str) -> bytes:
    head = struct.pack(">HHBBH", 1, IPV4, 6, 4, operation)
    return head + mac(sender_mac) + socket.inet_aton(sender) + bytes(6) + socket.inet_aton(wanted) + bytes(18)


def solicitation(source: str, target: str, wanted: str, link: str) -> bytes:
    option = b"" if source == "::" else b"\x01\x01" + mac(link)
    return icmp(source, target, 135, bytes(4) + socket.inet_pton(socket.AF_INET6, wanted) + option)


def advertisement(source: str, target: str, told: str, link: str) -> bytes:
    rest = struct.pack(">I", 0x60000000) + socket.inet_pton(socket.AF_INET6, told) + b"\x02\x01" + mac(link)
    return icmp(source, target, 136, rest)


def router(source: str, target: str = "ff02::1") -> bytes:
    """A router advertisement: a default route, and a prefix to make addresses of."""
    prefix = struct.pack(">BBBBIII", 3, 4, 64, 0xC0, 1800, 1800, 0) + socket.inet_pton(
        socket.AF_INET6, "2001:db8:bad::"
    )
    return icmp(source, target, 134, struct.pack(">BBHII", 64, 0, 1800, 0, 0) + prefix)


def vxlan(vni: int, frame: bytes) -> bytes:
    return struct.pack(">II", 0x08000000, vni << 8) + frame


@contextlib.contextmanager
def tap(space: Any, name: str = "eth0") -> Iterator[socket.socket]:
    """A packet socket on an interface of a namespace."""
    with netns.inside(space.fd):
        made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ANY))
        made.bind((name, ANY))
    with made:
        made.settimeout(5)
        yield made


def arriving(sender: Any, receiver: Any, frames: Sequence[bytes], name: str = "eth0") -> list[bool]:
    """Which of the frames arrive at the receiver; each is marked by its last eight bytes. The last must: it is honest,
    and what went before it either came before or never comes."""
    marks = [frame[-8:] for frame in frames]
    assert len(set(marks)) == len(marks)
    with tap(receiver, name) as ear, tap(sender) as mouth:
        for frame in frames:
            mouth.send(frame)
        found: set[bytes] = set()
        while marks[-1] not in found:
            got = ear.recv(4000)
            found |= {mark for mark in marks if mark in got}
    return [mark in found for mark in marks]


def mark() -> bytes:
    return os.urandom(8)
