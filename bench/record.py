"""What a bench answers: one JSON object a measurement, medians with their spread."""

from __future__ import annotations

import statistics
from typing import Any


def record(
    name: str,
    unit: str,
    ours: list[float],
    *,
    n: int,
    peer: list[float] | None = None,
    peer_name: str = "",
    better: str = "lower",
) -> dict[str, Any]:
    """A measurement: medians of `ours` and `peer`, their quotient, which way is better; `n` is the size of one run."""
    middle = statistics.median(ours)
    other = statistics.median(peer) if peer else None
    return {
        "name": name,
        "unit": unit,
        "ours": round(middle, 4),
        "peer": round(other, 4) if other is not None else None,
        "peer_name": peer_name,
        "ratio": round(middle / other, 4) if other else None,
        "better": better,
        "runs": len(ours),
        "spread": [round(min(ours), 4), round(max(ours), 4)],
        "n": n,
    }
