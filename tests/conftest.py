"""For every room: what Hypothesis finds must be true of the code, not of how busy the machine is; and the home of labs.

A commit is tried with the same cases everywhere. PODWIRE_EXPLORE=1 looks for new ones, and remembers those that fail.

`--home kubernetes` makes every `podwire lab up` of the tests one of genuine Kubernetes (of the programs that
tests/kubernetes/build makes). Tests are the same in both homes, but for those with the mark `embedded_only`.
"""

import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

same = {} if os.environ.get("PODWIRE_EXPLORE") else {"derandomize": True, "database": None}
settings.register_profile("podwire", deadline=None, suppress_health_check=[HealthCheck.too_slow], **same)
settings.load_profile("podwire")

EMBEDDED, GENUINE = "embedded", "kubernetes"
PATIENCE = "4"
"""Times the limits of the embedded home: see tests/lab/kubectl.py."""
SECONDS = 600
"""A test's limit in the genuine home, where a node takes its time to come up on a busy machine."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--home",
        choices=(EMBEDDED, GENUINE),
        default=EMBEDDED,
        help="what the tests' labs run: Podwire's embedded control plane, or genuine Kubernetes",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "embedded_only(reason): of the embedded control plane, or of its nodes, alone")
    if config.getoption("--home") == GENUINE:
        build = Path(__file__).parent / "kubernetes/build"
        done = subprocess.run([build], stdout=subprocess.PIPE, text=True, check=True)
        os.environ |= {"PODWIRE_KUBERNETES": done.stdout.strip(), "PODWIRE_TEST_PATIENCE": PATIENCE}
    else:
        for name in ("PODWIRE_KUBERNETES", "PODWIRE_TEST_PATIENCE"):
            os.environ.pop(name, None)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """In the genuine home: leave out what is said to be of the other one, and have patience."""
    if config.getoption("--home") != GENUINE:
        return
    left_out = [item for item in items if item.get_closest_marker("embedded_only")]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]
    for item in items:
        item.add_marker(pytest.mark.timeout(SECONDS), append=False)
