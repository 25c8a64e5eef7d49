"""A node's life: what its agent says of it and of its pods, deleted and added again under its name, booted anew."""

from __future__ import annotations

import signal
from typing import Any

from podwire.ipam import blocks
from podwire.model.gvr import IPAMBLOCKS, NAMESPACES, NODES, PODS

POD_IP = "cni.projectcalico.org/podIP"


def get(world: Any, gvr: Any, name: str, namespace: str = "") -> dict[str, Any]:
    found: dict[str, Any] = world.api.do(world.api.fake.get(gvr, name, namespace))
    return found


def marks(world: Any, name: str) -> dict[str, str]:
    return dict(get(world, PODS, name, "default")["metadata"].get("annotations") or {})


def network_up(world: Any, node: str) -> bool:
    conditions = get(world, NODES, node).get("status", {}).get("conditions", [])
    return ("NetworkUnavailable", "False") in [(one["type"], one["status"]) for one in conditions]


def held(world: Any) -> dict[str, str]:
    """Address → handle, of pods."""
    found = {}
    for obj in world.api.fake.objects(IPAMBLOCKS):
        block = blocks.from_spec(obj["spec"])
        for handle, ordinals in block.holdings().items():
            found |= {block.cidr.address(o): handle for o in ordinals if handle.startswith("k8s-pod-network.c-")}
    return found


def test_what_an_agent_says_of_node_and_pods(world: Any, tools: Any) -> None:
    node = world.nodes[0]
    body = {"metadata": {"name": "web"}, "spec": {"nodeName": node.name}, "status": {"phase": "Running"}}
    world.api.do(world.api.fake.create(NAMESPACES, {"metadata": {"name": "default"}}))
    world.api.do(world.api.fake.create(PODS, body, "default"))
    tools.until("the condition", lambda: network_up(world, node.name))
    pod = node.pod("web").add()
    wanted = f"{pod.address}/32"

    def touch(number: int) -> None:
        patch = {"metadata": {"labels": {"touched": str(number)}}}
        world.api.do(world.api.fake.patch(PODS, "web", patch, "default"))

    touch(1)
    tools.until("the annotations", lambda: marks(world, "web").get(POD_IP) == wanted)
    assert marks(world, "web")["cni.projectcalico.org/podIPs"] == wanted
    assert marks(world, "web")["cni.projectcalico.org/containerID"] == pod.container_id
    written = dict(world.api.fake.calls)
    node.restart()
    tools.until("ready", lambda: "podwire_ready 1" in node.metrics())
    assert all(
        world.api.fake.calls.get(call, 0) == written.get(call, 0) for call in (("patch", "pods"), ("patch", "nodes"))
    ), "a start with nothing new writes nothing"
    pod.delete()
    touch(2)
    tools.until("no address any more", lambda: marks(world, "web").get(POD_IP) == "")


def test_a_node_deleted_and_added_again_under_its_name(world: Any, tools: Any) -> None:
    one, two = world.nodes
    a, b = one.pod("a").add(), two.pod("b").add()
    tools.until("routes", lambda: "via" in two.space.run("ip", "route", "get", a.address))
    assert tools.talk(a.space, b.space, b.address) == a.address
    before, tunnel = get(world, NODES, one.name), "projectcalico.org/IPv4VXLANTunnelAddr"
    world.api.do(world.api.fake.delete(NODES, one.name))
    tools.until("peer gone", lambda: "PERMANENT" not in two.space.run("ip", "neigh", "show", "dev", "vxlan.calico"))
    body = {"metadata": {"name": one.name}, "spec": before["spec"]}
    made = world.api.do(world.api.fake.create(NODES, body))
    assert made["metadata"]["uid"] != before["metadata"]["uid"]
    tools.until("enrolled", lambda: tunnel in (get(world, NODES, one.name)["metadata"].get("annotations") or {}))
    tools.until("the condition", lambda: network_up(world, one.name))
    tools.until("peer back", lambda: "PERMANENT" in two.space.run("ip", "neigh", "show", "dev", "vxlan.calico"))
    tools.until("ready", lambda: "podwire_ready 1" in one.metrics())
    assert tools.talk(a.space, b.space, b.address) == a.address, "its pods go on under their addresses"
    c = one.pod("c").add()
    assert c.address not in (a.address, b.address)
    assert tools.talk(b.space, c.space, c.address) == b.address
    tools.until("IPAM", lambda: {a.address, b.address, c.address} <= held(world).keys())


def test_a_node_that_was_booted_anew_leaks_nothing(world: Any, tools: Any) -> None:
    one, two = world.nodes
    old, b = [one.pod(name).add() for name in ("x", "y", "z")], two.pod("b").add()
    tools.until("IPAM", lambda: len(held(world)) == 4)
    one.stop(signal.SIGKILL)
    for pod in old:
        pod.space.close()
    one.space.close()
    one.space = tools.Namespace()  # all that the kernel had is gone; files have stayed
    with world.router.links() as links:
        links.delete_link(links.link_index("n1"))
        tools.join(links, links.link_index("podwire0"), one, 1)
    one.start()
    tools.until("old addresses freed", lambda: set(held(world)) == {b.address})
    again = one.pod("x", "c-second-life").add()
    assert tools.talk(b.space, again.space, again.address) == b.address
    assert old[0].call("DEL", netns_path="") == (0, ""), "the runtime ends the old sandboxes when it likes"
    assert tools.talk(again.space, b.space, b.address) == again.address
    tools.until("IPAM", lambda: set(held(world)) == {b.address, again.address})
