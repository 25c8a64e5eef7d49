"""A pod speaks for nobody but itself: hand-made frames from inside, counted where they would arrive."""

from __future__ import annotations

import contextlib
import signal
import struct
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from podwire.agent.admission import Admission, Endpoint
from podwire.agent.wiring import Sockets
from podwire.kernel import netlink, netns, nft
from podwire.kernel.netlink import KernelError
from podwire.kernel.tables import Nft
from podwire.render.nft_admission import link_local
from tests.netns.agent import onbridge
from tests.netns.agent.frames import (
    ARP,
    BROADCAST,
    HOST_MAC,
    IPV4,
    IPV6,
    advertisement,
    arp,
    arriving,
    ethernet,
    icmp,
    mark,
    router,
    solicitation,
    tap,
    udp,
)
from tests.netns.agent.onbridge import shape
from tests.netns.agent.test_families import DUAL, add, six

__all__ = ["shape", "six"]

GATEWAY6 = "fe80::ecee:eeff:feee:eeee"


def addresses(pod: Any) -> list[str]:
    return [row["address"].partition("/")[0] for row in pod.result["ips"]]


def mac_of(pod: Any) -> str:
    return str(pod.result["interfaces"][-1]["mac"])


def from_pod(pod: Any, packet: bytes, *, source: str = "", target: str = HOST_MAC, vlan: int | None = None) -> bytes:
    kind = IPV6 if packet[0] >> 4 == 6 else IPV4
    return ethernet(target, source or mac_of(pod), kind, packet, vlan)


def dhcp(source: str, target: str, port: int) -> bytes:
    """What a DHCP server answers."""
    return udp(source, target, mark(), (port, port + 1 if port == 67 else port - 1))


def redirect(source: str, target: str) -> bytes:
    if ":" in source:
        return icmp(source, target, 137, bytes(4 + 32) + mark())
    return icmp(source, target, 5, bytes(4 + 20) + mark())


def test_routed(six: Any, tools: Any) -> None:
    """Address and MAC, plain and in a VLAN's tag; redirects and DHCP; both families, also across nodes."""
    one, two = six.nodes
    a, b, far = one.pod("a"), one.pod("b"), two.pod("far")
    for pod in (a, b, far):
        add(pod, **DUAL)
    for mine, other, theirs, host in zip(addresses(a), addresses(b), addresses(far), (one.address, ""), strict=True):
        v6 = ":" in mine
        false = [from_pod(a, udp(theirs, other, mark()))]
        false += [from_pod(a, udp(theirs, other, mark()), vlan=number) for number in (0, 7)]
        false += [from_pod(a, udp(mine, other, mark()), source="02:00:00:00:00:99")]
        false += [from_pod(a, udp(host, other, mark()))] if host else []
        false += [from_pod(a, dhcp(mine, other, 547 if v6 else 67)), from_pod(a, redirect(mine, other))]
        honest = from_pod(a, udp(mine, other, mark()))
        assert arriving(a.space, b.space, [*false, honest]) == [False] * len(false) + [True]
        if v6:  # their pool is not tunnelled
            continue
        for node, target in ((one, theirs), (two, mine)):
            words = ("ip", "route", "show", "match", target)
            tools.until("route", lambda n=node, w=words: "vxlan.calico" in n.space.run(*w))
        false, honest = [from_pod(a, udp(other, theirs, mark()))], from_pod(a, udp(mine, theirs, mark()))
        assert arriving(a.space, far.space, [*false, honest]) == [False, True]


def test_a_family_that_the_pod_has_not(world: Any) -> None:
    node = world.nodes[0]
    a = node.pod("a").add()
    local = link_local(mac_of(a))
    frames = [from_pod(a, udp("fd00::1", "fd00::2", mark())), from_pod(a, router(local) + mark())]
    before = counted(node, "from6")
    with tap(a.space) as mouth:
        for frame in frames:
            mouth.send(frame)
        assert answered(a, mouth)
    assert counted(node, "from6") - before >= len(frames)
    assert "2001:db8:bad" not in node.space.run("ip", "-6", "address")
    assert "ra" not in node.space.run("ip", "-6", "route", "show", "default").split()


def counted(node: Any, chain: str) -> int:
    """Packets that rules of the chain dropped."""
    words = node.space.run("nft", "list", "chain", "inet", "podwire", chain).split()
    return sum(int(words[at + 1]) for at, word in enumerate(words) if word == "packets")


