"""What somebody else takes from a bridge comes back without a restart and without a call; what is wrong is told."""

from __future__ import annotations

from typing import Any

import pytest

from podwire.agent.config import AgentConfig
from podwire.agent.look import look
from podwire.kernel import netns
from podwire.kernel.bridges import ports
from tests.netns.agent.onbridge import add, address, host_end, shape

__all__ = ["shape"]

SILENT = [  # what the kernel gives no notice of that the agent waits for, before something that it does
    "ip link set cbr0 down",
    "ip link set {port} down",
    "bridge link set dev {port} hairpin off",
    "ip link set cbr0 promisc off",
    "ip neigh flush dev cbr0 nud permanent",
]


@pytest.mark.parametrize(
    "damage",
    [
        "ip link delete cbr0",
        "ip address flush dev cbr0 scope global",
        "ip link set {port} nomaster",
        "nft delete table bridge podwire",
        "nft delete table inet podwire_bridge",
        "nft flush set bridge podwire macs; ip link set {port} nomaster",
        *(f"{words}; nft delete table bridge podwire" for words in SILENT),
    ],
)
def test_bridge_is_repaired(world: Any, shape: dict[str, Any], tools: Any, damage: str) -> None:
    mode = "promiscMode" if "promisc" in damage else "hairpinMode"
    shape |= {"hairpinMode": False, mode: True}
    node = world.nodes[0]
    a, b = add(node.pod("a"), shape), add(node.pod("b"), shape)

    def state() -> dict[str, Any]:
        with node.space.links() as links:
            found = {port.name: port.hairpin for port in ports(links)}
        bridge = node.space.run("ip", "-o", "link", "show", "type", "bridge")
        neighbours = node.space.run("ip", "neigh", "show", "nud", "permanent")
        return {
            "ports": found,
            "modes": ["PROMISC" in bridge, ",UP" in bridge],
            "mac": bridge.partition("link/ether ")[2][:17],
            "up": [",UP" in node.space.run("ip", "link", "show", port) for port in found],
            "addresses": "10.77.1.1/24" in node.space.run("ip", "address"),
            "rules": node.space.run("nft", "-s", "list", "ruleset").count("\n"),
            "neighbours": sorted(line for line in neighbours.splitlines() if "dev cbr0" in line),
        }

    before = state()
    assert (before["modes"], len(before["ports"]), len(before["neighbours"])) == ([mode == "promiscMode", True], 2, 2)
    for words in damage.format(port=host_end(a)).split("; "):
        node.space.run(*words.split())
    tools.until("as before", lambda: state() == before)
    for pod in (a, b):
        answer = pod.call("CHECK", **shape, prevResult=pod.result)
        assert answer == (0, ""), answer[1]
    assert tools.talk(a.space, b.space, address(b)) == address(a)
    assert tools.talk(node.space, a.space, address(a)) == "10.77.1.1"
    assert tools.talk(a.space, world.outside, "203.0.113.10") == node.address


def test_a_look_names_what_is_wrong(world: Any, shape: dict[str, Any]) -> None:
    node = world.nodes[0]
    pod = add(node.pod("a"), shape)
    node.stop()
    config = AgentConfig(node_name=node.name, node_ip=node.address, state_dir=node.folder / "state")

    def faults() -> list[str]:
        with netns.inside(node.space.fd):
            (seen,) = look(config).attachments
        return sorted(seen.faults)

    assert faults() == []
    for words in (f"ip link set {host_end(pod)} down nomaster", "ip address flush dev cbr0 scope global"):
        node.space.run(*words.split())
    node.space.run("nft", "flush", "set", "bridge", "podwire", "macs")
    pod.space.run("ip", "route", "flush", "default")
    assert faults() == [
        f"{host_end(pod)} is not admitted in bridge podwire macs",
        "default route by 10.77.1.1 is missing",
        "gateway 10.77.1.1/24 is missing on cbr0",
        f"host interface {host_end(pod)} is down",
        f"host interface {host_end(pod)} is no port of cbr0",
    ]
