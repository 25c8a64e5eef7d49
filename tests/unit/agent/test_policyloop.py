"""Kinds of policies are followed as long as they are defined, where the cluster's state lies."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

from podwire.agent.health import Health
from podwire.agent.policyengine import PolicyEngine
from podwire.agent.policyloop import PolicyLoop
from podwire.calc.policy import PolicyCalc
from podwire.ipam.crds import crds
from podwire.ipam.layout import CLASSIC, FoundApi, stored_gvr
from podwire.kernel.netlink import KernelError
from podwire.kube.fake import FakeApi
from podwire.model import policycrds
from podwire.model.gvr import CLUSTERNETWORKPOLICIES, CRDS, GLOBALNETWORKPOLICIES

Object = dict[str, Any]
POLICIES = GLOBALNETWORKPOLICIES


class Kernel:
    """Takes whatever it is given."""

    in_force = False

    def apply(self, state: object, changes: object) -> list[KernelError]:
        self.in_force = True
        return []

    def suspect(self) -> None: ...

    def stock(self) -> None: ...


@asynccontextmanager
async def followed(api: FakeApi) -> AsyncIterator[PolicyLoop]:
    loop = PolicyLoop(FoundApi(api), PolicyCalc(), cast(PolicyEngine, Kernel()), "n1", Health())
    running = asyncio.create_task(loop.run())
    try:
        await asyncio.wait_for(loop.applied.wait(), 30)
        yield loop
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await api.close()


async def until(check: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not check():
            await asyncio.sleep(0.01)


def of_classic(definition: Object) -> Object:
    """The same kind's definition in the older layout."""
    plural = definition["spec"]["names"]["plural"]
    spec = {**definition["spec"], "group": CLASSIC, "versions": [{"name": "v1", "served": True, "storage": True}]}
    return {**definition, "metadata": {"name": f"{plural}.{CLASSIC}"}, "spec": spec}


def defined(name: str) -> Object:
    return next(each for each in (*crds(), *policycrds.crds()) if each["metadata"]["name"].startswith(f"{name}."))


def policy(name: str, api_version: str = POLICIES.api_version) -> Object:
    return {
        "apiVersion": api_version,
        "kind": POLICIES.kind,
        "metadata": {"name": name},
        "spec": {"selector": "all()", "types": ["Ingress"]},
    }


async def each(act: Callable[..., Awaitable[object]], *objects: Object) -> None:
    for one in objects:
        await act(CRDS, one)


async def test_definitions_of_the_other_layout_come_and_go() -> None:
    """Calico's manifest applied beside us, and taken away again: policies go on."""
    api = FakeApi()
    await each(api.create, defined("ipamblocks"), defined("globalnetworkpolicies"))
    await api.create(POLICIES, policy("one"))
    async with followed(api) as loop:
        assert loop.policies() == {("GlobalNetworkPolicy", "good"): 1}
        others = [of_classic(defined(name)) for name in ("ipamblocks", "globalnetworkpolicies")]
        await each(api.create, *others)
        for other in others:
            await api.delete(CRDS, other["metadata"]["name"])
        await api.create(POLICIES, policy("two"))
        await until(lambda: loop.policies() == {("GlobalNetworkPolicy", "good"): 2})
        assert loop.policies() == {("GlobalNetworkPolicy", "good"): 2}
        await api.delete(CRDS, defined("globalnetworkpolicies")["metadata"]["name"])
        await until(lambda: not loop.policies())
        await api.create(CRDS, defined("globalnetworkpolicies"))
        await until(lambda: loop.policies() == {("GlobalNetworkPolicy", "good"): 2})


async def test_policies_of_the_older_layout() -> None:
    api = FakeApi()
    await each(api.create, of_classic(defined("ipamblocks")), of_classic(defined("globalnetworkpolicies")))
    there = stored_gvr(POLICIES)
    await api.create(there, policy("one", there.api_version))
    async with followed(api) as loop:
        assert loop.policies() == {("GlobalNetworkPolicy", "good"): 1}
        await api.create(CRDS, defined("globalnetworkpolicies"))
        await api.delete(CRDS, defined("globalnetworkpolicies")["metadata"]["name"])
        await api.create(there, policy("two", there.api_version))
        await until(lambda: loop.policies() == {("GlobalNetworkPolicy", "good"): 2})


async def test_a_kind_whose_version_is_not_served_holds_nothing_up() -> None:
    """A later release of the definitions may have dropped the version that is read here: it is no reason to wait."""
    api = FakeApi()
    definition = defined("clusternetworkpolicies")
    other = {"name": "v1", "served": True, "storage": True}
    old = {**definition["spec"]["versions"][0], "served": False, "storage": False}
    gone = {**definition, "spec": {**definition["spec"], "versions": [old, other]}}
    await each(api.create, defined("ipamblocks"), gone)
    await api.create(CLUSTERNETWORKPOLICIES, {"metadata": {"name": "one"}, "spec": {}})
    async with followed(api) as loop:
        assert not loop.policies()
        assert all(kind.task is None for kind in loop._optional)
        await api.update(
            CRDS, {**definition, "metadata": (await api.get(CRDS, definition["metadata"]["name"]))["metadata"]}
        )
        await until(lambda: sum(loop.policies().values()) == 1)
