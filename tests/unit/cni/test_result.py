"""Results in the JSON of every version, there and back."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podwire.cni import result, spec
from podwire.cni.result import Address, Destination, Interface, Result

RESULT = Result(
    (
        Interface("cali1", "ee:ee:ee:ee:ee:ee", 1450),
        Interface("eth0", "02:00:00:00:00:01", 1450, "/run/netns/x", "/run/vhost.sock", "0000:00:1f.0"),
    ),
    (Address("10.244.1.5/32", "169.254.1.1", 1), Address("fd00::5/128", "", 1)),
    (Destination("0.0.0.0/0", "169.254.1.1", 1400, 1360, 100, 0, 253), Destination("::/0", "fe80::1")),
    {"nameservers": ["10.96.0.10"], "domain": "cluster.local"},
)
FAMILIES = {
    "ip4": {"ip": "10.244.1.5/32", "gateway": "169.254.1.1", "routes": [{"dst": "0.0.0.0/0", "gw": "169.254.1.1"}]},
    "ip6": {"ip": "fd00::5/128", "routes": [{"dst": "::/0", "gw": "fe80::1"}]},
}


def encoded(version: str, value: Result = RESULT) -> dict[str, Any]:
    answer = json.loads(result.encode(value, version))
    assert answer["cniVersion"] == version
    assert isinstance(answer, dict)
    return answer


@pytest.mark.parametrize(
    ("version", "marked", "new"),
    [
        ("0.3.0", True, False),
        ("0.3.1", True, False),
        ("0.4.0", True, False),
        ("1.0.0", False, False),
        ("1.1.0", False, True),
    ],
)
def test_fields_of_a_version(version: str, marked: bool, new: bool) -> None:
    answer = encoded(version)
    pod = {"name": "eth0", "mac": "02:00:00:00:00:01", "sandbox": "/run/netns/x"}
    route: dict[str, Any] = {"dst": "0.0.0.0/0", "gw": "169.254.1.1"}
    if new:
        pod |= {"mtu": 1450, "socketPath": "/run/vhost.sock", "pciID": "0000:00:1f.0"}
        route |= {"mtu": 1400, "advmss": 1360, "priority": 100, "table": 0, "scope": 253}
    assert answer["interfaces"][1] == pod
    assert "sandbox" not in answer["interfaces"][0]
    assert answer["routes"] == [route, {"dst": "::/0", "gw": "fe80::1"}]
    assert [row.get("version") for row in answer["ips"]] == (["4", "6"] if marked else [None, None])
    assert answer["dns"] == {"nameservers": ["10.96.0.10"], "domain": "cluster.local"}


@pytest.mark.parametrize("version", ["0.1.0", "0.2.0"])
def test_before_interfaces_there_was_one_address_of_each_family(version: str) -> None:
    answer = encoded(version)
    assert {key: answer[key] for key in ("ip4", "ip6")} == FAMILIES
    assert not answer.keys() & {"ips", "interfaces", "routes"}
    assert "ip6" not in encoded(version, Result(ips=(Address("10.0.0.1/24"),)))


def test_families_are_read() -> None:
    found = result.decode({"cniVersion": "0.2.0", **FAMILIES})
    assert found.ips == (Address("10.244.1.5/32", "169.254.1.1"), Address("fd00::5/128"))
    assert found.routes == (Destination("0.0.0.0/0", "169.254.1.1"), Destination("::/0", "fe80::1"))


def test_an_ipam_result_names_no_interface() -> None:
    answer = encoded("1.0.0", Result(ips=(Address("10.0.0.9/24", "10.0.0.1"),)))
    assert answer["ips"] == [{"address": "10.0.0.9/24", "gateway": "10.0.0.1"}]
    assert "interfaces" not in answer


TEXT = st.text(max_size=8)
NUMBERS = st.integers(0, (1 << 32) - 1)
ADDRESSES = st.ip_addresses().map(str)
CIDRS = st.builds("{}/{}".format, ADDRESSES, st.integers(0, 32))
INTERFACES = st.builds(Interface, st.text(min_size=1, max_size=8), TEXT, NUMBERS, TEXT, TEXT, TEXT)
RESULTS = st.builds(
    Result,
    st.lists(INTERFACES, min_size=1, max_size=3).map(tuple),
    st.lists(st.builds(Address, CIDRS, ADDRESSES | st.just(""), st.none() | st.just(0)), max_size=3).map(tuple),
    st.lists(
        st.builds(Destination, CIDRS, ADDRESSES, NUMBERS, NUMBERS, NUMBERS, st.none() | NUMBERS, st.none() | NUMBERS),
        max_size=3,
    ).map(tuple),
    st.fixed_dictionaries({}, optional={"search": st.lists(TEXT, min_size=1), "domain": st.just("a.b")}),
)


@given(RESULTS)
def test_the_newest_version_keeps_everything(value: Result) -> None:
    assert result.decode(encoded("1.1.0", value)) == value


@given(RESULTS, st.sampled_from(spec.VERSIONS))
def test_every_version_reads_what_it_writes(value: Result, version: str) -> None:
    again = result.decode(encoded(version, value))
    assert encoded(version, again) == encoded(version, value)
