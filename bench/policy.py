"""`podwire bench policy`: what policy costs, in the calculation (see policycalc.py)."""

from __future__ import annotations

from typing import Any

from bench import policycalc


def measure(runs: int = 10, *, quick: bool = False) -> list[dict[str, Any]]:
    """The records of all measurements."""
    return policycalc.measure(runs, quick=quick)
