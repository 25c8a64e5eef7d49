"""Several nodes on one API with conflicts, crashes and lost calls, against the simplest model: who was told what.
Pods of one family and of both.

Never: an address told to two, or told and not on the API. After recovery and a sweep: nothing held that is not told.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from podwire.ipam.claims import Allocator, IpamError, NoAddresses
from podwire.ipam.crds import default_pool
from podwire.ipam.wish import Wish
from podwire.kube.fake import FakeApi
from podwire.model.api import ApiError
from podwire.model.gvr import IPPOOLS
from tests.unit.ipam.faulty import FaultyApi, handle_counts, stored

NODES = [f"n{number}" for number in range(8)]
POD = {"namespace": "d", "pod": "p"}
FAMILIES = st.sampled_from([(4,), (4, 6), (6,)])


class Cluster(RuleBasedStateMachine):
    """Eight nodes; each wish, release and crash is one step, with background writes running on between."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.api = FaultyApi()
        self.api.dice = random.Random(1)
        self.told: dict[str, dict[str, list[str]]] = {node: {} for node in NODES}  # node → handle → addresses
        self.nodes: dict[str, Allocator] = {}
        self.numbers = itertools.count()
        self.do(FakeApi.create(self.api, IPPOOLS, default_pool("10.244.0.0/25", block_size=28)))
        six = {**default_pool("fd00:10:244::/122", block_size=125), "metadata": {"name": "six"}}
        self.do(FakeApi.create(self.api, IPPOOLS, six))
        for node in NODES:
            self.do(self.start(node))

    def teardown(self) -> None:
        self.api.chance = 0.0
        for node in NODES:
            self.do(self.crash_and_recover(node))
        told = {a: handle for mine in self.told.values() for handle, addresses in mine.items() for a in addresses}
        held = {a: h for a, h in stored(self.api).items() if not h.startswith("podwire-ahead-")}
        assert held == told
        for node in NODES:
            self.do(self.nodes[node].tend())
        counts = handle_counts(self.api)
        want = [(handle, len(addresses)) for mine in self.told.values() for handle, addresses in mine.items()]
        assert not [handle for handle, count in want if counts.get(handle, 0) < count], (
            "a handle says less than it holds"
        )
        self.do(self.stop())
        self.loop.close()

    def do(self, call: Any) -> Any:
        return self.loop.run_until_complete(call)

    async def stop(self) -> None:
        for allocator in self.nodes.values():
            await allocator.close()

    async def start(self, node: str) -> None:
        self.nodes[node] = allocator = Allocator(self.api, node)
        while True:
            try:
                await allocator.adopt(self.told[node])
                await allocator.release_all_but(set(self.told[node]))
                return
            except (ApiError, IpamError):
                await asyncio.sleep(0)

    async def crash_and_recover(self, node: str) -> None:
        await self.nodes[node].close()
        await self.start(node)

    def tell(self, node: str, handle: str, addresses: list[str], families: tuple[int, ...]) -> None:
        assert tuple(6 if ":" in address else 4 for address in addresses) == families, "all families in one step"
        for address in addresses:
            owners = [other for mine in self.told.values() for other, known in mine.items() if address in known]
            assert not owners, f"{address} was told to {owners[0]} and to {handle}"
        self.told[node][handle] = addresses

    @rule(node=st.sampled_from(NODES), count=st.integers(1, 6), seed=st.integers(0, 999), families=FAMILIES)
    def assign(self, node: str, count: int, seed: int, families: tuple[int, ...]) -> None:
        self.api.dice = random.Random(seed)
        handles = [f"{node}.{next(self.numbers)}" for _ in range(count)]
        self.do(self._assign(dict.fromkeys(handles, node), families))

    @rule(seed=st.integers(0, 999), count=st.integers(1, 2), families=FAMILIES)
    def everybody_assigns(self, seed: int, count: int, families: tuple[int, ...]) -> None:
        self.api.dice = random.Random(seed)
        self.do(self._assign({f"{node}.{next(self.numbers)}": node for node in NODES for _ in range(count)}, families))

    async def _assign(self, handles: dict[str, str], families: tuple[int, ...]) -> None:
        calls = [self.nodes[node].assign(Wish(handle, POD, families=families)) for handle, node in handles.items()]
        for (handle, node), outcome in zip(handles.items(), await _outcomes(calls), strict=True):
            if outcome is not None:
                self.tell(node, handle, outcome, families)

    @rule(node=st.sampled_from(NODES), seed=st.integers(0, 999), share=st.floats(0.1, 1.0))
    def release(self, node: str, seed: int, share: float) -> None:
        dice = self.api.dice = random.Random(seed)
        gone = [handle for handle in self.told[node] if dice.random() < share]
        for handle in gone:
            del self.told[node][handle]
        self.do(self._release(node, gone))

    async def _release(self, node: str, handles: list[str]) -> None:
        left = handles
        while left:
            outcomes = await _outcomes([self.nodes[node].release(handle) for handle in left])
            left = [handle for handle, outcome in zip(left, outcomes, strict=True) if outcome is None]

    @rule(node=st.sampled_from(NODES), seed=st.integers(0, 999), steps=st.integers(0, 40), families=FAMILIES)
    def crash(self, node: str, seed: int, steps: int, families: tuple[int, ...]) -> None:
        """At any await point of a burst; whoever was told before keeps the addresses."""
        self.api.dice = random.Random(seed)
        self.do(self._crash(node, steps, families))

    async def _crash(self, node: str, steps: int, families: tuple[int, ...]) -> None:
        wishes = [Wish(f"{node}.{next(self.numbers)}", POD, families=families) for _ in range(4)]
        tasks = [asyncio.ensure_future(self.nodes[node].assign(wish)) for wish in wishes]
        for _ in range(steps):
            await asyncio.sleep(0)
        for wish, task in zip(wishes, tasks, strict=True):
            if task.done() and task.exception() is None:
                self.tell(node, wish.handle, task.result(), families)
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.crash_and_recover(node)

    @rule(chance=st.sampled_from([0.0, 0.05, 0.2]))
    def weather(self, chance: float) -> None:
        self.api.chance = chance

    @rule(node=st.sampled_from(NODES))
    def tend(self, node: str) -> None:
        self.do(_outcomes([self.nodes[node].tend()]))

    @invariant()
    def nobody_shares_and_the_api_knows(self) -> None:
        if not hasattr(self, "nodes"):
            return
        told = [(a, handle, node) for node, mine in self.told.items() for handle, many in mine.items() for a in many]
        assert len({address for address, _, _ in told}) == len(told), "an address was told to two"
        held = stored(self.api)
        for address, handle, node in told:
            assert held.get(address) in (handle, f"podwire-ahead-{node}"), f"{address} of {handle}"


