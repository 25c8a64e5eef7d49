"""Figures as Prometheus reads them: its own parser is the judge. CNI calls and API round trips as they are counted."""

from __future__ import annotations

import json
import threading
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families as parsed

from podwire.agent import families, process, scrape
from podwire.agent.calls import KEPT, Calls
from podwire.agent.countedapi import CountedApi
from podwire.agent.figures import COUNTER, HISTOGRAM, Family, Figures
from podwire.agent.health import Health
from podwire.ipam.fill import Fill
from podwire.kernel import reconcile
from podwire.kernel.delta import Delta
from podwire.kernel.fake import FakeKernel
from podwire.kernel.routes import TYPE_BLACKHOLE, Route
from podwire.kernel.tables import Routes
from podwire.kube import tallies
from podwire.kube.fake import FakeApi
from podwire.kube.watch import Change, Gone, Interrupted, Pause, Record, Unstreamed, reflect
from podwire.model.api import ApiError, InSync, Update
from podwire.model.block import AllocationAttribute, IPAMBlock, IPAMBlockSpec
from podwire.model.gvr import IPPOOLS
from podwire.model.ippool import IPPool, IPPoolSpec
from podwire.model.meta import Meta

SPREAD = Family("podwire_test_seconds", HISTOGRAM, "Some time.", ("what",), (0.1, 1.0))
COUNT = Family("podwire_tests_total", COUNTER, 'A \\ and\na "quote".', ("what",))


