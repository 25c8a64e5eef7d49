"""host-local: its configuration as a table, its files, and what happens when two hold the directory."""

from __future__ import annotations

import ipaddress
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podwire.ipam import hostlocal, hostranges
from podwire.ipam.hostlocal import Boot, Store
from podwire.ipam.hostranges import HostLocalError, Plan

RANGE = {"subnet": "10.1.2.0/29"}


def plan(ipam: dict[str, Any] | None, runtime: dict[str, Any] | None = None, **arguments: str) -> Plan:
    return hostranges.load({"ipam": ipam} if ipam is not None else {}, runtime or {}, arguments)


def spans(found: Plan) -> list[str]:
    return [str(one) for one in found.sets]


@pytest.mark.parametrize(
    ("ipam", "expected"),
    [
        ({"subnet": "10.1.2.0/24"}, ["10.1.2.1-10.1.2.254"]),
        ({"subnet": "2001:db8::/120"}, ["2001:db8::1-2001:db8::ff"]),
        ({"subnet": "10.1.2.0/24", "rangeStart": "10.1.2.9", "rangeEnd": "10.1.2.17"}, ["10.1.2.9-10.1.2.17"]),
        ({"ranges": [[RANGE, {"subnet": "10.9.0.0/30"}]]}, ["10.1.2.1-10.1.2.6,10.9.0.1-10.9.0.2"]),
        ({"ranges": [[RANGE], [{"subnet": "fd00:0::/112"}]]}, ["10.1.2.1-10.1.2.6", "fd00::1-fd00::ffff"]),
        ({"subnet": "10.8.0.0/30", "ranges": [[RANGE]]}, ["10.8.0.1-10.8.0.2", "10.1.2.1-10.1.2.6"]),
    ],
)  # fmt: skip
def test_ranges(ipam: dict[str, Any], expected: list[str]) -> None:
    assert spans(plan(ipam)) == expected


@pytest.mark.parametrize(
    ("ipam", "words"),
    [
        (None, "IPAM config missing 'ipam' key"),
        ({}, "no IP ranges specified"),
        ({"ranges": [[]]}, "invalid range set 0: empty range set"),
        ({"ranges": [[{"subnet": "10.0.0.0/31"}]]}, "Network 10.0.0.0/31 too small to allocate from"),
        ({"ranges": [[{"subnet": "10.0.0.7/24"}]]}, "the network address is 10.0.0.0"),
        ({"ranges": [[{"subnet": "10.0.0.0"}]]}, "invalid CIDR address: 10.0.0.0"),
        ({"ranges": [[{"subnet": "x"}]]}, "invalid CIDR address: x"),
        ({"ranges": [[RANGE, {"subnet": "fd00::/64"}]]}, "mixed address families"),
        ({"ranges": [[RANGE, RANGE]]}, "subnets 10.1.2.1-10.1.2.6 and 10.1.2.1-10.1.2.6 overlap"),
        ({"ranges": [[RANGE], [{"subnet": "10.1.0.0/16"}]]}, "range set 0 overlaps with 1"),
        ({**RANGE, "rangeStart": "10.1.3.1"}, "RangeStart 10.1.3.1 not in network 10.1.2.0/29"),
        ({**RANGE, "rangeEnd": "10.1.3.1"}, "RangeEnd 10.1.3.1 not in network 10.1.2.0/29"),
        ({**RANGE, "rangeEnd": "soon"}, "rangeEnd: invalid IP address: soon"),
        ({**RANGE, "dataDir": "../../etc"}, "ipam.dataDir is not an absolute path"),
        ({**RANGE, "dataDir": "/a/../etc"}, "ipam.dataDir is not an absolute path"),
        ({**RANGE, "routes": [{"gw": "10.1.2.1"}]}, "ipam.routes: a route without dst"),
        ({"ranges": {}}, "ipam.ranges is not a list"),
        ({"ranges": [["10.0.0.0/24"]]}, "a range is not an object"),
    ],
)
def test_refused(ipam: dict[str, Any] | None, words: str) -> None:
    with pytest.raises(HostLocalError) as error:
        plan(ipam)
    assert words in str(error.value)


