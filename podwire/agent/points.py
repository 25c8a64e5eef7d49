"""Named points between an address's claim and the reply, where tests make the agent die or fail.

`PODWIRE_FAULT=NAME:kill` ends the process there as a crash would, `NAME:raise` raises OSError. In production nothing is
set, and a point costs one comparison.
"""

from __future__ import annotations

import errno
import os
import signal

POINTS = (
    "recorded",
    "created",
    "claimed",
    "pod",
    "host",
    "extras",
    "admitted",
    "ready",
    "doomed",
    "deleted",
    "released",
)
"""ADD: record written, veth made, addresses claimed, pod side done, host side (or the bridge) done, ports and limits
set, admitted, record ready. DEL: links out of use, record says deleted, addresses given back (in the reaper)."""

_fault: tuple[str, str] | None = None


def arm(text: str) -> None:
    """Set (or with "" take away) the fault. Raises ValueError for an unknown point or manner."""
    global _fault
    name, _, manner = text.partition(":")
    if text and (name not in POINTS or manner not in ("kill", "raise")):
        raise ValueError(f"PODWIRE_FAULT={text}: want POINT:kill or POINT:raise, POINT one of {', '.join(POINTS)}")
    _fault = (name, manner) if text else None


def reached(name: str) -> None:
    """Raises OSError EIO, or does not return, where a fault is armed."""
    if _fault is not None and _fault[0] == name:
        if _fault[1] == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
            signal.pause()
        raise OSError(errno.EIO, f"fault injected at {name}")