def read(figures: Figures) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """What Prometheus' own parser finds: (sample, labels) → value."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in parsed(figures.text())
        for sample in family.samples
    }


def test_buckets_are_cumulative_and_labels_escaped() -> None:
    figures = Figures()
    for value in (0.05, 0.1, 0.5, 7.0):
        figures.observe(SPREAD, value, 'a"b\\c\nd')
    figures.add(COUNT, "x", amount=2)
    found = read(figures)
    what = ("what", 'a"b\\c\nd')
    buckets = {dict(labels)["le"]: value for (name, labels), value in found.items() if name.endswith("_bucket")}
    assert buckets == {"0.1": 2, "1": 3, "+Inf": 4}
    assert found["podwire_test_seconds_count", (what,)] == 4
    assert found["podwire_test_seconds_sum", (what,)] == pytest.approx(7.65)
    assert found["podwire_tests_total", (("what", "x"),)] == 2
    assert {family.documentation for family in parsed(figures.text())} == {SPREAD.help, COUNT.help}


def test_a_source_that_fails_leaves_the_others_alone() -> None:
    def broken() -> Any:
        raise OSError("gone")

    figures = Figures([broken, process.build])
    assert [name for name, _ in read(figures)] == ["podwire_build_info"]


def test_nothing_is_lost_between_threads() -> None:
    figures = Figures()

    def work() -> None:
        for _ in range(2000):
            figures.add(COUNT, "x")
            figures.observe(SPREAD, 0.5, "x")

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = read(figures)
    assert found["podwire_tests_total", (("what", "x"),)] == 8000
    assert found["podwire_test_seconds_count", (("what", "x"),)] == 8000


ANSWERS = [
    ({"CNI_COMMAND": "ADD", "PODWIRE_ROLE": "podwire"}, (0, b"{}"), ("ADD", "podwire", "0")),
    ({"CNI_COMMAND": "DEL"}, (0, b""), ("DEL", "podwire", "0")),
    ({"CNI_COMMAND": "ADD"}, (1, b'{"code": 11, "msg": "later"}'), ("ADD", "podwire", "11")),
    ({"CNI_COMMAND": "ADD"}, (1, b"not JSON"), ("ADD", "podwire", "other")),
    ({"CNI_COMMAND": "x" * 5000, "PODWIRE_ROLE": "pod-7"}, (1, b'{"code": 1e9}'), ("other", "other", "other")),
]


@pytest.mark.parametrize(("env", "answer", "labels"), ANSWERS)
def test_a_call_is_counted_under_names_that_are_few(
    env: dict[str, str], answer: tuple[int, bytes], labels: tuple[str, str, str]
) -> None:
    figures = Figures()
    calls = Calls(lambda *_: answer, figures)
    assert calls.serve(env, b"", None) == answer
    calls.count()
    expected = dict(zip(families.CNI_CALLS.labels, labels, strict=True))
    assert read(figures)["podwire_cni_call_seconds_count", tuple(sorted(expected.items()))] == 1


def test_calls_that_nobody_asks_for_do_not_pile_up() -> None:
    figures = Figures()
    calls = Calls(lambda *_: (0, b""), figures)
    for _ in range(3 * KEPT):
        calls.serve({"CNI_COMMAND": "ADD"}, b"", None)
    assert sum(value for (name, _), value in read(figures).items() if name.endswith("_count")) == 3 * KEPT


async def test_round_trips_refusals_and_lost_writes_are_counted() -> None:
    figures = Figures()
    api = CountedApi(FakeApi(), figures)
    made = await api.create(IPPOOLS, {"metadata": {"name": "p"}, "spec": {"cidr": "10.0.0.0/16"}})
    await api.update(IPPOOLS, {**made, "spec": {"cidr": "10.1.0.0/16"}})
    with pytest.raises(ApiError):
        await api.update(IPPOOLS, {**made, "spec": {"cidr": "10.2.0.0/16"}})
    with pytest.raises(ApiError):
        await api.get(IPPOOLS, "q")
    found = read(figures)
    where = ("resource", "ippools")
    assert found["podwire_api_conflicts_total", (where,)] == 1
    assert found["podwire_api_request_seconds_count", (where, ("verb", "update"))] == 2
    assert found["podwire_api_errors_total", (where, ("status", "404"), ("verb", "get"))] == 1


async def test_a_watch_tells_of_its_lists_and_failures() -> None:
    tallies.tallies.clear()
    fake = FakeApi()
    await fake.create(IPPOOLS, {"metadata": {"name": "p"}, "spec": {"cidr": "10.0.0.0/16"}})
    async for item in fake.watch(IPPOOLS):
        if isinstance(item, InSync):
            break
    tally = tallies.tallies["ippools"]
    assert (tally.lists, tally.failures) == (1, 0)
    assert tally.last > 0
    tallies.tallies.clear()


class Shaky:
    """A source that fails at first, serves no streams, and loses its history once."""

    def __init__(self) -> None:
        self.steps = iter([Interrupted("refused"), Unstreamed()])
        self.watches = iter([Gone()])

    async def stream(self) -> AsyncGenerator[Change, None]:
        raise next(self.steps)
        yield

    async def snapshot(self) -> tuple[list[Record], str]:
        return [], "7"

    async def changes(self, version: str) -> AsyncGenerator[Change, None]:
        if error := next(self.watches, None):
            raise error
        yield Change("BOOKMARK", Record(("", ""), "8", None))
        yield Change("ADDED", Record(("", "x"), "9", {}))


async def test_a_watch_that_breaks_is_counted() -> None:
    tallies.tallies.clear()
    async for item in reflect(Shaky(), "nodes of somewhere", Pause(0.0, 0.0, 0.0)):
        if isinstance(item, Update):
            break
    tally = tallies.tallies["nodes"]
    assert (tally.lists, tally.resumes, tally.failures) == (2, 2, 2)
    tallies.tallies.clear()


def test_tables_tell_what_they_did(monkeypatch: pytest.MonkeyPatch) -> None:
    reconcile.counts.clear()
    kernel, delta = FakeKernel(), Delta[str, Route]()
    table = Routes(kernel, lambda row: True)
    delta.want({"10.0.0.0/26": Route("10.0.0.0/26", type=TYPE_BLACKHOLE)})
    assert reconcile.reconcile(delta, table) == []
    delta.want({"10.0.1.0/26": Route("10.0.1.0/26", type=TYPE_BLACKHOLE)})
    assert reconcile.reconcile(delta, table) == []
    kernel.refuse["add route"] = 22
    delta.want({"10.0.2.0/26": Route("10.0.2.0/26", type=TYPE_BLACKHOLE)})
    assert len(reconcile.reconcile(delta, table)) == 1
    expected = {"read": 1, "write": 2, "remove": 2, "repair": 1, "error": 1}
    assert {what: number for (name, what), number in reconcile.counts.items() if name == "routes"} == expected
    reconcile.counts.clear()


def test_parts_that_are_not_ready_stay_visible_once_they_are() -> None:
    health = Health(figures=Figures())
    health.not_ready("node", "not enrolled")
    health.figures.sources.append(lambda: scrape.readiness(health))
    before = read(health.figures)
    health.good("node")
    health.good("start")
    after = read(health.figures)
    assert (before["podwire_ready", ()], after["podwire_ready", ()]) == (0, 1)
    part = "podwire_part_ready", (("part", "node"),)
    assert (before[part], after[part]) == (0, 1)


def test_addresses_of_a_pool_add_up() -> None:
    pool = IPPool(Meta(name="p"), IPPoolSpec(cidr="10.0.0.0/24", blockSize=26))
    fill = Fill(lambda: [pool])
    spec = IPAMBlockSpec("10.0.0.0/26", "host:n", [0, None, *[None] * 62], [AllocationAttribute("h")])
    fill.see("b", IPAMBlock(Meta(name="b"), spec))
    figures = Figures([lambda: scrape.pools([pool], fill)])
    states = {dict(labels)["state"]: value for (name, labels), value in read(figures).items() if "addresses" in name}
    assert states == {"used": 1, "free": 63, "unclaimed": 192}


def test_every_family_of_the_process_and_of_watches_is_declared() -> None:
    tallies.of("nodes of https://example").last = 5.0
    figures = Figures([process.samples, process.build, lambda: scrape.watches(7.0)])
    found = {family.name for family in parsed(figures.text())}
    assert found <= {family.name.removesuffix("_total") for family in families.ALL}
    assert read(figures)["podwire_watch_last_event_age_seconds", (("resource", "nodes"),)] == 2
    tallies.tallies.clear()


def test_refusals_are_read_as_the_plugin_wrote_them() -> None:
    figures = Figures()
    calls = Calls(lambda *_: (1, json.dumps({"cniVersion": "1.0.0", "code": 7, "msg": "no"}).encode()), figures)
    calls.serve({"CNI_COMMAND": "CHECK"}, b"", None)
    calls.count()
    assert 'code="7"' in figures.text()
