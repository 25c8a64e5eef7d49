"""The store: revisions, history, restart, and a disk that refuses."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import pytest

from podwire.apiserver import store as store_module
from podwire.apiserver.errors import StatusError
from podwire.apiserver.store import Store


@pytest.fixture
async def store(tmp_path: Path):
    made = Store(tmp_path / "db")
    made.start()
    yield made
    made.close()


def thing(name: str, value: int = 0) -> dict:
    return {"metadata": {"name": name, "namespace": "ns"}, "value": value}


async def test_writes_become_visible_when_they_are_on_disk(store: Store) -> None:
    things = store.collection("things")
    future = store.put("things", ("ns", "a"), thing("a"))
    assert things.objects == {}
    assert things.latest(("ns", "a")).revision == 1
    stored = await future
    assert things.objects[("ns", "a")] is stored
    assert stored.object["metadata"]["resourceVersion"] == "1"
    assert store.revision == 1


async def test_a_restart_keeps_objects_and_goes_on_counting(tmp_path: Path) -> None:
    first = Store(tmp_path / "db")
    first.start()
    await first.put("things", ("ns", "a"), thing("a"))
    await first.put("things", ("ns", "b"), thing("b"))
    await first.remove("things", ("ns", "a"))
    first.close()
    second = Store(tmp_path / "db")
    second.start()
    assert second.revision == 3
    assert second.collection("things").keys == [("ns", "b")]
    assert (await second.put("things", ("ns", "c"), thing("c"))).revision == 4
    with pytest.raises(StatusError) as gone:
        second.collection("things").position(2)
    assert gone.value.code == 410
    second.close()


async def test_lists_are_sorted_and_cut_by_namespace(store: Store) -> None:
    keys = [("b", "x"), ("a", "z"), ("ab", "q"), ("a", "y")]
    await asyncio.gather(*(store.put("things", key, thing(key[1])) for key in keys))
    things = store.collection("things")
    assert things.keys == sorted(keys)
    assert things.keys_in("a") == [("a", "y"), ("a", "z")]
    assert things.keys_in("a", ("a", "y")) == [("a", "z")]
    assert things.keys_in("", ("a", "z")) == [("ab", "q"), ("b", "x")]


async def test_the_past_is_made_by_undoing_history(store: Store) -> None:
    things, key = store.collection("things"), ("ns", "a")
    await store.put("things", key, thing("a", 1))
    await store.put("things", key, thing("a", 2))
    await store.put("things", ("ns", "b"), thing("b"))
    await store.remove("things", key)
    values = [{k[1]: s.object["value"] for k, s in things.at(rev).items()} for rev in range(5)]
    assert values == [{}, {"a": 1}, {"a": 2}, {"a": 2, "b": 0}, {"b": 0}]
    assert [things.position(rev) for rev in range(5)] == [0, 1, 2, 3, 4]
    assert [change.revision for change in things.after(2)] == [3, 4]


async def test_history_is_bounded_and_says_so(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "HISTORY", 3)
    for value in range(5):
        await store.put("things", ("ns", "a"), thing("a", value))
    things = store.collection("things")
    assert things.floor == 2
    assert things.position(2) == 2
    for call in (lambda: things.position(1), lambda: things.at(1), lambda: things.after(1)):
        with pytest.raises(StatusError) as gone:
            call()
        assert gone.value.code == 410


async def test_a_waiter_hears_of_changes(store: Store) -> None:
    things = store.collection("things")
    waiting = [asyncio.create_task(things.changed(0)) for _ in range(3)]
    await asyncio.sleep(0)
    await store.put("things", ("ns", "a"), thing("a"))
    await asyncio.wait_for(asyncio.gather(*waiting), 2)


async def test_a_refusing_disk_drops_everything_staged_and_recovers(tmp_path: Path) -> None:
    store = Store(tmp_path / "db")
    await_start = store._disk._connection
    await_start.execute("PRAGMA max_page_count=12")
    store.start()
    await store.put("things", ("ns", "small"), thing("small"))
    big = {**thing("big"), "blob": "x" * 200_000}
    writes = [store.put("things", ("ns", "big"), big), store.put("things", ("ns", "late"), thing("late"))]
    refused = await asyncio.gather(*writes, return_exceptions=True)
    assert all(isinstance(each, StatusError) and each.code == 507 for each in refused)
    assert "full" in str(refused[0])
    things = store.collection("things")
    assert list(things.objects) == [("ns", "small")] and things.staged == {} and store.revision == 1
    assert (await store.put("things", ("ns", "after"), thing("after"))).revision == 2
    store.close()
    kept = sqlite3.connect(tmp_path / "db").execute("SELECT name, revision FROM objects ORDER BY name").fetchall()
    assert kept == [("after", 2), ("small", 1)]
