"""The API away, or slow: an ADD is served from what is claimed ahead, or says "try again later"; nothing is half-wired,
and what was given out meanwhile is on record as soon as the API is back.
"""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from podwire.agent import claimer
from podwire.agent.claimer import Claimer
from podwire.agent.turns import Turns
from podwire.cni.errors import CniError
from podwire.ipam.wish import Wish
from podwire.model.api import ApiError
from podwire.model.gvr import IPAMBLOCKS, NAMESPACES, PODS
from tests.faults.conftest import Site, Space
from tests.netns.agent.conftest import until
from tests.unit.ipam.faulty import stored

FAULTS = [
    ApiError(0, "ConnectionError", "connection refused"),
    ApiError(503, "ServiceUnavailable", "etcd has no leader"),
    ApiError(500, "InternalError", "context deadline exceeded"),
]


def _allocated(site: Site) -> int:
    return sum(
        index is not None for block in site.api.fake.objects(IPAMBLOCKS) for index in block["spec"]["allocations"]
    )


def _quiet(site: Site) -> None:
    """Wait until the agent has nothing more to write."""
    calls, since = -1, 0.0

    def still() -> bool:
        nonlocal calls, since
        now = sum(site.api.fake.calls.values())
        if now != calls:
            calls, since = now, time.monotonic()
        return time.monotonic() - since > 0.5

    until("the API is left alone", still)


@pytest.mark.parametrize("error", FAULTS, ids=lambda error: error.reason)
def test_down(site: Site, error: ApiError) -> None:
    _make_pods(site, "first", *(f"p{number}" for number in range(40)))
    first = site.space()
    made: dict[str, tuple[Space, str]] = {"first": (first, _address(site.add("first", first)))}
    site.settle()
    _quiet(site)
    before = _allocated(site)
    site.api.fake.fail_next(error, times=1 << 40)
    refused = None
    for number in range(before + 1):  # no more than the API knows of can be had
        space = site.space()
        code, answer = site.call("ADD", f"p{number}", space.path)
        if code:
            refused = f"p{number}", space, answer
            break
        made[f"p{number}"] = space, _address(answer)
        site.answers(space, answer)
    assert refused is not None and len(made) > 1, made
    name, space, answer = refused
    assert answer["code"] == 11 and error.message in answer["msg"] + answer.get("details", ""), answer
    assert len({address for _, address in made.values()}) == len(made) <= before == _allocated(site)
    until("nothing half-wired", lambda: len(site.traces()["links"]) == len(made) == len(site.traces()["elements"]))
    assert "eth0" not in space.run("ip", "-o", "link")
    gone, _ = made.pop("p0")
    site.delete("p0", gone)  # answered; the address is given back when the API is there

    site.api.fake.recover()
    until("served again", lambda: site.call("ADD", name, space.path)[0] == 0)
    made[name] = space, _address(site.add(name, space))
    until("all on record", lambda: site.held() == {f"p-{pod}": [address] for pod, (_, address) in made.items()})
    for pod, (where, _) in made.items():
        site.delete(pod, where)
    site.clean()


def test_down_in_the_middle_of_a_write(site: Site) -> None:
    """The answer to a block's write is lost, and then the API is away: what is claimed ahead is given all the same."""
    _make_pods(site, *(f"p{number}" for number in range(40)))
    made = {"p0": site.space()}
    addresses = {"p0": _address(site.add("p0", made["p0"]))}
    site.settle()
    _quiet(site)
    stock = sum(handle.startswith("podwire-ahead-") for handle in stored(site.api.fake).values())
    away = ApiError(0, "ConnectionError", "connection refused")
    site.api.fake.fail_next(away, verb="update", plural="ipamblocks", times=1 << 40)
    for number in range(1, 41):
        if number == 2:
            until("a write of the block failed", lambda: sum(f.times < 1 << 40 for f in site.api.fake._faults))
            site.api.fake.fail_next(away, times=1 << 40)
        name, space = f"p{number}", site.space()
        code, answer = site.call("ADD", name, space.path)
        if code:
            break
        made[name], addresses[name] = space, _address(answer)
    assert answer["code"] == 11 and "claimed ahead" in answer["details"] and away.message in answer["details"], answer
    assert len(addresses) == 1 + stock == len(set(addresses.values())), (addresses, stock)
    site.api.fake.recover()
    until("all on record", lambda: site.held() == {f"p-{pod}": [address] for pod, address in addresses.items()})
    for pod, space in made.items():
        site.delete(pod, space)
    site.clean()


def _make_pods(site: Site, *names: str) -> None:
    """Pods that the agent knows, as a kubelet starts none of which the API has not told the node."""
    site.api.do(site.api.fake.create(NAMESPACES, {"metadata": {"name": "default"}}))
    for name in (*names, "last"):
        pod = {"metadata": {"name": f"p-{name}", "namespace": "default"}, "spec": {"nodeName": site.node.name}}
        site.api.do(site.api.fake.create(PODS, pod))
    space = site.space()

    def asked() -> int:
        return sum(site.api.fake.calls.get(("get", kind), 0) for kind in ("pods", "namespaces"))

    def known() -> bool:
        before = asked()
        site.add("last", space)
        site.delete("last", space)
        return asked() == before

    until("the agent knows the pods", known)
    site.clean()


def _address(answer: dict[str, object]) -> str:
    ips = answer["ips"]
    assert isinstance(ips, list)
    return str(ips[0]["address"]).partition("/")[0]


def test_slow(site: Site) -> None:
    """Half a second for each call of the API: everybody is served, from the stock or by a claim that is waited for."""
    site.api.fake.latency = 0.5
    spaces = {f"p{number}": site.space() for number in range(24)}
    with ThreadPoolExecutor(8) as pool:
        answers = dict(zip(spaces, pool.map(lambda name: site.add(name, spaces[name]), spaces), strict=True))
    addresses = {f"p-{name}": [_address(answer)] for name, answer in answers.items()}
    assert len({address for (address,) in addresses.values()}) == len(spaces)
    for name in ("p0", "p23"):
        site.answers(spaces[name], answers[name])
    until("all on record", lambda: site.held() == addresses)
    site.api.fake.latency = 0.0
    for name, space in spaces.items():
        site.delete(name, space)
    site.clean()


class Hung:
    """An API that takes a call and never answers."""

    def __init__(self) -> None:
        self.waiting = 0

    async def assign(self, wish: Wish) -> list[str]:
        self.waiting += 1
        try:
            await asyncio.Event().wait()
        finally:
            self.waiting -= 1
        return []

    def at_once(self, wish: Wish) -> list[str] | None:
        return None

    async def release(self, handle: str) -> list[str]:
        return []


async def test_an_api_that_never_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The ADD does not wait for ever, and its claim does not go on without it."""
    monkeypatch.setattr(claimer, "CLAIM_SECONDS", 0.05)
    claims, door = Hung(), Claimer(Turns())
    door.open(claims, asyncio.get_running_loop())
    with pytest.raises(CniError, match="no address claimed in time") as refused:
        await asyncio.to_thread(lambda: door.claim(Wish("h")).addresses())
    assert refused.value.code == 11
    async with asyncio.timeout(10):
        while claims.waiting:
            await asyncio.sleep(0)
