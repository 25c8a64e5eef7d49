"""The agent's place among the processes of its node."""

from __future__ import annotations

import contextlib
import os

NICENESS = -10


def prefer() -> None:
    """Before other runnable processes, where that is allowed: it serves callers that compete with it for the CPU. A
    process that is preferred still more is left so. Comes before the agent's own pages, which take longest to load."""
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, min(NICENESS, os.getpriority(os.PRIO_PROCESS, 0)))
