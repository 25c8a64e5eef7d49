"""What pods are told by Events: an address that is another's by IPAM, an annotation that their wiring does not read."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping

from podwire.agent.attachments import BRIDGE, CHAINED, READY, Attachment
from podwire.agent.files import from_files
from podwire.agent.pods import Pods, heard
from podwire.cni import asked
from podwire.kube.events import record as record_event
from podwire.model.api import Api, Object

log = logging.getLogger(__name__)

COMPONENT = "podwire-agent"
SETTLE_SECONDS = 1.0
"""An ADD that is under way when its pod changes comes on record."""
LOOK_SECONDS = 30.0
"""One that takes longer than that is noticed by looking at all."""


async def tell_conflict(api: Api, node: str, record: Attachment, address: str, owner: str) -> None:
    """To who looks at the pod."""
    if record.pod:
        text = f"address {address} is held by {owner} in IPAM: delete this pod so that it gets another"
        about = _pod(record.namespace, record.pod, record.uid)
        await record_event(api, about, "Warning", "AddressConflict", text, COMPONENT, host=node)


def unread(record: Attachment, annotations: Mapping[str, str]) -> dict[str, str]:
    """Annotations that an ADD of this wiring passes over, and for each what the pod's owner is told. Pure."""
    if record.role == CHAINED:
        where = "another plugin wired the pod, and Podwire is chained behind it"
        ways = dict.fromkeys((asked.FLOATING_IPS, asked.SOURCES), "let Podwire wire the pods")
    elif record.role == BRIDGE and from_files(record.handle):
        where = f"the pod is on bridge {record.bridge} with host-local addresses"
        ways = {
            asked.FLOATING_IPS: "take addresses from pools (ipam type podwire-ipam)",
            asked.SOURCES: "use the routed wiring",
        }
    else:
        return {}
    return {
        name: f"annotation {name} has no effect: {where}; remove it, or {way}"
        for name, way in ways.items()
        if annotations.get(name)
    }


class UnreadAnnotations:
    """`run` until cancelled: each pod is told once of each annotation. `all_records` gives the records of some states.

    Off the ADD path, which asks the API for nothing where addresses and interfaces are others' matter.
    """

    def __init__(self, api: Api, node: str, pods: Pods, all_records: Callable[..., list[Attachment]]) -> None:
        self._api = api
        self._node = node
        self._pods = pods
        self._news = pods.news()
        self._records = all_records
        self._told: set[tuple[str, str]] = set()  # pod's UID, annotation

    async def run(self) -> None:
        while True:
            await heard(self._news, LOOK_SECONDS)
            await asyncio.sleep(SETTLE_SECONDS)
            await self.once()

    async def once(self) -> None:
        """One look at all pods."""
        self._news.clear()
        pods = self._pods.known()
        uids = {pod.metadata.uid for pod in pods.values()}
        self._told = {each for each in self._told if each[0] in uids}
        for record in self._records(READY):
            pod = pods.get((record.namespace, record.pod))
            if pod is None or record.interface != "eth0" or record.uid not in ("", pod.metadata.uid):
                continue
            uid = pod.metadata.uid
            for name, text in unread(record, pod.metadata.annotations).items():
                if (uid, name) in self._told:
                    continue
                self._told.add((uid, name))
                log.warning("annotation has no effect pod=%s/%s name=%s", record.namespace, record.pod, name)
                about = _pod(record.namespace, record.pod, uid)
                await record_event(self._api, about, "Warning", "AnnotationIgnored", text, COMPONENT, host=self._node)


def _pod(namespace: str, name: str, uid: str) -> Object:
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": namespace, "name": name, "uid": uid}}
