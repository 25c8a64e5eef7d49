"""A node with pods, wired as the routed role wires them, and an engine; packets made by hand, and those that arrive."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from podwire.agent import wiring
from podwire.agent.policyengine import Binding, PolicyEngine
from podwire.calc.verdicts import Governed, PolicyChanges, PolicyState
from podwire.cni.plan import Wiring
from podwire.kernel import netns, routes
from podwire.kernel.links import RouteSocket
from podwire.kernel.nfelements import ElementSocket
from podwire.kernel.tables import Nft
from podwire.model.policy import ICMP, ICMPV6, SCTP, TCP, UDP
from tests.netns.agent.conftest import Namespace
from tests.netns.agent.frames import ANY, HOST_MAC, IPV4, IPV6, ethernet, ip, total

PREFIX = "cali"
OUTSIDE, OUT_MAC = "outside", "02:00:00:00:ff:01"
_MARK = b"podwire-"


class Flow(NamedTuple):
    """`port` is `type << 8 | code` for ICMP and ICMPv6."""

    source: str
    target: str
    protocol: int
    port: int = 0
    source_port: int = 0


@dataclass
class Pod:
    name: str
    interface: str
    addresses: tuple[str, ...]
    mac: str
    space: Namespace = field(default_factory=Namespace)

    @property
    def binding(self) -> Binding:
        return Binding(self.interface, ("default", self.name), self.addresses)


class Node:
    """`engine` keeps its policy; everything of it happens in the namespace."""

    def __init__(self, *, strict: bool = False) -> None:
        self.space = Namespace()
        self.pods: dict[str, Pod] = {}
        self.world: Pod | None = None
        self.state = PolicyState()
        self._ports = iter(range(20_000, 60_000))
        with self.inside():
            self._sockets: ElementSocket | None = None
            self.links = RouteSocket()
            self.links.set_link(1, up=True)
            self.links.add_address(1, "192.0.2.99/32")
            netns.write_sysctl("net/ipv4/ip_forward", "1")
            netns.write_sysctl("net/ipv6/conf/all/forwarding", "1")
        self.engine = self.another(strict=strict)

    def outside(self) -> None:
        """Everybody else, behind a link of the node: addresses that no pod has."""
        space = Namespace()
        with self.inside():
            netns.write_sysctl("net/ipv4/conf/all/rp_filter", "0")
            index = self.links.add_veth("out0", "eth0", peer_netns=space.fd, mac=OUT_MAC, peer_mac="02:00:00:00:ff:02")
            netns.write_sysctl("net/ipv4/conf/out0/rp_filter", "0")
            self.links.set_link(index, up=True)
            for near, far, everything in (
                ("192.0.2.1/24", "192.0.2.2", "0.0.0.0/0"),
                ("2001:db8::1/64", "2001:db8::2", "::/0"),
            ):
                self.links.add_address(index, near)
                self.links.change(routes.add_neighbour(routes.Neighbour(index, far, "02:00:00:00:ff:02")))
                self.links.put_route(routes.Route(everything, via=far, index=index, onlink=True))
        with space.links() as far_links:
            far_links.set_link(far_links.link_index("eth0") or 0, up=True)
            far_links.add_address(far_links.link_index("eth0") or 0, "192.0.2.2/24")
        self.world = Pod(OUTSIDE, "out0", ("192.0.2.2",), "02:00:00:00:ff:02", space)

    def silent(self) -> None:
        """Nobody answers: what a test sends makes no connections."""
        for space in (*(pod.space for pod in self.pods.values()), *([self.world.space] if self.world else [])):
            space.run(
                "nft",
                "add table inet quiet; add chain inet quiet in { type filter hook input priority 0; policy drop; }",
            )

    def inside(self) -> contextlib.AbstractContextManager[None]:
        return netns.inside(self.space.fd)

    def another(self, *, strict: bool = False) -> PolicyEngine:
        """An engine that knows nothing yet."""
        return PolicyEngine(Nft(), self.elements, PREFIX, strict=strict)

    def elements(self) -> ElementSocket:
        if self._sockets is None:
            self._sockets = ElementSocket()
        return self._sockets

    def pod(self, name: str, *addresses: str) -> Pod:
        """Wired and bound."""
        number = len(self.pods) + 1
        pod = Pod(name, f"{PREFIX}{number:011x}", addresses, f"02:00:00:00:{number >> 8:02x}:{number & 255:02x}")
        self.pods[name] = pod
        self.wire(pod)
        return pod

    def wire(self, pod: Pod) -> None:
        """The pair, its addresses and routes, and its binding."""
        shape = Wiring(pod.interface, "eth0", pod.mac, 1500, pod.addresses)
        with self.inside(), contextlib.closing(RouteSocket()) as route:
            index = 100 + int(pod.interface.removeprefix(PREFIX), 16)
            home = netns.open_own()
            wiring.create(route, shape, pod.space.fd, index)
            wiring.address_pod(shape, pod.space.fd, home, index, {})
            wiring.address_host(route, shape, index)
            os.close(home)
            self.engine.bind(pod.binding)

    def apply(self, state: PolicyState, changes: PolicyChanges | None = None, *, first: bool = False) -> None:
        """Without `changes`, and at first, everything is looked at."""
        self.state = state
        with self.inside():
            if changes is None or first:
                self.engine.doubt()
            for error in self.engine.apply(state, changes or PolicyChanges()):
                raise error

    def owner(self, address: str) -> Pod:
        found = next((pod for pod in self.pods.values() if address in pod.addresses), self.world)
        assert found is not None, address
        return found

    def passing(self, flows: Sequence[Flow]) -> list[bool]:
        """Which of these connections' first packets arrive at the target's interface."""
        frames = [self.frame(flow) for flow in flows]
        with contextlib.ExitStack() as stack:
            mouths = {pod.name: stack.enter_context(tap(pod)) for pod in self._all()}
            for flow, (frame, _) in zip(flows, frames, strict=True):
                mouths[self.owner(flow.source).name].send(frame)
            arrived = self._arrived(mouths, {flow.target for flow in flows})
        return [(self.owner(flow.target).name, mark) in arrived for flow, (_, mark) in zip(flows, frames, strict=True)]

    def _arrived(self, ears: dict[str, socket.socket], targets: set[str]) -> set[tuple[str, bytes]]:
        """Marks seen, by pod. The node's own packet comes last, and is never judged."""
        last = _MARK + os.urandom(8)
        waiting = {self.owner(target).name for target in targets}
        with self.inside():
            for name in waiting:
                address = next(pod for pod in self._all() if pod.name == name).addresses[0]
                family = socket.AF_INET6 if ":" in address else socket.AF_INET
                with socket.socket(family, socket.SOCK_DGRAM) as own:
                    own.sendto(last, (address, 9))
        found: set[tuple[str, bytes]] = set()
        end = time.monotonic() + 20
        while waiting:
            ready, _, _ = select.select(list(ears.values()), [], [], max(0.0, end - time.monotonic()))
            assert ready, f"the node's own packet never came to {waiting}"
            for name, ear in ears.items():
                if ear not in ready:
                    continue
                packet, (_, _, kind, _, _) = ear.recvfrom(4000)
                if kind == socket.PACKET_OUTGOING or (at := packet.rfind(_MARK)) < 0:
                    continue
                mark = packet[at : at + 16]
                if mark == last:
                    waiting.discard(name)
                found.add((name, mark))
        return found

    def _all(self) -> list[Pod]:
        return [*self.pods.values(), *([self.world] if self.world else [])]

    def frame(self, flow: Flow) -> tuple[bytes, bytes]:
        mark = _MARK + os.urandom(8)
        pod = self.owner(flow.source)
        kind = IPV6 if ":" in flow.source else IPV4
        return ethernet(
            OUT_MAC if pod is self.world else HOST_MAC,
            pod.mac,
            kind,
            packet(flow, mark, flow.source_port or next(self._ports)),
        ), mark

    def close(self) -> None:
        for pod in self._all():
            pod.space.close()
        self.space.close()


