"""The calculation of policy alone: 100,000 pods, 10,000 policies, 5,000 namespaces, and a node with 110 of the pods.

Times are of the CPU (it is one thread), so that a busy machine shows the same. Every run is a process of its own, for
its memory. The figures wanted stand as `peer`.
"""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

from bench.policyscale import Scale, read_namespace, read_pod, read_policy
from bench.record import record
from podwire.calc.policy import PolicyCalc

_SMALL = Scale(2_000, 100, 200, 20)
_WANTED = "figure wanted"
_CHUNK = 1_000
_EVENTS = 300


class _Node:
    """A calculation that is fed as an agent feeds it, and the records that an agent keeps beside it."""

    def __init__(self, scale: Scale) -> None:
        self.scale, self.calc = scale, PolicyCalc()
        self.kept: list[object] = []
        self.seconds = 0.0

    def fill(self) -> None:
        """All objects, their JSON made outside of the time that counts."""
        scale, calc = self.scale, self.calc

        def namespace(data: bytes) -> object:
            found = read_namespace(data)
            calc.on_namespace(found.metadata.name, found)
            return found

        def pod(data: bytes) -> object:
            found = read_pod(data)
            calc.on_pod(found.key, found)
            return found

        def policy(data: bytes) -> object:
            found = read_policy(data)
            calc.on_policy(found.key, found)
            return found

        self._feed(namespace, scale.namespace, range(scale.namespaces))
        self._feed(pod, scale.pod, range(scale.pods))
        self._feed(policy, scale.policy, range(scale.policies))
        began = time.process_time()
        for number in scale.local_pods():
            calc.on_local(read_pod(scale.pod(number)).key, True)
        calc.flush()
        self.seconds += time.process_time() - began
        gc.collect()
        gc.freeze()  # as the agent does once everything is in sync

    def _feed(self, take: Callable[[bytes], object], make: Callable[[int], bytes], numbers: range) -> None:
        for at in range(0, len(numbers), _CHUNK):
            texts = [make(number) for number in numbers[at : at + _CHUNK]]
            began = time.process_time()
            self.kept += map(take, texts)
            self.seconds += time.process_time() - began

    # -- events: each is followed by a flush --------------------------------------------------------------------------

    def labels(self, numbers: Iterable[int]) -> list[float]:
        """One after another of these pods takes another application's label, and later its own again."""
        found = []
        for turn, number in enumerate(numbers):
            key = read_pod(self.scale.pod(number)).key
            pod = read_pod(self.scale.pod(number, app=("app-1", "app-2")[turn % 2]))
            found.append(self._timed(partial(self.calc.on_pod, key, pod)))
        return found

    def policies(self) -> list[float]:
        """Policies of this node's pods name another port, or another peer."""
        found, local = [], self.scale.local_pods()
        for turn in range(_EVENTS):
            number = local[turn % len(local)] % self.scale.namespaces
            changed = {"port": 9_000 + turn} if turn % 2 else {"peer": f"app-{turn // 2 % 4}"}
            policy = read_policy(self.scale.policy(number, **changed))
            found.append(self._timed(partial(self.calc.on_policy, policy.key, policy)))
        return found

    def pods(self, *, here: bool) -> list[float]:
        """Pods are added, on this node or elsewhere."""
        found, local = [], self.scale.local_pods()
        for turn in range(_EVENTS):
            number = local[turn % len(local)] if here else turn * 37 % self.scale.pods
            pod = read_pod(self.scale.pod(number))
            key = (pod.key[0], f"{'here' if here else 'there'}-{turn}")
            if here:
                self.calc.on_local(key, True)
            found.append(self._timed(partial(self.calc.on_pod, key, pod)))
        return found

    def churn(self) -> float:
        """Microseconds for one event of pods elsewhere that come and go, 20 at a time."""
        pods = [read_pod(self.scale.pod(number * 13 % self.scale.pods)) for number in range(2_000)]
        began = time.process_time()
        for at in range(0, len(pods), 20):
            names = [((pod.key[0], f"churn-{at + place}"), pod) for place, pod in enumerate(pods[at : at + 20])]
            for come in (True, False):
                for key, pod in names:
                    self.calc.on_pod(key, pod if come else None)
                self.calc.flush()
        return (time.process_time() - began) / (2 * len(pods)) * 1e6

    def _timed(self, event: Callable[[], None]) -> float:
        began = time.process_time()
        event()
        self.calc.flush()
        return (time.process_time() - began) * 1e3

    def figures(self) -> dict[str, Any]:
        self.fill()
        memory = _resident()
        state = self.calc.state
        local, everywhere = self.scale.local_pods(), range(0, self.scale.pods, max(1, self.scale.pods // _EVENTS))
        return {
            "first": self.seconds,
            "memory": memory,
            "rows": sum(len(stage.rows) for table in state.tables.values() for stage in table.stages),
            "churn": self.churn(),
            "label_change": self.labels((local * 3)[:_EVENTS]) + self.labels(everywhere),
            "policy_change": self.policies(),
            "pod_added": self.pods(here=True) + self.pods(here=False),
        }


def _resident() -> float:
    """MB of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("/proc/self/status has no VmRSS")


def _run(quick: bool) -> dict[str, Any]:
    """The figures of one fresh process."""
    command = [sys.executable, "-m", "bench.policycalc", *(["quick"] if quick else [])]
    done = subprocess.run(command, cwd=Path(__file__).parent.parent, stdout=subprocess.PIPE, check=False)
    if done.returncode:
        raise RuntimeError("a run of the calculation failed: see above")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def measure(runs: int = 10, *, quick: bool = False) -> list[dict[str, Any]]:
    """The records of all measurements."""
    scale = _SMALL if quick else Scale()
    each = [_run(quick) for _ in range(1 if quick else min(runs, 3))]

    def one(name: str, unit: str, key: str, wanted: float, n: int) -> dict[str, Any]:
        return record(name, unit, [run[key] for run in each], n=n, peer=[wanted], peer_name=_WANTED)

    found = [
        one("policy_first_calculation", "s", "first", 20, scale.pods),
        one("policy_calc_memory", "MB", "memory", 600, scale.pods),
        one("policy_calc_churn", "µs of CPU an event", "churn", 150, 4_000),
        record("policy_calc_rows", "rows", [float(run["rows"]) for run in each], n=scale.local),
    ]
    for kind in ("label_change", "policy_change", "pod_added"):
        samples = [ms for run in each for ms in run[kind]]
        late = [sorted(run[kind])[int(len(run[kind]) * 0.99)] for run in each]
        name = f"policy_calc_{kind}"
        found.append(record(name, "ms of CPU", samples, n=1, peer=[5.0], peer_name=_WANTED))
        found.append(record(f"{name}_p99", "ms of CPU", late, n=len(samples), peer=[50.0], peer_name=_WANTED))
    return found


if __name__ == "__main__":
    print(json.dumps(_Node(_SMALL if "quick" in sys.argv[1:] else Scale()).figures()))
