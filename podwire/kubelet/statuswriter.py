"""Writes one pod's status: only what changed, the newest only, one request at a time."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from podwire.kube.api import Api, ApiError
from podwire.kubelet import status
from podwire.kubelet.status import PodView
from podwire.model.gvr import PODS

log = logging.getLogger(__name__)
Object = dict[str, Any]
_RETRY = 1.0


class StatusWriter:
    """Knows what the API has: from the watch, and from the answers to its own patches."""

    def __init__(self, api: Api, pod: Object) -> None:
        self._api = api
        self._metadata = pod["metadata"]
        self._known: Object = pod.get("status") or {}
        self._version = _version(pod)
        self._wanted: Object | None = None
        self._task: asyncio.Task[None] | None = None

    def seen(self, pod: Object) -> None:
        """The watch brought an object; one older than the answer to our last patch is of no use."""
        if _version(pod) >= self._version:
            self._version, self._known = _version(pod), pod.get("status") or {}

    @property
    def phase(self) -> str:
        """The phase that stands, or is being written."""
        return str((self._wanted or self._known).get("phase") or "Pending")

    def write(self, pod: Object, view: PodView) -> None:
        """Make this the status. Returns at once."""
        wanted = status.build({**pod, "status": self._newest()}, view)
        if self._wanted is not None or status.patch(wanted, self._known):
            self._wanted = wanted
            if self._task is None or self._task.done():
                self._task = asyncio.ensure_future(self._push())

    def _newest(self) -> Object:
        """What is being written, with the conditions that others wrote."""
        if self._wanted is None:
            return self._known
        own = {one["type"] for one in self._wanted["conditions"]}
        others = [one for one in self._known.get("conditions") or [] if one["type"] not in own]
        return {**self._wanted, "conditions": [*others, *self._wanted["conditions"]]}

    async def _push(self) -> None:
        metadata = self._metadata
        while self._wanted is not None:
            wanted, self._wanted = self._wanted, None
            change = status.patch(wanted, self._known)
            if not change:
                continue
            body = {"metadata": {"uid": metadata["uid"]}, "status": change}
            try:
                answer = await self._api.patch(
                    PODS, metadata["name"], body, metadata["namespace"], kind="strategic", subresource="status"
                )
            except ApiError as error:
                if error.not_found or error.conflict:
                    return  # gone, or another pod has this name
                log.warning("kubelet: status of pod %s/%s: %s", metadata["namespace"], metadata["name"], error)
                if not error.unreachable:
                    return
                self._wanted = self._wanted or wanted
                await asyncio.sleep(_RETRY)
                continue
            self.seen(answer)

    async def flush(self) -> None:
        """Wait until everything is written."""
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=10)

    async def close(self) -> None:
        """Give up what is not written yet."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)


def _version(pod: Object) -> int:
    text = str(pod["metadata"].get("resourceVersion") or "0")
    return int(text) if text.isdigit() else 0
