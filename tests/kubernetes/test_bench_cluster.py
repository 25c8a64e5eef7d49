"""`podwire bench cluster`: every figure comes, and nothing of its lab stays."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

from tests.lab.host import PODWIRE, writers

NAMES = {
    "node_ready_after_agent_start",
    "node_ready_first_start",
    "pod_ready_cluster",
    "pod_burst_5",
    "agent_memory",
    "agent_idle_cpu",
    "agent_memory_400_nodes",
    "agent_memory_20000_pods",
}


def test_bench_cluster_measures(built: Path, tmp_path: Path) -> None:
    file = tmp_path / "cluster.json"
    words = [PODWIRE, "bench", "cluster", "--quick", "--json", str(file)]
    env = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stderr
    records = {one["name"]: one for one in json.loads(file.read_text())}
    assert set(records) == NAMES
    assert all(one["ours"] > 0 and one["runs"] > 0 for one in records.values() if one["name"] != "agent_idle_cpu")
    assert all(records[name]["peer"] > 0 for name in ("pod_ready_cluster", "pod_burst_5"))
    assert writers(tmp_path) == []
    assert [path.name for path in tmp_path.iterdir()] == ["cluster.json"]
