"""Blocks as values: order of addresses, attributes, the stored form."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podwire.ipam import blocks
from podwire.ipam.blocks import Attribute, Block, BlockError
from podwire.model.address import Cidr

CIDR = Cidr.parse("10.244.1.0/28")


def who(name: str) -> Attribute:
    return Attribute.of(name, {"pod": name, "node": "a"})


def fresh() -> Block:
    return blocks.fresh(CIDR, "host:a", "2026-01-02T03:04:05Z")


def take(block: Block, *names: str) -> tuple[Block, list[int]]:
    changed, served = blocks.assign(block, [who(name) for name in names])
    return changed, [ordinal for _, ordinal in served]


def test_a_fresh_block_serves_lowest_first_and_freed_addresses_wait_longest() -> None:
    block, first = take(fresh(), "a", "b", "c")
    assert first == [0, 1, 2]
    block, freed = blocks.release_handle(block, "b")
    assert freed == [1]
    block, second = take(block, *"defghijklmnop")
    assert second == [*range(3, 16)]
    block, last = take(block, "q", "r")
    assert last == [1], "the freed one comes last, then there is no more"
    assert not block.has_room()


def test_equal_holders_share_an_attribute_and_indexes_close_up() -> None:
    block, _ = take(fresh(), "a", "b", "b", "c")
    assert [a.handle for a in block.attributes] == ["a", "b", "c"]
    assert block.allocations[:5] == (0, 1, 1, 2, None)
    block, freed = blocks.release_handle(block, "a")
    assert freed == [0] and [a.handle for a in block.attributes] == ["b", "c"]
    assert block.allocations[:5] == (None, 0, 0, 1, None)
    assert block.holdings() == {"b": [1, 2], "c": [3]}
    assert block.holder(3) == who("c") and block.holder(0) is None


def test_reserved_addresses_are_left_out_but_keep_their_place() -> None:
    reserved = {CIDR.first, CIDR.first + 2}.__contains__
    block, served = blocks.assign(fresh(), [who("a"), who("b")], reserved)
    assert [o for _, o in served] == [1, 3] and block.unallocated[:3] == (0, 2, 4)
    full, served = blocks.assign(block, [who(str(n)) for n in range(20)], reserved)
    assert len(served) == 12 and not full.has_room(reserved) and full.has_room()


def test_an_exact_address() -> None:
    block = blocks.assign_exact(fresh(), 7, who("x"))
    assert block.holdings() == {"x": [7]}
    with pytest.raises(BlockError, match=r"10\.244\.1\.7 of block 10\.244\.1\.0/28 is already assigned"):
        blocks.assign_exact(block, 7, who("y"))
    assert blocks.ordinal_of(block, "10.244.1.7") == 7
    with pytest.raises(BlockError, match="not in block"):
        blocks.ordinal_of(block, "10.244.2.7")


def test_the_stored_form_is_upstreams() -> None:
    block, _ = take(fresh(), "k8s-pod-network.c1")
    assert blocks.to_spec(block) == {
        "cidr": "10.244.1.0/28",
        "affinity": "host:a",
        "affinityClaimTime": "2026-01-02T03:04:05Z",
        "allocations": [0] + [None] * 15,
        "unallocated": [*range(1, 16)],
        "attributes": [
            {"handle_id": "k8s-pod-network.c1", "secondary": {"node": "a", "pod": "k8s-pod-network.c1"}},
        ],
        "sequenceNumber": 0,
        "sequenceNumberForAllocation": {"0": 0},
        "deleted": False,
        "strictAffinity": False,
    }
    assert block.name == "10-244-1-0-28" and block.node == "a"


def test_what_only_upstream_knows_is_kept() -> None:
    spec = blocks.to_spec(take(fresh(), "a")[0])
    spec["attributes"][0]["alternateOwnerAttrs"] = {"pod": "old"}
    spec["somethingNew"] = 1
    block, _ = take(blocks.from_spec(spec), "b")
    stored = blocks.to_spec(block)
    assert stored["attributes"][0]["alternateOwnerAttrs"] == {"pod": "old"} and stored["somethingNew"] == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"allocations": [None]}, "1 allocations for 16 addresses"),
        ({"allocations": [5] + [None] * 15}, "points at no attribute"),
        ({"unallocated": [99]}, "both taken and free"),
    ],
)
def test_a_block_that_contradicts_itself_is_refused(change: dict, words: str) -> None:
    with pytest.raises(BlockError, match=words):
        blocks.from_spec({**blocks.to_spec(fresh()), **change})


_steps = st.lists(st.tuples(st.booleans(), st.sampled_from("abcdefgh"), st.integers(1, 6)), max_size=60)


@given(_steps)
def test_nothing_is_lost_or_held_twice(steps: list[tuple[bool, str, int]]) -> None:
    """Against a model: handle → number of addresses."""
    block, model = fresh(), dict[str, int]()
    for assigning, name, count in steps:
        if assigning:
            block, served = take(block, *[name] * count)
            assert len(served) == min(count, 16 - sum(model.values()))
            model[name] = model.get(name, 0) + len(served)
        else:
            block, freed = blocks.release_handle(block, name)
            assert len(freed) == model.pop(name, 0)
        held = block.holdings()
        assert {name: len(ordinals) for name, ordinals in held.items()} == {n: c for n, c in model.items() if c}
        taken = [ordinal for ordinals in held.values() for ordinal in ordinals]
        assert sorted(taken + list(block.unallocated)) == [*range(16)]
        assert sorted(ordinal for ordinal, _ in block.taken_at) == sorted(taken)
        assert blocks.from_spec(blocks.to_spec(block)) == block


def test_the_core_is_quick() -> None:
    """20,000 assignments in a second of the processor asked for; a tenth of that must hold on any machine."""
    started, count = time.process_time(), 0
    for _ in range(20):
        block = blocks.fresh(Cidr.parse("10.0.0.0/26"), "host:a")
        for number in range(64):
            block, served = blocks.assign(block, [Attribute.of(f"h{number}", {"pod": "p", "namespace": "n"})])
            count += len(served)
    assert count / (time.process_time() - started) > 2_000
