"""Bandwidth limits with packets: each direction is slowed to about its rate, nothing is left when the pod goes."""

from __future__ import annotations

import json
import socket
import threading
import time
from typing import Any

import pytest

from tests.netns.agent.onbridge import shape

__all__ = ["shape"]  # a fixture

RATE = 16_000_000
SIZE = 2_000_000  # bytes: a second at the rate
LIMITS = {"ingressRate": RATE, "ingressBurst": 800_000, "egressRate": RATE, "egressBurst": 800_000}


def asking(**limits: int) -> dict[str, Any]:
    return {"runtimeConfig": {"bandwidth": limits}}


def transfer(source: Any, target: Any, address: str) -> float:
    """Seconds for SIZE bytes from one namespace to the other."""
    with target.listen(address) as listener, source.socket() as client:
        client.settimeout(30)
        client.connect((address, 8080))
        server, _ = listener.accept()
        server.settimeout(30)
        sender = threading.Thread(target=lambda: (client.sendall(bytes(SIZE)), client.shutdown(socket.SHUT_WR)))
        begin = time.monotonic()
        sender.start()
        with server:
            got = sum(len(part) for part in iter(lambda: server.recv(1 << 16), b""))
        spent = time.monotonic() - begin
        sender.join()
    assert got == SIZE
    return spent


def ifbs(node: Any) -> list[str]:
    with node.space.links() as links:
        return [link.name for link in links.links() if link.kind == "ifb"]


def test_each_direction_has_its_rate(world: Any, tools: Any) -> None:
    """At the least what the rate takes for what the bucket does not hold; unshaped is many times faster."""
    one = world.nodes[0]
    pod, free = one.pod("limited").add(**asking(**LIMITS)), one.pod("free").add()
    unshaped = min(transfer(one.space, free.space, free.address) for _ in range(3))
    least = (SIZE - 100_000) * 8 / RATE
    inward = transfer(one.space, pod.space, pod.address)
    outward = transfer(pod.space, one.space, one.address)
    assert inward > least * 0.9, inward
    assert outward > least * 0.9, outward
    assert min(inward, outward) > 3 * unshaped
    assert len(ifbs(one)) == 1
    assert pod.call("CHECK", prevResult=pod.result, **asking(**LIMITS)) == (0, "")
    pod.delete()
    tools.until("no ifb is left", lambda: ifbs(one) == [])


def test_limits_outlive_the_agent(world: Any, tools: Any) -> None:
    one = world.nodes[0]
    pod = one.pod("limited").add(**asking(ingressRate=RATE, ingressBurst=800_000, egressRate=RATE, egressBurst=800_000))
    before = one.space.run("ip", "-d", "link", "show", "type", "ifb")
    one.restart()
    assert one.writes().get("rtnetlink", 0) == 0
    assert one.space.run("ip", "-d", "link", "show", "type", "ifb") == before
    one.space.run("ip", "link", "delete", ifbs(one)[0])
    code, output = pod.call("CHECK", prevResult=pod.result)
    assert (code, json.loads(output)["code"]) == (1, 100)
    assert "egress" in output
    one.restart()
    assert pod.call("CHECK", prevResult=pod.result) == (0, "")
    one.stop()
    one.space.run("ip", "link", "delete", pod.host_name)
    pod.call("DEL")  # kept by the shim
    one.start()
    tools.until("no ifb is left", lambda: ifbs(one) == [])


@pytest.mark.parametrize("wiring", ["routed", "bridge"])
def test_a_del_without_a_record_leaves_no_ifb(world: Any, tools: Any, shape: dict[str, Any], wiring: str) -> None:
    node = world.nodes[0]
    config = shape if wiring == "bridge" else {}
    pod = node.pod("slow").add(**config, **asking(**LIMITS))
    assert len(ifbs(node)) == 1
    node.stop()
    for file in (node.folder / "state" / "attachments").glob("*.json"):
        file.unlink()
    node.start()
    assert pod.call("DEL", **config, **asking(**LIMITS)) == (0, "")
    tools.until("no ifb is left", lambda: ifbs(node) == [])


def test_bandwidth_behind_another_plugin(world: Any) -> None:
    one = world.nodes[0]
    pod = one.pod("a").add()
    role = {"program": "bandwidth", "type": "bandwidth"}
    code, output = pod.call("ADD", **role, prevResult=pod.result, **asking(**LIMITS))
    assert code == 0, output
    result = json.loads(output)
    (middle,) = ifbs(one)
    assert [interface["name"] for interface in result["interfaces"]] == [pod.host_name, "eth0", middle]
    assert middle.startswith("bwp")
    assert result["ips"] == pod.result["ips"]
    assert pod.call("CHECK", **role, prevResult=result, **asking(**LIMITS)) == (0, "")
    code, output = pod.call("ADD", **role, prevResult=pod.result, **asking(**LIMITS))
    assert (code, json.loads(output)) == (0, result)
    assert pod.call("DEL", **role) == (0, "")
    with one.space.links() as links:
        assert all(link.group != 0 or link.kind != "ifb" for link in links.links())
    assert "tbf" not in one.space.run("ip", "link", "show", pod.host_name)
    # the plugin's own configuration does where a runtime gives nothing
    code, output = pod.call("ADD", **role, prevResult=pod.result, ingressRate=RATE, ingressBurst=RATE)
    assert (code, json.loads(output)) == (0, pod.result)
    assert "tbf" in one.space.run("ip", "link", "show", pod.host_name)


def test_bandwidth_refuses(world: Any) -> None:
    pod = world.nodes[0].pod("a").add()
    cases: list[tuple[dict[str, Any], int, str]] = [
        ({}, 7, "bandwidth must stand behind another plugin"),
        ({"prevResult": pod.result, "unshapedSubnets": ["10.0.0.0/8"]} | asking(**LIMITS), 2, "unshapedSubnets"),
        ({"prevResult": pod.result} | asking(ingressRate=1000), 7, "burst"),
    ]
    for config, code, text in cases:
        failed, output = pod.call("ADD", program="bandwidth", type="bandwidth", **config)
        error = json.loads(output)
        assert (failed, error["code"]) == (1, code), error
        assert text in error["msg"]
