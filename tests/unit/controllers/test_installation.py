"""An Installation's pools come to be, and what it says beyond is told once."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from podwire.kube.fake import FakeApi
from podwire.model.gvr import EVENTS, INSTALLATIONS, IPPOOLS

_spec = importlib.util.spec_from_file_location("controllers_cluster", Path(__file__).with_name("conftest.py"))
assert _spec and _spec.loader
_page = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_page)
controllers, Running = _page.controllers, _page.Running

STOCK = {"name": "default-ipv4-ippool", "cidr": "192.168.0.0/16", "encapsulation": "VXLANCrossSubnet"}
OLD = {"cidr": "192.168.0.0/16", "blockSize": 26, "vxlanMode": "Always", "natOutgoing": True, "nodeSelector": "all()"}


def installation(*pools: dict[str, Any], name: str = "default", **spec: Any) -> dict[str, Any]:
    head = {"apiVersion": "operator.tigera.io/v1", "kind": "Installation", "metadata": {"name": name}}
    return {**head, "spec": {"calicoNetwork": {"ipPools": list(pools)}, **spec}}


def pool(name: str, **spec: Any) -> dict[str, Any]:
    return {"apiVersion": "projectcalico.org/v3", "kind": "IPPool", "metadata": {"name": name}, "spec": spec}


@pytest.fixture
async def running(cluster: Any) -> Any:
    async with controllers(cluster.api, default_pool=False):
        yield cluster


def pools(api: FakeApi) -> dict[str, Any]:
    return {one["metadata"]["name"]: one["spec"] for one in api.objects(IPPOOLS)}


def ready(one: Any) -> str:
    found = one.get(INSTALLATIONS, "default", "")
    conditions = (found.get("status") or {}).get("conditions") or [{}]
    return str(conditions[0].get("status", "")) + " " + str(conditions[0].get("message", ""))


def told(api: FakeApi) -> list[str]:
    return [one["message"] for one in api.objects(EVENTS) if one["reason"] == "NotHonoured"]


async def test_pools_are_made_and_changed(running: Any) -> None:
    await running.api.create(INSTALLATIONS, installation(STOCK, {"cidr": "fd00::/64", "name": "six"}))
    await running.until(lambda: ready(running).startswith("True"))
    made = pools(running.api)
    assert made["default-ipv4-ippool"]["vxlanMode"] == "CrossSubnet" and made["six"]["blockSize"] == 122
    changed = installation({**STOCK, "encapsulation": "VXLAN", "natOutgoing": "Disabled"})
    await running.api.patch(INSTALLATIONS, "default", {"spec": changed["spec"]})
    await running.until(lambda: pools(running.api)["default-ipv4-ippool"]["vxlanMode"] == "Always")
    assert not pools(running.api)["default-ipv4-ippool"]["natOutgoing"]
    # a pool that is no longer asked for gives no new addresses, but stays
    await running.until(lambda: pools(running.api)["six"]["disabled"])
    assert told(running.api) == []


async def test_the_labs_own_pool_becomes_the_one_asked_for(cluster: Any) -> None:
    await cluster.api.create(IPPOOLS, pool("default-ipv4-ippool", **OLD))
    await cluster.api.create(IPPOOLS, pool("mine", cidr="10.0.0.0/24"))
    await cluster.api.create(INSTALLATIONS, installation(STOCK))
    async with controllers(cluster.api, default_pool=False):
        await cluster.until(lambda: pools(cluster.api)["default-ipv4-ippool"]["vxlanMode"] == "CrossSubnet")
        await cluster.until(lambda: ready(cluster) == "True ")
    assert pools(cluster.api)["mine"] == {"cidr": "10.0.0.0/24"}  # a pool of the user's own is left alone


@pytest.mark.parametrize(
    ("there", "asked", "words"),
    [
        (pool("default-ipv4-ippool", **{**OLD, "cidr": "10.244.0.0/16"}), STOCK, "networking.podSubnet that cidr"),
        (pool("default-ipv4-ippool", **{**OLD, "blockSize": 28}), STOCK, "blockSize 28, which cannot become 26"),
        (pool("older", cidr="192.168.9.0/24"), STOCK, "overlaps IPPool older (192.168.9.0/24)"),
        (pool("broken", cidr="what"), {"cidr": "10.0.0.1/16"}, "did you mean 10.0.0.0/16"),
    ],
)
async def test_what_cannot_be_is_said_with_the_way_out(cluster: Any, there: Any, asked: Any, words: str) -> None:
    await cluster.api.create(IPPOOLS, there)
    before = pools(cluster.api)
    await cluster.api.create(INSTALLATIONS, installation(asked))
    async with controllers(cluster.api, default_pool=False):
        await cluster.until(lambda: told(cluster.api) and ready(cluster).startswith("False"))
    assert words in told(cluster.api)[0] and words in ready(cluster) and pools(cluster.api) == before


async def test_what_means_nothing_here_is_named_in_one_warning(running: Any) -> None:
    await running.api.create(INSTALLATIONS, installation(STOCK, variant="Calico", cni={"type": "Calico"}))
    await running.until(lambda: ready(running) == "True " and told(running.api))
    await running.still()
    (message,) = told(running.api)
    assert "spec.variant, spec.cni" in message and "ipPools" in message


async def test_an_installation_of_another_name_has_no_effect(running: Any) -> None:
    await running.api.create(INSTALLATIONS, installation(STOCK, name="other"))
    await running.until(lambda: told(running.api))
    assert pools(running.api) == {} and "called default" in told(running.api)[0]
