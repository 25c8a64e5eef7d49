"""The node of tests/conformance, with what tests/kubernetes/build made."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.conformance.conftest import peers, site
from tests.kubernetes.genuine import kubectl, real
from tests.netns.conftest import programs

__all__ = ["kubectl", "peers", "programs", "real", "site"]


@pytest.fixture(scope="session")
def built() -> Path:
    """The folder of programs; built now where they are not."""
    done = subprocess.run([Path(__file__).parent / "build"], stdout=subprocess.PIPE, text=True, check=True)
    return Path(done.stdout.strip())
