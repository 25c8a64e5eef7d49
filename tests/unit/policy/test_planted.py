"""Bugs planted in the compiler are found by the worlds that the tests of the tables use."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType

import pytest

import podwire.calc
from podwire.calc.oracle import World, judge
from podwire.calc.policy import PolicyCalc
from tests.unit.calc.test_policy_steps import normal
from tests.unit.policy.compiled import Compiled, differences
from tests.unit.policy.flows import flows
from tests.unit.policy.planted import BUGS, Bug
from tests.unit.policy.steps import steps
from tests.unit.policy.worlds import world

ROOM = Path(podwire.calc.__file__).parent
SHARED = ("oracle", "oracle_calico", "oracle_rules", "oracle_world", "verdicts", "state", "routes", "reach")
"""Pages that are no part of the compiler, or whose types it shares with those who ask."""
MOST = 500
NO_WORTH = -1_000
"""Gates (`layout.WORTH`) are put wherever they may be: worlds are too small to be worth one."""


class Changed(SourceFileLoader):
    """One page of the compiler, otherwise than written."""

    def __init__(self, bug: Bug) -> None:
        super().__init__(f"podwire.calc.{bug.module}", str(ROOM / f"{bug.module}.py"))
        self.bug = bug

    def get_code(self, fullname: str) -> CodeType:
        source = Path(self.path).read_text()
        assert source.count(self.bug.here) == 1, f"{self.path} has changed: plant {self.bug.what!r} elsewhere"
        return compile(source.replace(self.bug.here, self.bug.instead), self.path, "exec")

    def find_spec(self, fullname: str, path: object, target: object = None) -> ModuleSpec | None:
        return importlib.util.spec_from_loader(fullname, self) if fullname == self.name else None


@contextmanager
def planted(bug: Bug) -> Iterator[type[PolicyCalc]]:
    """The compiler with the bug, beside the one without."""
    pages = [f"podwire.calc.{page.stem}" for page in ROOM.glob("*.py") if page.stem not in ("__init__", *SHARED)]
    kept: dict[str, ModuleType] = {name: sys.modules.pop(name) for name in pages if name in sys.modules}
    loader = Changed(bug)
    sys.meta_path.insert(0, loader)
    try:
        yield importlib.import_module("podwire.calc.policy").PolicyCalc
    finally:
        sys.meta_path.remove(loader)
        for name in pages:
            sys.modules.pop(name, None)
        sys.modules.update(kept)
        for name, module in kept.items():
            setattr(podwire.calc, name.rpartition(".")[2], module)


def wrong(calc: type[PolicyCalc], seed: int, events: bool) -> bool:
    """The tables and the oracle differ in a world, or after what happens to it."""
    made = world(seed)
    compiled = Compiled(everywhere=seed % 2 == 0, calc=calc())
    try:
        for key, obj in made.by_key.items():
            compiled.put(key, obj)
        compiled.calc.flush()
        for key, obj in steps(seed, made, 10) if events else ():
            compiled.put(key, obj)
            compiled.calc.flush()
        if events and normal(compiled.state) != normal(Compiled.of(made, everywhere=seed % 2 == 0, calc=calc).state):
            return True
    except (AssertionError, KeyError, StopIteration):
        return True  # it trips over itself
    oracle = World.of(made.objects)
    staged = any("Staged" in obj["kind"] for obj in made.objects)
    for flow in flows(seed, made, 50):
        if differences(compiled, flow, judge(oracle, flow)):
            return True
        if staged and differences(compiled, flow, judge(oracle, flow, staged=True), staged=True):
            return True
    return False


@pytest.mark.timeout(600)
@pytest.mark.parametrize("bug", BUGS, ids=[bug.what for bug in BUGS])
def test_a_planted_bug_is_found(bug: Bug) -> None:
    with planted(bug) as calc:
        if "gate" in bug.what:
            vars(sys.modules["podwire.calc.layout"])["WORTH"] = NO_WORTH
        found = next((seed for seed in range(MOST) if wrong(calc, seed, bug.events)), None)
    assert found is not None
    assert not wrong(PolicyCalc, found, bug.events)
