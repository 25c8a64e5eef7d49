"""Token buckets, redirection, map elements and connection tracking against the real kernel."""

from __future__ import annotations

import ctypes
import errno
import socket
import threading
from collections.abc import Iterator

import pytest

from podwire.kernel import netlink, netns, nft, qdisc
from podwire.kernel.conntrack import ConntrackSocket
from podwire.kernel.links import Link, RouteSocket
from podwire.kernel.netlink import KernelError, Message
from podwire.kernel.nfelements import Element, ElementSocket, SetName
from podwire.kernel.qdisc import TokenBucket

PORTS = SetName("inet", "t", "ports")
TABLE = """\
table inet t {
	map ports {
		type inet_proto . inet_service : ipv4_addr . inet_service
	}
	set s {
		type inet_service
	}
}
"""
ONE = Element(bytes([6, 0, 0, 0, 0, 80, 0, 0]), bytes([10, 0, 0, 1, 0, 80, 0, 0]))
TWO = Element(bytes([17, 0, 0, 0, 0, 53, 0, 0]), bytes([10, 0, 0, 2, 0, 53, 0, 0]))


@pytest.fixture
def inside() -> Iterator[None]:
    """The test's thread is in a new namespace of its own."""
    found: list[int] = []

    def make() -> None:
        if ctypes.CDLL(None, use_errno=True).unshare(netns.CLONE_NEWNET) == 0:
            found.append(netns.open_own())

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    assert found, "no network namespace (root is needed)"
    with netns.inside(found[0]), RouteSocket() as links:
        links.set_link(1, up=True)
        yield


@pytest.fixture
def veth(inside: None) -> Iterator[tuple[RouteSocket, Link]]:
    with RouteSocket() as links:
        index = links.add_veth("one", "two")
        for name in ("one", "two"):
            links.set_link(links.link_index(name) or 0, up=True)
        found = links.link("one")
        assert found is not None
        assert found.index == index
        yield links, found


@pytest.mark.parametrize(
    "bucket",
    [
        TokenBucket(1_250_000, 65536, 96_786),
        TokenBucket(6_000_000_000, 300_000_000, 400_000_000),
        TokenBucket(1, 250, 300),
        TokenBucket(125_000, 125_000 * qdisc.MAX_BUFFER_SECONDS, 4_000_000),
    ],
    ids=str,
)
def test_a_bucket_reads_back_as_it_was_written(veth: tuple[RouteSocket, Link], bucket: TokenBucket) -> None:
    links, link = veth
    assert qdisc.bucket(links, link.index) is None
    assert qdisc.shape(links, link, bucket)
    assert qdisc.same(qdisc.bucket(links, link.index), bucket)
    before = netlink.writes["rtnetlink"]
    assert not qdisc.shape(links, link, bucket)
    assert netlink.writes["rtnetlink"] == before
    assert qdisc.shape(links, link, TokenBucket(99, 5000, 6000))
    assert qdisc.shape(links, link, None)
    assert not qdisc.shape(links, link, None)
    assert qdisc.bucket(links, link.index) is None


def test_redirection(veth: tuple[RouteSocket, Link]) -> None:
    links, link = veth
    first, second = (qdisc.ifb(links, name, 1450) for name in ("bwp1", "bwp2"))
    assert (first.kind, first.mtu, first.up) == ("ifb", 1450, True)
    assert qdisc.ifb(links, "bwp1", 1450) == first
    assert qdisc.redirected_to(links, link.index) is None
    assert qdisc.redirect(links, link, first.index)
    assert not qdisc.redirect(links, link, first.index)
    assert qdisc.redirect(links, link, second.index)
    assert qdisc.redirected_to(links, link.index) == second.index
    assert qdisc.redirect(links, link, None)
    assert not qdisc.redirect(links, link, None)


def test_a_name_that_something_else_has(veth: tuple[RouteSocket, Link]) -> None:
    with pytest.raises(KernelError, match="of kind veth has its name"):
        qdisc.ifb(veth[0], "one", 1500)


class Lacking:
    """A kernel without some module: says so as kernels do."""

    def __init__(self, code: int) -> None:
        self.code = code

    def link(self, name: str) -> None:
        return None

    def get(self, message: Message) -> tuple[int, bytes]:
        raise KernelError(message.what, errno.ENOENT)

    def dump(self, message: Message) -> list[bytes]:
        raise KernelError(message.what, errno.EINVAL)

    def try_batch(self, messages: list[Message]) -> list[KernelError | None]:
        return [KernelError(message.what, self.code) for message in messages]


@pytest.mark.parametrize("code", [errno.ENOENT, errno.EOPNOTSUPP])
def test_what_a_kernel_lacks_is_named(code: int) -> None:
    poor, link = Lacking(code), Link(7, "cali1", "", 1500, True)
    with pytest.raises(KernelError, match="sch_tbf"):
        qdisc.shape(poor, link, TokenBucket(1000, 5000, 6000))  # type: ignore[arg-type]
    with pytest.raises(KernelError, match="module ifb"):
        qdisc.ifb(poor, "bwp1", 1500)  # type: ignore[arg-type]
    with pytest.raises(KernelError, match="sch_ingress"):
        qdisc.redirect(poor, link, 8)  # type: ignore[arg-type]


def test_map_elements_change_in_one_transaction(inside: None) -> None:
    nft.run(TABLE)
    with ElementSocket() as wire:
        wire.update(puts={PORTS: [ONE, TWO], SetName("inet", "t", "s"): [Element(bytes([0, 80]))]})
        wire.update(puts={PORTS: [ONE]})  # as it stands: fine
        assert wire.elements(PORTS) == {ONE, TWO}
        other = Element(ONE.key, TWO.data)
        with pytest.raises(KernelError) as caught:
            wire.update(puts={PORTS: [other]})
        assert caught.value.errno in (errno.EBUSY, errno.EEXIST)
        wire.update(drops={PORTS: [ONE]}, puts={PORTS: [other]})
        assert wire.elements(PORTS) == {other, TWO}
        with pytest.raises(KernelError) as caught:
            wire.update(drops={PORTS: [TWO, Element(b"\0" * 8)]}, puts={PORTS: [ONE]})
        assert caught.value.errno == errno.ENOENT
        assert wire.elements(PORTS) == {other, TWO}
        many = [
            Element(bytes([6, 0, 0, 0, *number.to_bytes(2, "big"), 0, 0]), ONE.data) for number in range(1000, 4000)
        ]
        wire.update(puts={PORTS: many})
        assert len(wire.elements(PORTS)) == 3002
        wire.update(drops={PORTS: many})
        assert wire.elements(PORTS) == {other, TWO}


@pytest.mark.parametrize(("family", "address"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_udp_flows_of_a_port_are_forgotten_and_no_others(inside: None, family: int, address: str) -> None:
    nft.run("table inet t {\n chain c {\n type filter hook output priority 0;\n ct state new counter\n }\n}\n")
    with socket.socket(family, socket.SOCK_DGRAM) as client, ConntrackSocket() as wire:
        for port in (998, 999):
            client.sendto(b"x", (address, port))
        assert {flow.port for flow in wire.udp_flows(family, {998, 999})} == {998, 999}
        (flow,) = wire.udp_flows(family, {999})
        assert (flow.target, flow.port, flow.answerer) == (address, 999, address)
        assert wire.forget([flow]) == 1
        assert wire.forget([flow]) == 0
        assert wire.udp_flows(family, {999}) == []
        assert len(wire.udp_flows(family, {998})) == 1
        assert wire.udp_flows(family, {997, 996}) == []
