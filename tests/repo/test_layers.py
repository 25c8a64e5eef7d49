"""The house stays a house: imports go down only, siblings do not know each other, pure rooms touch nothing outside."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2] / "podwire"

# From the roof to the ground; rooms in one row are siblings.
ROWS: list[set[str]] = [
    {"cli"},
    {"lab"},
    {"genuine"},
    {"controllers", "kubelet"},
    {"agent", "apiserver", "observe", "install"},
    {"kube", "kernel", "http", "cni"},
    {"render", "ipam"},
    {"calc"},
    {"model"},
]
LEVEL = {room: len(ROWS) - row for row, rooms in enumerate(ROWS) for room in rooms}
PURE = [
    "model",
    "calc",
    "render",
    "observe/addresses.py",
    "observe/explain.py",
    "observe/endpoints.py",
    "observe/bookkeeping.py",
    "observe/damage.py",
    "observe/finding.py",
    "observe/kernel.py",
    "observe/manifests.py",
    "observe/shapes.py",
    "observe/junit.py",
    "observe/policyscene.py",
    "observe/policyparts.py",
    "observe/policyfinding.py",
    "observe/policylint.py",
    "observe/policytraps.py",
    "observe/policyquestions.py",
    "observe/policycases.py",
    "observe/policyreach.py",
    "observe/policydiff.py",
    "observe/policymatrix.py",
    "ipam/blocks.py",
    "cni/spec.py",
    "cni/plan.py",
    "http/spdy.py",
    "install/options.py",
    "install/rbac.py",
    "install/confinement.py",
    "install/daemon.py",
    "install/manifests.py",
    "lab/topology.py",
    "genuine/settings.py",
    "genuine/components.py",
    "genuine/objects.py",
    "genuine/demands.py",
]
OUTSIDE = {"os", "socket", "subprocess", "asyncio", "time", "random", "threading", "ctypes", "logging"}


def imports(source: str) -> Iterator[str]:
    """Absolute names of every module that a source text imports, TYPE_CHECKING blocks included."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide the room they come from"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def upward(room: str, source: str) -> list[str]:
    """The imports of a page of `room` that do not go down."""
    found = []
    for name in imports(source):
        parts = name.split(".")
        within = parts[0] == "podwire" and len(parts) > 1 and parts[1] in LEVEL and parts[1] != room
        if within and LEVEL[parts[1]] >= LEVEL[room]:
            found.append(name)
    return found


def outside(source: str) -> list[str]:
    """The imports by which a pure page would touch the outside world."""
    return [name for name in imports(source) if name.split(".")[0] in OUTSIDE]


PAGES = sorted(path for path in ROOT.rglob("*.py") if path.parent != ROOT)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_down(path: Path) -> None:
    room = path.relative_to(ROOT).parts[0]
    assert room in LEVEL, f"{room} is not a room of the house: give it a row"
    assert upward(room, path.read_text()) == []


def pure_pages() -> list[Path]:
    return [page for name in PURE for page in (sorted((ROOT / name).rglob("*.py")) or [ROOT / name])]


@pytest.mark.parametrize("path", pure_pages(), ids=lambda path: str(path.relative_to(ROOT)))
def test_pure_pages_touch_nothing_outside(path: Path) -> None:
    assert outside(path.read_text()) == []


def test_rooms_are_one_level_deep() -> None:
    assert [path for path in PAGES if len(path.relative_to(ROOT).parts) > 2] == []


def test_the_tests_above_can_fail() -> None:
    assert upward("model", "from podwire.kernel import links") == ["podwire.kernel.links"]
    assert upward("kube", "import podwire.kernel.links") == ["podwire.kernel.links"]
    assert upward("lab", "from podwire.kernel import links") == []
    assert outside("import socket\nfrom os import path") == ["socket", "os.path"]
