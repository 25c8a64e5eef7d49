"""What a large cluster costs each node: 400 nodes, 20,000 pods, of a made-up API (`cluster` has them on a genuine one).

`agent_memory_cluster`: proportional set size (MB, 10^6 bytes) of an agent that knows what it needs of it; with
`_all_pods` also a slim record of every pod. `agent_learns_cluster`: seconds from nothing to everything known and
calculated. The API is a stream of objects as genuine servers tell them (`clusterworld`).
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from bench.record import record

NODES, PODS = 400, 20_000
ROOT = Path(__file__).parents[1]


def measure(runs: int = 10) -> list[dict[str, Any]]:
    """Each run is a process of its own."""
    command = [sys.executable, "-m", "bench.clusterworld", str(NODES), str(PODS)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as world:
        try:
            assert world.stdout is not None
            port = world.stdout.readline().strip()
            seen = {how: [_agent(port, *how) for _ in range(runs)] for how in ((), ("all",))}
        finally:
            world.kill()
    found = []
    for how, several in seen.items():
        suffix = "_all_pods" if how else ""
        held = [one["bytes"] / 1e6 for one in several]
        found.append(record(f"agent_memory_cluster{suffix}", "MB", held, n=several[0]["pods"]))
        found.append(record(f"agent_learns_cluster{suffix}", "s", [one["seconds"] for one in several], n=NODES))
    return found


def _agent(port: str, *how: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "bench.clusteragent", port, "node-0000", *how]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert told["nodes"] == NODES, told
    return told
