"""The node of tests/conformance, with what tests/kubernetes/build made."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance.conftest import peers, site
from tests.conftest import PATIENCE, SECONDS
from tests.kubernetes.genuine import kubectl, real
from tests.netns.conftest import programs

__all__ = ["kubectl", "peers", "programs", "real", "site"]
HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """As in the genuine home of tests/lab: nothing that waits gives up early."""
    for item in items:
        marker = item.get_closest_marker("timeout")
        if HERE in item.path.parents and (marker is None or marker.args[0] < SECONDS):
            item.add_marker(pytest.mark.timeout(SECONDS), append=False)


@pytest.fixture(scope="session", autouse=True)
def patience() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PODWIRE_TEST_PATIENCE", PATIENCE)
        yield


@pytest.fixture(scope="session")
def built() -> Path:
    """The folder of programs; built now where they are not."""
    done = subprocess.run([HERE / "build"], stdout=subprocess.PIPE, text=True, check=True)
    return Path(done.stdout.strip())
