"""Processor time of CNI calls, by whose it is: the figure that a busy machine changes least, and the bound of calls a
second."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import Any

from bench import cnisite
from bench.cnisite import PodSpaces, Site, Variant
from bench.record import record

Times = tuple[float, float, float, float]  # agent, API, plugins, caller; seconds so far


def _of(pid: int) -> float:
    """Seconds that a process has computed, in all its threads (/proc/PID/task/TID/schedstat: nanoseconds first)."""
    threads = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e9


def _times(site: Site, agent: int) -> Times:
    own, ended = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return _of(agent), _of(site.api), ended.ru_utime + ended.ru_stime, own.ru_utime + own.ru_stime


def costs(site: Site, variant: Variant, agent: int, calls: int, blocks: int) -> list[dict[str, Any]]:
    """Milliseconds of an ADD in a burst, for the agent and for all; and of a pair of ADD and DEL with eight in flight.
    What the agent writes behind counts, as far as it is done by then. `agent` is its pid."""
    found: dict[str, list[float]] = {"add_burst": [], "pair_8_in_flight": []}
    all_of: dict[str, list[float]] = {name: [] for name in found}
    spaces = PodSpaces()

    def note(name: str, before: Times) -> None:
        spent = [(now - then) * 1000 / calls for then, now in zip(before, _times(site, agent), strict=True)]
        found[name].append(spent[0])
        all_of[name].append(sum(spent))

    for block in range(1, blocks + 1):
        paths, base = spaces.take(calls), block * 10_000_000
        before = _times(site, agent)
        cnisite.in_flight(variant, base, paths, 8)
        note("pair_8_in_flight", before)
        before = _times(site, agent)
        cnisite.adds_at_once(variant, base + calls, paths)
        note("add_burst", before)
        for i, path in enumerate(paths):
            cnisite.delete(variant, base + calls + i, path, None, {})
        spaces.drop()
    rows = []
    for name in found:
        rows.append(record(f"cni_cpu_{name}_agent", "ms", found[name], n=calls))
        rows.append(record(f"cni_cpu_{name}_all", "ms", all_of[name], n=calls))
    return rows
