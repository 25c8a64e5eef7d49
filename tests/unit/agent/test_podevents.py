"""Annotations that a wiring passes over: which, and that a pod is told once of each."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from podwire.agent.attachments import BRIDGE, CHAINED, IPAM, READY, ROUTED, Attachment
from podwire.agent.podevents import UnreadAnnotations, unread
from podwire.agent.pods import Pods
from podwire.kube.fake import FakeApi
from podwire.model.gvr import EVENTS, PODS

FLOATING, SOURCES = "cni.projectcalico.org/floatingIPs", "cni.projectcalico.org/allowedSourcePrefixes"
BOTH = {FLOATING: '["198.51.100.7"]', SOURCES: '["192.0.2.0/24"]', "cni.projectcalico.org/ipAddrs": "[]"}
FILES, BLOCKS = "host-local /var/lib/cni/networks/n c1 eth0", "n.c1"


def record(role: str, handle: str = "", **fields: Any) -> Attachment:
    base = {"container_id": "c1", "interface": "eth0", "network": "n", "netns": "", "host_name": "x", "pod_mac": ""}
    told = {**base, "namespace": "d", "pod": "web", "state": READY, "bridge": "cbr0", **fields}
    return Attachment(**told, mtu=0, handle=handle, role=role)


@pytest.mark.parametrize(
    ("attached", "annotations", "told"),
    [
        (record(CHAINED), BOTH, {FLOATING: "chained", SOURCES: "chained"}),
        (record(CHAINED), {FLOATING: ""}, {}),
        (record(CHAINED), {}, {}),
        (record(BRIDGE, FILES), BOTH, {FLOATING: "podwire-ipam", SOURCES: "routed"}),
        (record(BRIDGE, FILES), {SOURCES: "nonsense"}, {SOURCES: "cbr0"}),
        (record(BRIDGE, BLOCKS), BOTH, {}),
        (record(ROUTED, BLOCKS), BOTH, {}),
        (record(IPAM, BLOCKS), BOTH, {}),
    ],
)
def test_what_a_wiring_passes_over(attached: Attachment, annotations: dict[str, str], told: dict[str, str]) -> None:
    found = unread(attached, annotations)
    assert found.keys() == told.keys()
    for name, text in found.items():
        assert name in text and told[name] in text and "remove it, or" in text


async def make(api: FakeApi, watched: Pods, annotations: dict[str, str]) -> str:
    body = {"metadata": {"name": "web", "annotations": annotations}, "spec": {"nodeName": "n1"}}
    made = await api.create(PODS, body, "d")
    uid = str(made["metadata"]["uid"])
    while (known := watched.known().get(("d", "web"))) is None or known.metadata.uid != uid:
        await asyncio.sleep(0.001)
    return uid


def events(api: FakeApi) -> list[tuple[str, str, str, int]]:
    return [(o["type"], o["reason"], o["involvedObject"]["uid"], o["count"]) for o in api.objects(EVENTS)]


async def test_a_pod_is_told_once_of_each(pods: tuple[FakeApi, Pods]) -> None:
    api, watched = pods
    uid = await make(api, watched, BOTH)
    records: list[Attachment] = []
    telling = UnreadAnnotations(api, "n1", watched, lambda *states: list(records))
    await telling.once()
    assert events(api) == [], "nothing stands on record yet"
    records += [record(CHAINED, interface="net1"), record(CHAINED, uid="of another of this name"), record(CHAINED)]
    for _ in range(2):
        await telling.once()
        assert events(api) == [("Warning", "AnnotationIgnored", uid, 1)] * 2
    await api.delete(PODS, "web", "d", grace=0)
    again = await make(api, watched, {SOURCES: "x"})
    await telling.once()
    assert events(api)[2:] == [("Warning", "AnnotationIgnored", again, 1)], "a new pod is told anew"
