"""The oracle against an outside one: cyclonus' matcher, on every case that cyclonus generates, cell by cell."""

from __future__ import annotations

import json
import os
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

from podwire.calc.oracle import End, Flow, World, judge

CACHE = Path(os.environ.get("PODWIRE_CACHE", "/var/cache/podwire"))
PROTOCOLS = {"TCP": 6, "UDP": 17, "SCTP": 132}
CASES = 230

OTHERWISE = {
    "self": "a pod reaches itself whatever policies say; cyclonus applies them to the pod's own traffic as well"
}
"""Where cyclonus is known to be otherwise, and why."""


def deviation(source: End, destination: End) -> str:
    return "self" if source.pod == destination.pod else ""


def ends(objects: list[dict[str, Any]]) -> dict[str, End]:
    """Pods as "namespace/name"."""
    found = {}
    for obj in objects:
        if obj["kind"] == "Pod":
            key = obj["metadata"]["namespace"], obj["metadata"]["name"]
            found["/".join(key)] = End(obj["status"]["podIP"], key)
    return found


def test_the_oracle_says_what_cyclonus_says() -> None:
    program = CACHE / "conformance/cyclonus/cyclonus"
    lines = subprocess.run([program], stdout=subprocess.PIPE, check=True, timeout=120).stdout.splitlines()
    cases, cells, refused = set(), 0, 0
    wrong: Counter[tuple[str, ...]] = Counter()
    excused: Counter[str] = Counter()
    for step in map(json.loads, lines):
        world = World.of(step["objects"])
        assert not world.problems, step["case"]
        cases.add(step["case"])
        pods = ends(step["objects"])
        for source, destination, protocol, port, egress, ingress in step["cells"]:
            flow = Flow(pods[source], pods[destination], PROTOCOLS[protocol], port, 40_000)
            verdict = judge(world, flow)
            cells, refused = cells + 1, refused + (not (egress and ingress))
            if (verdict.egress.allowed, verdict.ingress.allowed) == (egress, ingress):
                continue
            if name := deviation(flow.source, flow.destination):
                excused[name] += 1
            else:
                wrong[(step["case"], f"{source} {destination} {protocol}/{port}")] += 1
    assert not wrong, wrong.most_common(20)
    assert len(cases) == CASES
    assert cells > 100_000
    assert refused > 10_000
    assert excused.keys() == OTHERWISE.keys()
