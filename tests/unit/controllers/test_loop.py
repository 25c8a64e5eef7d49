"""The queue, the store and the recorder of events."""

from __future__ import annotations

import asyncio
from typing import Any

from podwire.controllers.cache import Store, World
from podwire.controllers.loop import Controller, Queue, attach, backoff, operate
from podwire.kube.client import ApiError
from podwire.kube.events import BURST, Recorder
from podwire.kube.fake import FakeApi
from podwire.model import gvr


def obj(name: str, version: int, uid: str = "u", **metadata: Any) -> dict[str, Any]:
    found = {"name": name, "namespace": "d", "uid": uid, "resourceVersion": str(version), **metadata}
    return {"kind": "Pod", "metadata": found}


def test_a_store_does_not_go_back() -> None:
    store, seen = Store(gvr.PODS), []
    store.subscribe(lambda old, new: seen.append((old and old["metadata"]["resourceVersion"], new is not None)))
    store.apply(("d", "x"), obj("x", 5))
    store.apply(("d", "x"), obj("x", 4))
    store.apply(("d", "x"), obj("x", 5))
    store.apply(("d", "x"), obj("x", 6))
    store.apply(("d", "x"), None)
    store.apply(("d", "x"), obj("x", 7))  # the late answer of a write to what has ended
    assert store.get("x", "d") is None
    store.apply(("d", "x"), obj("x", 8, uid="other"))
    assert seen == [(None, True), ("5", True), ("6", False), (None, True)]


def test_the_end_of_a_names_first_bearer_leaves_the_second() -> None:
    store = Store(gvr.REPLICASETS)
    store.apply(("d", "x"), obj("x", 5, uid="first", deletionTimestamp="now"))
    store.apply(("d", "x"), obj("x", 8, uid="second"))  # our own write, ahead of the watch
    store.apply(("d", "x"), obj("x", 6, uid="first", deletionTimestamp="now"))
    store.apply(("d", "x"), None, 7)
    store.apply(("d", "x"), obj("x", 8, uid="second"))
    held = store.get("x", "d")
    assert held is not None and held["metadata"]["uid"] == "second" and not store.leaving(held)
    store.apply(("d", "x"), None, 9)
    assert store.get("x", "d") is None


def test_indexes_follow() -> None:
    store = Store(gvr.PODS)
    store.apply(("d", "x"), obj("x", 1, ownerReferences=[{"uid": "o"}]))
    assert [one["metadata"]["name"] for one in store.by("owner", "o")] == ["x"]
    store.apply(("d", "x"), obj("x", 2))
    assert store.by("owner", "o") == [] and len(store.by("namespace", "d")) == 1


async def test_a_queue_coalesces_and_keeps_a_key_to_one_worker() -> None:
    queue = Queue()
    for key in ("a", "b", "a"):
        queue.add(key)
    assert [await queue.take(), await queue.take()] == ["a", "b"]
    queue.add("a")
    assert len(queue) == 0
    queue.done("a")
    assert await queue.take() == "a"
    queue.add_after("b", 5.0)
    queue.add("b")
    queue.done("b")
    assert await asyncio.wait_for(queue.take(), 2) == "b"
    queue.close()


async def test_failures_come_back_with_growing_pauses() -> None:
    tries: list[float] = []

    async def reconcile(_: Any) -> None:
        tries.append(asyncio.get_running_loop().time())
        if len(tries) == 1:
            raise ApiError(500, "InternalError", "boom")
        if len(tries) == 2:
            raise KeyError("spec")

    world = World(FakeApi())
    controller = Controller("test", {}, reconcile, start=("key",))
    queue = attach(world, controller)
    task = asyncio.create_task(operate(world, controller, queue))
    async with asyncio.timeout(20):
        while len(tries) < 3:
            await asyncio.sleep(0.01)
    await asyncio.sleep(0.1)
    task.cancel()
    assert len(tries) == 3
    assert tries[1] - tries[0] >= 0.002 and tries[2] - tries[1] >= 0.005
    assert [backoff(n) for n in (1, 2, 3)] == [0.005, 0.01, 0.02] and backoff(99) == 60.0


async def test_events_that_differ_in_an_id_are_one() -> None:
    api = FakeApi()
    recorder, subject = Recorder(api), {"apiVersion": "v1", **obj("x", 1)}
    for number in range(3):
        await recorder.record(subject, "Warning", "Failed", f"sandbox {number} full", "test", same="sandbox  full")
    await recorder.record(subject, "Warning", "Failed", "another", "test")
    found = {one["message"]: one["count"] for one in api.objects(gvr.EVENTS)}
    assert found == {"sandbox 2 full": 3, "another": 1}


async def test_events_are_counted_and_cut_short() -> None:
    api = FakeApi()
    recorder, subject = Recorder(api), {"apiVersion": "v1", **obj("x", 1)}
    for _ in range(3):
        await recorder.record(subject, "Normal", "Same", "again", "test", host="node")
    found = api.objects(gvr.EVENTS)
    assert len(found) == 1 and found[0]["count"] == 3
    assert found[0]["involvedObject"]["uid"] == "u" and found[0]["source"] == {"component": "test", "host": "node"}
    for number in range(2 * BURST):
        await recorder.record(subject, "Normal", "Many", str(number), "test", host="node")
    assert len(api.objects(gvr.EVENTS)) == BURST - 2
    api.fail_next()
    await recorder.record({"kind": "Node", "metadata": {"name": "n"}}, "Warning", "Lost", "x", "test")
    await recorder.record({"kind": "Node", "metadata": {"name": "n"}}, "Warning", "Found", "x", "test")
    assert {one["metadata"]["namespace"] for one in api.objects(gvr.EVENTS)} == {"d", "default"}
