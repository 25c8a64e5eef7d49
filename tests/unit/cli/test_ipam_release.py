"""What a report says, and what of it a new check speaks to."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import pytest

from podwire.cli.checking import Report, stored_by
from podwire.cli.ipam_release import _missing, read_report
from podwire.ipam.layout import ClassicApi
from podwire.kube.fake import FakeApi
from podwire.observe.finding import RELEASE, REMOVE_FILE, Finding

FILE = Finding("leaked file", "10.88.0.5", "/d/n/10.88.0.5", "w", "", "", REMOVE_FILE, directory="/d", network="n")
LEAK = Finding("leaked address", "10.0.0.1", "block", "w", "", "", RELEASE, "10.0.0.0/26", "h", 3)


@pytest.mark.parametrize(
    ("document", "of_files"),
    [
        ({"checked": {"nodes": ["w"], "files": 1}, "findings": [asdict(FILE)]}, True),
        ({"checked": {"nodes": ["w"], "files": 1, "pools": 0}, "findings": [asdict(FILE)]}, False),
        ({"findings": [asdict(FILE)]}, False),
        ([asdict(FILE)], False),
    ],
)
def test_whether_a_report_is_of_this_machines_files_alone(tmp_path: Path, document: Any, of_files: bool) -> None:
    """A lab's report that has nothing but leaked files is about the lab's nodes."""
    path = tmp_path / "report.json"
    path.write_text(json.dumps(document))
    assert read_report(str(path)) == ([FILE], of_files)


@pytest.mark.parametrize("text", ["", "7", "{}", '{"findings": [7]}', '{"findings": [{"kind": "x"}]}'])
def test_what_is_no_report(tmp_path: Path, text: str) -> None:
    path = tmp_path / "report.json"
    path.write_text(text)
    with pytest.raises(click.ClickException, match="not a report of"):
        read_report(str(path))


@pytest.mark.parametrize(
    ("found", "nodes", "unseen", "gone"),
    [
        ([FILE, LEAK], ["w"], [], 0),
        ([LEAK], ["w"], [], 1),
        ([LEAK], [], [FILE], 0),
        ([], ["other"], [FILE], 1),
        ([], ["w"], [], 2),
    ],
)
def test_what_was_not_looked_at_is_not_gone(
    found: list[Finding], nodes: list[str], unseen: list[Finding], gone: int
) -> None:
    assert _missing([FILE, LEAK], Report(found, {"nodes": nodes})) == (unseen, gone)


def test_the_older_layout_is_written_as_it_is() -> None:
    api = FakeApi()
    assert isinstance(stored_by(api, classic=True), ClassicApi)
    assert stored_by(api, classic=False) is api
