"""The benches run and answer in the form that others read. What they measure is for `make bench` to say."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

PODWIRE = Path(__file__).parents[2] / ".venv" / "bin" / "podwire"
KEYS = {"name", "unit", "ours", "peer", "peer_name", "ratio", "better", "runs", "spread", "n"}


@pytest.mark.embedded_only("figures of the embedded home")
@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    ("bench", "names"),
    [
        ("lab", {"lab_up_3_nodes", "lab_up_to_answer", "lab_memory"}),
        ("pod", {"pod_ready", "pod_ready_kubectl", "pods_100_ready"}),
    ],
)
def test_bench(bench: str, names: set[str], tmp_path: Path) -> None:
    file = tmp_path / "records.json"
    call = [PODWIRE, "bench", bench, "--runs", "1", "--json", file]
    done = subprocess.run(call, env=dict(os.environ), capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    records = json.loads(file.read_text())
    assert {record["name"] for record in records} == names
    assert all(set(record) == KEYS and record["ours"] > 0 for record in records)
