"""Who may send into the tunnel, and who may tell a node about routers: packets made by hand."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from podwire.agent import forwarding
from podwire.kernel import netns
from podwire.kernel.links import RouteSocket
from podwire.model.gvr import NODES
from tests.netns.agent.frames import IPV4, IPV6, ethernet, mark, router, tap, udp, vxlan

PORT, VNI = 4789, 4096


def inner(node: Any, pod: Any) -> tuple[bytes, bytes]:
    """A frame for the pod as another node's pod would send it, and its mark."""
    lines = node.space.run("ip", "-o", "link", "show", "vxlan.calico").split()
    device = lines[lines.index("link/ether") + 1]
    end = mark()
    return ethernet(device, "02:00:00:00:00:99", IPV4, udp("10.244.2.9", pod.address, end)), end


def send(space: Any, target: str, payload: bytes) -> None:
    with space.socket(socket.SOCK_DGRAM) as sender:
        sender.sendto(payload, (target, PORT))


def test_only_known_nodes(world: Any, tools: Any) -> None:
    """Neither an outsider, nor a pod of this node or of another; other VNIs on the port are let be."""
    one, two = world.nodes
    b, near, far = one.pod("b").add(), one.pod("near").add(), two.pod("far").add()
    for node in (one, two):
        tools.until("peers", lambda node=node: "vxlan.calico" in node.space.run("ip", "neigh"))

    def through(*senders: Any) -> list[bool]:
        marks = []
        with tap(b.space) as ear:
            for space in (*senders, two.space):
                frame, end = inner(one, b)
                marks.append(end)
                send(space, one.address, vxlan(VNI, frame))
            found: set[bytes] = set()
            while marks[-1] not in found:
                found.add(ear.recv(2000)[-8:])
        return [end in found for end in marks]

    assert through(world.outside, world.router, near.space, far.space) == [False] * 4 + [True]
    dropped = one.space.run("nft", "list", "chain", "inet", "podwire-tunnel", "input")
    assert "packets 0" not in dropped
    # through the other node, whose masquerade would give the pod a node's address
    frame, _ = inner(one, b)
    send(far.space, one.address, vxlan(VNI, frame))
    assert "packets 0" not in two.space.run("nft", "list", "chain", "inet", "podwire-tunnel", "forward")
    one.space.run("ip", "link", "add", "other", "type", "vxlan", "id", "77", "dstport", str(PORT), "dev", "eth0")
    one.space.run("ip", "link", "set", "other", "up")
    end = mark()
    with tap(one.space, "other") as ear:
        send(
            world.router,
            one.address,
            vxlan(77, ethernet("ff:ff:ff:ff:ff:ff", "02:00:00:00:00:99", 0x88B5, bytes(50) + end)),
        )
        while end not in ear.recv(2000):
            pass


def test_nodes_come_and_go_as_elements(world: Any, tools: Any) -> None:
    """And what the agent last knew stays when it dies."""
    one, two = world.nodes

    def held() -> str:
        return str(one.space.run("nft", "list", "set", "inet", "podwire-tunnel", "nodes"))

    tools.until("peer", lambda: two.address in held())
    assert one.address not in held()
    one.stop(9)
    assert two.address in held()
    one.start()
    assert one.writes().get("nft", 0) == 0
    before = one.space.run("nft", "-a", "list", "chain", "inet", "podwire-tunnel", "input")
    two.stop()
    world.api.do(world.api.fake.delete(NODES, "node2"))
    tools.until("gone", lambda: two.address not in held())
    assert one.space.run("nft", "-a", "list", "chain", "inet", "podwire-tunnel", "input") == before
    one.space.run("nft", "delete", "table", "inet", "podwire-tunnel")
    tools.until("back", lambda: "podwire-tunnel" in one.space.run("nft", "list", "tables"))


@pytest.fixture
def segment(tools: Any) -> Iterator[tuple[Any, Any]]:
    """A node and a router of its segment."""
    node, other = tools.Namespace(), tools.Namespace()
    try:
        for name in ("eth0", "eth1"):
            with node.links() as links, other.links() as outer:
                links.set_link(links.add_veth(name, name, peer_netns=other.fd), up=True)
                outer.set_link(outer.link_index(name) or 0, up=True)
        yield node, other
    finally:
        node.close()
        other.close()


def test_forwarding_forgets_no_router(segment: tuple[Any, Any], tools: Any) -> None:
    """A node that has its default route from router advertisements keeps it when it forwards for its pods."""
    node, other = segment

    def told() -> str:
        return str(node.run("ip", "-6", "route", "show", "default"))

    advert = ethernet("33:33:00:00:00:01", "02:00:00:00:00:01", IPV6, router("fe80::1"))
    with tap(other, "eth0") as mouth:
        tools.until("learned", lambda: mouth.send(advert) and "fe80::1" in told())

        def forward() -> None:
            with RouteSocket() as links:
                forwarding.forward6(links)

        netns.run_inside(node.fd, forward)
        assert "fe80::1 dev eth0" in told()
        node.run("ip", "-6", "route", "flush", "proto", "ra")
        tools.until("learned again", lambda: mouth.send(advert) and "fe80::1" in told())

    def settings() -> list[str]:
        return [
            netns.read_sysctl(f"net/ipv6/conf/{name}")
            for name in ("all/forwarding", "eth0/accept_ra", "eth1/accept_ra")
        ]

    work: Callable[[], list[str]] = settings
    assert netns.run_inside(node.fd, work) == ["1", "2", "1"]
