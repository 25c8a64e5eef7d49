"""API time texts."""

from __future__ import annotations

import calendar
import time


def text(seconds: float) -> str:
    """RFC 3339 with whole seconds, UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def micro(seconds: float) -> str:
    """RFC 3339 with microseconds, as Leases have it."""
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{int(seconds % 1 * 1e6):06d}Z"


def parse(value: str) -> float:
    """Seconds since the epoch of an RFC 3339 text in UTC; fractions are dropped."""
    return float(calendar.timegm(time.strptime(value[:19], "%Y-%m-%dT%H:%M:%S")))
