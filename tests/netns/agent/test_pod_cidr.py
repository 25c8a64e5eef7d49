"""kubenet's node keeps the podCIDR it registered with; registered anew, it takes the new one and lets the old go."""

from __future__ import annotations

import json
from typing import Any

from podwire.model.gvr import EVENTS, NODES


def plugin(node: Any) -> dict[str, Any]:
    """The installed configuration."""
    found: dict[str, Any] = json.loads(node.conflist.read_text())["plugins"][0]
    return found


def add(node: Any, name: str, folder: Any) -> Any:
    config = plugin(node)
    config["ipam"]["dataDir"] = str(folder / "networks")
    return node.pod(name).add(**config), config


def test_a_changed_pod_cidr(world: Any, tools: Any, tmp_path: Any) -> None:
    node, api = world.nodes[0], world.api
    node.settings = {"network": "kubenet", "ipam": "host-local"}
    node.restart()
    ranges = [[{"subnet": "10.244.1.0/24"}]]
    tools.until("kubenet's configuration", lambda: plugin(node)["ipam"].get("ranges") == ranges)
    old, config = add(node, "old", tmp_path)
    assert old.address == "10.244.1.2"

    def change(cidr: str) -> dict[str, Any]:
        found = api.do(api.fake.get(NODES, node.name))
        return {**found, "spec": {**found["spec"], "podCIDR": cidr, "podCIDRs": [cidr]}}

    # the same Node with another podCIDR: an API server would not allow it
    api.do(api.fake.update(NODES, change("10.244.9.0/24")))
    tools.until("refused", lambda: "podwire_ready 0" in node.metrics())
    text = "podCIDR 10.244.9.0/24 refused: pods of this node use 10.244.1.0/24."
    tools.until("an event", lambda: any(text in event["message"] for event in api.fake.objects(EVENTS)))
    assert plugin(node)["ipam"]["ranges"] == ranges
    late, _ = add(node, "late", tmp_path)
    assert late.address == "10.244.1.3"
    # registered anew
    again = change("10.244.9.0/24")
    api.do(api.fake.delete(NODES, node.name))
    again["metadata"] = {"name": node.name}
    made = api.do(api.fake.create(NODES, again))
    api.do(api.fake.update(NODES, {**made, "status": again["status"]}, subresource="status"))
    tools.until("taken", lambda: plugin(node)["ipam"]["ranges"] == [[{"subnet": "10.244.9.0/24"}]])
    tools.until("ready", lambda: "podwire_ready 1" in node.metrics())
    new, _ = add(node, "new", tmp_path)
    assert new.address == "10.244.9.2"
    assert tools.talk(node.space, new.space, new.address) == "10.244.9.1"
    assert tools.talk(node.space, old.space, old.address) == "10.244.1.1"  # as long as it lives
    # the old podCIDR goes with its last pod
    for pod in (old, late):
        assert pod.call("DEL", **config, prevResult=pod.result) == (0, "")
    node.space.run("nft", "delete", "table", "inet", "podwire-ports")  # makes the agent compare now
    tools.until("the old address is gone", lambda: "10.244.1." not in node.space.run("ip", "address", "show", "cbr0"))
    assert tools.talk(node.space, new.space, new.address) == "10.244.9.1"
