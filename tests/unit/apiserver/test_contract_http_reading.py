"""Lists and watches as client-go uses them; each test also runs unchanged against a genuine API server."""

from __future__ import annotations

import asyncio
import json
import os
from typing import Any

import pytest

TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io"


def maps(space: str, rest: str = "") -> str:
    return f"/api/v1/namespaces/{space}/configmaps{rest}"


async def make(http: Any, space: str, name: str, **labels: str) -> dict[str, Any]:
    answer = await http("POST", maps(space), {"metadata": {"name": name, "labels": labels}, "data": {"n": "0"}})
    assert answer.status == 201, answer.text
    return answer.json


async def label(http: Any, space: str, name: str, **labels: str | None) -> dict[str, Any]:
    kind = "application/merge-patch+json"
    return (await http("PATCH", maps(space, f"/{name}"), {"metadata": {"labels": labels}}, kind)).json


class Stream:
    """The events of one watch, one by one."""

    def __init__(self, http: Any, path: str, accept: str = "application/json") -> None:
        self._opened = http.open("GET", path, Accept=accept)

    async def __aenter__(self) -> Stream:
        self.answer = await self._opened.__aenter__()
        assert self.answer.status == 200, await self.answer.text()
        return self

    async def __aexit__(self, *failed: Any) -> None:
        self.answer.close()

    async def next(self, seconds: float = 10) -> dict[str, Any] | None:
        """The next event, None at the end."""
        async with asyncio.timeout(seconds):
            line = await self.answer.content.readline()
        return json.loads(line) if line else None

    async def told(self, count: int) -> list[tuple[str, str]]:
        """Type and name of the next events."""
        events = [await self.next() for _ in range(count)]
        return [(event["type"], event["object"]["metadata"]["name"]) for event in events if event]

    async def quiet(self, seconds: float = 0.3) -> bool:
        try:
            return await self.next(seconds) is None
        except TimeoutError:
            return True


