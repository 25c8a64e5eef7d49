"""Pools and addresses asked for, selectors, both families, cooldown, reclaiming."""

from __future__ import annotations

from typing import Any

import pytest

from podwire.ipam.claims import Allocator, IpamError, NoAddresses
from podwire.ipam.wish import Wish
from podwire.kube.fake import FakeApi
from podwire.model.address import Cidr
from podwire.model.gvr import IPAMBLOCKS, IPAMCONFIGS, IPPOOLS
from tests.unit.ipam.faulty import handle_counts, stored

FOUR = {"cidr": "10.1.0.0/24", "blockSize": 28}
SIX = {"cidr": "fd00:1::/120", "blockSize": 124}


async def cluster(**pools: dict[str, Any]) -> FakeApi:
    api = FakeApi()
    for name, spec in pools.items():
        await api.create(IPPOOLS, {"metadata": {"name": name}, "spec": spec})
    return api


async def test_both_families_or_none() -> None:
    api = await cluster(four=FOUR, six=SIX)
    a = Allocator(api, "a", pod_cidrs=["10.1.0.16/28", "fd00:1::10/124"])
    assert await a.assign(Wish("h", families=(6, 4))) == ["fd00:1::10", "10.1.0.16"]
    assert handle_counts(api) == {"h": 2}
    assert sorted(await a.release("h")) == ["10.1.0.16", "fd00:1::10"]
    only = await cluster(four=FOUR)
    b = Allocator(only, "b")
    with pytest.raises(NoAddresses, match="IPv6"):
        await b.assign(Wish("h", families=(4, 6)))
    await b.settled()
    assert stored(only) == {} == handle_counts(only)


@pytest.mark.parametrize(
    "spec, wish, words",
    [
        ({}, {"pools": ("nowhere",)}, "there is no such pool"),
        ({"disabled": True}, {"pools": ("four",)}, "it is disabled"),
        ({"allowedUses": ["Tunnel"]}, {"pools": ("four",)}, "allowedUses"),
        ({}, {"pools": ("four",), "families": (6,)}, "it is IPv4, not IPv6"),
        ({}, {"exact": ("10.9.0.1",)}, "is in no IPPool"),
        ({"disabled": True}, {"exact": ("10.1.0.1",)}, "it is disabled"),
        ({"allowedUses": ["Tunnel"]}, {"exact": ("10.1.0.1",)}, "allowedUses"),
        ({}, {"exact": ("10.1.0.1", "10.1.0.2")}, "more than one"),
        ({}, {"exact": ("fd00::1",)}, "no IPv6 address is wanted"),
        ({}, {"exact": ("nonsense",)}, "nonsense"),
        ({}, {"families": ()}, "families"),
    ],
)
async def test_what_cannot_be_is_said(spec: dict[str, Any], wish: dict[str, Any], words: str) -> None:
    api = await cluster(four={**FOUR, **spec})
    with pytest.raises(IpamError, match=words):
        await Allocator(api, "a").assign(Wish("h", **wish))
    assert stored(api) == {}


async def test_pools_asked_for_win_over_selectors_and_mode() -> None:
    manual = {"cidr": "10.2.0.0/24", "assignmentMode": "Manual", "nodeSelector": "!all()"}
    api = await cluster(four=FOUR, manual=manual)
    a = Allocator(api, "a")
    for text in ("manual", "10.2.0.0/24"):
        assert (await a.assign(Wish(text, pools=(text,))))[0].startswith("10.2.0.")
    assert (await a.assign(Wish("h")))[0].startswith("10.1.0.")


async def test_the_namespace_selects() -> None:
    api = await cluster(a={"cidr": "10.2.0.0/24", "namespaceSelector": "team == 'x'"}, four=FOUR)
    node = Allocator(api, "a")
    assert (await node.assign(Wish("x", namespace_labels={"team": "x"})))[0].startswith("10.2.0.")
    assert (await node.assign(Wish("y", namespace_labels={"team": "y"})))[0].startswith("10.1.0.")


async def test_exact_addresses() -> None:
    api = await cluster(four=FOUR)
    a = Allocator(api, "a", reservations=lambda: [Cidr.parse("10.1.0.32/28")])
    b = Allocator(api, "b")
    wish = Wish("h", {"namespace": "d", "pod": "web"}, exact=("10.1.0.33",))
    assert await a.assign(wish) == ["10.1.0.33"] == await a.assign(wish), "reserved or not, and again"
    with pytest.raises(IpamError, match=r"already assigned to pod d/web, handle h on node a"):
        await b.assign(Wish("other", exact=("10.1.0.33",)))
    await api.create(IPAMCONFIGS, {"metadata": {"name": "default"}, "spec": {"strictAffinity": True}})
    with pytest.raises(IpamError, match="strictAffinity"):
        await Allocator(api, "c").assign(Wish("third", exact=("10.1.0.34",)))
    assert stored(api) == {"10.1.0.33": "h"}


async def test_released_addresses_rest() -> None:
    api = await cluster(four={"cidr": "10.1.0.0/31", "blockSize": 31})
    await api.create(IPAMCONFIGS, {"metadata": {"name": "default"}, "spec": {"ipCooldownSeconds": 60}})
    now = "2026-01-02T12:00:00Z"
    a = Allocator(api, "a", now=lambda: now)
    await a.assign(Wish("one"))
    await a.assign(Wish("two"))
    assert await a.release("one") == ["10.1.0.0"]
    (block,) = api.objects(IPAMBLOCKS)
    assert {"releasedAt": now} in block["spec"]["attributes"] and block["spec"]["unallocated"] == []
    with pytest.raises(NoAddresses):
        await a.assign(Wish("three"))


async def test_an_idle_block_of_another_node_is_taken_over() -> None:
    api = await cluster(four={"cidr": "10.1.0.0/28", "blockSize": 28})
    now = "2026-01-02T12:00:00Z"
    a, b = Allocator(api, "a", now=lambda: now), Allocator(api, "b", now=lambda: now)
    await a.ensure_block()
    await b.assign(Wish("borrowed"))
    await b.release("borrowed")
    assert api.objects(IPAMBLOCKS)[0]["spec"]["affinity"] == "host:a", "too young"
    now = "2026-01-02T12:02:00Z"
    await Allocator(api, "c", now=lambda: now).assign(Wish("h"))
    (block,) = api.objects(IPAMBLOCKS)
    assert block["spec"]["affinity"] == "host:c"
