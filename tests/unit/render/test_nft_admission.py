"""What admits a pod's interface, row by row."""

from __future__ import annotations

import pytest

from podwire.render import nft_admission
from podwire.render.nft_admission import ARP, TABLE, Endpoint, body, link_local, rows

MAC = "02:00:00:00:00:05"
FOUR = Endpoint("cali1", MAC, ("10.244.1.5",))
DUAL = Endpoint("cali1", MAC, ("10.244.1.5", "fd00::5"))
WIDE = Endpoint("cali1", MAC, ("10.244.1.5",), ("192.0.2.0/24", "2001:db8::/64"))


def texts(endpoint: Endpoint) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for row in rows(endpoint):
        found.setdefault(row.set, set()).add(row.text)
    return found


def test_one_address_is_three_rows() -> None:
    assert texts(FOUR) == {
        "endpoints": {'"cali1" . 10.244.1.5'},
        "senders": {f'"cali1" . {MAC} . 10.244.1.5'},
        "speakers": {f'"cali1" . {MAC} . 10.244.1.5'},
    }


def test_ipv6_brings_the_link_local_address_of_the_mac() -> None:
    found = texts(DUAL)
    assert found["locals6"] == {f'"cali1" . {MAC} . fe80::ff:fe00:5'}
    assert found["targets6"] == {
        '"cali1" . 0xfd000000000000000000000000000005',
        '"cali1" . 0xfe80000000000000000000fffe000005',
    }
    assert found["senders6"] == {f'"cali1" . {MAC} . fd00::5'}


def test_prefixes_are_ranges_and_bring_the_mac() -> None:
    found = texts(WIDE)
    assert found["sources"] == found["speakers_sources"] == {'"cali1" . 192.0.2.0/24'}
    assert found["macs"] == found["speakers_macs"] == {f'"cali1" . {MAC}'}
    assert found["ranges6"] == {'"cali1" . 0x20010db8000000000000000000000000-0x20010db800000000ffffffffffffffff'}
    assert {len(row.end) for row in rows(WIDE) if "source" in row.set or "range" in row.set} == {20, 32}


@pytest.mark.parametrize(
    ("mac", "address"),
    [("ee:ee:ee:ee:ee:ee", "fe80::ecee:eeff:feee:eeee"), ("00:00:00:00:00:00", "fe80::200:ff:fe00:0")],
)
def test_link_local(mac: str, address: str) -> None:
    assert link_local(mac) == address


def test_rules_do_not_depend_on_members() -> None:
    """Churn is elements only: without their lines the bodies are the same."""
    for table in (TABLE, ARP):
        full = body(table, "cali", [row for endpoint in (DUAL, WIDE) for row in rows(endpoint)])
        bare = "\n".join(line for line in full.splitlines() if "elements =" not in line)
        assert bare == body(table, "cali", ())
    assert {row.set for row in rows(DUAL) | rows(WIDE)} == set(nft_admission.SETS)
