"""Watches under faults, on the fake and over HTTP; kubeconfig files."""

from __future__ import annotations

import asyncio
import base64
import importlib.util
import itertools
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from podwire.kube.client import ApiError, Client, InSync, Update
from podwire.kube.fake import FakeApi
from podwire.kube.kubeconfig import Cluster, KubeconfigError, parse
from podwire.kube.watch import Pause
from podwire.model.gvr import CONFIGMAPS, NODES
from podwire.model.node import Node

_spec = importlib.util.spec_from_file_location("kube_fakeserver", Path(__file__).with_name("fakeserver.py"))
assert _spec and _spec.loader
fakeserver = importlib.util.module_from_spec(_spec)
sys.modules["kube_fakeserver"] = fakeserver
_spec.loader.exec_module(fakeserver)


@pytest.fixture(params=["fake", "http", "fake that lists", "http that lists"])
async def pair(request: pytest.FixtureRequest) -> AsyncIterator[tuple[FakeApi, Any]]:
    fake = FakeApi(streams="lists" not in request.param)
    if request.param.startswith("fake"):
        yield fake, fake
        return
    server = fakeserver.FakeServer(fake)
    await server.start()
    client = Client(Cluster(f"http://127.0.0.1:{server.port}"), pause=Pause(0.01, 0.05))
    yield fake, client
    await client.close()
    await fake.close()
    await server.stop()


async def add(api: FakeApi, name: str) -> None:
    await api.create(NODES, {"metadata": {"name": name}})


async def following(events: Any) -> Any:
    return await asyncio.wait_for(anext(events), 5)


async def test_a_deletion_tells_its_version(pair: tuple[FakeApi, Any]) -> None:
    fake, api = pair
    await add(fake, "a")
    made = await fake.get(NODES, "a")
    async with aclosing(api.watch(NODES)) as events:
        assert [await following(events) for _ in range(2)][1] == InSync()
        await fake.delete(NODES, "a")
        ended = await following(events)
        await add(fake, "a")
        again = await following(events)
    before, after = (int(one["metadata"]["resourceVersion"]) for one in (made, again.object))
    assert ended.object is None and before < int(ended.version) < after


async def test_lost_history_is_listed_again_and_deletions_are_told(pair: tuple[FakeApi, Any]) -> None:
    fake, api = pair
    await add(fake, "a")
    await add(fake, "b")
    async with aclosing(api.watch(NODES)) as events:
        first = [await following(events) for _ in range(3)]
        assert [e.key[1] for e in first[:2]] == ["a", "b"] and first[2] == InSync()
        fake.fail_next(verb="watch", times=2)
        fake.break_watches()
        await fake.delete(NODES, "a")
        await add(fake, "c")
        fake.compact()
        told = {e.key[1]: e.object is not None for e in [await following(events), await following(events)]}
        assert told == {"a": False, "c": True}, "nothing twice, nothing lost"


async def test_a_bookmark_is_where_a_cut_stream_resumes(pair: tuple[FakeApi, Any]) -> None:
    fake, api = pair
    async with aclosing(api.watch(NODES)) as events:
        assert await following(events) == InSync()
        await fake.create(CONFIGMAPS, {"metadata": {"name": "other"}}, "space")
        waiting = asyncio.create_task(following(events))
        while not fake.watching:  # what there is has been told, but nobody waits yet for what comes
            await asyncio.sleep(0.001)
        await fake.bookmark()
        fake.compact()
        fake.break_watches()
        await add(fake, "a")
        assert (await waiting).key == ("", "a")
        assert fake.calls.get(("list", "nodes"), 0) == (0 if fake.streams else 1), "nothing is listed anew"
        assert fake.calls[("watch", "nodes")] == 2, "nor streamed"


async def test_a_list_cut_short_tells_nothing_as_gone(pair: tuple[FakeApi, Any]) -> None:
    fake, api = pair
    for name in ("a", "b", "c"):
        await add(fake, name)
    async with aclosing(api.watch(NODES)) as events:
        assert [await following(events) for _ in range(4)][3] == InSync()
        fake.fail_next(ApiError(410, "Expired", "too old"), verb="watch")
        fake.fail_next(verb="list", times=2)
        fake.break_watches()
        await fake.delete(NODES, "b")
        told = await following(events)
        assert (told.key, told.object) == (("", "b"), None)


