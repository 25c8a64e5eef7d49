"""Small clusters in every order of events, with lost answers, writes that land late, and crashes; and proof that the
search sees mistakes: each of those planted here is found."""

from __future__ import annotations

from typing import Any

import pytest

from podwire.ipam import claims, stored
from podwire.ipam.commit import Commit
from tests.unit.ipam.exploring import Scene, Search, Wrong
from tests.unit.ipam.planting import planted
from tests.unit.ipam.stepping import Plan, pool_of, steps

TWO_BLOCKS = pool_of("10.244.0.0/30", 31)
ONE_BLOCK = pool_of("10.244.0.0/31", 31)
STOCKED = pool_of("10.244.0.0/29", 29)
ROOMY = pool_of("10.244.0.0/28", 28)


def node(name: str, *lines: Any, stock: bool = False) -> Plan:
    return Plan(name, steps(*lines), stock=stock)


def both(*lines: str, stock: bool = False) -> tuple[Plan, Plan]:
    one, other = (node(name, *(line.replace("N", name) for line in lines), stock=stock) for name in "ab")
    return one, other


SCENES = {
    "two nodes fill a pool of two blocks": Scene(TWO_BLOCKS, both("assign N.0", "assign N.1")),
    "an answer is lost": Scene(TWO_BLOCKS, both("assign N.0"), faults=1),
    "they come and go, an answer is lost": Scene(TWO_BLOCKS, both("assign N.0", "release N.0", "assign N.1"), faults=1),
    "a node crashes": Scene(TWO_BLOCKS, both("assign N.0"), crashes=1),
    "one borrows from the other": Scene(ONE_BLOCK, both("assign N.0", "release N.0")),
    "addresses ahead, of one block": Scene(
        STOCKED, (node("a", "assign a.0", "assign a.1", stock=True), node("b", "assign b.0", stock=True))
    ),
    "addresses ahead, an answer is lost": Scene(
        STOCKED, (node("a", "assign a.0", "assign a.1", "release a.0", "settle", stock=True),), faults=1
    ),
    "addresses ahead, a crash": Scene(
        STOCKED, (node("a", "assign a.0", "assign a.1", "release a.0", stock=True),), crashes=1
    ),
    "drawn and given back while a write is under way": Scene(
        STOCKED, (node("a", "assign a.0", ["settle", "later assign a.1", "later release a.0"], stock=True),)
    ),
    "drawn while a write is under way, an answer is lost": Scene(
        STOCKED, (node("a", "assign a.0", ["settle", "later assign a.1"], stock=True),), faults=1
    ),
    "given back while a write is under way, an answer is lost": Scene(
        STOCKED, (node("a", "assign a.0", ["settle", "later release a.0"], stock=True),), faults=1
    ),
    "one write for two who wait, an answer is lost": Scene(
        STOCKED, (node("a", ["assign a.0", "later assign a.1"], stock=True),), faults=1
    ),
    "pinned, and when that has no answer any": Scene(
        ROOMY, (node("a", "assign a.0", "pin a.1 10.244.0.14", stock=True),), faults=1
    ),
    "given back with a lost answer and a crash": Scene(
        ONE_BLOCK, (node("a", "assign a.0", "release a.0"),), faults=1, crashes=1
    ),
}


@pytest.mark.parametrize("name", SCENES)
def test_every_order(name: str) -> None:
    """States seen: hundreds to tens of thousands in each."""
    found = Search(SCENES[name]).run()
    assert found.ends > 1 and found.states > 250


MISTAKES: dict[str, tuple[str, tuple[Any, str, str, str]]] = {
    "given from the stock while a write may yet give it another": (
        "pinned, and when that has no answer any",
        (claims.Allocator, "_from_stock", " or self._commit.unsettled(wish.handle)", ""),
    ),
    "blocks written without their version": (
        "one borrows from the other",
        (stored, "write", "_object(block, held.metadata)",
         "_object(block, {k: v for k, v in held.metadata.items() if k != 'resourceVersion'})"),
    ),
    "answered before the write": (
        "two nodes fill a pool of two blocks",
        (Commit, "round", "problems = await", "self._conclude(assigns, [], {})\n    problems = await"),
    ),
    "answered although the write failed": (
        "an answer is lost",
        (Commit, "_conclude", "if not lost:", "if True:"),
    ),
    "freed when its write has no answer": (
        "addresses ahead, an answer is lost",
        (Commit, "_conclude_lent", "for entry in lent:",
         "for entry in lent:\n        entry.dying |= any(c in problems for c, _ in entry.spots)"),
    ),
    "a block is ours, whoever claimed it first": (
        "one borrows from the other",
        (stored, "claim", "held.block.node != node", "False"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_a_planted_mistake_is_found(name: str) -> None:
    """Not among them, for it was searched for and does no harm: no doubt after a write whose outcome is unknown. The
    version refuses the next write, and what needs no write (the stock) gives nothing that such a write may take."""
    scene, mistake = MISTAKES[name]
    with planted(*mistake), pytest.raises(Wrong):
        Search(SCENES[scene]).run()
