"""Ages as kubectl shows them. Source: k8s.io/apimachinery util/duration HumanDuration."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache


@lru_cache(maxsize=8192)
def seconds_of(timestamp: str) -> float:
    """Unix time of an RFC 3339 timestamp. Raises ValueError."""
    return datetime.fromisoformat(timestamp.replace("Z", "+00:00")).timestamp()


def timestamp(now: float) -> str:
    """metav1.Time: whole seconds, UTC."""
    return _second(int(now))


@lru_cache(maxsize=8)
def _second(now: int) -> str:
    return datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def age(since: str | None, now: float) -> str:
    """How long ago, or <unknown> for nothing or nonsense."""
    if not since:
        return "<unknown>"
    try:
        return human(now - seconds_of(since))
    except ValueError:
        return "<unknown>"


def human(seconds: float) -> str:
    """Two units at most, fewer the longer it is: 95 → 95s, 600 → 10m, 90000 → 25h."""
    whole = int(seconds)
    if whole < -1:
        return "<invalid>"
    if whole < 0:
        return "0s"
    if whole < 120:
        return f"{whole}s"
    minutes = whole // 60
    if minutes < 10:
        return _two(minutes, "m", whole % 60, "s")
    if minutes < 180:
        return f"{minutes}m"
    hours = minutes // 60
    if hours < 8:
        return _two(hours, "h", minutes % 60, "m")
    if hours < 48:
        return f"{hours}h"
    days = hours // 24
    if hours < 192:
        return _two(days, "d", hours % 24, "h")
    if hours < 24 * 365 * 2:
        return f"{days}d"
    if hours < 24 * 365 * 8:
        return _two(hours // 24 // 365, "y", days % 365, "d")
    return f"{hours // 24 // 365}y"


def _two(large: int, large_unit: str, small: int, small_unit: str) -> str:
    return f"{large}{large_unit}{small}{small_unit}" if small else f"{large}{large_unit}"
