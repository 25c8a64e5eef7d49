"""A node that Podwire leaves is as it was: nothing of ours in the kernel, everything of others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from podwire.agent import wipe
from podwire.cni.install import Places
from podwire.kernel import netns
from podwire.kernel.links import RouteSocket
from tests.netns.agent.test_others_tables import FOREIGN

BRIDGED = {"wiring": "bridge", "bridge": "cbr0", "isGateway": True, "ipam": {"type": "podwire-ipam"}}
LIMITED = {
    "bandwidth": {
        "ingressRate": 1_000_000,
        "ingressBurst": 1_000_000,
        "egressRate": 1_000_000,
        "egressBurst": 1_000_000,
    }
}
PORT = {"portMappings": [{"hostPort": 8088, "containerPort": 80, "protocol": "tcp"}]}


def places(node: Any) -> Places:
    return Places(node.folder / "net.d", node.bin_dir, node.folder / "run/cni.sock", node.folder / "state/cni-spool")


def picture(node: Any) -> dict[str, list[str]]:
    """Everything of the node's network that a stranger sees."""
    asks = {
        "links": ("ip", "-br", "link"),
        "addresses": ("ip", "-br", "address"),
        "routes": ("ip", "route", "show", "table", "all"),
        "routes6": ("ip", "-6", "route", "show", "table", "all"),
        "rules": ("ip", "rule"),
        "neighbours": ("ip", "neighbour", "show", "nud", "permanent"),
        "tables": ("nft", "-s", "list", "ruleset"),
    }
    return {name: sorted(node.space.run(*words).splitlines()) for name, words in asks.items()}


def of_node(node: Any, call: Any) -> Any:
    def work() -> Any:
        with RouteSocket() as socket:
            return call(places(node), socket)

    return netns.run_inside(node.space.fd, work)


def test_nothing_of_ours_is_left(world: Any, tools: Any) -> None:
    node = world.nodes[0]
    node.stop()
    of_node(node, wipe.wipe)  # as before the agent
    with RouteSocket(netns_fd=node.space.fd) as links:
        links.add_bridge("br-site")
        links.add_veth("uncalled", "elsewhere")
        links.add_route("198.51.100.0/24", index=links.link_index("eth0") or 0)
    tools.netns.run_inside(node.space.fd, lambda: tools.nft.run(FOREIGN))
    tools.until(
        "an address of IPv6", lambda: "local fe80" in node.space.run("ip", "-6", "route", "show", "table", "all")
    )
    before = picture(node)
    node.start()
    for name, capabilities in (("a", {}), ("b", PORT), ("c", LIMITED)):
        node.pod(name).add(capabilities=dict.fromkeys(capabilities, True), runtimeConfig=capabilities)
    node.pod("d").add(**BRIDGED)
    tools.until("a route to the other node", lambda: "vxlan.calico" in node.space.run("ip", "route"))
    node.stop()
    during = picture(node)
    assert all(during[name] != before[name] for name in ("links", "routes", "tables", "neighbours"))
    assert of_node(node, wipe.users) == ["default/a", "default/b", "default/c", "default/d"]

    removed = of_node(node, wipe.wipe)

    assert {"vxlan.calico", "cbr0", "table inet podwire", "table arp podwire", "table ip podwire"} <= set(removed)
    after = picture(node)
    for name, lines in before.items():
        assert after[name] == lines, (name, set(lines) ^ set(after[name]))
    assert sorted(path.name for path in (node.folder / "state").iterdir()) == []
    assert not list((node.folder / "run").glob("*.sock"))
    assert of_node(node, wipe.wipe) == []
    assert of_node(node, wipe.users) == []


def test_a_pod_that_ended_uses_nothing(world: Any) -> None:
    """Its namespace is gone, and the host end with it; one whose namespace is kept has been deleted on record."""
    node = world.nodes[0]
    a, b = node.pod("a").add(), node.pod("b").add()
    node.stop()
    a.space.close()
    b.delete()  # kept by the shim: nobody answers
    assert "default/a" not in of_node(node, wipe.users)


def test_calicos_interfaces_are_not_ours_to_remove(world: Any) -> None:
    node = world.nodes[0]
    node.pod("a").add()
    node.stop()
    listed = {"name": "k8s-pod-network", "cniVersion": "0.3.1", "plugins": [{"type": "calico"}, {"type": "portmap"}]}
    Path(node.folder / "net.d/10-calico.conflist").write_text(json.dumps(listed))
    before = picture(node)
    with pytest.raises(wipe.WipeError, match=r"10-calico\.conflist: Calico is on this node"):
        of_node(node, wipe.wipe)
    assert picture(node) == before


def test_labs_of_this_machine_stay(world: Any) -> None:
    node = world.nodes[0]
    node.stop()
    (node.folder / "state/labs/mine").mkdir(parents=True)
    of_node(node, wipe.wipe)
    assert [path.name for path in (node.folder / "state").iterdir()] == ["labs"]
