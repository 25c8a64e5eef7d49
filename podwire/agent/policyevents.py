"""What of policies is not honoured, told where it was written: Events on the objects.

One agent tells for all: the one that holds the cluster's duties.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from podwire.agent.policyloop import Told
from podwire.kube.events import record as record_event
from podwire.model.api import Api

REASON, COMPONENT = "PolicyNotHonoured", "podwire-agent"


class PolicyEvents:
    """`run` until cancelled. `leads` says whether it is this agent's turn."""

    def __init__(self, api: Api, node: str, leads: Callable[[], bool]) -> None:
        self._api = api
        self._node = node
        self._leads = leads
        self._waiting: asyncio.Queue[Told] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()

    def tell(self, told: Told) -> None:
        """From any thread."""
        self._loop.call_soon_threadsafe(self._waiting.put_nowait, told)

    async def run(self) -> None:
        while True:
            told = await self._waiting.get()
            if not self._leads():
                continue
            meta = told.record.metadata
            about = {
                "apiVersion": told.kind.api_version,
                "kind": told.kind.kind,
                "metadata": {"name": meta.name, "namespace": meta.namespace, "uid": meta.uid},
            }
            text = "; ".join(told.problems)
            await record_event(self._api, about, "Warning", REASON, text, COMPONENT, host=self._node)