def answered(pod: Any, mouth: Any) -> bool:
    """Ask for the gateway by ARP: when the node answers, it has seen all that was sent before."""
    mouth.send(ethernet(BROADCAST, mac_of(pod), ARP, arp(1, mac_of(pod), addresses(pod)[0], "169.254.1.1")))
    while True:
        got = mouth.recv(2000)
        if got[12:14] == struct.pack(">H", ARP) and got[20:22] == b"\0\2":
            return True


def neighbours(node: Any, pod: Any) -> list[list[str]]:
    lines = [node.space.run("ip", family, "neigh", "show", "dev", pod.host_name) for family in ("-4", "-6")]
    return [line.split() for some in lines for line in some.splitlines()]


def test_arp_and_neighbour_discovery(six: Any, tools: Any) -> None:
    """Nothing that the pod claims, nor how much, changes what the node knows of its neighbours."""
    node = six.nodes[0]
    a, b = node.pod("a"), node.pod("b")
    add(a, **DUAL)
    add(b, **DUAL)
    mine, mac, local = addresses(a), mac_of(a), link_local(mac_of(a))
    tools.until("answers", lambda: "tentative" not in node.space.run("ip", "-6", "address", "show", "dev", a.host_name))
    false = "02:00:00:00:00:99"
    claims = [ethernet(BROADCAST, mac, ARP, arp(code, mac, addresses(b)[0], "169.254.1.1")) for code in (1, 2)]
    claims += [ethernet(BROADCAST, mac, ARP, arp(code, false, mine[0], "169.254.1.1")) for code in (1, 2)]
    claims += [ethernet(BROADCAST, mac, ARP, arp(1, mac, f"10.9.{n >> 8}.{n & 255}", node.address)) for n in range(600)]
    talks = [solicitation(mine[1], GATEWAY6, GATEWAY6, false)]
    talks += [solicitation(f"fe80::{n:x}", GATEWAY6, GATEWAY6, mac) for n in range(1, 600)]
    for told in (addresses(b)[1], GATEWAY6, link_local(mac_of(b))):
        talks += [advertisement(source, GATEWAY6, told, mac) for source in (mine[1], local)]
    talks.append(advertisement(mine[1], GATEWAY6, mine[1], false))
    before = neighbours(node, a), neighbours(node, b)
    with tap(a.space) as mouth:
        for frame in claims:
            mouth.send(frame)
        for packet in talks:
            mouth.send(from_pod(a, packet))
        mouth.send(from_pod(a, solicitation(local, GATEWAY6, GATEWAY6, mac)))
        while b"\x88\x00" not in (got := mouth.recv(2000))[54:56] or got[6:12] != bytes.fromhex("ee" * 6):
            pass  # the node's answer to the honest one is behind all others
        assert answered(a, mouth)
    held = [one for one in neighbours(node, a) if one[0] != local]
    assert (held, neighbours(node, b)) == before
    assert all(mac in one and "PERMANENT" in one for one in held)


@pytest.mark.parametrize("wiring", ["routed", "bridge"])
def test_no_router_is_believed(world: Any, shape: dict[str, Any], wiring: str) -> None:
    node = world.nodes[0]
    pod = node.pod("a").add() if wiring == "routed" else onbridge.add(node.pod("a"), shape)
    name = pod.host_name if wiring == "routed" else "cbr0"
    for space, interface in ((node.space, name), (node.space, "vxlan.calico"), (pod.space, "eth0")):
        with netns.inside(space.fd):
            assert netns.read_sysctl(f"net/ipv6/conf/{interface}/accept_ra") == "0", interface
    with netns.inside(node.space.fd):
        assert netns.read_sysctl(f"net/ipv4/conf/{name}/accept_redirects") == "0"


def test_bridge(world: Any, shape: dict[str, Any]) -> None:
    """What no pod is on a bridge: router, DHCP server; and no tag hides a false source."""
    node = world.nodes[0]
    shape["ipam"]["ranges"] = [[{"subnet": "10.77.1.0/24"}], [{"subnet": "fd77:1::/64"}]]
    a, b = (onbridge.add(node.pod(name), shape) for name in "ab")
    (mine, mine6), (other, other6) = addresses(a), addresses(b)
    local, to = link_local(mac_of(a)), mac_of(b)
    false = [
        from_pod(a, router(mine6, other6) + mark(), target=to),
        from_pod(a, router(local) + mark(), target="33:33:00:00:00:01"),
        from_pod(a, redirect(mine, other), target=to),
        from_pod(a, redirect(mine6, other6), target=to),
        from_pod(a, dhcp(mine, other, 67), target=to),
        from_pod(a, dhcp(mine6, other6, 547), target=to),
        from_pod(a, udp("10.77.1.99", other, mark()), target=to, vlan=0),
        from_pod(a, udp("10.77.1.99", other, mark()), target=to, vlan=7),
        from_pod(a, udp("fd77:1::99", other6, mark()), target=to, vlan=0),
    ]
    for honest in (udp(mine, other, mark()), udp(mine6, other6, mark())):
        assert arriving(a.space, b.space, [*false, from_pod(a, honest, target=to)]) == [False] * len(false) + [True]


