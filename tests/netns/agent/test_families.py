"""IPv6 and dual-stack pods, and what annotations ask: by real packets."""

from __future__ import annotations

import json
import socket
from typing import Any

import pytest

from podwire.kernel import netns
from podwire.model.gvr import IPPOOLS, NAMESPACES, NODES, PODS

DUAL = {"ipam": {"type": "podwire-ipam", "assign_ipv4": "true", "assign_ipv6": "true"}}
SIX = {"ipam": {"type": "podwire-ipam", "assign_ipv4": "false", "assign_ipv6": "true"}}


@pytest.fixture
def six(world: Any) -> Any:
    """The world with a pool of IPv6 addresses."""
    pool = {"cidr": "fd00:10:244::/48", "blockSize": 122, "natOutgoing": False, "nodeSelector": "all()"}
    world.api.do(world.api.fake.create(IPPOOLS, {"metadata": {"name": "six"}, "spec": pool}))
    return world


def add(pod: Any, **config: Any) -> list[str]:
    """The addresses that the pod got."""
    code, output = pod.call("ADD", **config)
    assert code == 0, output
    pod.result = json.loads(output)
    return [row["address"].partition("/")[0] for row in pod.result["ips"]]


def ask(source: Any, target: Any, address: str, bind: str = "") -> str | None:
    """Who asks, as `target` sees it over UDP; None when nothing arrives."""
    with netns.inside(target.fd):
        receiver = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
    with netns.inside(source.fd):
        sender = socket.socket(receiver.family, socket.SOCK_DGRAM)
    with receiver, sender:
        receiver.bind((address, 9))
        receiver.settimeout(0.3 if bind else 3)
        if bind:
            sender.bind((bind, 0))
        sender.sendto(b"x", (address, 9))
        try:
            return str(receiver.recvfrom(10)[1][0])
        except TimeoutError:
            return None


def test_dual_stack(six: Any) -> None:
    node = six.nodes[0]
    one, two = node.pod("a"), node.pod("b")
    a, b = add(one, **DUAL), add(two, **DUAL)
    assert [":" in address for address in a] == [False, True]
    for mine, theirs in zip(a, b, strict=True):
        assert ask(one.space, two.space, theirs) == mine
        assert ask(two.space, one.space, mine) == theirs
    assert one.result["ips"][1] == {"address": f"{a[1]}/128", "gateway": "fe80::ecee:eeff:feee:eeee", "interface": 1}
    assert {"dst": "::/0", "gw": "fe80::ecee:eeff:feee:eeee"} in one.result["routes"]
    assert f"{a[1]} dev {one.host_name}" in node.space.run("ip", "-6", "route")
    shown = one.space.run("ip", "-6", "addr", "show", "dev", "eth0", "scope", "global")
    assert a[1] in shown
    assert "tentative" not in shown
    assert one.call("CHECK", prevResult=one.result, **DUAL) == (0, "")
    assert add(one, **DUAL) == a
    node.restart()
    assert one.call("CHECK", prevResult=one.result, **DUAL) == (0, "")
    one.space.run("ip", "-6", "addr", "flush", "dev", "eth0", "scope", "global")
    assert a[1] in json.loads(one.call("CHECK", prevResult=one.result, **DUAL)[1])["details"]
    one.delete()
    assert f"{a[1]} dev" not in node.space.run("ip", "-6", "route")


def test_ipv6_alone_where_it_was_switched_off(six: Any) -> None:
    node = six.nodes[0]
    one, two = node.pod("a"), node.pod("b")
    for pod in (one, two):
        with netns.inside(pod.space.fd):
            for name in ("all", "default"):
                netns.write_sysctl(f"net/ipv6/conf/{name}/disable_ipv6", "1")
    (a,), (b,) = add(one, **SIX), add(two, **SIX)
    assert ask(one.space, two.space, b) == a
    assert "inet " not in one.space.run("ip", "addr", "show", "eth0")


def test_ipv6_sources_are_not_spoofed(six: Any) -> None:
    node = six.nodes[0]
    one, two = node.pod("a"), node.pod("b")
    (a,), (b,) = add(one, **SIX), add(two, **SIX)
    one.space.run("ip", "addr", "add", "fd00:10:244::dead/128", "dev", "eth0", "nodad")
    assert ask(one.space, two.space, b, bind="fd00:10:244::dead") is None
    assert ask(one.space, two.space, b, bind=a) == a


def known(world: Any, name: str, annotations: dict[str, str], namespace: dict[str, str] | None = None) -> None:
    """The API has the pod, and its namespace."""
    create = world.api.fake.create
    world.api.do(create(NAMESPACES, {"metadata": {"name": "default", "annotations": namespace or {}}}))
    meta = {"name": name, "namespace": "default", "annotations": annotations}
    world.api.do(create(PODS, {"metadata": meta, "spec": {"nodeName": "node1", "containers": []}}))


