"""What the agent's process uses, from /proc, and what runs here. Source: proc(5)."""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from podwire import __version__
from podwire.agent import families
from podwire.agent.figures import Sample

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


def samples() -> Iterator[Sample]:
    """Raises OSError where there is no /proc."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()  # from the third field, "state", on
    yield families.CPU, (), (int(fields[11]) + int(fields[12])) / _TICKS
    yield families.VIRTUAL, (), int(fields[20])
    yield families.MEMORY, (), int(fields[21]) * _PAGE
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / _TICKS
    yield families.STARTED, (), round(time.time() - age, 2)
    yield families.DESCRIPTORS, (), len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - a number is wanted
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield families.DESCRIPTOR_LIMIT, (), soft


def versions() -> dict[str, str]:
    """Of what runs here."""
    return {"version": __version__, "python": sys.version.split()[0], "kernel": os.uname().release}


def build() -> Iterator[Sample]:
    yield families.BUILD, tuple(versions().values()), 1
