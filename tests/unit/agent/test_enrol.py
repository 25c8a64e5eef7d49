"""For how long a Node has been without a podCIDR."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from podwire.agent.enrol import age

NOW = datetime(2026, 11, 21, 12, 0, 40, tzinfo=UTC)


@pytest.mark.parametrize(
    ("created", "seconds"),
    [
        ("2026-11-21T12:00:00Z", 40.0),
        ("2026-11-21T14:00:10+02:00", 30.0),
        ("2026-11-21T12:00:50Z", -10.0),
        ("2026-11-21T12:00:00", 0.0),
        ("yesterday", 0.0),
        (None, 0.0),
        (7, 0.0),
    ],
)
def test_age(created: object, seconds: float) -> None:
    assert age(created, NOW) == seconds
