"""Pods' annotations: what is to be changed, as a table; and a node's whole life on one API."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from podwire.agent.attachments import READY, Attachment
from podwire.agent.podmarks import CONTAINER_ID, POD_IP, POD_IPS, PodMarks, by_pod, wanted
from podwire.agent.pods import Pods
from podwire.kube.fake import FakeApi
from podwire.model.api import ApiError
from podwire.model.gvr import PODS


def record(pod: str, container: str = "c1", *addresses: str, uid: str = "", **fields: Any) -> Attachment:
    base = {"interface": "eth0", "network": "n", "netns": "", "host_name": "calix", "pod_mac": "", "mtu": 0}
    told = {**base, "handle": "h", "namespace": "d", "pod": pod, "uid": uid, "state": READY, **fields}
    return Attachment(container_id=container, addresses=addresses or ("10.244.1.5",), **told)


FULL = {POD_IP: "10.244.1.5/32", POD_IPS: "10.244.1.5/32,fd00::5/128", CONTAINER_ID: "c1"}
BOTH = record("web", "c1", "10.244.1.5", "fd00::5")


@pytest.mark.parametrize(
    ("annotations", "attached", "change"),
    [
        ({}, BOTH, FULL),
        (FULL, BOTH, {}),
        ({**FULL, CONTAINER_ID: "old"}, BOTH, {CONTAINER_ID: "c1"}),
        ({}, None, {}),
        (FULL, None, {POD_IP: "", POD_IPS: ""}),
        ({**FULL, POD_IP: "", POD_IPS: ""}, None, {}),
    ],
)
def test_what_is_changed(annotations: dict[str, str], attached: Attachment | None, change: dict[str, str]) -> None:
    assert wanted(annotations, attached) == change


def test_only_first_interfaces_that_we_wired_count() -> None:
    others = [record("a", interface="net1"), record("b", role="podwire-ipam"), record("", pod_mac="x")]
    assert by_pod([*others, BOTH]) == {("d", "web"): [BOTH]}


async def known(watched: Pods, name: str, annotation: str = "", value: str = "") -> None:
    while True:
        pod = watched.known().get(("d", name))
        if pod is not None and (not annotation or pod.metadata.annotations.get(annotation) == value):
            return
        await asyncio.sleep(0.001)


async def make(api: FakeApi, name: str) -> dict[str, Any]:
    body = {"metadata": {"name": name}, "spec": {"nodeName": "n1"}, "status": {"phase": "Running"}}
    return await api.create(PODS, body, "d")


async def test_a_pods_life(pods: tuple[FakeApi, Pods]) -> None:
    api, watched = pods
    records: list[Attachment] = []
    marks = PodMarks(api, watched, lambda *states: list(records))
    made = await make(api, "web")
    await known(watched, "web")
    assert await marks.once() == 0 and api.calls.get(("patch", "pods"), 0) == 0, "nothing stands on record yet"
    records.append(record("web", "c0", uid="of another pod of this name"))
    records.append(record("web", "c1", "10.244.1.5", "fd00::5", uid=made["metadata"]["uid"]))
    api.fail_next(plural="pods", verb="patch")
    assert await marks.once() == 1, "to be tried again"
    assert await marks.once() == 0
    now = await api.get(PODS, "web", "d")
    assert now["metadata"]["annotations"] == FULL and now["status"] == made["status"]
    await known(watched, "web", POD_IP, "10.244.1.5/32")
    before = api.calls[("patch", "pods")]
    assert await marks.once() == 0 and api.calls[("patch", "pods")] == before, "the second time is silent"
    records.clear()
    await marks.once()
    annotations = (await api.get(PODS, "web", "d"))["metadata"]["annotations"]
    assert annotations == {**FULL, POD_IP: "", POD_IPS: ""}


async def test_a_pod_that_is_another_by_now_is_left_alone(pods: tuple[FakeApi, Pods]) -> None:
    api, watched = pods
    await make(api, "web")
    await known(watched, "web")
    marks = PodMarks(api, watched, lambda *states: [BOTH])
    for error in (ApiError(409, "Conflict", "uid"), ApiError(404, "NotFound", "gone")):
        api.fail_next(error, plural="pods", verb="patch")
        assert await marks.once() == 0, "the watch will tell"
