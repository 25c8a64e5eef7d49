"""GC, STATUS and addresses alone, through the real shim."""

from __future__ import annotations

import json
import shutil
import threading
from typing import Any

from podwire.model.gvr import IPAMHANDLES, IPPOOLS, NAMESPACES, PODS


def handles(world: Any) -> set[str]:
    items, _ = world.api.do(world.api.fake.list(IPAMHANDLES))
    return {item["metadata"]["name"] for item in items}


def valid(*pods: Any) -> dict[str, Any]:
    return {"cni.dev/valid-attachments": [{"containerID": pod.container_id, "ifname": "eth0"} for pod in pods]}


def test_gc_takes_what_is_not_valid_and_nothing_else(world: Any, tools: Any) -> None:
    node = world.nodes[0]
    kept, stale, other = node.pod("kept").add(), node.pod("stale").add(), node.pod("other")
    code, output = other.call("ADD", name="another-network")
    assert code == 0, output
    other.result = json.loads(output)
    assert kept.call("GC", cniVersion="1.1.0", **valid(kept)) == (0, "")
    tools.until("address released", lambda: f"k8s-pod-network.{stale.container_id}" not in handles(world))
    tools.until("host end gone", lambda: stale.host_name not in node.space.run("ip", "link"))
    for pod in (kept, other):
        assert tools.talk(pod.space, node.space, node.address) == pod.address
    assert kept.call("CHECK", prevResult=kept.result) == (0, "")
    stale.add()


def test_gc_without_a_list_or_of_what_is_valid_does_nothing(world: Any) -> None:
    node = world.nodes[0]
    pod = node.pod("a").add()
    before = node.writes()
    assert pod.call("GC", cniVersion="1.1.0") == (0, "")
    assert pod.call("GC", cniVersion="1.1.0", **valid(pod)) == (0, "")
    assert pod.call("CHECK", prevResult=pod.result) == (0, "")
    assert node.writes() == before


def test_gc_takes_links_that_nobody_knows(world: Any, tools: Any) -> None:
    node = world.nodes[0]
    pod = node.pod("a").add()
    node.space.run("ip", "link", "add", "cali0123456789a", "type", "veth", "peer", "name", "stray")
    assert pod.call("GC", cniVersion="1.1.0", **valid(pod)) == (0, "")
    tools.until("stray gone", lambda: "stray" not in node.space.run("ip", "link"))
    assert tools.talk(pod.space, node.space, node.address) == pod.address


def test_status_tells_when_no_pool_serves(world: Any, tools: Any) -> None:
    node = world.nodes[0]
    pod = node.pod("a")
    assert pod.call("STATUS", cniVersion="1.1.0") == (0, "")
    world.api.do(world.api.fake.patch(IPPOOLS, "default-ipv4-ippool", {"spec": {"disabled": True}}))
    tools.until("status bad", lambda: pod.call("STATUS", cniVersion="1.1.0")[0] == 1)
    answer = json.loads(pod.call("STATUS", cniVersion="1.1.0")[1])
    assert (answer["code"], "IPPool" in answer["details"]) == (50, True)


def test_addresses_alone(world: Any, tools: Any) -> None:
    node = world.nodes[0]
    program = node.bin_dir / "podwire-ipam"
    if not program.exists():
        shutil.copy(node.bin_dir / "podwire", program)
    one, two = node.pod("a"), node.pod("b")
    answers = []
    for pod in (one, two, one):
        code, output = pod.call("ADD", program="podwire-ipam", type="bridge", ipam={"type": "podwire-ipam"})
        assert code == 0, output
        answers.append(json.loads(output))
    assert answers[0] == answers[2]
    assert "interfaces" not in answers[0] or answers[0]["interfaces"] == []
    first, second = answers[0]["ips"][0], answers[1]["ips"][0]
    assert first["address"].endswith("/24"), first
    assert first["gateway"] == second["gateway"]
    assert len({first["address"].partition("/")[0], second["address"].partition("/")[0], first["gateway"]}) == 3
    assert "blackhole" not in node.space.run("ip", "route")
    previous = {"prevResult": answers[0], "ipam": {"type": "podwire-ipam"}}
    assert one.call("CHECK", program="podwire-ipam", **previous) == (0, "")
    assert one.call("STATUS", program="podwire-ipam", cniVersion="1.1.0") == (0, "")
    node.restart()
    assert one.call("CHECK", program="podwire-ipam", **previous) == (0, "")
    assert one.call("DEL", program="podwire-ipam") == (0, "")
    assert two.call("GC", program="podwire-ipam", cniVersion="1.1.0", **valid()) == (0, "")
    tools.until("released", lambda: not [name for name in handles(world) if "c-" in name])


def test_del_overtakes_a_running_add(world: Any, tools: Any) -> None:
    node = world.nodes[0]
    pod, other = node.pod("a"), node.pod("b")
    world.api.do(world.api.fake.create(NAMESPACES, {"metadata": {"name": "default"}}))
    known = {"metadata": {"name": "a", "namespace": "default"}, "spec": {"nodeName": node.name, "containers": []}}
    world.api.do(world.api.fake.create(PODS, known))
    exact = {"ips": ["10.244.1.50"]}  # no address claimed ahead will do
    world.api.fake.latency = 4.0
    answer: list[tuple[int, str]] = []
    caller = threading.Thread(target=lambda: answer.append(pod.call("ADD", runtimeConfig=exact)))
    caller.start()
    tools.until("veth made", lambda: ": cali" in node.space.run("ip", "link"), seconds=20)
    pod.delete()
    caller.join(30)
    world.api.fake.latency = 0.0
    assert (answer[0][0], json.loads(answer[0][1])["code"]) == (1, 11)
    assert "DEL" in json.loads(answer[0][1])["msg"]
    tools.until("host end gone", lambda: ": cali" not in node.space.run("ip", "link"))
    other.add()
    handle = f"k8s-pod-network.{pod.container_id}"
    tools.until("address given back", lambda: handle not in handles(world), seconds=30)
    pod.add()
    assert tools.talk(pod.space, node.space, node.address) == pod.address
