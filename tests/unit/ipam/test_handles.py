"""Handles under late writes and rivals: what is raised stays."""

from __future__ import annotations

from typing import Any

import pytest

from podwire.ipam import handles
from podwire.ipam.handles import Marks
from podwire.kube.fake import FakeApi
from podwire.model.address import Cidr
from podwire.model.api import ApiError
from podwire.model.gvr import IPAMHANDLES

A, B = Cidr.parse("10.0.0.0/28"), Cidr.parse("10.0.0.16/28")


async def nothing(named: set[Cidr]) -> dict[Cidr, int]:
    return {}


async def test_a_removal_that_comes_late_is_refused() -> None:
    """It was sent after a failed attempt and delayed; the retry found the handle high enough."""
    api, marks = FakeApi(), Marks()
    await handles.raise_to(api, "h", {A: 1}, marks)
    late = (await api.get(IPAMHANDLES, "h"))["metadata"]
    await handles.raise_to(api, "h", {A: 1}, marks)
    with pytest.raises(ApiError) as caught:
        await api.delete(IPAMHANDLES, "h", uid=late["uid"], resource_version=late["resourceVersion"])
    assert caught.value.conflict and handles.counts_of(await handles.read(api, "h")) == {A: 1}


@pytest.mark.parametrize("rival", [False, True])
async def test_who_failed_leaves_alone_what_another_raised(rival: bool) -> None:
    api, old, new = FakeApi(), Marks(), Marks()
    await handles.raise_to(api, "h", {A: 1}, old)
    if rival:
        assert await handles.raise_to(api, "h", {B: 1}, new) == {A}
    await handles.lower_to(api, "h", nothing, old)
    left: Any = await handles.read(api, "h")
    assert handles.counts_of(left) == ({A: 1, B: 1} if rival else {}) and (left is not None) == rival
