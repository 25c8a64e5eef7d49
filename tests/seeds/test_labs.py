"""The labs of the docs, walked as a reader would: typed into a shell, with an unmodified kubectl, on a real lab."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "lab"))
from kubectl import patience

from podwire.lab.labfile import parse
from podwire.lab.walk import walk

ROOT = Path(__file__).parents[2]
LABS = [*sorted((ROOT / "docs" / "labs").glob("*.md")), ROOT / "docs" / "ipam-cli.md"]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("path", LABS, ids=lambda path: path.stem)
def test_lab(path: Path, tmp_path: Path) -> None:
    env = {
        **os.environ,
        "PATH": f"{ROOT / '.venv' / 'bin'}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "KUBECONFIG": str(tmp_path / "kubeconfig"),
        "PODWIRE_STATE": str(tmp_path / "labs"),
    }
    try:
        walk(parse(path.read_text()), env=env, seconds=120 * patience())
    finally:
        for left in (tmp_path / "labs").glob("*"):
            subprocess.run([ROOT / ".venv/bin/podwire", "lab", "down", "--name", left.name], env=env, check=False)