async def test_a_server_that_says_nothing_is_left() -> None:
    """Half-open: the connection stands, nobody is there any more."""
    asked: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = await reader.readline()
        asked.append(line)
        while await reader.readline() not in (b"\r\n", b""):
            pass
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
        if b"watch=1" not in line:
            body = b'{"metadata":{"resourceVersion":"5"},"items":[]}'
            writer.write(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        else:
            writer.write(head + b"Transfer-Encoding: chunked\r\n\r\n")
            if len(asked) > 3:
                event = b'{"type":"ADDED","object":{"metadata":{"name":"a","resourceVersion":"6"}}}\n'
                writer.write(b"%x\r\n%b\r\n" % (len(event), event))

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    client = Client(Cluster(f"http://127.0.0.1:{port}"), pause=Pause(0.01, 0.05), idle=0.5)
    async with aclosing(client.watch(NODES)) as events:  # type: ignore[type-var]
        assert await following(events) == InSync()
        told = await following(events)
    assert isinstance(told, Update) and told.key == ("", "a")
    ways = ["stream" if b"sendInitial" in line else "watch" if b"watch=1" in line else "list" for line in asked]
    assert ways[:4] == ["stream", "list", "watch", "watch"] and set(ways[4:]) <= {"watch"}
    await client.close()
    server.close()


async def test_the_server_says_when_to_come_again() -> None:
    asked: list[float] = []

    async def answer(request: web.Request) -> web.Response:
        asked.append(asyncio.get_running_loop().time())
        return web.json_response({"kind": "Status", "code": 429}, status=429, headers={"Retry-After": "1"})

    runner = web.ServerRunner(web.Server(answer))  # type: ignore[arg-type]
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
    client = Client(Cluster(f"http://127.0.0.1:{port}"), pause=Pause(0.01, 0.05))
    async with aclosing(client.watch(NODES)) as events:  # type: ignore[type-var]
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(events), 2.5)
    assert all(later - sooner >= 1 for sooner, later in itertools.pairwise(asked)), asked
    await client.close()
    await runner.cleanup()


async def test_a_cut_stream_resumes(pair: tuple[FakeApi, Any]) -> None:
    fake, api = pair
    async with aclosing(api.watch(NODES)) as events:
        assert await following(events) == InSync()
        for name in ("a", "b", "c"):
            fake.break_watches()
            await add(fake, name)
            event = await following(events)
            assert isinstance(event, Update) and event.key == ("", name)


async def test_records_and_what_does_not_fit_them(pair: tuple[FakeApi, Any]) -> None:
    fake, api = pair
    await add(fake, "good")
    await fake.create(NODES, {"metadata": {"name": "odd"}, "spec": {"podCIDR": 7}})
    async with aclosing(api.watch(NODES, decode=Node)) as events:
        found = {e.key[1]: e.object for e in [await following(events), await following(events)]}
        assert isinstance(found["good"], Node) and found["odd"] is None
        assert await following(events) == InSync()


async def test_a_server_that_is_away_is_waited_for_by_watches_and_told_by_calls() -> None:
    fake = FakeApi()
    server = fakeserver.FakeServer(fake)
    await server.start()
    client = Client(Cluster(f"http://127.0.0.1:{server.port}"), pause=Pause(0.01, 0.05))
    await fake.close()
    await server.stop()
    with pytest.raises(ApiError) as caught:
        await client.get(NODES, "a")
    assert (caught.value.status, caught.value.reason) == (0, "ConnectionError") and caught.value.unreachable
    async with aclosing(client.watch(NODES)) as events:  # type: ignore[type-var]
        waiting = asyncio.create_task(following(events))
        await asyncio.sleep(0.05)
        await server.start()
        assert await waiting == InSync()
    await client.close()
    await fake.close()
    await server.stop()


def config(**user: Any) -> dict[str, Any]:
    return {
        "current-context": "x",
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u", "namespace": "n"}}],
        "clusters": [{"name": "c", "cluster": {"server": "https://h:1/", "certificate-authority": "ca.crt"}}],
        "users": [{"name": "u", "user": user}],
    }


def test_kubeconfig(tmp_path: Path) -> None:
    (tmp_path / "ca.crt").write_bytes(b"CA")
    found = parse(config(**{"client-key-data": base64.b64encode(b"K").decode()}, token="t"), tmp_path / "config")
    assert (found.server, found.ca, found.key, found.token, found.namespace) == ("https://h:1", b"CA", b"K", "t", "n")
    for document, words in (
        ([], "not a kubeconfig"),
        ({}, "current-context is not set"),
        ({"current-context": "y"}, "contexts has no entry named 'y'"),
        (config(exec={}), "user.exec is not supported"),
        (config(**{"client-key-data": "?"}), "client-key-data is not base64"),
        (config(**{"client-key": "absent"}), "client-key: .*absent: No such file"),
    ):
        with pytest.raises(KubeconfigError, match=words):
            parse(document, tmp_path / "config")
