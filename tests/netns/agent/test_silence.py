"""An agent that starts and finds everything as its predecessor left it writes nothing to the kernel, however pods are
wired."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from tests.netns.agent import onbridge, test_chained
from tests.netns.agent.onbridge import shape
from tests.netns.agent.test_chained import plugins

__all__ = ["plugins", "shape"]

BLOCKS = {"type": "podwire-ipam"}


@pytest.mark.parametrize("wiring", ["routed", "bridge", "bridge and blocks", "addresses alone", "chained"])
def test_a_start_with_nothing_new(
    world: Any, shape: dict[str, Any], plugins: Path, tmp_path: Path, tools: Any, wiring: str
) -> None:
    node, pod = world.nodes[0], world.nodes[0].pod("a")
    if wiring == "routed":
        pod.add()
    elif wiring.startswith("bridge"):
        onbridge.add(pod, shape if wiring == "bridge" else {**shape, "ipam": BLOCKS})
    elif wiring == "addresses alone":
        code, output = pod.call("ADD", program="podwire-ipam", ipam=BLOCKS)
        assert code == 0, output
    else:
        code, wired = test_chained.call(plugins, pod, "ptp", "ADD", **test_chained.config("ptp", tmp_path))
        assert code == 0, wired
        assert test_chained.call(plugins, pod, "podwire", "ADD", prevResult=wired)[0] == 0
    tools.until("peers", lambda: "10.244.2.0/26 via" in node.space.run("ip", "route"))

    def routes() -> list[str]:
        return sorted(node.space.run("ip", "route").splitlines())

    before = routes()
    for number in (signal.SIGTERM, signal.SIGKILL):
        node.stop(number)
        node.start()
        assert sum(node.writes().values()) == 0, node.writes()
        assert routes() == before
