"""What somebody else takes from the kernel comes back without a restart, and without a call."""

from __future__ import annotations

import os
from typing import Any

import pytest

from podwire.kernel import monitor
from podwire.kernel.links import RTM_DELLINK, RouteSocket


@pytest.mark.parametrize(
    "damage",
    [
        ["ip", "route", "del", "{pod}/32"],
        ["ip", "route", "del", "blackhole", "10.244.1.0/26"],
        ["ip", "link", "del", "vxlan.calico"],
        ["{nft}", "delete", "table", "inet", "podwire"],
        ["{nft}", "delete", "table", "ip", "podwire"],
        ["{nft}", "delete", "table", "inet", "podwire-ports"],
    ],
    ids=lambda words: " ".join(words[:3]),
)
def test_drift_is_repaired(world: Any, tools: Any, damage: list[str]) -> None:
    one, two = world.nodes
    pod, far = one.pod("a").add(), two.pod("b").add()
    tools.until("peers", lambda: "10.244.2.0/26 via" in one.space.run("ip", "route"))
    nft = tools.nft.program()

    def state() -> tuple[list[str], list[str], bool]:
        routes = sorted(one.space.run("ip", "route").splitlines())
        tables = sorted(one.space.run(nft, "list", "tables").splitlines())
        return routes, tables, "vxlan id 4096" in one.space.run("ip", "-d", "link")

    before = state()
    one.space.run(*(word.format(pod=pod.address, nft=nft) for word in damage))
    tools.until(f"as before: {before}", lambda: state() == before)
    assert tools.talk(pod.space, far.space, far.address) == pod.address
    members = one.space.run(nft, "list", "set", "inet", "podwire", "endpoints")
    assert f'"{pod.host_name}" . {pod.address}' in members


def test_only_deletions_are_told(world: Any, tools: Any) -> None:
    node = world.nodes[0]
    heard: list[tuple[int, bytes]] = []

    def listen() -> None:
        watch = monitor.Monitor()
        try:
            with RouteSocket() as links:
                links.add_veth("one", "two")
                links.set_link(links.link_index("one") or 0, up=True)
                assert watch.wait(0, watch_end) == []
                links.delete_link(links.link_index("one") or 0)
            heard.extend(watch.wait(5, watch_end))
        finally:
            watch.close()

    watch_end, other = os.pipe()
    tools.netns.run_inside(node.space.fd, listen)
    os.close(watch_end)
    os.close(other)
    assert {kind for kind, _ in heard} == {RTM_DELLINK}
