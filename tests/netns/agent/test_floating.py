"""Floating addresses and foreign sources by annotation: who reaches them, whose address is seen, what outlives whom."""

from __future__ import annotations

import json
import select
import socket
from pathlib import Path
from typing import Any

import pytest

from podwire.model.gvr import EVENTS, IPPOOLS, NAMESPACES, PODS
from tests.netns.agent import onbridge

FLOAT, FLOAT6 = "198.51.100.7", "2001:db8:7::1"
DUAL = {"ipam": {"type": "podwire-ipam", "assign_ipv4": "true", "assign_ipv6": "true"}}
NOTE = "cni.projectcalico.org/"


@pytest.fixture
def pods(world: Any) -> Any:
    """Makes a pod of the API, and its counterpart on a node."""
    world.api.do(world.api.fake.create(NAMESPACES, {"metadata": {"name": "default"}}))

    def make(node: Any, name: str, **notes: list[str]) -> Any:
        meta = {
            "name": name,
            "namespace": "default",
            "annotations": {NOTE + note: json.dumps(value) for note, value in notes.items()},
        }
        world.api.do(world.api.fake.create(PODS, {"metadata": meta, "spec": {"nodeName": node.name, "containers": []}}))
        return node.pod(name)

    return make


def ask(client: Any, address: str, pod: Any, port: int = 80) -> str:
    """The client's address as the pod sees it; else what went wrong."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with pod.space.socket(family=family) as listener, client.socket(family=family) as speaker:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("::" if family == socket.AF_INET6 else "0.0.0.0", port))
        listener.listen()
        try:
            speaker.connect((address, port))
        except OSError as error:
            return repr(error)
        assert speaker.getpeername()[0] == address
        connection, peer = listener.accept()
        connection.close()
        return str(peer[0])


def table(node: Any) -> str:
    return str(node.space.run("nft", "-n", "list", "table", "inet", "podwire-floating"))


def test_everybody_reaches_it_and_keeps_its_own_address(world: Any, pods: Any) -> None:
    one, two = world.nodes
    for space in (world.outside, two.space):
        space.run("ip", "route", "add", f"{FLOAT}/32", "via", "203.0.113.1" if space is world.outside else one.address)
    world.router.run("ip", "route", "add", f"{FLOAT}/32", "via", one.address)
    web = pods(one, "web", floatingIPs=[FLOAT]).add()
    near, far = one.pod("near").add(), two.pod("far").add()
    assert ask(world.outside, FLOAT, web) == "203.0.113.10"
    assert ask(two.space, FLOAT, web) == two.address
    assert ask(one.space, FLOAT, web) == one.address
    assert ask(near.space, FLOAT, web) == near.address
    assert ask(far.space, FLOAT, web) == two.address  # it left its node as to any address outside of the pools
    assert ask(web.space, FLOAT, web) == FLOAT
    assert ask(near.space, web.address, web) == near.address
    assert ask(web.space, web.address, web) == web.address
    web.delete()
    assert FLOAT not in table(one)
    assert "Error" in ask(near.space, FLOAT, web)


def test_on_a_bridge(world: Any, pods: Any) -> None:
    """Others, the node, a pod on the same bridge and the pod itself; what a bridge cannot keep is refused by name."""
    one, two = world.nodes
    for space in (world.outside, two.space):
        space.run("ip", "route", "add", f"{FLOAT}/32", "via", "203.0.113.1" if space is world.outside else one.address)
    world.router.run("ip", "route", "add", f"{FLOAT}/32", "via", one.address)
    shape = {"wiring": "bridge", "bridge": "cbr0", "hairpinMode": True, "ipam": {"type": "podwire-ipam"}}
    near, web = onbridge.add(one.pod("near"), shape), onbridge.add(pods(one, "web", floatingIPs=[FLOAT]), shape)
    assert ask(world.outside, FLOAT, web) == "203.0.113.10"
    assert ask(two.space, FLOAT, web) == two.address
    assert ask(near.space, FLOAT, web) == onbridge.address(near)
    assert ask(web.space, FLOAT, web) == FLOAT
    assert web.call("CHECK", **shape, prevResult=web.result) == (0, "")
    assert web.call("DEL", **shape)[0] == 0
    assert FLOAT not in table(one)
    for control in ({}, {"feature_control": {"source_prefixes": True}}):
        name = f"router{len(control)}"
        code, answer = pods(one, name, allowedSourcePrefixes=["192.0.2.0/24"]).call("ADD", **{**shape, **control})
        assert (code, json.loads(answer)["code"]) == (1, 7) and "allowedSourcePrefixes" in answer, answer


def test_where_it_is_not_read_the_pod_is_told(world: Any, pods: Any, tools: Any, tmp_path: Path) -> None:
    node = world.nodes[0]
    ipam = {"type": "host-local", "ranges": [[{"subnet": "10.77.1.0/24"}]], "dataDir": str(tmp_path / "networks")}
    onbridge.add(pods(node, "web", floatingIPs=[FLOAT]), {"wiring": "bridge", "bridge": "cbr0", "ipam": ipam})
    world.api.do(world.api.fake.patch(PODS, "web", {"metadata": {"labels": {"phase": "started"}}}, "default"))
    tools.until("the event", lambda: bool(world.api.fake.objects(EVENTS)))
    (event,) = world.api.fake.objects(EVENTS)
    assert (event["reason"], event["involvedObject"]["name"]) == ("AnnotationIgnored", "web")
    assert f"annotation {NOTE}floatingIPs has no effect: the pod is on bridge cbr0" in event["message"]
    config = {"type": "bridge", "ipam": {"type": "podwire-ipam"}, "feature_control": {"source_prefixes": True}}
    for name, notes in (
        ("floating", {"floatingIPs": [FLOAT]}),
        ("sources", {"allowedSourcePrefixes": ["192.0.2.0/24"]}),
    ):
        code, answer = pods(node, name, **notes).call("ADD", program="podwire-ipam", **config)
        assert (code, json.loads(answer)["code"]) == (1, 7) and next(iter(notes)) in answer, answer


def test_both_families(world: Any, pods: Any) -> None:
    node = world.nodes[0]
    pool = {"cidr": "fd00:10:244::/48", "blockSize": 122, "natOutgoing": False, "nodeSelector": "all()"}
    world.api.do(world.api.fake.create(IPPOOLS, {"metadata": {"name": "six"}, "spec": pool}))
    web = pods(node, "web", floatingIPs=[FLOAT, FLOAT6]).add(**DUAL)
    near = node.pod("near").add(**DUAL)
    six = near.result["ips"][1]["address"].partition("/")[0]
    assert ask(near.space, FLOAT, web) == near.address
    assert ask(near.space, FLOAT6, web) == six
    assert ask(web.space, FLOAT6, web) == FLOAT6


def test_it_outlives_the_agent_and_comes_back(world: Any, pods: Any, tools: Any) -> None:
    node = world.nodes[0]
    web = pods(node, "web", floatingIPs=[FLOAT]).add()
    near = node.pod("near").add()
    before = table(node)
    node.stop()
    assert ask(near.space, FLOAT, web) == near.address
    node.start()
    assert table(node) == before
    assert sum(node.writes().values()) == 0, node.writes()
    node.space.run("nft", "flush", "map", "inet", "podwire-floating", "to4")
    code, output = web.call("CHECK", prevResult=web.result)
    assert (code, json.loads(output)["code"]) == (1, 100)
    assert FLOAT in output
    node.space.run("nft", "delete", "table", "inet", "podwire-floating")
    tools.until("repaired", lambda: FLOAT in node.space.run("nft", "list", "ruleset"))
    assert ask(near.space, FLOAT, web) == near.address
    assert web.call("CHECK", prevResult=web.result) == (0, "")
    code, output = web.call("GC", cniVersion="1.1.0", **{"cni.dev/valid-attachments": []})
    assert (code, output) == (0, "")
    assert FLOAT not in table(node)


def test_nobody_takes_what_is_somebodys(world: Any, pods: Any) -> None:
    node = world.nodes[0]
    holder = pods(node, "holder", floatingIPs=[FLOAT]).add()
    for name, address, whose in (
        ("second", FLOAT, f"pod default/holder, attachment {holder.container_id}/eth0"),
        ("thief", node.address, "address of this node"),
        ("neighbour", holder.address, "address of a pod on this node"),
    ):
        code, output = pods(node, name, floatingIPs=[address]).call("ADD")
        error = json.loads(output)
        assert (code, error["code"]) == (1, 102), error
        assert address in error["msg"]
        assert whose in error["details"]
    code, output = pods(node, "six", floatingIPs=[FLOAT6]).call("ADD")
    assert (code, json.loads(output)["code"]) == (1, 7)
    code, output = node.pod("second").call("ADD", feature_control={"floating_ips": False})
    assert "switched off" in json.loads(output)["msg"]
    holder.delete()
    node.pod("second").add()


def spoof(pod: Any, source: str, target: Any, address: str) -> str:
    """As whom a datagram from `source` arrives; "" when it does not."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with target.space.socket(socket.SOCK_DGRAM, family) as hears, pod.space.socket(socket.SOCK_DGRAM, family) as speaks:
        hears.bind((address, 9))
        hears.setblocking(False)
        speaks.bind((source, 0))
        with pod.space.socket(socket.SOCK_DGRAM, family) as honest:  # what follows tells that the first was dropped
            speaks.sendto(b"x", (address, 9))
            honest.sendto(b"y", (address, 9))
            assert select.select([hears], [], [], 5)[0]
            first, peer = hears.recvfrom(10)
        return str(peer[0]) if first == b"x" else ""