def test_what_the_runtime_adds() -> None:
    found = plan(
        RANGE,
        {"ipranges": [[{"subnet": "10.7.0.0/30", "rangestart": "10.7.0.2"}]], "ips": ["10.1.2.4/29"]},
        IP="10.7.0.2",
    )
    assert spans(found) == ["10.7.0.2-10.7.0.2", "10.1.2.1-10.1.2.6"]
    assert [str(one) for one in found.wanted] == ["10.7.0.2", "10.1.2.4"]
    asked = hostranges.load({"ipam": RANGE, "args": {"cni": {"ips": ["::ffff:10.1.2.3"]}}}, {}, {})
    assert [str(one) for one in asked.wanted] == ["10.1.2.3"]  # fmt: skip


def test_resolv_conf(tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    path.write_text(
        "# x\nnameserver 1.2.3.4\nnameserver fd00::1\n; y\ndomain d.example\nsearch a b\noptions ndots:5\nnameserver\n"
    )
    assert hostlocal.dns_of(str(path)) == {
        "nameservers": ["1.2.3.4", "fd00::1"],
        "domain": "d.example",
        "search": ["a", "b"],
        "options": ["ndots:5"],
    }
    with pytest.raises(HostLocalError, match="nosuch"):
        hostlocal.dns_of(str(tmp_path / "nosuch"))


def addresses(store: Store, owner: tuple[str, str], what: Plan) -> list[str]:
    return [given.cidr for given in store.assign(owner, what.sets, what.wanted)]


def test_the_files(tmp_path: Path) -> None:
    store, what = Store(str(tmp_path), "net"), plan({"ranges": [[RANGE], [{"subnet": "fd00::/64"}]]})
    given = store.assign(("c1", "eth0"), what.sets)
    assert [(one.cidr, one.gateway) for one in given] == [("10.1.2.2/29", "10.1.2.1"), ("fd00::2/64", "fd00::1")]
    folder = tmp_path / "net"
    assert {path.name for path in folder.iterdir()} == {
        "10.1.2.2", "fd00::2", "last_reserved_ip.0", "last_reserved_ip.1", "lock"
    }  # fmt: skip
    assert (folder / "10.1.2.2").read_bytes() == b"c1\r\neth0"
    assert (folder / "10.1.2.2").stat().st_mode & 0o777 == 0o600
    assert (folder / "last_reserved_ip.1").read_bytes() == b"fd00::2"
    assert store.release(("c1", "eth0")) == ["10.1.2.2", "fd00::2"]
    assert store.release(("c1", "eth0")) == []
    assert (folder / "last_reserved_ip.0").read_bytes() == b"10.1.2.2"


def test_round_robin_exhaustion_and_after(tmp_path: Path) -> None:
    store, what = Store(str(tmp_path), "net"), plan(RANGE)
    first = [addresses(store, (f"c{n}", "eth0"), what)[0] for n in range(5)]
    assert first == [f"10.1.2.{n}/29" for n in (2, 3, 4, 5, 6)]
    with pytest.raises(HostLocalError) as error:
        store.assign(("c5", "eth0"), what.sets)
    assert (
        str(error.value) == "failed to allocate for range 0: no IP addresses available in range set: 10.1.2.1-10.1.2.6"
    )
    assert error.value.exhausted
    store.release(("c1", "eth0"))
    store.release(("c3", "eth0"))
    assert addresses(store, ("c6", "eth0"), what) == ["10.1.2.3/29"]
    assert addresses(store, ("c7", "eth0"), what) == ["10.1.2.5/29"]
    assert addresses(store, ("c7", "eth0"), what) == ["10.1.2.5/29"]  # the same attachment asks again


def test_all_or_none(tmp_path: Path) -> None:
    store, what = Store(str(tmp_path), "net"), plan({"ranges": [[RANGE], [{"subnet": "10.9.0.0/30"}]]})
    assert len(store.assign(("c1", "eth0"), what.sets)) == 2
    with pytest.raises(
        HostLocalError, match=r"failed to allocate for range 1: no IP addresses available in range set: "
    ):
        store.assign(("c2", "eth0"), what.sets)
    assert store.held(("c2", "eth0")) == []
    assert [one.address for one in store.reservations()] == ["10.1.2.2", "10.9.0.2"]


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ("10.1.2.1", "requested ip 10.1.2.1 is subnet's gateway"),
        ("10.1.2.2", "requested IP address 10.1.2.2 is not available in range set 10.1.2.1-10.1.2.6"),
        ("10.4.4.4", "failed to allocate all requested IPs: 10.4.4.4"),
    ],
)
def test_explicit_addresses(tmp_path: Path, wanted: str, words: str) -> None:
    store = Store(str(tmp_path), "net")
    assert addresses(store, ("c1", "eth0"), plan(RANGE, {"ips": ["10.1.2.5"]})) == ["10.1.2.5/29"]
    assert addresses(store, ("c0", "eth0"), plan(RANGE, {"ips": ["10.1.2.2"]})) == ["10.1.2.2/29"]
    with pytest.raises(HostLocalError) as error:
        addresses(store, ("c2", "eth0"), plan(RANGE, {"ips": [wanted]}))
    assert words in str(error.value)
    assert store.held(("c2", "eth0")) == []


