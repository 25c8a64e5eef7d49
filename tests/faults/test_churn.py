"""A thousand pods come and go, eight at a time: nothing of them stays, on the node, on the API, or in the agent."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.faults.conftest import Site

CYCLES, WARM = 1000, 400


def _memory(pid: int) -> int:
    """Bytes that only this process has, in kB."""
    rows = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(row.split()[1]) for row in rows if row.startswith(("Private_Dirty:", "Private_Clean:")))


@pytest.mark.timeout(300)
def test_a_thousand_pods(site: Site) -> None:
    assert site.node.agent is not None
    pid = site.node.agent.pid
    spaces = [site.space() for _ in range(8)]

    def lane(first: int, count: int) -> list[str]:
        space, addresses = spaces[first], []
        for number in range(count):
            name = f"c{first}-{number}"
            answer = site.add(name, space)
            addresses.append(answer["ips"][0]["address"])
            site.delete(name, space, prevResult=answer)
        return addresses

    def all_lanes(count: int) -> None:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda first: lane(first, count), range(8)))

    all_lanes(WARM // 8)
    site.clean()
    descriptors, threads = _count(pid, "fd"), _count(pid, "task")
    memory = _memory(pid)
    all_lanes(CYCLES // 8)
    site.clean()
    assert _count(pid, "fd") <= descriptors + 40  # a thread more keeps its sockets; a leak would be a thousand
    assert _count(pid, "task") <= threads + 16
    # measured: 2.3 to 3.7 MB, which the threads' own heaps still take; nothing of a pod stays
    assert _memory(pid) < memory + 8_000, "kB: 8 for each pod"


def _count(pid: int, what: str) -> int:
    return len(list(Path(f"/proc/{pid}/{what}").iterdir()))
