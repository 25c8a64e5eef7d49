"""A dump of a real agent: complete, for root alone, and following from what the agent was told."""

from __future__ import annotations

import json
import stat
from typing import Any

from podwire.agent.dump import fetch
from podwire.agent.replay import replay
from podwire.model.gvr import NODES


def test_a_dump_tells_the_node_and_replays_to_the_same_state(world: Any, tools: Any) -> None:
    node, peer = world.nodes
    pod = node.pod("a").add()
    path = node.folder / "run" / "debug.sock"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    raw = fetch(path)
    dump = json.loads(raw)
    assert replay(raw) == []

    assert dump["node"] == node.name
    assert dump["health"]["ready"]
    assert [one["pod"] for one in dump["attachments"]] == ["a"]
    assert any(pod.address in row for row in dump["elements"]["inet podwire"][pod.host_name])
    assert any(pod.address in line for line in dump["nft"]["inet podwire"])
    assert dump["calculation"]["state"]["peers"][peer.name]["address"] == peer.address
    routes = dump["tables"]["routes"]
    assert routes["wanted"] == routes["actual"] != {}
    assert [(t["doubt"], t["pending_writes"], t["pending_removals"]) for t in dump["tables"].values()] == [
        (False, [], [])
    ] * len(dump["tables"])
    assert sum(block["used"] for block in dump["ipam"]["blocks"].values()) >= 1
    assert "attached" in [line["event"] for line in dump["log"]]
    assert 'podwire_endpoints{role="routed",state="ready"} 1' in dump["metrics"]
    assert dump["versions"]["nft"].startswith("nftables")

    world.api.do(world.api.fake.delete(NODES, peer.name))
    tools.until("peer forgotten", lambda: peer.name not in json.loads(fetch(path))["calculation"]["state"]["peers"])
    assert replay(fetch(path)) == []


def test_an_agent_that_starts_again_answers_on_the_same_socket(world: Any) -> None:
    node = world.nodes[0]
    before = json.loads(fetch(node.folder / "run" / "debug.sock"))["calculation"]["state"]
    node.stop(9)  # SIGKILL: the socket's file stays
    node.start()
    assert json.loads(fetch(node.folder / "run" / "debug.sock"))["calculation"]["state"] == before