class TestList:
    async def test_pages_are_one_snapshot(self, http, space):
        for number in range(5):
            await make(http, space, f"m{number}")
        first = (await http("GET", maps(space, "?limit=2"))).json
        assert [each["metadata"]["name"] for each in first["items"]] == ["m0", "m1"]
        assert first["metadata"]["remainingItemCount"] == 3
        await make(http, space, "m25")
        await http("DELETE", maps(space, "/m3"))
        token = first["metadata"]["continue"]
        second = (await http("GET", maps(space, f"?limit=2&continue={token}"))).json
        assert [each["metadata"]["name"] for each in second["items"]] == ["m2", "m3"]
        assert second["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]
        third = (await http("GET", maps(space, f"?limit=2&continue={second['metadata']['continue']}"))).json
        assert [each["metadata"]["name"] for each in third["items"]] == ["m4"]
        assert not third["metadata"].get("continue")
        assert "remainingItemCount" not in third["metadata"]

    async def test_remaining_is_unknown_under_a_selector(self, http, space):
        for number in range(3):
            await make(http, space, f"m{number}", app="x")
        page = (await http("GET", maps(space, "?limit=1&labelSelector=app%3Dx"))).json
        assert page["metadata"]["continue"] and "remainingItemCount" not in page["metadata"]

    async def test_a_page_with_all_has_no_continue(self, http, space):
        await make(http, space, "one")
        page = (await http("GET", maps(space, "?limit=1"))).json
        assert not page["metadata"].get("continue")

    async def test_an_empty_list_has_items(self, http, space):
        assert (await http("GET", maps(space))).json["items"] == []

    async def test_the_present_and_exact_versions(self, http, space):
        first = await make(http, space, "one")
        version = first["metadata"]["resourceVersion"]
        await make(http, space, "two")

        async def names(query: str) -> list[str]:
            answer = await http("GET", maps(space, query))
            assert answer.status == 200, answer.text
            return [each["metadata"]["name"] for each in answer.json["items"]]

        assert await names(f"?resourceVersion={version}&resourceVersionMatch=Exact") == ["one"]
        assert await names(f"?resourceVersion={version}&resourceVersionMatch=NotOlderThan") == ["one", "two"]
        assert await names("?resourceVersion=0") == ["one", "two"]
        assert await names("") == ["one", "two"]

    async def test_a_version_from_the_future(self, http, space):
        answer = await http("GET", maps(space, "?resourceVersion=99999999999&resourceVersionMatch=NotOlderThan"))
        assert answer.status == 504
        assert answer.json["reason"] == "Timeout"
        assert answer.json["details"]["causes"][0]["reason"] == "ResourceVersionTooLarge"
        assert answer.json["details"]["retryAfterSeconds"] == 1

    @pytest.mark.parametrize(
        ("selector", "names"),
        [
            ("app%3Da", ["a"]),
            ("app!%3Da", ["b", "c"]),
            ("app+in+(a,b)", ["a", "b"]),
            ("app+notin+(a)", ["b", "c"]),
            ("app", ["a", "b"]),
            ("!app", ["c"]),
            ("app%3D%3Da,tier%3Dx", ["a"]),
        ],
    )
    async def test_label_selectors(self, http, space, selector, names):
        await make(http, space, "a", app="a", tier="x")
        await make(http, space, "b", app="b")
        await make(http, space, "c")
        listed = (await http("GET", maps(space, f"?labelSelector={selector}"))).json
        assert [each["metadata"]["name"] for each in listed["items"]] == names

    async def test_field_selectors_of_names(self, http, space):
        await make(http, space, "a")
        await make(http, space, "b")
        for selector, names in (("metadata.name%3Da", ["a"]), ("metadata.name!%3Da", ["b"]), ("metadata.name%3Dz", [])):
            listed = (await http("GET", maps(space, f"?fieldSelector={selector}"))).json
            assert [each["metadata"]["name"] for each in listed["items"]] == names
        everywhere = f"/api/v1/configmaps?fieldSelector=metadata.namespace%3D{space}"
        assert len((await http("GET", everywhere)).json["items"]) == 2


class TestWatch:
    async def test_from_a_version_on(self, http, space):
        one = await make(http, space, "one")
        await label(http, space, "one", a="b")
        await http("DELETE", maps(space, "/one"))
        version = one["metadata"]["resourceVersion"]
        async with Stream(http, maps(space, f"?watch=1&resourceVersion={version}")) as stream:
            changed, gone = await stream.next(), await stream.next()
            await make(http, space, "two")
            assert await stream.told(1) == [("ADDED", "two")]
        assert changed and gone
        assert (changed["type"], gone["type"]) == ("MODIFIED", "DELETED")
        assert changed["object"]["kind"] == "ConfigMap" and changed["object"]["apiVersion"] == "v1"
        # What is gone shows its last state, with the version at which it went.
        assert gone["object"]["metadata"]["labels"] == {"a": "b"}
        versions = [int(each["object"]["metadata"]["resourceVersion"]) for each in (changed, gone)]
        assert int(version) < versions[0] < versions[1]

    @pytest.mark.parametrize("query", ["?watch=1", "?watch=true&resourceVersion=0"])
    async def test_without_a_version_what_exists_comes_first(self, http, space, query):
        await make(http, space, "one")
        async with Stream(http, maps(space, query)) as stream:
            assert await stream.told(1) == [("ADDED", "one")]
            await label(http, space, "one", a="b")
            assert await stream.told(1) == [("MODIFIED", "one")]

    @pytest.mark.skipif("PODWIRE_CONTRACT_SERVER" in os.environ, reason="its etcd has to be compacted first")
    async def test_a_version_that_is_too_old(self, http, space):
        async with http.open("GET", maps(space, "?watch=1&resourceVersion=1&timeoutSeconds=2")) as answer:
            text = await answer.text()
        if answer.status == 200:
            lines = text.splitlines()
            event = json.loads(lines[0])
            status = event["object"]
        else:
            status = json.loads(text)
        assert (status["code"], status["reason"]) == (410, "Expired")

    async def test_initial_events_end_with_a_marked_bookmark(self, http, space):
        await make(http, space, "one")
        query = "?watch=1&sendInitialEvents=true&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan"
        async with Stream(http, maps(space, query)) as stream:
            assert await stream.told(1) == [("ADDED", "one")]
            mark = await stream.next(5)
            assert mark and mark["type"] == "BOOKMARK"
            assert (mark["object"]["kind"], mark["object"]["apiVersion"]) == ("ConfigMap", "v1")
            assert mark["object"]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}
            assert int(mark["object"]["metadata"]["resourceVersion"])
            await make(http, space, "two")
            assert await stream.told(1) == [("ADDED", "two")]

    async def test_initial_events_as_a_table(self, http, space):
        query = "?watch=1&sendInitialEvents=true&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan"
        async with Stream(http, maps(space, query), TABLE) as stream:
            mark = await stream.next(5)
        assert mark and mark["type"] == "BOOKMARK" and mark["object"]["kind"] == "Table"
        inner = mark["object"]["rows"][0]["object"]["metadata"]
        assert inner["annotations"] == {"k8s.io/initial-events-end": "true"}

    async def test_entering_and_leaving_a_selector(self, http, space):
        version = (await http("GET", maps(space))).json["metadata"]["resourceVersion"]
        async with Stream(http, maps(space, f"?watch=1&labelSelector=app%3Dx&resourceVersion={version}")) as stream:
            await make(http, space, "one")
            await label(http, space, "one", app="x")
            await label(http, space, "one", more="y")
            await label(http, space, "one", app="z")
            await make(http, space, "two", app="x")
            await http("DELETE", maps(space, "/one"))
            await http("DELETE", maps(space, "/two"))
            assert await stream.told(5) == [
                ("ADDED", "one"),
                ("MODIFIED", "one"),
                ("DELETED", "one"),
                ("ADDED", "two"),
                ("DELETED", "two"),
            ]

    async def test_one_object_by_name(self, http, space):
        query = "?watch=1&fieldSelector=metadata.name%3Dtwo&resourceVersion="
        version = (await http("GET", maps(space))).json["metadata"]["resourceVersion"]
        async with Stream(http, maps(space, query + version)) as stream:
            await make(http, space, "one")
            await make(http, space, "two")
            assert await stream.told(1) == [("ADDED", "two")]
            assert await stream.quiet()

    async def test_pods_by_node(self, http, space):
        pods = f"/api/v1/namespaces/{space}/pods"
        version = (await http("GET", pods)).json["metadata"]["resourceVersion"]
        pod = {"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
        binding = {"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n1"}}
        async with Stream(http, f"{pods}?watch=1&fieldSelector=spec.nodeName%3Dn1&resourceVersion={version}") as stream:
            assert (await http("POST", pods, pod)).status == 201
            assert (await http("POST", f"{pods}/p/binding", binding)).status == 201
            assert await stream.told(1) == [("ADDED", "p")]

    async def test_as_tables(self, http, space):
        version = (await http("GET", maps(space))).json["metadata"]["resourceVersion"]
        async with Stream(http, maps(space, f"?watch=1&resourceVersion={version}"), TABLE) as stream:
            await make(http, space, "one")
            await label(http, space, "one", a="b")
            first, second = await stream.next(), await stream.next()
        assert first and second
        assert first["object"]["kind"] == "Table"
        assert [each["name"] for each in first["object"]["columnDefinitions"]] == ["Name", "Data", "Age"]
        assert first["object"]["rows"][0]["cells"][:2] == ["one", 1]
        assert first["object"]["rows"][0]["object"]["kind"] == "PartialObjectMetadata"
        assert second["object"]["rows"][0]["cells"][:2] == ["one", 1]  # its columns may be left out

    async def test_metadata_only(self, http, space):
        accept = "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io"
        await make(http, space, "one")
        async with Stream(http, maps(space, "?watch=1"), accept) as stream:
            event = await stream.next()
        assert event and event["object"]["kind"] == "PartialObjectMetadata"
        assert set(event["object"]) == {"kind", "apiVersion", "metadata"}

    async def test_it_ends_when_asked_to(self, http, space):
        async with Stream(http, maps(space, "?watch=1&timeoutSeconds=1")) as stream:
            assert await stream.next(5) is None

    async def test_a_dropped_watch_resumes(self, http, space):
        await make(http, space, "one")
        async with Stream(http, maps(space, "?watch=1")) as stream:
            event = await stream.next()
        assert event
        await make(http, space, "two")
        version = event["object"]["metadata"]["resourceVersion"]
        async with Stream(http, maps(space, f"?watch=1&resourceVersion={version}")) as stream:
            assert await stream.told(1) == [("ADDED", "two")]

    async def test_many_see_the_same_order(self, http, space):
        paths = [maps(space, "?watch=1")] * 5
        async with asyncio.TaskGroup() as group:

            async def follow(path: str) -> list[str]:
                async with Stream(http, path) as stream:
                    return [f"{kind} {name}" for kind, name in await stream.told(10)]

            following = [group.create_task(follow(path)) for path in paths]
            await asyncio.sleep(0.2)
            for number in range(10):
                await make(http, space, f"m{number}")
        assert {tuple(each.result()) for each in following} == {tuple(f"ADDED m{n}" for n in range(10))}
