"""What every implementation of `Api` must do, as one suite; test_contract.py runs it on each of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest

from podwire.kube.client import Api, ApiError, InSync, Update
from podwire.model.gvr import CONFIGMAPS, NAMESPACES, NODES, PODS

Events = AsyncIterator[Update | InSync]


def configmap(name: str, **data: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}


def pod(name: str, node: str = "", **spec: Any) -> dict[str, Any]:
    containers = [{"name": "main", "image": "nginx"}]
    body: dict[str, Any] = {"containers": containers, **spec}
    if node:
        body["nodeName"] = node
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": body}


async def following(events: Events, seconds: float = 5.0) -> Update | InSync:
    return await asyncio.wait_for(anext(events), seconds)


async def until(events: Events, key: tuple[str, str], seconds: float = 5.0) -> Update:
    """The next update of `key`, passing over others."""
    async with asyncio.timeout(seconds):
        async for event in events:
            if isinstance(event, Update) and event.key == key:
                return event
    raise AssertionError("the watch ended")


async def refused(call: Any, status: int, reason: str) -> ApiError:
    with pytest.raises(ApiError) as caught:
        await call
    assert (caught.value.status, caught.value.reason) == (status, reason), caught.value
    return caught.value


class ApiContract:
    """Uses namespace `space`, which the fixture made and which is empty; the fixture `api` is the implementation."""

    async def test_create_fills_in_what_the_server_owns(self, api: Api) -> None:
        made = await api.create(CONFIGMAPS, configmap("a", k="v"), "space")
        metadata = made["metadata"]
        assert (made["apiVersion"], made["kind"], metadata["name"], metadata["namespace"]) == (
            "v1",
            "ConfigMap",
            "a",
            "space",
        )
        assert metadata["uid"] and metadata["resourceVersion"] and metadata["creationTimestamp"]
        assert await api.get(CONFIGMAPS, "a", "space") == made

    async def test_create_twice_is_already_exists(self, api: Api) -> None:
        await api.create(CONFIGMAPS, configmap("a"), "space")
        error = await refused(api.create(CONFIGMAPS, configmap("a"), "space"), 409, "AlreadyExists")
        assert error.already_exists and not error.conflict
        assert 'configmaps "a" already exists' in str(error)

    async def test_generate_name(self, api: Api) -> None:
        body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"generateName": "web-"}}
        one = await api.create(CONFIGMAPS, body, "space")
        two = await api.create(CONFIGMAPS, body, "space")
        assert one["metadata"]["name"].startswith("web-") and one["metadata"]["name"] != two["metadata"]["name"]

    async def test_absent_objects_are_not_found(self, api: Api) -> None:
        error = await refused(api.get(CONFIGMAPS, "a", "space"), 404, "NotFound")
        assert error.not_found and str(error) == 'configmaps "a" not found'
        await refused(api.delete(CONFIGMAPS, "a", "space"), 404, "NotFound")
        await refused(api.patch(CONFIGMAPS, "a", {"data": {}}, "space"), 404, "NotFound")

    async def test_a_stale_update_is_a_conflict(self, api: Api) -> None:
        first = await api.create(CONFIGMAPS, configmap("a", k="1"), "space")
        second = await api.update(CONFIGMAPS, {**first, "data": {"k": "2"}})
        assert second["metadata"]["resourceVersion"] != first["metadata"]["resourceVersion"]
        error = await refused(api.update(CONFIGMAPS, {**first, "data": {"k": "3"}}), 409, "Conflict")
        assert error.conflict
        assert (await api.get(CONFIGMAPS, "a", "space"))["data"] == {"k": "2"}

    async def test_an_update_that_changes_nothing_keeps_the_version(self, api: Api) -> None:
        first = await api.create(CONFIGMAPS, configmap("a", k="1"), "space")
        assert (await api.update(CONFIGMAPS, first))["metadata"] == first["metadata"]

    async def test_patches(self, api: Api) -> None:
        await api.create(CONFIGMAPS, configmap("a", keep="1", drop="2"), "space")
        merged = await api.patch(CONFIGMAPS, "a", {"data": {"drop": None, "new": "3"}}, "space")
        assert merged["data"] == {"keep": "1", "new": "3"}
        edited = await api.patch(
            CONFIGMAPS, "a", [{"op": "add", "path": "/data/x", "value": "4"}], "space", kind="json"
        )
        assert edited["data"] == {"keep": "1", "new": "3", "x": "4"}
        stale = {"metadata": {"resourceVersion": merged["metadata"]["resourceVersion"]}, "data": {"keep": "9"}}
        await refused(api.patch(CONFIGMAPS, "a", stale, "space"), 409, "Conflict")

    async def test_strategic_patch_merges_containers_by_name(self, api: Api) -> None:
        await api.create(PODS, pod("p"), "space")
        patch = {"spec": {"containers": [{"name": "main", "image": "nginx:2"}]}, "metadata": {"labels": {"a": "b"}}}
        patched = await api.patch(PODS, "p", patch, "space", kind="strategic")
        assert [(c["name"], c["image"]) for c in patched["spec"]["containers"]] == [("main", "nginx:2")]
        assert patched["metadata"]["labels"] == {"a": "b"}

    async def test_apply_creates_then_changes(self, api: Api) -> None:
        body = configmap("a", k="1")
        await api.patch(CONFIGMAPS, "a", body, "space", kind="apply", manager="test")
        applied = await api.patch(CONFIGMAPS, "a", configmap("a", k="2"), "space", kind="apply", manager="test")
        assert applied["data"] == {"k": "2"}

    async def test_status_and_spec_are_written_apart(self, api: Api) -> None:
        made = await api.create(PODS, pod("p"), "space")
        made["status"] = {"phase": "Running", "podIP": "10.244.0.5"}
        written = await api.update(PODS, made, subresource="status")
        assert written["status"]["podIP"] == "10.244.0.5"
        status = {"status": {"podIP": "10.9.9.9"}, "metadata": {"labels": {"x": "y"}}}
        main = await api.patch(PODS, "p", status, "space")
        assert main["status"]["podIP"] == "10.244.0.5" and main["metadata"]["labels"] == {"x": "y"}
        patched = await api.patch(PODS, "p", {"status": {"podIP": "10.244.0.6"}}, "space", subresource="status")
        assert patched["status"]["podIP"] == "10.244.0.6" and patched["status"]["phase"] == "Running"

    async def test_list_selects_by_namespace_label_and_field(self, api: Api) -> None:
        for name, node, labels in (("a", "n1", {"app": "x"}), ("b", "n2", {"app": "x"}), ("c", "", {"app": "y"})):
            body = pod(name, node)
            body["metadata"]["labels"] = labels
            await api.create(PODS, body, "space")

        async def names(namespace: str = "space", **selectors: str) -> list[str]:
            items, version = await api.list(PODS, namespace, **selectors)
            assert version and all(item["kind"] == "Pod" and item["apiVersion"] == "v1" for item in items)
            return [item["metadata"]["name"] for item in items]

        assert await names() == ["a", "b", "c"]
        assert await names(label_selector="app=x") == ["a", "b"]
        assert await names(label_selector="app in (y,z)") == ["c"]
        assert await names(field_selector="spec.nodeName=n2") == ["b"]
        assert await names(field_selector="spec.nodeName=") == ["c"]
        assert await names("kube-public") == []

    async def test_finalizers_hold_a_deleted_object(self, api: Api) -> None:
        body = configmap("a")
        body["metadata"]["finalizers"] = ["podwire.example/hold"]
        await api.create(CONFIGMAPS, body, "space")
        await api.delete(CONFIGMAPS, "a", "space")
        held = await api.get(CONFIGMAPS, "a", "space")
        assert held["metadata"]["deletionTimestamp"]
        await api.patch(CONFIGMAPS, "a", {"metadata": {"finalizers": None}}, "space")
        await refused(api.get(CONFIGMAPS, "a", "space"), 404, "NotFound")

    async def test_delete_preconditions(self, api: Api) -> None:
        made = (await api.create(CONFIGMAPS, configmap("a"), "space"))["metadata"]
        await refused(api.delete(CONFIGMAPS, "a", "space", uid="other"), 409, "Conflict")
        await refused(api.delete(CONFIGMAPS, "a", "space", resource_version="1"), 409, "Conflict")
        await api.delete(CONFIGMAPS, "a", "space", uid=made["uid"], resource_version=made["resourceVersion"])
        await refused(api.get(CONFIGMAPS, "a", "space"), 404, "NotFound")

    async def test_a_scheduled_pod_is_deleted_gracefully(self, api: Api) -> None:
        await api.create(PODS, pod("free"), "space")
        await api.delete(PODS, "free", "space")
        await refused(api.get(PODS, "free", "space"), 404, "NotFound")
        await api.create(PODS, pod("p", "n1", terminationGracePeriodSeconds=7), "space")
        await api.delete(PODS, "p", "space")
        metadata = (await api.get(PODS, "p", "space"))["metadata"]
        assert metadata["deletionTimestamp"] and metadata["deletionGracePeriodSeconds"] == 7
        await api.delete(PODS, "p", "space", grace=0)
        await refused(api.get(PODS, "p", "space"), 404, "NotFound")

    async def test_binding(self, api: Api) -> None:
        await api.create(PODS, pod("p"), "space")
        target = {"apiVersion": "v1", "kind": "Node", "name": "n1"}
        body = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "p"}, "target": target}
        await api.create(PODS, body, "space", subresource="binding", name="p")
        assert (await api.get(PODS, "p", "space"))["spec"]["nodeName"] == "n1"
        again = api.create(PODS, body, "space", subresource="binding", name="p")
        await refused(again, 409, "Conflict")

    async def test_cluster_scoped_kinds(self, api: Api) -> None:
        made = await api.create(NODES, {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "contract-node"}})
        assert "namespace" not in made["metadata"]
        await api.delete(NODES, "contract-node")

    async def test_concurrent_compare_and_swap_loses_nothing(self, api: Api) -> None:
        await api.create(CONFIGMAPS, configmap("count", n="0"), "space")

        async def add() -> None:
            while True:
                have = await api.get(CONFIGMAPS, "count", "space")
                have["data"]["n"] = str(int(have["data"]["n"]) + 1)
                try:
                    await api.update(CONFIGMAPS, have)
                    return
                except ApiError as error:
                    assert error.conflict

        await asyncio.gather(*(add() for _ in range(12)))
        assert (await api.get(CONFIGMAPS, "count", "space"))["data"]["n"] == "12"

    async def test_watch_tells_what_is_then_in_sync_then_changes(self, api: Api) -> None:
        await api.create(CONFIGMAPS, configmap("a", k="1"), "space")
        async with aclosing(api.watch(CONFIGMAPS, "space")) as events:  # type: ignore[type-var]
            first = await following(events)
            assert isinstance(first, Update) and first.key == ("space", "a")
            assert first.object["data"] == {"k": "1"} and first.object["kind"] == "ConfigMap"
            assert await following(events) == InSync()
            await api.create(CONFIGMAPS, configmap("b"), "space")
            assert (await until(events, ("space", "b"))).object is not None
            await api.patch(CONFIGMAPS, "a", {"data": {"k": "2"}}, "space")
            assert (await until(events, ("space", "a"))).object["data"] == {"k": "2"}
            await api.delete(CONFIGMAPS, "b", "space")
            assert await until(events, ("space", "b")) == Update(("space", "b"), None)

    async def test_an_empty_watch_is_in_sync_at_once(self, api: Api) -> None:
        async with aclosing(api.watch(PODS, "space")) as events:  # type: ignore[type-var]
            assert await following(events) == InSync()

    async def test_a_selecting_watch_sees_objects_come_and_go(self, api: Api) -> None:
        await api.create(PODS, pod("p"), "space")
        selected = api.watch(PODS, "space", field_selector="spec.nodeName=n1")
        labelled = api.watch(PODS, "space", label_selector="a=b")
        async with aclosing(selected) as events, aclosing(labelled) as others:  # type: ignore[type-var]
            assert await following(events) == InSync()
            assert await following(others) == InSync()
            target = {"apiVersion": "v1", "kind": "Node", "name": "n1"}
            body = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "p"}, "target": target}
            await api.create(PODS, body, "space", subresource="binding", name="p")
            assert (await until(events, ("space", "p"))).object["spec"]["nodeName"] == "n1"
            await api.patch(PODS, "p", {"metadata": {"labels": {"a": "b"}}}, "space")
            assert (await until(others, ("space", "p"))).object is not None
            await api.patch(PODS, "p", {"metadata": {"labels": {"a": "c"}}}, "space")
            assert (await until(others, ("space", "p"))).object is None

    async def test_watches_may_be_many_and_large(self, api: Api) -> None:
        async def count() -> int:
            seen = 0
            async with aclosing(api.watch(CONFIGMAPS, "space")) as events:  # type: ignore[type-var]
                async for event in events:
                    if isinstance(event, Update) and event.key[1].startswith("big"):
                        seen += 1
                    if seen == 5:
                        return seen
            return seen

        watchers = [asyncio.create_task(count()) for _ in range(5)]
        for number in range(5):
            await api.create(CONFIGMAPS, configmap(f"big{number}", blob="x" * 300_000), "space")
        assert await asyncio.wait_for(asyncio.gather(*watchers), 20) == [5] * 5

    async def test_a_namespace_terminates_until_it_is_finalized(self, api: Api) -> None:
        body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "contract-doomed"}}
        await api.create(NAMESPACES, body)
        await api.delete(NAMESPACES, "contract-doomed")
        doomed = await api.get(NAMESPACES, "contract-doomed")
        assert doomed["status"]["phase"] == "Terminating"
        doomed["spec"]["finalizers"] = []
        await api.update(NAMESPACES, doomed, subresource="finalize")
        await refused(api.get(NAMESPACES, "contract-doomed"), 404, "NotFound")