def test_annotations_pin_address_and_mac(world: Any, tools: Any) -> None:
    node = world.nodes[0]
    prefix = "cni.projectcalico.org/"
    known(world, "a", {prefix + "ipAddrs": '["10.244.1.40"]', prefix + "hwAddr": "1c:0c:0a:c0:ff:ee"})
    pod = node.pod("a", "first").add()
    assert pod.address == "10.244.1.40"
    assert pod.result["interfaces"][1]["mac"] == "1c:0c:0a:c0:ff:ee"
    assert "1c:0c:0a:c0:ff:ee" in pod.space.run("ip", "link", "show", "eth0")
    assert tools.talk(pod.space, node.space, node.address) == pod.address
    again = node.pod("a", "second").add()  # the next sandbox of the same pod keeps its address
    assert again.address == "10.244.1.40"
    pod.delete()
    assert tools.talk(again.space, node.space, node.address) == again.address


def test_a_malformed_annotation_is_refused_and_leaves_nothing(world: Any) -> None:
    node = world.nodes[0]
    known(world, "a", {"cni.projectcalico.org/ipAddrs": "10.244.1.40"})
    code, output = node.pod("a").call("ADD")
    answer = json.loads(output)
    assert (code, answer["code"]) == (1, 7)
    assert "cni.projectcalico.org/ipAddrs of pod default/a" in answer["msg"]
    assert not list((node.folder / "state" / "attachments").iterdir())


def test_a_pool_by_annotation_of_the_namespace(world: Any) -> None:
    node = world.nodes[0]
    spec = {"cidr": "10.200.0.0/24", "blockSize": 28, "nodeSelector": "!all()"}
    world.api.do(world.api.fake.create(IPPOOLS, {"metadata": {"name": "extra"}, "spec": spec}))
    known(world, "a", {}, {"cni.projectcalico.org/ipv4pools": '["extra"]'})
    assert node.pod("a").add().address.startswith("10.200.0.")


def test_sysctls_and_mtu_of_the_configuration(world: Any) -> None:
    pod = world.nodes[0].pod("a")
    add(pod, mtu=1300, sysctl={"net.core.somaxconn": "321", "net.ipv4.conf.IFNAME.arp_filter": "1"})
    with netns.inside(pod.space.fd):
        assert netns.read_sysctl("net/core/somaxconn") == "321"
        assert netns.read_sysctl("net/ipv4/conf/eth0/arp_filter") == "1"
    assert "mtu 1300" in pod.space.run("ip", "link", "show", "eth0")
    bad = world.nodes[0].pod("b")
    code, output = bad.call("ADD", sysctl={"kernel.panic": "1"})
    assert (code, json.loads(output)["code"]) == (1, 7)


@pytest.fixture
def tunnelled(world: Any) -> Any:
    """The world with IPv6 addresses that go between nodes inside the tunnel."""
    pool = {"cidr": "fd00:10:244::/56", "blockSize": 122, "vxlanMode": "Always", "nodeSelector": "all()"}
    world.api.do(world.api.fake.create(IPPOOLS, {"metadata": {"name": "six"}, "spec": pool}))
    return world


def test_both_families_between_nodes_over_an_ipv4_underlay(tunnelled: Any, tools: Any) -> None:
    first, second = tunnelled.nodes
    one, two = first.pod("a"), second.pod("b")
    a, b = add(one, **DUAL), add(two, **DUAL)

    def end(node: Any) -> str:
        annotations = tunnelled.api.do(tunnelled.api.fake.get(NODES, node.name))["metadata"]["annotations"]
        return str(annotations.get("projectcalico.org/IPv6VXLANTunnelAddr", ""))

    def six(node: Any, what: str) -> str:
        return str(node.space.run("ip", "-6", what, "show", "dev", "vxlan.calico"))

    tools.until("tunnel addresses", lambda: bool(end(first) and end(second)))
    for node, peer in ((first, second), (second, first)):
        tools.until("route to the peer", lambda node=node, peer=peer: f"via {end(peer)} " in six(node, "route"))
        assert f"{end(node)}/128" in six(node, "address")
        assert f"{end(peer)} lladdr" in six(node, "neigh")
    for mine, theirs in zip(a, b, strict=True):
        assert ask(one.space, two.space, theirs) == mine
        assert ask(two.space, one.space, mine) == theirs
    assert ask(first.space, two.space, b[1]) == end(first), "a node's own traffic can be answered"

    routes = six(first, "route")
    first.restart()
    assert sum(first.writes().values()) == 0, "a start with nothing new writes nothing"
    assert six(first, "route") == routes
    second.stop()
    tunnelled.api.do(tunnelled.api.fake.delete(NODES, second.name))
    tools.until("the peer forgotten", lambda: "PERMANENT" not in six(first, "neigh"))
