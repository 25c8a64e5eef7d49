"""The form of a measurement that others read."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))
from bench.record import record


def test_a_record_holds_medians_their_quotient_and_the_spread() -> None:
    got = record("x", "ms", [3.0, 1.0, 2.0], n=7, peer=[4.0, 8.0, 6.0], peer_name="other")
    assert got == {
        "name": "x",
        "unit": "ms",
        "ours": 2.0,
        "peer": 6.0,
        "peer_name": "other",
        "ratio": 0.3333,
        "better": "lower",
        "runs": 3,
        "spread": [1.0, 3.0],
        "n": 7,
    }


def test_without_a_peer_there_is_no_ratio() -> None:
    got = record("x", "s", [1.0], n=1, better="higher")
    assert (got["peer"], got["ratio"], got["better"]) == (None, None, "higher")
