"""Every table, against the fake kernel: all states from all states, silence when equal, refusals retried."""

from __future__ import annotations

import errno
import itertools
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from podwire.kernel.delta import Delta
from podwire.kernel.fake import FakeKernel, FakeNft
from podwire.kernel.links import Vxlan
from podwire.kernel.reconcile import reconcile
from podwire.kernel.routes import TYPE_BLACKHOLE, Address, FdbEntry, Neighbour, Route
from podwire.kernel.tables import Addresses, Fdb, Links, Neighbours, NftBody, NftTables, Routes, VxlanLink

MAC1, MAC2 = "66:00:00:00:00:01", "66:00:00:00:00:02"


def world() -> FakeKernel:
    kernel = FakeKernel()
    kernel.add_link("eth0")  # 2
    kernel.set_link(kernel.add_vxlan("vxlan.calico", Vxlan(4096, 4789, 2, "172.18.0.2")), up=True)  # 3
    return kernel


def vxlan(vni: int, mtu: int) -> VxlanLink:
    return VxlanLink(Vxlan(vni, 4789, 2, "172.18.0.2"), MAC1, mtu)


def blackhole(cidr: str) -> Route:
    return Route(cidr, type=TYPE_BLACKHOLE, protocol=80)


def tunnel(cidr: str, via: str) -> Route:
    return Route(cidr, via, 3, onlink=True)


Case = tuple[Callable[[FakeKernel], Any], list[Mapping[str, Any]]]
CASES: dict[str, Case] = {
    "routes": (
        lambda k: Routes(k, lambda r: r.index == 3 or r.protocol == 80),
        [
            {},
            {"10.1.0.0/26": blackhole("10.1.0.0/26")},
            {"10.1.0.0/26": tunnel("10.1.0.0/26", "10.1.0.0"), "10.2.0.0/26": blackhole("10.2.0.0/26")},
            {"10.1.0.0/26": tunnel("10.1.0.0/26", "10.9.0.0")},
        ],
    ),
    "neighbours": (
        lambda k: Neighbours(k, 3),
        [{}, {"10.1.0.0": Neighbour(3, "10.1.0.0", MAC1)}, {"10.1.0.0": Neighbour(3, "10.1.0.0", MAC2)}],
    ),
    "fdb": (
        lambda k: Fdb(k, 3),
        [{}, {MAC1: FdbEntry(3, MAC1, "172.18.0.3")}, {MAC2: FdbEntry(3, MAC2, "172.18.0.3")}],
    ),
    "addresses": (
        lambda k: Addresses(k, 3),
        [{}, {"10.1.0.0/32": Address(3, "10.1.0.0/32")}, {"10.1.0.1/32": Address(3, "10.1.0.1/32")}],
    ),
    "links": (
        lambda k: Links(k, frozenset({"vxlan.calico"})),
        [
            {},
            {"vxlan.calico": vxlan(4096, 1450)},
            {"vxlan.calico": vxlan(4096, 1400)},
            {"vxlan.calico": vxlan(9, 1450)},
        ],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_every_state_is_reached_from_every_other(name: str) -> None:
    make, states = CASES[name]
    for order in itertools.permutations(states):
        table = make(world())
        delta: Delta[str, Any] = Delta()
        for state in order:
            delta.want(state)
            assert reconcile(delta, table) == []
            assert table.read() == state


@pytest.mark.parametrize("name", CASES)
def test_silent_when_equal_and_after_a_restart(name: str) -> None:
    make, states = CASES[name]
    kernel = world()
    for state in states:
        first: Delta[str, Any] = Delta()
        first.want(state)
        assert reconcile(first, make(kernel)) == []
        kernel.calls.clear()
        assert reconcile(first, make(kernel)) == []
        restarted: Delta[str, Any] = Delta()
        restarted.want(state)
        assert reconcile(restarted, make(kernel)) == []
        assert not kernel.calls


def test_restart_removes_orphans_and_leaves_the_rest_alone() -> None:
    kernel = world()
    kernel.put_route(blackhole("10.1.0.0/26"))
    kernel.put_route(blackhole("10.2.0.0/26"))
    kernel.put_route(Route("192.168.0.0/24", index=2, scope=253))  # somebody else's
    kernel.calls.clear()
    delta: Delta[str, Route] = Delta()
    delta.want({"10.2.0.0/26": blackhole("10.2.0.0/26")})
    assert reconcile(delta, Routes(kernel, lambda r: r.protocol == 80)) == []
    assert dict(kernel.calls) == {"delete": 1}
    assert {r.destination for r in kernel.routes()} == {"10.2.0.0/26", "192.168.0.0/24"}


def test_one_refusal_stops_nothing_else_and_is_retried() -> None:
    kernel = world()
    kernel.refuse["10.1.0.0/26"] = errno.ENOMEM
    table = Routes(kernel, lambda r: r.protocol == 80)
    delta: Delta[str, Route] = Delta()
    delta.want({cidr: blackhole(cidr) for cidr in ("10.1.0.0/26", "10.2.0.0/26")})
    assert [error.errno for error in reconcile(delta, table)] == [errno.ENOMEM]
    assert set(table.read()) == {"10.2.0.0/26"}
    kernel.refuse.clear()
    assert reconcile(delta, table) == []
    assert set(table.read()) == {"10.1.0.0/26", "10.2.0.0/26"}


def test_nft_tables_are_written_when_their_body_changes() -> None:
    program = FakeNft()
    table = NftTables(program, frozenset({"ip podwire"}))
    delta: Delta[str, NftBody] = Delta()
    for text, writes in (("chain a {\n}", 1), ("chain a {\n}", 0), ("chain b {\n}", 1)):
        delta.doubt()
        delta.want({"ip podwire": NftBody.of(text)})
        program.calls.clear()
        assert reconcile(delta, table) == []
        assert program.calls["run"] == writes
        assert text in program.tables["ip", "podwire"]
    program.broken = True
    delta.want({})
    assert len(reconcile(delta, table)) == 1
    program.broken = False
    assert reconcile(delta, table) == []
    assert not program.tables
