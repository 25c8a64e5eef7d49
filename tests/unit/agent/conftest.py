"""What several pages of this room start from."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from podwire.agent.pods import Pods
from podwire.agent.turns import Turns
from podwire.kube.fake import FakeApi


@pytest.fixture
async def pods() -> AsyncIterator[tuple[FakeApi, Pods]]:
    """An API, and the node's view of its pods, which follows it."""
    api = FakeApi()
    watched = Pods(api, "n1", Turns())
    running = asyncio.create_task(watched.run())
    yield api, watched
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await api.close()
