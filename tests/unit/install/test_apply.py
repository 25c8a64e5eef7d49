"""Another network beside which nothing is installed; kinds that somebody else brought."""

from __future__ import annotations

from typing import Any

import pytest

from podwire.install import manifests
from podwire.install.apply import InstallError, is_ours, refuse_second_network
from podwire.install.options import Options
from podwire.kube.fake import FakeApi
from podwire.model.gvr import CRDS, DAEMONSETS

OTHERS = {
    "just created": ("calico-node", {"desiredNumberScheduled": 0}, True),
    "running": ("kube-flannel-ds", {"observedGeneration": 1, "desiredNumberScheduled": 3}, True),
    "without a status": ("kindnet", {}, True),
    "on no node at present": ("calico-node", {"observedGeneration": 2, "desiredNumberScheduled": 0}, True),
    "no network": ("kube-proxy", {"observedGeneration": 1, "desiredNumberScheduled": 3}, False),
}


@pytest.mark.parametrize(("name", "status", "refused"), OTHERS.values(), ids=OTHERS)
async def test_refused(name: str, status: dict[str, Any], refused: bool) -> None:
    api = FakeApi()
    head = {"name": name, "namespace": "kube-system"}
    await api.create(DAEMONSETS, {"metadata": head, "spec": {}, "status": status})
    if not refused:
        await refuse_second_network(api)
        return
    with pytest.raises(InstallError, match=f"delete daemonset {name}"):
        await refuse_second_network(api)


async def test_kinds_of_policies_that_somebody_else_brought_stay() -> None:
    api = FakeApi()
    ours, other, *_ = manifests.policy_kinds(Options())
    assert await is_ours(api, ours), "it is not there"
    await api.create(CRDS, ours)
    await api.create(CRDS, {**other, "metadata": {"name": other["metadata"]["name"], "labels": {"made-by": "others"}}})
    assert await is_ours(api, ours) and not await is_ours(api, other)
