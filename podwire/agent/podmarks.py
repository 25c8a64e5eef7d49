"""Annotations by which tools know a pod's addresses and sandbox: `podIP`, `podIPs`, `containerID`.

Written off the ADD path, from what stands on record against what the watch last told: nothing is queued, so nothing is
lost with the agent, and a start with nothing new writes nothing. When a pod's attachment is gone while the pod is not
(it has ended), the addresses are emptied: they may be somebody else's by then.
Source: Calico's CNI plugin (names and values; patched on pods/status).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping

from podwire.agent.attachments import BRIDGE, READY, ROUTED, Attachment
from podwire.agent.pods import Known, Pods, heard
from podwire.model.api import Api, ApiError
from podwire.model.gvr import PODS

log = logging.getLogger(__name__)

POD_IP = "cni.projectcalico.org/podIP"
POD_IPS = "cni.projectcalico.org/podIPs"
CONTAINER_ID = "cni.projectcalico.org/containerID"

SETTLE_SECONDS = 1.0
"""What a pod's start or end brings together becomes one write, and a pod that goes at once none."""
LOOK_SECONDS = 30.0
"""An attachment that goes after its pod's last change is noticed by looking at all."""
RETRY_SECONDS = (2.0, 30.0)
AT_ONCE = 4

Key = tuple[str, str]


def wanted(annotations: Mapping[str, str], record: Attachment | None) -> dict[str, str]:
    """The annotations to change."""
    if record is None:
        return dict.fromkeys((POD_IP, POD_IPS), "") if annotations.get(POD_IP) or annotations.get(POD_IPS) else {}
    cidrs = [f"{address}/{128 if ':' in address else 32}" for address in record.addresses]
    full = {POD_IP: cidrs[0], POD_IPS: ",".join(cidrs), CONTAINER_ID: record.container_id}
    return {name: value for name, value in full.items() if annotations.get(name) != value}


def by_pod(records: Iterable[Attachment]) -> dict[Key, list[Attachment]]:
    """The pods' first interfaces that we wired."""
    found: dict[Key, list[Attachment]] = {}
    for record in records:
        if record.pod and record.addresses and record.role in (ROUTED, BRIDGE) and record.interface == "eth0":
            found.setdefault((record.namespace, record.pod), []).append(record)
    return found


def chosen(records: list[Attachment], pod: Known) -> Attachment | None:
    """The pod's own record: not that of one of the same name before it; of several sandboxes the last made."""
    mine = [one for one in records if one.uid in ("", pod.metadata.uid)]
    return mine[-1] if mine else None


class PodMarks:
    """`run` until cancelled. `all_records` gives the records of some states."""

    def __init__(self, api: Api, pods: Pods, all_records: Callable[..., list[Attachment]]) -> None:
        self._api = api
        self._pods = pods
        self._news = pods.news()
        self._records = all_records
        self._turns = asyncio.Semaphore(AT_ONCE)

    async def run(self) -> None:
        pause = 0.0
        while True:
            await heard(self._news, LOOK_SECONDS)
            await asyncio.sleep(max(SETTLE_SECONDS, pause))
            failed = await self.once()
            pause = min(max(pause * 2, RETRY_SECONDS[0]), RETRY_SECONDS[1]) if failed else 0.0
            if failed:
                self._news.set()

    async def once(self) -> int:
        """One look at all pods; how many writes failed and make sense again."""
        self._news.clear()
        ready = by_pod(self._records(READY))
        changes = []
        for key, pod in self._pods.known().items():
            change = wanted(pod.metadata.annotations, chosen(ready.get(key, []), pod))
            if change:
                changes.append(self._write(key, pod, change))
        return sum(await asyncio.gather(*changes))

    async def _write(self, key: Key, pod: Known, change: dict[str, str]) -> bool:
        """Whether it failed and makes sense again. What differs by then is told by the watch."""
        namespace, name = key
        patch = {"metadata": {"uid": pod.metadata.uid, "annotations": change}}
        async with self._turns:
            try:
                await self._api.patch(PODS, name, patch, namespace, subresource="status")
            except ApiError as error:
                if error.status not in (404, 409):
                    log.warning("pod not annotated pod=%s/%s error=%s", namespace, name, error)
                return error.unreachable
        return False
