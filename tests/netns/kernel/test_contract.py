"""One contract, two kernels: the real one in a namespace, and the fake. What tests elsewhere trust is shown here."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from podwire.kernel import netlink, netns, nft, routes
from podwire.kernel.delta import Delta
from podwire.kernel.fake import FakeKernel, FakeNft
from podwire.kernel.links import RouteSocket, Vxlan
from podwire.kernel.netlink import KernelError
from podwire.kernel.nfelements import ElementSocket, SetName, address_key, interface_key
from podwire.kernel.reconcile import reconcile
from podwire.kernel.routes import Address, FdbEntry, Neighbour, Route
from podwire.kernel.tables import Links, Nft, NftBody, NftTables, Routes, VxlanLink

MAC1, MAC2 = "66:00:00:00:00:01", "66:00:00:00:00:02"


@pytest.fixture
def namespace() -> Iterator[int]:
    """A new network namespace by descriptor; it ends with it."""
    found: list[int] = []

    def make() -> None:  # a thread of its own moves, and does not come back
        if ctypes.CDLL(None, use_errno=True).unshare(netns.CLONE_NEWNET) == 0:
            found.append(netns.open_own())

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    assert found, "no network namespace (root is needed)"
    yield found[0]
    os.close(found[0])


@pytest.fixture(params=["real", "fake"])
def kernel(request: pytest.FixtureRequest, namespace: int) -> Iterator[Any]:
    """Either kernel, with eth0 up at 172.18.0.2/16."""
    if request.param == "fake":
        fake = FakeKernel()
        index = fake.add_link("eth0")
        fake.put_address(Address(index, "172.18.0.2/16"))
        yield fake
        return
    with RouteSocket(netns_fd=namespace) as real:
        index = real.add_veth("eth0", "far")
        for name in ("eth0", "far"):
            real.set_link(real.link_index(name) or 0, up=True)
        real.put_address(Address(index, "172.18.0.2/16"))
        yield real


def tunnel(kernel: Any, *, up: bool = True) -> int:
    parent = kernel.link("eth0").index
    index = int(kernel.add_vxlan("vxlan.calico", Vxlan(4096, 4789, parent, "172.18.0.2"), mac=MAC1))
    kernel.set_link(index, up=up)
    return index


@contextlib.contextmanager
def refused(code: int) -> Iterator[None]:
    with pytest.raises(KernelError) as caught:
        yield
    assert caught.value.errno == code, caught.value


def ours(kernel: Any, index: int) -> list[Route]:
    return [route for route in kernel.routes() if route.index == index or route.protocol == 80]


def test_links(kernel: Any) -> None:
    index = tunnel(kernel, up=False)
    link = kernel.link("vxlan.calico")
    assert (link.index, link.mac, link.mtu, link.up, link.kind) == (index, MAC1, 1450, False, "vxlan")
    assert link.vxlan == Vxlan(4096, 4789, kernel.link("eth0").index, "172.18.0.2")
    kernel.set_link(index, up=True, mtu=1400)
    link = kernel.link("vxlan.calico")
    assert (link.mtu, link.up) == (1400, True)
    with refused(errno.EEXIST):
        kernel.add_vxlan("vxlan.calico", Vxlan(5, 4790, 0, ""))
    kernel.delete_link(index)
    assert kernel.link("vxlan.calico") is None
    with refused(errno.ENODEV):
        kernel.delete_link(index)


def test_routes(kernel: Any) -> None:
    index = tunnel(kernel)
    far = Route("10.244.2.0/26", "10.244.2.0", index, onlink=True)
    hole = Route("10.244.1.0/26", type=routes.TYPE_BLACKHOLE, protocol=80)
    for route in (far, hole, far):
        kernel.put_route(route)
    assert sorted(ours(kernel, index), key=lambda r: r.destination) == [hole, far]
    other = Route("10.244.2.0/26", "10.244.2.9", index, onlink=True)
    kernel.put_route(other)
    assert other in kernel.routes()
    assert far not in kernel.routes()
    with refused(errno.ENODEV):
        kernel.put_route(Route("10.9.0.0/26", index=999, scope=routes.SCOPE_LINK))
    with refused(errno.ENETUNREACH):
        kernel.put_route(Route("10.9.0.0/26", "9.9.9.9", index))
    with refused(errno.ESRCH):
        kernel.drop_route(Route("10.77.0.0/26", index=index))
    with refused(errno.ESRCH):  # by another interface: not ours to remove
        kernel.drop_route(Route("10.244.2.0/26", index=kernel.link("eth0").index))
    kernel.drop_route(hole)
    assert ours(kernel, index) == [other]
    kernel.delete_link(index)
    assert ours(kernel, index) == []


def test_a_route_by_a_link_that_is_down(kernel: Any) -> None:
    index = tunnel(kernel, up=False)
    with refused(errno.ENETDOWN):
        kernel.put_route(Route("10.244.2.0/26", "10.244.2.0", index, onlink=True))
    kernel.set_link(index, up=True)
    kernel.put_route(Route("10.244.2.0/26", "10.244.2.0", index, onlink=True))
    kernel.set_link(index, up=False)
    assert ours(kernel, index) == []


def test_addresses_neighbours_fdb(kernel: Any) -> None:
    index = tunnel(kernel)
    address, neighbour = Address(index, "10.244.1.0/32"), Neighbour(index, "10.244.2.0", MAC2)
    entry = FdbEntry(index, MAC2, "172.18.0.3")
    for _ in range(2):
        kernel.put_address(address)
        kernel.put_neighbour(neighbour)
        kernel.put_fdb(entry)
    assert address in kernel.addresses()
    assert kernel.neighbours(index) == [neighbour]
    assert kernel.fdb(index) == [entry]
    moved = Neighbour(index, "10.244.2.0", MAC1)
    kernel.put_neighbour(moved)
    assert kernel.neighbours(index) == [moved]
    kernel.drop_neighbour(moved)
    kernel.drop_fdb(entry)
    kernel.drop_address(address)
    assert (kernel.neighbours(index), kernel.fdb(index)) == ([], [])
    assert address not in kernel.addresses()
    for drop, row, code in (
        (kernel.drop_fdb, entry, errno.ENOENT),
        (kernel.drop_address, address, errno.EADDRNOTAVAIL),
        (kernel.drop_neighbour, moved, errno.ENOENT),
    ):
        with refused(code):
            drop(row)


def test_tables_reconcile_on_either(kernel: Any) -> None:
    parent = kernel.link("eth0").index
    rows = [
        VxlanLink(Vxlan(vni, 4789, parent, "172.18.0.2"), MAC1, mtu) for vni, mtu in ((1, 1450), (1, 1400), (2, 1400))
    ]
    links: Delta[str, VxlanLink] = Delta()
    for row in rows:
        links.want({"vxlan.calico": row})
        assert reconcile(links, Links(kernel, frozenset({"vxlan.calico"}))) == []
        assert Links(kernel, frozenset({"vxlan.calico"})).read() == {"vxlan.calico": row}
    index = kernel.link("vxlan.calico").index
    table = Routes(kernel, lambda r: r.index == index or r.protocol == 80)
    delta: Delta[str, Route] = Delta()
    hole = Route("10.1.0.0/26", type=routes.TYPE_BLACKHOLE, protocol=80)
    far = Route("10.1.0.0/26", "10.1.0.0", index, onlink=True)
    for state in ({hole.destination: hole}, {far.destination: far}, {}, {hole.destination: hole}):
        delta.want(state)
        assert reconcile(delta, table) == []
        assert table.read() == state


@pytest.mark.parametrize("make", [Nft, FakeNft], ids=["real", "fake"])
def test_nft_tables_on_either(make: Any, namespace: int) -> None:
    body = NftBody.of("\tset s {\n\t\ttype ipv4_addr\n\t}\n")
    with netns.inside(namespace):
        table = NftTables(make(), frozenset({"ip podwire"}))
        assert table.read() == {}
        table.write("ip podwire", body)
        table.write("ip podwire", body)
        assert table.read() == {"ip podwire": body}
        table.remove("ip podwire", body)
        assert table.read() == {}


def test_nft_says_what_is_wrong(namespace: int) -> None:
    with netns.inside(namespace), pytest.raises(nft.NftError, match="syntax error"):
        nft.run("table ip {\n")


def test_set_elements(namespace: int) -> None:
    target = SetName("inet", "podwire", "endpoints")
    with netns.inside(namespace):
        nft.run("table inet podwire {\n\tset endpoints {\n\t\ttype ifname . ipv4_addr\n\t}\n}\n")
        wire = ElementSocket()
    with wire:
        keys = {interface_key(f"cali{n}") + address_key(f"10.0.{n // 256}.{n % 256}") for n in range(3000)}
        for key in keys:
            wire.add(target, [key])
        wire.add(target, [next(iter(keys))])
        assert wire.read(target) == keys
        missing = interface_key("nobody") + address_key("1.1.1.1")
        with refused(errno.ENOENT):  # all or nothing
            wire.delete(target, [next(iter(keys)), missing])
        assert wire.read(target) == keys
        with refused(errno.ENOENT):
            wire.add(SetName("inet", "podwire", "none"), keys)
    with netns.inside(namespace):
        assert '"cali7" . 10.0.0.7' in (nft.read("inet", "podwire") or "")


def test_a_batch_goes_on_after_a_refusal(namespace: int) -> None:
    with RouteSocket(netns_fd=namespace) as real:
        real.set_link(1, up=True)
        messages = [
            routes.add_route(Route("10.1.0.0/16", index=1, scope=routes.SCOPE_LINK)),
            routes.add_route(Route("10.2.0.0/16", "9.9.9.9", 1)),
            routes.add_route(Route("10.3.0.0/16", index=1, scope=routes.SCOPE_LINK)),
        ]
        results = real.try_batch(messages)
        assert [error.errno if error else 0 for error in results] == [0, errno.ENETUNREACH, 0]
        assert results[1] is not None
        assert results[1].text.startswith("Nexthop has invalid gateway")
        assert {r.destination for r in real.routes()} >= {"10.1.0.0/16", "10.3.0.0/16"}


def test_a_dump_of_many_is_complete(namespace: int) -> None:
    with RouteSocket(netns_fd=namespace) as real:
        real.set_link(1, up=True)
        many = [Route(f"10.{n // 256}.{n % 256}.0/24", type=routes.TYPE_BLACKHOLE, protocol=80) for n in range(5000)]
        real.batch([routes.add_route(route) for route in many])
        assert set(real.routes()) == set(many)


def test_a_path_that_is_no_namespace(tmp_path: Any) -> None:
    (tmp_path / "file").write_text("")
    fd = netns.open_path(tmp_path / "file")
    try:
        with refused(errno.EINVAL), netns.inside(fd):
            raise AssertionError("entered a file")
    finally:
        os.close(fd)
    with refused(errno.ENOENT):
        netns.open_path(tmp_path / "absent")


def test_writes_are_counted(namespace: int) -> None:
    with RouteSocket(netns_fd=namespace) as real:
        before = netlink.writes["rtnetlink"]
        real.links()
        assert netlink.writes["rtnetlink"] == before
        real.set_link(1, up=True)
        assert netlink.writes["rtnetlink"] == before + 1
