"""The chart in deploy/chart is what the manifests say. PODWIRE_GOLDEN=1 rewrites it."""

from __future__ import annotations

import os
from pathlib import Path

from podwire.install import chart

PLACE = Path(__file__).parents[3] / "deploy/chart"


def test_the_files_are_those_generated() -> None:
    if os.environ.get("PODWIRE_GOLDEN"):
        chart.main(PLACE)
    there = {str(path.relative_to(PLACE)): path.read_text() for path in PLACE.rglob("*") if path.is_file()}
    assert there == chart.files()


def test_no_placeholder_is_left() -> None:
    for text in chart.files().values():
        assert "CHOICE-" not in text and "MARK-" not in text and "98765432" not in text
