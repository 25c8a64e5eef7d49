"""A pool without a free address: a clear refusal that says so, no busy loop, and a pod the moment one is freed."""

from __future__ import annotations

import os
import time
from pathlib import Path

from tests.faults.conftest import Site
from tests.netns.agent.conftest import until


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_exhausted_then_freed(tiny: Site) -> None:
    site = tiny
    spaces = [site.space() for _ in range(9)]
    made: dict[str, str] = {}
    refused = None
    for number, space in enumerate(spaces):
        code, answer = site.call("ADD", f"p{number}", space.path)
        if code:
            refused = number, space, answer
            break
        made[f"p{number}"] = answer["ips"][0]["address"]
    assert refused is not None, "eight addresses served nine pods"
    number, space, answer = refused
    assert len(made) >= 6, made
    assert len(set(made.values())) == len(made)
    assert answer["code"] == 11
    assert "address" in answer["msg"] + answer.get("details", "")

    # what is asked in vain leaves nothing, and nobody goes on asking
    site.delete(f"p{number}", space)
    until("nothing half-made", lambda: len(site.traces()["links"]) == len(made))
    assert site.node.agent is not None
    calls, cpu = sum(site.api.fake.calls.values()), _cpu_seconds(site.node.agent.pid)
    end = time.monotonic() + 2
    while time.monotonic() < end:
        assert sum(site.api.fake.calls.values()) - calls < 50
        time.sleep(0.1)
    assert _cpu_seconds(site.node.agent.pid) - cpu < 1

    site.delete("p0", spaces[0])

    def served() -> bool:
        return site.call("ADD", "late", space.path)[0] == 0

    until("the freed address serves", served, seconds=20)
    for name, other in (("late", space), *((f"p{i}", spaces[i]) for i in range(1, len(made)))):
        site.delete(name, other)
    site.clean()
