"""Where a node looks for its next block."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podwire.ipam.search import Taken, candidates, fnv1_32, walk
from podwire.model.address import Cidr

POOL = Cidr.parse("10.244.0.0/22")  # 16 blocks of /26


def found(
    own: str = "", others: list[str] | None = None, taken: list[str] | None = None, length: int = 26
) -> list[str]:
    mine = Cidr.parse(own) if own else None
    blocks = Taken(map(Cidr.parse, taken or []))
    return [str(c) for c in candidates("node", POOL, 26, blocks, mine, map(Cidr.parse, others or []))]


def test_fnv_vectors() -> None:
    # Published vectors of FNV-1, 32 bits.
    assert (fnv1_32(""), fnv1_32("a"), fnv1_32("foobar")) == (0x811C9DC5, 0x050C5D7E, 0x31F0B262)


def test_own_podcidr_first_in_order_then_unowned_then_the_rest() -> None:
    order = found("10.244.1.0/24", ["10.244.2.0/24"])
    assert order[:4] == ["10.244.1.0/26", "10.244.1.64/26", "10.244.1.128/26", "10.244.1.192/26"]
    assert all(cidr.startswith(("10.244.0.", "10.244.3.")) for cidr in order[4:12])
    assert all(cidr.startswith("10.244.2.") for cidr in order[12:])
    assert len(order) == len(set(order)) == 16


def test_a_podcidr_smaller_than_a_block_is_a_block_of_its_size() -> None:
    order = found("10.244.1.16/28", ["10.244.1.0/28"])
    assert order[0] == "10.244.1.16/28"
    assert "10.244.1.0/26" not in order[:-1] and order[-1] != "10.244.1.0/26", "it would swallow both podCIDRs"


@pytest.mark.parametrize("taken", ["10.244.1.0/26", "10.244.1.0/24", "10.244.1.4/32"])
def test_what_overlaps_a_block_is_no_candidate(taken: str) -> None:
    assert "10.244.1.0/26" not in found("10.244.1.0/24", taken=[taken])


def test_a_podcidr_outside_the_pool_does_not_matter() -> None:
    assert len(found("10.99.0.0/24")) == 16


@given(st.text(min_size=1, max_size=20), st.integers(20, 28))
def test_a_walk_visits_every_block_once(node: str, length: int) -> None:
    pool = Cidr.parse("10.0.0.0/20")
    assert sorted(walk(node, pool, length)) == list(pool.parts(length))


@given(st.lists(st.tuples(st.integers(0, 255), st.integers(24, 32)), max_size=12), st.integers(24, 32))
def test_taken_agrees_with_the_definition(members: list[tuple[int, int]], length: int) -> None:
    base = Cidr.parse("10.0.0.0/24").first
    cidrs = [Cidr.around(base + offset, bits) for offset, bits in members]
    taken = Taken(cidrs)
    for candidate in Cidr.parse("10.0.0.0/24").parts(length):
        assert taken.overlaps(candidate) == any(candidate.overlaps(cidr) for cidr in cidrs)
