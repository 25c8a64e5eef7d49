"""A DEL kept while the agent was down, and the same attachment ADDed again: the newer one stays."""

from __future__ import annotations

import signal
from typing import Any


def test_a_later_add_survives_the_kept_del(world: Any, tools: Any) -> None:
    node = world.nodes[0]
    pod = node.pod("a").add()
    node.stop(signal.SIGKILL)
    pod.delete()
    kept = node.folder / "state" / "cni-spool" / f"podwire,{pod.container_id},eth0"
    assert kept.exists()
    node.start()
    pod.add()
    assert not kept.exists()
    code, output = pod.call("CHECK", prevResult=pod.result)
    assert (code, output) == (0, "")
    assert pod.host_name in node.space.run("ip", "link")


def test_a_del_kept_behind_the_agents_back_comes_first(world: Any, tools: Any) -> None:
    """As when the shim missed the agent's start by a hair: the file appears while the agent serves."""
    node = world.nodes[0]
    pod = node.pod("a").add()
    spool, socket = node.folder / "state" / "cni-spool", node.folder / "run" / "cni.sock"
    socket.rename(socket.with_suffix(".away"))
    pod.delete()
    socket.with_suffix(".away").rename(socket)
    former = pod.result
    pod.add()
    assert list(spool.iterdir()) == []
    assert pod.result["interfaces"][1]["mac"] != former["interfaces"][1]["mac"]
    assert pod.call("CHECK", prevResult=pod.result) == (0, "")