@contextlib.contextmanager
def pouring(pod: Any, frames: list[bytes]) -> Iterator[list[int]]:
    """A sender inside the pod from now on, as soon as there is an interface; how often it went through the frames."""
    stop, rounds = threading.Event(), [0]

    def pour() -> None:
        with netns.inside(pod.space.fd):
            while not stop.is_set():
                with contextlib.suppress(OSError), tap(pod.space) as mouth:
                    while not stop.is_set():
                        for frame in frames:
                            mouth.send(frame)
                        rounds[0] += 1
                        stop.wait(0.0005)

    thread = threading.Thread(target=pour)
    thread.start()
    try:
        yield rounds
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize("wiring", ["routed", "bridge"])
def test_closed_from_the_first_instant_and_while_the_agent_is_away(
    world: Any, shape: dict[str, Any], tools: Any, wiring: str
) -> None:
    node, later = world.nodes[0], mark()
    if wiring == "routed":
        b, a = node.pod("b").add(), node.pod("a")
        mac, to = "02:00:00:00:00:05", HOST_MAC
    else:
        b, a = onbridge.add(node.pod("b"), shape), node.pod("a")
        mac, to = "0a:58:0a:4d:01:63", mac_of(b)
    guess = "10.244.1.60" if wiring == "routed" else "10.77.1.99"
    false = [ethernet(to, mac, IPV4, udp(source, addresses(b)[0], later)) for source in (guess, addresses(b)[0])]
    false.append(ethernet(BROADCAST, mac, ARP, arp(2, mac, addresses(b)[0], "169.254.1.1")))
    with tap(b.space) as ear, pouring(a, false) as rounds:
        if wiring == "routed":
            a.add(runtimeConfig={"mac": mac})
        else:
            onbridge.add(a, shape)
        for number in (signal.SIGKILL, signal.SIGTERM):
            at = rounds[0]
            tools.until("sender runs", lambda at=at: rounds[0] > at + 5)
            node.stop(number)
            tools.until("sender runs without an agent", lambda at=rounds[0]: rounds[0] > at + 5)
            node.start()
        honest = mark()
        with tap(a.space) as mouth:
            mouth.send(from_pod(a, udp(addresses(a)[0], addresses(b)[0], honest), target=to))
        while honest not in (got := ear.recv(4000)):
            assert later not in got


def test_the_tables_are_made_filled_and_mended(tools: Any) -> None:
    """As nft's text and as elements they are the same, so that a start writes nothing."""
    ends = [
        Endpoint("cali1", "02:00:00:00:00:05", ("10.244.1.5", "fd00::5"), ("192.0.2.0/24", "2001:db8::/64")),
        Endpoint("cali2", "02:00:00:00:00:06", ("10.244.1.6",), ("198.51.100.7/32",)),
    ]
    space = tools.Namespace()

    def work() -> None:
        first = Admission(Nft(), Sockets().elements)
        first.restore(ends)
        before = dict(netlink.writes)
        Admission(Nft(), Sockets().elements).restore(ends)
        assert dict(netlink.writes) == before
        assert [first.missing(end) for end in ends] == [[], []]
        nft.run("flush set inet podwire senders\nflush set arp podwire speakers\n")
        assert len(first.missing(ends[0])) == 2
        first.repair()
        assert [first.missing(end) for end in ends] == [[], []]
        first.expel("cali1")
        first.expel("cali1")
        assert "cali1" not in (nft.read("inet", "podwire") or "") + (nft.read("arp", "podwire") or "")
        first.admit(ends[0])
        one = netlink.writes["nf_tables"]
        first.expel("cali2")
        assert netlink.writes["nf_tables"] == one + 1
        nft.run("delete table inet podwire\n")
        with pytest.raises(KernelError):
            first.admit(ends[1])
        first.repair()
        assert [first.missing(end) for end in ends] == [[], []]

    try:
        netns.run_inside(space.fd, work)
    finally:
        space.close()
