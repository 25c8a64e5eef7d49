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
def session(name: str = "bench", nodes: int = 3, *words: str, config: str = "") -> Iterator[Session]:
    """A fresh lab for the time of the block; `words` are more of `lab up`'s options, `config` a kind file that says
    which nodes there are. Raises RuntimeError with what `lab up` said."""
    with tempfile.TemporaryDirectory(prefix="podwire-bench.") as folder:
        kubeconfig = Path(folder) / "kubeconfig"
        env = {**os.environ, "HOME": folder, "KUBECONFIG": str(kubeconfig), "PODWIRE_STATE": f"{folder}/labs"}
        which = ["--config", "-"] if config else ["--nodes", str(nodes)]
        command = [str(PODWIRE), "lab", "up", "--name", name, *which, *words]
        began = time.monotonic()
        try:
            up = subprocess.run(command, env=env, input=config, capture_output=True, text=True, check=False)
            if up.returncode:
                raise RuntimeError(f"the lab does not come up: {up.stderr}")
            yield Session(name, env, kubeconfig, began, time.monotonic())
        finally:
            subprocess.run([PODWIRE, "lab", "down", "--name", name], env=env, check=False, capture_output=True)
