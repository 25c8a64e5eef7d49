"""`podwire bench policy`: what policy costs, in the calculation and in the kernel (policycalc.py, policykernel.py)."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from bench import cni, policycalc, policykernel


def measure(runs: int = 10, *, quick: bool = False) -> list[dict[str, Any]]:
    """The records of all measurements."""
    with tempfile.TemporaryDirectory(prefix="podwire-bench-") as folder, cni.nft(Path(folder)):
        return policycalc.measure(runs, quick=quick) + policykernel.measure(runs, quick=quick)
