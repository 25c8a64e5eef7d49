"""`podwire bench cluster`: every figure comes, and nothing of its lab stays."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from pathlib import Path

import pytest

from podwire.lab.state import cache_root
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


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_bench_cluster_measures(built: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="b.") as name:  # a short one: sockets are below it
        folder = Path(name)
        file = folder / "cluster.json"
        words = [PODWIRE, "bench", "cluster", "--quick", "--json", str(file)]
        env = {**os.environ, "TMPDIR": name, "PODWIRE_CACHE": str(cache_root())}
        done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=500, check=False)
        assert done.returncode == 0, done.stderr
        records = {one["name"]: one for one in json.loads(file.read_text())}
        assert writers(folder) == []
        assert [path.name for path in folder.iterdir()] == ["cluster.json"]
    assert set(records) == NAMES
    assert all(one["ours"] > 0 and one["runs"] > 0 for one in records.values() if one["name"] != "agent_idle_cpu")
    assert all(records[name]["peer"] > 0 for name in ("pod_ready_cluster", "pod_burst_5"))
