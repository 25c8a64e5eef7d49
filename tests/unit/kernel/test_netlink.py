"""The codec against bytes and against pyroute2, which decodes what we encode."""

from __future__ import annotations

import errno
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.ndmsg import ndmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from podwire.kernel import links, netlink, routes
from podwire.kernel.links import Vxlan
from podwire.kernel.netlink import KernelError
from podwire.kernel.routes import FdbEntry, Neighbour, Route


def oracle(kind: type, message: netlink.Message) -> object:
    decoded = kind(netlink.encode(message, 1, netlink.NLM_F_REQUEST))
    decoded.decode()
    return decoded


@given(st.lists(st.tuples(st.integers(0, 0x3FFF), st.binary(max_size=40))))
def test_attributes_survive_the_round_trip(pairs: list[tuple[int, bytes]]) -> None:
    wire = b"".join(netlink.attribute(kind, payload) for kind, payload in pairs)
    assert list(netlink.iterate_attributes(wire)) == pairs
    assert len(wire) % 4 == 0


@given(st.binary(max_size=64))
def test_hostile_bytes_never_raise(raw: bytes) -> None:
    list(netlink.iterate_attributes(raw))
    list(netlink.decode(raw))


def test_error_with_the_kernels_words() -> None:
    inner = struct.pack("=IHHII", 40, 24, 0, 7, 0)
    words = netlink.text(1, "Nexthop has invalid gateway") + netlink.u32(2, 44)
    body = struct.pack("=i", -101) + inner + words
    assert netlink.decode_error(0x300, body) == (101, "Nexthop has invalid gateway, attribute at byte 44")
    assert netlink.decode_error(0, body) == (101, "")


def test_error_text_names_what_and_errno() -> None:
    error = KernelError("add route 10.0.0.0/8", errno.ENETUNREACH, "Nexthop has invalid gateway")
    assert str(error) == ("add route 10.0.0.0/8: Network is unreachable [ENETUNREACH] (Nexthop has invalid gateway)")


ROUTES = [
    Route("10.244.1.0/26", "10.244.1.0", 7, onlink=True),
    Route("10.244.0.0/26", type=routes.TYPE_BLACKHOLE, protocol=80),
    Route("10.244.0.5/32", index=3, scope=routes.SCOPE_LINK),
    Route("0.0.0.0/0", "169.254.1.1", 2),
    Route("10.0.0.0/8", "172.18.0.1", 2, metric=1024, source="172.18.0.2", protocol=4),
    Route("2001:db8::/64", "fe80::1", 2),
]


@pytest.mark.parametrize("route", ROUTES, ids=lambda r: r.destination)
def test_route_round_trip_and_oracle(route: Route) -> None:
    message = routes.add_route(route)
    assert routes.decode_route(message.body) == route
    seen = oracle(rtmsg, message)
    address, length = route.destination.split("/")
    assert seen["dst_len"] == int(length)
    assert seen.get_attr("RTA_DST") == (address if int(length) else None)
    assert seen.get_attr("RTA_GATEWAY") == (route.via or None)
    assert seen.get_attr("RTA_OIF") == (route.index or None)
    assert bool(seen["flags"] & 4) == route.onlink


def test_neighbour_and_fdb_oracle() -> None:
    seen = oracle(ndmsg, routes.add_neighbour(Neighbour(4, "10.244.1.0", "66:00:00:00:00:02")))
    assert (seen["ifindex"], seen["state"]) == (4, routes.NUD_PERMANENT)
    assert seen.get_attr("NDA_LLADDR") == "66:00:00:00:00:02"
    seen = oracle(ndmsg, routes.add_fdb(FdbEntry(4, "66:00:00:00:00:02", "172.18.0.2")))
    assert (seen["family"], seen["flags"]) == (routes.AF_BRIDGE, routes.NTF_SELF)
    assert seen.get_attr("NDA_DST") == "172.18.0.2"


def test_vxlan_oracle() -> None:
    message = links.create_vxlan("vxlan.calico", Vxlan(4096, 4789, 2, "172.18.0.2"), mac="66:00:00:00:00:01")
    seen = oracle(ifinfmsg, message)
    info = seen.get_attr("IFLA_LINKINFO")
    data = info.get_attr("IFLA_INFO_DATA")
    assert seen.get_attr("IFLA_IFNAME") == "vxlan.calico"
    assert info.get_attr("IFLA_INFO_KIND") == "vxlan"
    assert [data.get_attr(f"IFLA_VXLAN_{n}") for n in ("ID", "PORT", "LINK", "LOCAL", "LEARNING")] == [
        4096,
        4789,
        2,
        "172.18.0.2",
        0,
    ]


def test_veth_oracle() -> None:
    message = links.create_veth("cali1", "eth0", peer_netns=9, mtu=1450, mac="ee:ee:ee:ee:ee:ee", up=True)
    seen = oracle(ifinfmsg, message)
    peer = seen.get_attr("IFLA_LINKINFO").get_attr("IFLA_INFO_DATA").get_attr("VETH_INFO_PEER")
    assert seen["flags"] & 1
    assert seen.get_attr("IFLA_ADDRESS") == "ee:ee:ee:ee:ee:ee"
    assert peer.get_attr("IFLA_IFNAME") == "eth0"
    assert peer.get_attr("IFLA_MTU") == 1450
    assert peer.get_attr("IFLA_NET_NS_FD") == 9


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: routes.pack_mac("ee:ee"), "not a MAC address"),
        (lambda: routes.pack_cidr("10.0.0.0/33"), "not a prefix"),
        (lambda: routes.pack_cidr("10.0.0/8"), "not an IP address"),
        (lambda: links.create_bridge("a-name-that-is-too-long"), "not an interface name"),
    ],
)
def test_bad_values_are_refused_by_name(call: object, words: str) -> None:
    with pytest.raises(KernelError, match=words) as caught:
        call()  # type: ignore[operator]
    assert caught.value.errno == errno.EINVAL
