"""Host ports as elements: which map gets what, in bytes and as text."""

from __future__ import annotations

import ipaddress
import re

from hypothesis import given
from hypothesis import strategies as st

from podwire.render import nft_hostports
from podwire.render.elements import Row
from podwire.render.nft_hostports import Forward

FORWARDS = st.builds(
    Forward,
    st.sampled_from(["tcp", "udp", "sctp"]),
    st.sampled_from(["", "10.0.0.1", "127.0.0.1"]),
    st.integers(1, 65535),
    st.ip_addresses(v=4).map(str),
    st.integers(1, 65535),
)


def texts(rows: frozenset[Row]) -> set[tuple[str, str]]:
    return {(row.set, row.text) for row in rows}


def test_rows() -> None:
    both = [Forward("tcp", "", 8080, to, 80) for to in ("10.1.0.5", "fd00::5")]
    assert texts(nft_hostports.rows(both, [("cali1", "10.1.0.5"), ("cali1", "fd00::5")], {}, masked=False)) == {
        ("any4", "tcp . 8080 : 10.1.0.5 . 80"),
        ("any6", "tcp . 8080 : fd00::5 . 80"),
        ("near4", '"cali1" . 10.1.0.5'),
        ("near6", '"cali1" . fd00::5'),
    }
    bridged = nft_hostports.rows(both[:1], [("cbr0", "10.1.0.5")], {}, masked=False, shared=True)
    assert texts(bridged) == {
        ("any4", "tcp . 8080 : 10.1.0.5 . 80"),
        ("near4", '"cbr0" . 10.1.0.5'),
        ("self4", "10.1.0.5 . 10.1.0.5"),
    }
    at = [Forward("sctp", "172.18.0.2", 9, "10.1.0.5", 10)]
    assert texts(nft_hostports.rows(at, [], {}, masked=True)) == {
        ("at4", "172.18.0.2 . sctp . 9 : 10.1.0.5 . 10"),
        ("masked4", "10.1.0.5 . sctp . 10"),
    }


def test_bytes_are_padded_to_words() -> None:
    (row,) = nft_hostports.rows([Forward("udp", "10.0.0.1", 258, "10.1.0.5", 53)], [], {}, masked=False)
    assert row.key == bytes([10, 0, 0, 1]) + bytes([17, 0, 0, 0]) + bytes([1, 2, 0, 0])
    assert row.data == bytes([10, 1, 0, 5]) + bytes([0, 53, 0, 0])


@given(st.lists(FORWARDS, max_size=20))
def test_one_row_a_forward_and_none_without(forwards: list[Forward]) -> None:
    rows = nft_hostports.rows(forwards, [], {}, masked=False)
    assert len(rows) == len(set(forwards))
    assert {row.data[:4] for row in rows} == {ipaddress.ip_address(each.target).packed for each in forwards}
    body = nft_hostports.body(rows)
    assert all(row.text in body for row in rows)
    without = re.sub(r"\n\t\telements = .*", "", body)
    assert without == nft_hostports.body([]), "only elements depend on what pods ask"


def test_a_front_is_one_pods_only_within_a_family() -> None:
    four, six = Forward("tcp", "", 80, "10.1.0.5", 80), Forward("tcp", "", 80, "fd00::5", 80)
    assert four.front != six.front
    assert four.front == Forward("tcp", "", 80, "10.1.0.6", 81).front
    assert four.front != Forward("tcp", "10.0.0.1", 80, "10.1.0.5", 80).front
    assert "[fd00::1]" in str(Forward("tcp", "fd00::1", 80, "fd00::5", 80))
