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


def test_what_somebody_else_changes_is_counted_as_repaired(world: Any, tools: Any) -> None:
    node = world.nodes[0]
    pod = node.pod("a").add()

    def repairs() -> float:
        rows = [line for line in node.metrics().splitlines() if line.startswith("podwire_kernel_table_repairs_total")]
        return sum(float(row.split()[-1]) for row in rows)

    def faults() -> list[list[str]]:
        seen = json.loads(fetch(node.folder / "run" / "debug.sock"))["seen"]["attachments"]
        return [one["faults"] for one in seen if one["pod"] == pod.name]

    before = repairs()
    node.space.run("nft", "delete", "table", "inet", "podwire")
    tools.until("counted", lambda: repairs() > before)
    tools.until("nothing lacks", lambda: faults() == [[]])