def test_old_files_without_an_interface_and_foreign_ones(tmp_path: Path) -> None:
    store, what = Store(str(tmp_path), "net"), plan(RANGE)
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "10.1.2.2").write_text("old\n")
    (tmp_path / "net" / "10.1.2.3").mkdir()
    (tmp_path / "net" / "10.1.2.4").write_bytes(b"\xff\xfe")
    (tmp_path / "net" / "note.txt").write_text("old")
    assert addresses(store, ("c1", "eth0"), what) == ["10.1.2.5/29"]
    assert store.leaks({("old", "eth7"), ("c1", "eth0")}) == [
        one for one in store.reservations() if one.address in ("10.1.2.3", "10.1.2.4")
    ]
    assert store.release(("old", "eth0")) == ["10.1.2.2"]
    assert (tmp_path / "net" / "note.txt").exists()


def test_changes_by_somebody_else_are_seen(tmp_path: Path) -> None:
    """However quickly they follow: the kernel's clock for files ticks only every few milliseconds."""
    store, what = Store(str(tmp_path), "net"), plan({"subnet": "10.1.0.0/22"})
    for number in range(200):
        mine = addresses(store, (f"c{number}", "eth0"), what)[0].partition("/")[0]
        last = int(ipaddress.ip_address(mine))
        theirs = str(ipaddress.ip_address(last + 1))
        (tmp_path / "net" / theirs).write_bytes(b"their%d\r\neth0" % number)
        assert (f"their{number}", "eth0") in {one.owner for one in store.reservations()}
        if number % 3 == 0:
            (tmp_path / "net" / theirs).unlink()
            assert store.held((f"their{number}", "eth0")) == []
        if number % 5 == 0:
            assert store.release((f"c{number}", "eth0")) == [mine]


def test_a_late_release_leaves_the_next_owner_alone(tmp_path: Path) -> None:
    one, other, what = Store(str(tmp_path), "net"), Store(str(tmp_path), "net"), plan({"subnet": "10.1.2.0/30"})
    assert addresses(one, ("a", "eth0"), what) == ["10.1.2.2/30"]
    assert other.release(("a", "eth0")) == ["10.1.2.2"]
    assert addresses(other, ("b", "eth0"), what) == ["10.1.2.2/30"]
    assert one.release(("a", "eth0")) == []
    assert other.held(("b", "eth0")) == ["10.1.2.2"]