def packet(flow: Flow, mark: bytes, source_port: int) -> bytes:
    """The first packet of a connection: SYN, INIT, a datagram, an ICMP message."""
    source, target, protocol, port = flow.source, flow.target, flow.protocol, flow.port
    if protocol == TCP:
        body = struct.pack(">HHIIHHHH", source_port, port, 1, 0, 0x5002, 65_535, 0, 0) + mark
        return ip(source, target, TCP, _summed(source, target, TCP, body, 16))
    if protocol == UDP:
        body = struct.pack(">HHHH", source_port, port, 8 + len(mark), 0) + mark
        return ip(source, target, UDP, _summed(source, target, UDP, body, 6))
    if protocol == SCTP:
        # INIT stands alone in its packet: the mark is a parameter of it
        init = struct.pack(">BBHIIHHI", 1, 0, 24 + len(mark), 7, 65_535, 1, 1, 1)
        init += struct.pack(">HH", 0x8001, 4 + len(mark)) + mark
        body = struct.pack(">HHII", source_port, port, 0, 0) + init
        return ip(source, target, SCTP, body[:8] + struct.pack("<I", crc32c(body)) + body[12:])
    if protocol in (ICMP, ICMPV6):
        body = struct.pack(">BBHHH", port >> 8, port & 255, 0, source_port, 1) + mark
        six = protocol == ICMPV6
        checked = _summed(source, target, ICMPV6, body, 2) if six else body[:2] + _sum(body) + body[4:]
        return ip(source, target, protocol, checked)
    return ip(source, target, protocol, mark)


def _sum(raw: bytes) -> bytes:
    return struct.pack(">H", total(raw))


def _summed(source: str, target: str, protocol: int, body: bytes, at: int) -> bytes:
    family = socket.AF_INET6 if ":" in source else socket.AF_INET
    ends = socket.inet_pton(family, source) + socket.inet_pton(family, target)
    return body[:at] + _sum(ends + struct.pack(">II", len(body), protocol) + body) + body[at + 2 :]


def crc32c(raw: bytes) -> int:
    """The checksum of SCTP (RFC 9260 appendix A)."""
    value = 0xFFFF_FFFF
    for byte in raw:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (0x82F6_3B78 if value & 1 else 0)
    return value ^ 0xFFFF_FFFF


@contextlib.contextmanager
def tap(pod: Pod) -> Iterator[socket.socket]:
    with netns.inside(pod.space.fd):
        made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ANY))
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        made.bind(("eth0", ANY))
    with made:
        yield made


def governed(state: PolicyState, pod: str, ingress: int | None = None, egress: int | None = None) -> None:
    state.pods["default", pod] = Governed(ingress, egress)


def listing(node: Node) -> Any:
    return node.space.run("nft", "-n", "list", "table", "inet", "podwire_policy")
