"""One of several holds the lease: as a table of what is seen, and with candidates on one API and clocks that differ."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from podwire.agent.election import LEASE_SECONDS, RENEW_SECONDS, Elector, Seen, Step, look, spec_of, step
from podwire.kube.fake import FakeApi
from podwire.model.gvr import LEASES


@pytest.mark.parametrize(
    ("holder", "age", "wanted"),
    [
        ("me", 0, Step.RENEW),
        ("me", 100, Step.RENEW),
        ("", 0, Step.TAKE),
        ("other", 14.9, Step.WAIT),
        ("other", 15, Step.TAKE),
    ],
)
def test_what_a_candidate_may_do(holder: str, age: float, wanted: Step) -> None:
    assert step(Seen(holder, 15, 3, "7", 1000.0), "me", 1000.0 + age) is wanted


@pytest.mark.parametrize("spec", [None, [], {}, {"holderIdentity": None, "leaseDurationSeconds": "15"}, {"x": 1}])
def test_a_lease_that_does_not_fit_is_held_by_nobody(spec: Any) -> None:
    seen = look(None, {"metadata": {"resourceVersion": "1"}, "spec": spec}, 5.0)
    assert (seen.holder, seen.seconds, seen.transitions) == ("", LEASE_SECONDS, 0)


def test_an_unchanged_lease_ages_and_a_renewed_one_does_not() -> None:
    def lease(version: str) -> Any:
        return {"metadata": {"resourceVersion": version}, "spec": {"holderIdentity": "other"}}

    first = look(None, lease("1"), 10.0)
    assert look(first, lease("1"), 20.0).since == 10.0
    assert look(first, lease("2"), 20.0).since == 20.0


def test_what_is_written() -> None:
    taken = spec_of(Seen("other", 15, 3, "7", 0.0, "then"), "me", "now")
    assert (taken["holderIdentity"], taken["leaseTransitions"], taken["acquireTime"]) == ("me", 4, "now")
    kept = spec_of(Seen("me", 15, 4, "8", 0.0, "now"), "me", "later")
    assert (kept["leaseTransitions"], kept["acquireTime"], kept["renewTime"]) == (4, "now", "later")


class Node:
    """A candidate whose clock runs apart from the others'."""

    def __init__(self, api: FakeApi, name: str, offset: float) -> None:
        self.now = offset
        self.elector = Elector(api, "podwire-controller", "kube-system", name, clock=lambda: self.now)


async def test_never_two_at_once_whatever_fails() -> None:
    api, dice = FakeApi(), random.Random(7)
    nodes = [Node(api, name, dice.uniform(0, 1e6)) for name in "abc"]
    alive, leaders = set(range(3)), set()
    for _ in range(600):
        for number, node in enumerate(nodes):
            node.now += 2.0
            if number in alive:
                if dice.random() < 0.2:
                    api.fail_next(verb=dice.choice(["get", "update", "create"]))
                await node.elector.once()
                api.recover()
        if dice.random() < 0.05:
            alive ^= {dice.randrange(3)}
        holding = {number for number, node in enumerate(nodes) if node.elector.leads()}
        assert len(holding) <= 1, "two hold the lease"
        leaders |= holding
    assert len(leaders) > 1, "it changed hands"


async def test_who_cannot_renew_lets_go_before_another_may_take_it() -> None:
    api = FakeApi()
    one, two = Node(api, "one", 0.0), Node(api, "two", 500.0)
    await one.elector.once()
    await two.elector.once()
    assert (one.elector.leads(), two.elector.leads()) == (True, False)
    for node in (one, two):
        node.now += RENEW_SECONDS
    assert not one.elector.leads()
    await two.elector.once()
    assert not two.elector.leads()
    two.now += LEASE_SECONDS - RENEW_SECONDS
    await two.elector.once()
    assert two.elector.leads()
    await one.elector.once()
    assert not one.elector.leads()
    [lease] = api.objects(LEASES)
    assert (lease["spec"]["holderIdentity"], lease["spec"]["leaseTransitions"]) == ("two", 1)


async def test_who_stops_gives_it_back_at_once() -> None:
    api = FakeApi()
    one, two = Node(api, "one", 0.0), Node(api, "two", 0.0)
    running = asyncio.create_task(one.elector.run())
    while not one.elector.leads():
        await asyncio.sleep(0.001)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await two.elector.once()
    assert two.elector.leads() and not one.elector.leads()
