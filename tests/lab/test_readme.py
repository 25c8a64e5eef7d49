"""Every command of the README runs, and shows what the README says."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from kubectl import patience

from podwire.lab.labfile import parse
from podwire.lab.walk import walk

ROOT = Path(__file__).parents[2]


@pytest.mark.timeout(300)
def test_readme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    places = {
        "HOME": str(tmp_path),
        "KUBECONFIG": str(tmp_path / "kubeconfig"),
        "PODWIRE_STATE": str(tmp_path / "labs"),
    }
    for name, value in places.items():
        monkeypatch.setenv(name, value)
    path = f"{ROOT / '.venv' / 'bin'}:{os.environ['PATH']}"
    assert shutil.which("kubectl", path=path)
    try:
        walk(parse((ROOT / "README.md").read_text()), env={**os.environ, "PATH": path}, seconds=120 * patience())
    finally:
        subprocess.run([ROOT / ".venv/bin/podwire", "lab", "down", "--all"], check=False, capture_output=True)
