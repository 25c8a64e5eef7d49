"""What pods are given or asked again in time: probes after a start, tokens before they expire."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from podwire.kubelet import probes, volumes
from podwire.kubelet.downward import NodeFacts


async def _watched(probe: dict[str, Any], answers: list[bool], initial: bool, stop: int) -> list[tuple[bool, bool]]:
    """Results that are reported (ok, due) until there are `stop`; `answers` are those of the attempts, in order."""
    seen: list[tuple[bool, bool]] = []
    left = iter(answers)

    async def run(argv: list[str], timeout: float) -> tuple[int, bytes]:
        return (0 if next(left) else 1), b""

    def report(result: bool, outcome: probes.Outcome, due: bool) -> bool:
        seen.append((outcome.ok, due))
        return len(seen) < stop

    target = probes.Target("127.0.0.1", {}, run)
    await asyncio.wait_for(probes.watch({"exec": {"command": ["x"]}, **probe}, initial, target, report), 50)
    return seen


async def test_a_first_success_is_looked_for_soon() -> None:
    began = asyncio.get_running_loop().time()
    seen = await _watched({"periodSeconds": 60}, [False, False, True], False, 2)
    assert seen == [(False, False), (True, True)]
    assert asyncio.get_running_loop().time() - began < 30


async def test_attempts_in_between_count_no_failures() -> None:
    many = [False] * 50
    seen = await _watched({"periodSeconds": 0.5, "failureThreshold": 2}, many, False, 2)
    assert seen == [(False, False), (False, True)]


async def test_a_token_is_kept_for_four_fifths_of_its_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    class Tokens:
        async def create(self, gvr: object, obj: dict[str, Any], *rest: str, **more: str) -> dict[str, Any]:
            asked.append(obj["spec"]["expirationSeconds"])
            return {"status": {"token": f"t{len(asked)}"}}

    now = [0.0]
    monkeypatch.setattr(volumes.time, "monotonic", lambda: now[0])

    async def call(work: Callable[[], None]) -> None:
        work()

    facts = NodeFacts("node", "10.0.0.1", Decimal(1), Decimal(1))
    held = volumes.Volumes(Tokens(), tmp_path, facts, call)  # type: ignore[arg-type]
    token = {"serviceAccountToken": {"path": "token", "expirationSeconds": 1000}}
    pod = {
        "metadata": {"name": "p", "namespace": "n", "uid": "u"},
        "spec": {"volumes": [{"name": "v", "projected": {"sources": [token]}}]},
    }
    path = held.path(pod, pod["spec"]["volumes"][0]) / "token"
    for now[0], expected in ((1000.0, "t1"), (1790.0, "t1"), (1810.0, "t2")):
        await held.setup(pod)
        assert path.read_text() == expected
    held.teardown("u")
    await held.setup(pod)
    assert path.read_text() == "t3"
