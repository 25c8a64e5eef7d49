"""A lab for a measurement: brought up with state, home and kubeconfig in a folder of its own, taken down at the end."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PODWIRE = Path(sys.executable).parent / "podwire"


@dataclass(frozen=True, slots=True)
class Session:
    """A running lab: `began` and `ready` are moments of the monotonic clock, in seconds."""

    name: str
    env: dict[str, str]
    kubeconfig: Path
    began: float
    ready: float

    def status(self) -> Any:
        out = subprocess.run(
            [PODWIRE, "lab", "status", "--name", self.name, "-o", "json"],
            env=self.env,
            capture_output=True,
            text=True,
            check=True,
        )
        return json.loads(out.stdout)


@contextlib.contextmanager
def session(name: str = "bench", nodes: int = 3) -> Iterator[Session]:
    """A fresh lab for the time of the block. Raises CalledProcessError."""
    with tempfile.TemporaryDirectory(prefix="podwire-bench.") as folder:
        config = Path(folder) / "kubeconfig"
        env = {**os.environ, "HOME": folder, "KUBECONFIG": str(config), "PODWIRE_STATE": f"{folder}/labs"}
        command = [str(PODWIRE), "lab", "up", "--name", name, "--nodes", str(nodes)]
        began = time.monotonic()
        try:
            subprocess.run(command, env=env, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            yield Session(name, env, config, began, time.monotonic())
        finally:
            subprocess.run([PODWIRE, "lab", "down", "--name", name], env=env, check=True, capture_output=True)