async def _outcomes(calls: list[Any]) -> list[Any]:
    """None for those that the API failed, or for which there is no address."""
    found = await asyncio.gather(*calls, return_exceptions=True)
    for outcome in found:
        if isinstance(outcome, BaseException) and not isinstance(outcome, ApiError | IpamError):
            raise outcome
    return [None if isinstance(outcome, BaseException) else outcome for outcome in found]


TestCluster = Cluster.TestCase
TestCluster.settings = settings(
    max_examples=25,
    stateful_step_count=20,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
)


# -- storm and scale ----------------------------------------------------------------------------------------------


async def test_ten_thousand_assignments_in_a_storm() -> None:
    """Eight nodes in a pool that is nearly too small for them; no two are ever told the same address."""
    api = FakeApi()
    await api.create(IPPOOLS, default_pool("10.244.0.0/23", block_size=28))
    live: dict[str, str] = {}
    done = 0

    async def life(node: str) -> None:
        nonlocal done
        allocator = Allocator(api, node)
        await allocator.adopt({})
        for wave in range(25):
            handles = [f"{node}.{wave}.{n}" for n in range(50)]

            async def one(handle: str) -> None:
                nonlocal done
                (address,) = await _patiently(lambda: allocator.assign(Wish(handle, POD)))
                assert address not in live, f"{address} is {live[address]}'s"
                live[address] = handle
                done += 1

            await asyncio.gather(*(one(handle) for handle in handles))
            mine = [address for address, handle in live.items() if handle.startswith(f"{node}.")]
            for address in mine:
                del live[address]
            await asyncio.gather(*(allocator.release(handle) for handle in handles))
        await allocator.settled()
        await allocator.close()

    await asyncio.gather(*(life(node) for node in NODES))
    assert done == 10_000
    assert not [handle for handle in stored(api).values() if not handle.startswith("podwire-ahead-")]


async def _patiently(call: Callable[[], Any]) -> Any:
    while True:
        try:
            return await call()
        except NoAddresses:
            await asyncio.sleep(0)