def test_leaks_and_collection(tmp_path: Path) -> None:
    store, what = Store(str(tmp_path), "net"), plan(RANGE)
    for name in "abc":
        store.assign((name, "eth0"), what.sets)
    assert [one.address for one in store.leaks({("b", "eth0")})] == ["10.1.2.2", "10.1.2.4"]
    assert [one.owner[0] for one in store.collect({("b", "eth0")})] == ["a", "c"]
    assert [one.owner for one in store.reservations()] == [("b", "eth0")]
    freed = store.release_address("10.1.2.3")
    assert freed is not None and freed.owner == ("b", "eth0")
    assert store.release_address("10.1.2.3") is None
    assert hostlocal.stores(str(tmp_path)) == ["net"]
    assert hostlocal.stores(str(tmp_path / "nosuch")) == []


def test_a_reboot_frees_what_was_reserved_before(tmp_path: Path) -> None:
    what = plan(RANGE)
    first = Store(str(tmp_path), "net", Boot("one", 0.0))
    first.assign(("before", "eth0"), what.sets)
    made = (tmp_path / "net" / "10.1.2.2").stat().st_mtime
    (tmp_path / "net" / "10.1.2.5").write_text("after\r\neth0")
    os.utime(tmp_path / "net" / "10.1.2.5", (made + 100, made + 100))
    again = Store(str(tmp_path), "net", Boot("one", made + 50))
    assert len(again.reservations()) == 2  # the same boot: all stays
    later = Store(str(tmp_path), "net", Boot("two", made + 50))
    assert [one.owner[0] for one in later.reservations()] == ["after"]


def test_a_directory_that_others_began_loses_nothing(tmp_path: Path) -> None:
    """Before our first sight of it nobody can say which boot its files are of."""
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "10.1.2.2").write_text("theirs\r\neth0")
    assert len(Store(str(tmp_path), "net", Boot("two", 1e12)).reservations()) == 1


@pytest.mark.parametrize("name", ["", "lock", "last_reserved_ip.0", "10.1.2.2"])
def test_symbolic_links_are_not_followed(tmp_path: Path, name: str) -> None:
    target = tmp_path / "target"
    (tmp_path / "data" / "net").mkdir(parents=True)
    if name:
        target.write_text("precious")
        (tmp_path / "data" / "net" / name).symlink_to(target)
    else:
        target.mkdir()
        (tmp_path / "data" / "net").rmdir()
        (tmp_path / "data" / "net").symlink_to(target)
    store, what = Store(str(tmp_path / "data"), "net"), plan(RANGE)
    if name == "10.1.2.2":
        assert addresses(store, ("c", "eth0"), what) == ["10.1.2.3/29"]
    else:
        with pytest.raises((HostLocalError, OSError)):
            store.assign(("c", "eth0"), what.sets)
    assert target.read_text() == "precious" if name else not list(target.iterdir())


def test_threads_never_get_the_same(tmp_path: Path) -> None:
    stores, what = [Store(str(tmp_path), "net") for _ in range(2)], plan({"subnet": "10.1.0.0/23"})
    got: list[str] = []

    def work(number: int) -> None:
        for count in range(30):
            got.extend(addresses(stores[number % 2], (f"c{number}-{count}", "eth0"), what))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == len(set(got)) == 240


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 9)), max_size=40))
def test_any_history_keeps_one_owner_an_address(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[bool, int]]
) -> None:
    store, what = Store(str(tmp_path_factory.mktemp("history")), "net"), plan(RANGE)
    model: dict[str, str] = {}
    for adding, number in steps:
        owner = (f"c{number}", "eth0")
        if not adding:
            assert store.release(owner) == ([model.pop(owner[0])] if owner[0] in model else [])
        elif owner[0] in model:
            assert addresses(store, owner, what) == [f"{model[owner[0]]}/29"]
        elif len(model) == 5:
            with pytest.raises(HostLocalError, match="no IP addresses available"):
                store.assign(owner, what.sets)
        else:
            fresh = addresses(store, owner, what)[0].partition("/")[0]
            assert fresh not in model.values()
            model[owner[0]] = fresh
    assert {one.owner[0]: one.address for one in store.reservations()} == model
