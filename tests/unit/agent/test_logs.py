"""Log lines as JSON and text: an event's name and fields, no secrets, and the latest of them kept."""

from __future__ import annotations

import gc
import io
import json
import logging
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

from podwire.agent import logs
from podwire.agent.logs import JsonLines, Recent, TextLines, shape

SECRET = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJzeXN0ZW0ifQ.c2lnbmF0dXJl"


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    made = logging.Logger("podwire.agent.test")
    yield made
    made.handlers.clear()


def written(logger: logging.Logger, formatter: logging.Formatter, *call: Any, verb: str = "info") -> str:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    logger.addHandler(handler)
    getattr(logger, verb)(*call)
    return stream.getvalue()


LINES = [
    (("attached pod=%s/%s addresses=%s", "d", "web", "::1"), "attached", {"pod": "d/web", "addresses": "::1"}),
    (("cni refused command=%s code=%d error=%s", "ADD", 11, ValueError("no")), "cni-refused",
     {"command": "ADD", "code": 11, "error": "no"}),
    (("agent stopped",), "agent-stopped", {}),
    (("pod's wiring repaired interface=%s", "cali1"), "pods-wiring-repaired", {"interface": "cali1"}),
    (("values that do not fit a=%s", 1, 2), "log", {"message": "values that do not fit a=%s (1, 2)"}),
    (("nothing=%s like an event: %s", 1, 2), "log", {"message": "nothing=1 like an event: 2"}),
    (('a "quoted"\nline x=%s', "y\nz"), "log", {"message": 'a "quoted"\nline x=y\nz'}),
    (("failed error=%s", f"401 Bearer {SECRET}"), "failed", {"error": "401 Bearer (redacted)"}),
]  # fmt: skip


@pytest.mark.parametrize(("call", "event", "fields"), LINES, ids=lambda value: None)
def test_a_line_as_json(logger: logging.Logger, call: tuple[Any, ...], event: str, fields: dict[str, Any]) -> None:
    line = written(logger, JsonLines("worker"), *call)
    assert line.count("\n") == 1
    found = json.loads(line)
    head = {key: found.pop(key) for key in ("ts", "level", "event", "node", "logger")}
    assert head | {"ts": ""} == {
        "ts": "", "level": "info", "event": event, "node": "worker", "logger": "podwire.agent.test",
    }  # fmt: skip
    assert head["ts"].endswith("Z")
    assert found == fields


@pytest.mark.parametrize("formatter", [JsonLines("n"), TextLines()], ids=["json", "text"])
def test_secrets_stay_out_of_values_and_tracebacks(logger: logging.Logger, formatter: logging.Formatter) -> None:
    try:
        raise RuntimeError(f"token={SECRET} password: hunter2")
    except RuntimeError as error:
        line = written(logger, formatter, "cni failed error=%s", error, verb="exception")
    assert SECRET not in line
    assert "hunter2" not in line
    assert "RuntimeError" in line


def test_lines_of_others_keep_their_words() -> None:
    other = logging.Logger("asyncio")
    found = json.loads(written(other, JsonLines("n"), "attached pod=%s", "x"))
    assert (found["event"], found["message"]) == ("log", "attached pod=x")


def test_text_is_as_it_was(logger: logging.Logger) -> None:
    line = written(logger, TextLines(), "attached pod=%s", "x")
    assert line.endswith(" INFO podwire.agent.test attached pod=x\n")


def test_the_latest_are_kept_and_warnings_longest(logger: logging.Logger) -> None:
    recent = Recent(kept=3, warnings=2)
    logger.addHandler(recent)
    logger.warning("repair failed error=%s", f"Bearer {SECRET}")
    for number in range(10):
        logger.info("attached number=%d", number)
    assert [(line["event"], line.get("number")) for line in recent.lines()] == [
        ("repair-failed", None), ("attached", 7), ("attached", 8), ("attached", 9),
    ]  # fmt: skip
    assert SECRET not in str(recent.lines())
    assert {labels: number for _, labels, number in recent.samples()} == {
        ("repair-failed", "warning"): 1, ("attached", "info"): 10,
    }  # fmt: skip


def test_an_exception_that_was_logged_is_not_kept_alive(logger: logging.Logger) -> None:
    class Fault(Exception):
        pass

    recent = Recent()
    logger.addHandler(recent)
    fault = Fault("x")
    seen = weakref.ref(fault)
    logger.error("repair failed error=%s", fault)
    del fault
    gc.collect()
    assert seen() is None


def test_events_of_strangers_have_one_name(logger: logging.Logger) -> None:
    recent = Recent()
    other = logging.Logger("aiohttp.client")
    other.addHandler(recent)
    for number in range(3):
        other.warning(f"a new text each time {number}")
    assert {labels: number for _, labels, number in recent.samples()} == {("log", "warning"): 3}


@pytest.mark.parametrize("template", ["", "%s", "watch: broken", "x=%s", "a %d b=%s"])
def test_words_that_name_no_event(template: str) -> None:
    assert shape(template) is None


def test_start_writes_lines_of_the_form_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(root, "level", root.level)
    logs.start(logs.JSON, "worker")
    logging.getLogger("podwire.agent.test").info("agent stopped")
    logs.start(logs.TEXT, "worker")
    logging.getLogger("podwire.agent.test").info("agent stopped")
    first, second = capsys.readouterr().err.splitlines()
    assert json.loads(first)["node"] == "worker"
    assert second.endswith("INFO podwire.agent.test agent stopped")