def test_other_sources_where_allowed(world: Any, pods: Any) -> None:
    node = world.nodes[0]
    pool = {"cidr": "fd00:10:244::/48", "blockSize": 122, "natOutgoing": False, "nodeSelector": "all()"}
    world.api.do(world.api.fake.create(IPPOOLS, {"metadata": {"name": "six"}, "spec": pool}))
    prefixes = ["192.0.2.0/25", "192.0.2.128/27", "192.0.2.0/27", "2001:db8:9::/48"]
    router = pods(node, "router", allowedSourcePrefixes=prefixes)
    code, output = router.call("ADD")
    assert (code, json.loads(output)["code"]) == (1, 7)
    assert "switched off" in json.loads(output)["msg"]
    allowed = {**DUAL, "feature_control": {"source_prefixes": True}}
    router.add(**allowed)
    other = node.pod("other").add(**DUAL)
    six = other.result["ips"][1]["address"].partition("/")[0]
    router.space.run("ip", "address", "add", "192.0.2.150/32", "dev", "eth0")
    for extra in ("192.0.2.9/32", "192.0.2.200/32"):
        router.space.run("ip", "address", "add", extra, "dev", "eth0")
    for extra in ("2001:db8:9::5/128", "2001:db8:a::5/128"):
        router.space.run("ip", "address", "add", extra, "dev", "eth0", "nodad", "preferred_lft", "0")
    for _ in range(2):
        assert spoof(router, "192.0.2.9", other, other.address) == "192.0.2.9"
        assert spoof(router, "192.0.2.150", other, other.address) == "192.0.2.150"
        assert not spoof(router, "192.0.2.200", other, other.address)
        assert spoof(router, "2001:db8:9::5", other, six) == "2001:db8:9::5"
        assert not spoof(router, "2001:db8:a::5", other, six)
        # and back, where somebody routes there
        node.space.run("ip", "route", "replace", "192.0.2.0/24", "dev", router.host_name)
        assert spoof(other, other.address, router, "192.0.2.9") == node.address
        node.space.run("ip", "route", "del", "192.0.2.0/24")
        node.restart()
        assert sum(node.writes().values()) == 0, node.writes()
    sets = node.space.run("nft", "list", "set", "inet", "podwire", "sources")
    assert f'"{router.host_name}" . 192.0.2.0/25' in sets
    node.space.run("nft", "flush", "set", "inet", "podwire", "sources")
    assert "set sources lacks" in router.call("CHECK", prevResult=router.result, **allowed)[1]
    node.restart()
    assert router.call("CHECK", prevResult=router.result, **allowed) == (0, "")
    router.delete()
    assert "cali" not in node.space.run("nft", "list", "set", "inet", "podwire", "sources")
    assert "cali" not in node.space.run("nft", "list", "set", "inet", "podwire", "sources6")
