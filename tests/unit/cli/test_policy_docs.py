"""What docs/policy-cli.md shows is what its commands print. PODWIRE_GOLDEN=1 rewrites it."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "policy-cli.md"
STEP = re.compile(r"```sh step\n(?P<step>.*?)```\n\n```text\n(?P<shown>.*?)```\n", re.DOTALL)
BETWEEN = "-- the next step --"


@pytest.mark.timeout(300)
def test_the_page_shows_what_is_printed() -> None:
    text = PAGE.read_text()
    steps = [found["step"] for found in STEP.finditer(text)]
    assert len(steps) > 10 and len(steps) == text.count("```sh step")
    places = {"PATH": f"{ROOT / '.venv' / 'bin'}:{os.environ['PATH']}", "COLUMNS": "100", "KUBECONFIG": "/nowhere"}
    done = subprocess.run(
        ["bash", "-c", f"\necho '{BETWEEN}'\n".join(steps)],
        cwd=PAGE.parent,
        env={**os.environ, **places},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=280,
        check=False,
    )
    printed = iter(done.stdout.split(f"{BETWEEN}\n"))
    fresh = STEP.sub(lambda found: f"```sh step\n{found['step']}```\n\n```text\n{next(printed)}```\n", text)
    if os.environ.get("PODWIRE_GOLDEN"):
        PAGE.write_text(fresh)
    assert fresh == text
