"""The numbers of a roll-out: rows, and the two promises under any order of readiness."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from podwire.controllers.rollout import Limits, SetState, limits, proportional, resolve, step


@pytest.mark.parametrize(
    ("value", "replicas", "up", "expected"),
    [(3, 10, True, 3), ("25%", 10, True, 3), ("25%", 10, False, 2), ("0%", 10, True, 0), (None, 4, True, 1)],
)
def test_resolve(value: int | str | None, replicas: int, up: bool, expected: int) -> None:
    assert resolve(value, replicas, up=up, default="25%") == expected


def test_resolve_refuses_words() -> None:
    with pytest.raises(ValueError, match="many"):
        resolve("many", 1, up=True, default=0)


def test_limits_never_stand_still() -> None:
    assert limits(3, 0, 0) == Limits(3, 0, 1)
    assert limits(1, "25%", "25%") == Limits(1, 1, 0)
    assert limits(2, 1, 5) == Limits(2, 1, 2)


@pytest.mark.parametrize(
    ("bounds", "new", "olds", "expected"),
    [
        # name, replicas, available
        (Limits(3, 1, 0), ("n", 0, 0), [("o", 3, 3)], {"n": 1}),
        (Limits(3, 1, 0), ("n", 1, 0), [("o", 3, 3)], {}),
        (Limits(3, 1, 0), ("n", 1, 1), [("o", 3, 3)], {"o": 2}),
        (Limits(3, 0, 1), ("n", 0, 0), [("o", 3, 3)], {"o": 2}),
        (Limits(3, 0, 1), ("n", 0, 0), [("o", 3, 0)], {"o": 2}),
        (Limits(4, 0, 4), ("n", 0, 0), [("o", 4, 4)], {"o": 0}),
        (Limits(3, 1, 1), ("n", 3, 3), [("o", 1, 1)], {"o": 0}),
        (Limits(3, 1, 1), ("n", 5, 5), [], {"n": 3}),
        (Limits(3, 1, 1), ("n", 3, 3), [], {}),
        # the broken set goes before the healthy one
        (Limits(4, 1, 1), ("n", 1, 1), [("a", 3, 3), ("b", 1, 0)], {"b": 0, "a": 2}),
    ],
)
def test_step(
    bounds: Limits, new: tuple[str, int, int], olds: list[tuple[str, int, int]], expected: dict[str, int]
) -> None:
    assert step(bounds, SetState(*new), [SetState(*old) for old in olds]) == expected


@given(
    replicas=st.integers(0, 12),
    surge=st.integers(0, 5),
    unavailable=st.integers(0, 5),
    olds=st.lists(st.integers(0, 8), max_size=3),
    data=st.data(),
)
def test_promises_hold_whatever_becomes_ready_when(
    replicas: int, surge: int, unavailable: int, olds: list[int], data: st.DataObject
) -> None:
    bounds = limits(replicas, surge, unavailable)
    # Before the update every old pod is available and there are as many as were asked for.
    old_sizes = {f"old{n}": size for n, size in enumerate(olds)}
    while sum(old_sizes.values()) > replicas:
        biggest = max(old_sizes, key=lambda name: old_sizes[name])
        old_sizes[biggest] -= 1
    if sum(old_sizes.values()) < replicas:
        old_sizes["rest"] = replicas - sum(old_sizes.values())
    wanted = {**old_sizes, "new": 0}
    ready = {**old_sizes, "new": 0}  # pods that really are available
    told = dict(ready)  # what the statuses say: never more than what was true when they were written
    for _ in range(200):
        states = {name: SetState(name, wanted[name], told[name]) for name in wanted}
        sizes = step(bounds, states["new"], [one for name, one in states.items() if name != "new"])
        wanted.update(sizes)
        assert sum(wanted.values()) <= max(bounds.most, replicas)
        ready = {name: min(ready[name], wanted[name]) for name in wanted}
        assert sum(ready.values()) >= bounds.least
        if wanted["new"] == replicas == sum(wanted.values()) and ready["new"] == replicas:
            break
        if ready["new"] < wanted["new"] and (not sizes or data.draw(st.booleans())):
            ready["new"] += data.draw(st.integers(1 if not sizes else 0, wanted["new"] - ready["new"]))
        if not sizes or data.draw(st.booleans()):
            told = dict(ready)
    else:
        raise AssertionError(f"no end: {wanted} {ready}")


@example(1, 1, [1, 1, 1, 1])
@given(st.integers(0, 20), st.integers(0, 5), st.lists(st.integers(0, 9), min_size=1, max_size=4))
def test_scaling_in_the_middle_ends_at_the_bound(replicas: int, surge: int, sizes: list[int]) -> None:
    bounds = Limits(replicas, surge, 0)
    total = sum(sizes)
    sets = [SetState(f"s{n}", size, size, n, total) for n, size in enumerate(sizes)]
    result = {one.name: one.replicas for one in sets} | proportional(bounds, sets, rolling=True)
    busy = [size for size in sizes if size]
    assert all(size >= 0 for size in result.values())
    if len(busy) <= 1:
        assert sum(result.values()) == replicas
    else:
        assert sum(result.values()) == (bounds.most if replicas else 0)
