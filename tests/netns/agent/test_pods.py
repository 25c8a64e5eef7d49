"""Pods made by the real shim against real agents: what packets do, what `ip` shows, what survives."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from podwire.model.gvr import IPAMHANDLES, NODES


def handles(world: Any) -> set[str]:
    items, _ = world.api.do(world.api.fake.list(IPAMHANDLES))
    return {item["metadata"]["name"] for item in items}


def test_packets(world: Any, tools: Any) -> None:
    talk, until = tools.talk, tools.until
    one, two = world.nodes
    a, b, c = one.pod("a").add(), one.pod("b").add(), two.pod("c").add()
    assert talk(a.space, b.space, b.address) == a.address
    until("peers know each other", lambda: "vxlan.calico" in one.space.run("ip", "route", "show", "10.244.2.0/26"))
    assert talk(a.space, c.space, c.address) == a.address
    assert talk(c.space, b.space, b.address) == c.address
    assert talk(a.space, one.space, one.address) == a.address
    assert talk(a.space, two.space, two.address) == a.address
    assert talk(a.space, world.outside, "203.0.113.10") == one.address
    assert talk(one.space, a.space, a.address) in (one.address, "10.244.1.0")


def test_first_packet_passes(world: Any) -> None:
    one = world.nodes[0]
    for number in range(10):
        a, b = one.pod(f"a{number}").add(), one.pod(f"b{number}").add()
        with b.space.socket(socket.SOCK_DGRAM) as receiver, a.space.socket(socket.SOCK_DGRAM) as sender:
            receiver.bind((b.address, 9))
            sender.sendto(b"x", (b.address, 9))
            assert receiver.recvfrom(10)[0] == b"x", number


def test_what_ip_shows(world: Any) -> None:
    node = world.nodes[0]
    pod = node.pod("multitool").add()
    assert pod.host_name == "cali6d09fa47963"
    assert f"{pod.address} dev cali6d09fa47963 scope link \n" in node.space.run("ip", "route")
    shown = node.space.run("ip", "addr", "show", "cali6d09fa47963")
    assert "mtu 1450" in shown
    assert "ee:ee:ee:ee:ee:ee" in shown
    assert "inet6 fe80::ecee:eeff:feee:eeee/64 scope link" in shown
    assert pod.space.run("ip", "route") == "default via 169.254.1.1 dev eth0 \n169.254.1.1 dev eth0 scope link \n"
    inner = pod.space.run("ip", "addr", "show", "eth0")
    assert f"inet {pod.address}/32 scope global eth0" in inner
    assert "mtu 1450" in inner
    assert "LOOPBACK,UP" in pod.space.run("ip", "link", "show", "lo")
    assert "blackhole 10.244.1.0/26 proto 80" in node.space.run("ip", "route")
    annotations = world.api.do(world.api.fake.get(NODES, "node1"))["metadata"]["annotations"]
    assert annotations["projectcalico.org/IPv4Address"] == "172.18.0.2/16"
    tunnel = annotations["projectcalico.org/IPv4VXLANTunnelAddr"]
    assert f"inet {tunnel}/32" in node.space.run("ip", "addr", "show", "vxlan.calico")
    assert "vxlan id 4096 local 172.18.0.2 dev eth0" in node.space.run("ip", "-d", "link", "show", "vxlan.calico")
    assert json.loads(node.conflist.read_text())["name"] == "k8s-pod-network"


def test_add_again_is_the_same_and_del_gives_everything_back(world: Any, tools: Any) -> None:
    node = world.nodes[0]
    pod = node.pod("a").add()
    first = pod.result
    assert pod.add().result == first
    tools.until("the handle is written", lambda: f"k8s-pod-network.{pod.container_id}" in handles(world))
    pod.delete()
    assert "eth0" not in pod.space.run("ip", "link")
    assert pod.host_name not in node.space.run("ip", "link", "show", "up")
    assert node.space.run("ip", "route", "show", f"{pod.address}/32") == ""
    assert pod.host_name not in node.space.run(tools.nft.program(), "list", "table", "inet", "podwire")
    tools.until("host end gone", lambda: pod.host_name not in node.space.run("ip", "link"))
    pod.delete()
    tools.until("address released", lambda: f"k8s-pod-network.{pod.container_id}" not in handles(world))
    pod.add()
    assert pod.address != ""
    assert tools.talk(pod.space, node.space, node.address) == pod.address


def test_del_when_the_namespace_is_gone(world: Any, tools: Any) -> None:
    node = world.nodes[0]
    pod = node.pod("a").add()
    pod.space.close()
    code, output = pod.call("DEL", netns_path="")
    assert (code, output) == (0, "")
    tools.until("address released", lambda: f"k8s-pod-network.{pod.container_id}" not in handles(world))
    tools.until("host end gone", lambda: pod.host_name not in node.space.run("ip", "link"))


def test_a_new_sandbox_of_the_same_pod_takes_the_name_over(world: Any, tools: Any) -> None:
    node = world.nodes[0]
    old = node.pod("a", "old").add()
    new = node.pod("a", "new").add()
    assert (new.host_name, new.address != old.address) == (old.host_name, True)
    old.delete()  # comes late, and must not hurt the new one
    assert tools.talk(new.space, node.space, node.address) == new.address


def test_check_sees_drift(world: Any) -> None:
    node = world.nodes[0]
    pod = node.pod("a").add()
    assert pod.call("CHECK", prevResult=pod.result) == (0, "")
    node.space.run("ip", "route", "del", f"{pod.address}/32")
    code, output = pod.call("CHECK", prevResult=pod.result)
    assert code == 1
    assert f"route to {pod.address}" in json.loads(output)["details"]
    node.restart()  # puts it right
    assert pod.call("CHECK", prevResult=pod.result) == (0, "")
    pod.space.run("ip", "addr", "flush", "dev", "eth0")
    code, output = pod.call("CHECK", prevResult=pod.result)
    assert f"address {pod.address} is missing" in json.loads(output)["details"]
    assert pod.call("CHECK")[0] == 1


def test_restart_with_nothing_new_writes_nothing(world: Any, tools: Any) -> None:
    one, two = world.nodes
    a, c = one.pod("a").add(), two.pod("c").add()
    tools.until("peers", lambda: "10.244.2.0/26 via" in one.space.run("ip", "route"))
    before = (
        one.space.run("ip", "-d", "link"),
        one.space.run("ip", "route"),
        one.space.run(tools.nft.program(), "list", "ruleset"),
    )
    with c.space.listen(c.address) as listener, a.space.socket() as client:
        client.connect((c.address, 8080))
        connection, _ = listener.accept()
        one.stop(signal.SIGKILL)
        connection.sendall(b"while the agent is dead")
        assert client.recv(100) == b"while the agent is dead"
        one.start()
        client.sendall(b"and after")
        connection.settimeout(3)
        assert connection.recv(100) == b"and after"
        connection.close()
    assert sum(one.writes().values()) == 0, one.writes()
    assert before[:2] == (one.space.run("ip", "-d", "link"), one.space.run("ip", "route"))
    one.pod("b").add()


def test_agent_down(world: Any, tools: Any) -> None:
    node = world.nodes[0]
    pod, other = node.pod("a").add(), node.pod("b")
    node.stop(signal.SIGKILL)
    code, output = other.call("ADD")
    assert (code, json.loads(output)["code"]) == (1, 11)
    assert json.loads(pod.call("CHECK", prevResult=pod.result)[1])["code"] == 11
    assert json.loads(pod.call("STATUS")[1])["code"] == 50
    assert json.loads(pod.call("VERSION")[1])["supportedVersions"][-1] == "1.1.0"
    pod.delete()
    assert len(list((node.folder / "state" / "cni-spool").iterdir())) == 1
    node.start()
    tools.until("spooled DEL done", lambda: f"k8s-pod-network.{pod.container_id}" not in handles(world))
    tools.until("host end gone", lambda: pod.host_name not in node.space.run("ip", "link"))
    tools.until("kept DEL gone", lambda: not list((node.folder / "state" / "cni-spool").iterdir()))
    other.add()


def test_agent_killed_in_the_middle_of_an_add(world: Any, tools: Any) -> None:
    node = world.nodes[0]
    pod = node.pod("a")
    world.api.fake.latency = 1.0
    answer: list[tuple[int, str]] = []
    caller = threading.Thread(target=lambda: answer.append(pod.call("ADD")))
    caller.start()
    tools.until("veth made", lambda: ": cali" in node.space.run("ip", "link"))
    node.stop(signal.SIGKILL)
    caller.join(30)
    world.api.fake.latency = 0.0
    assert (answer[0][0], json.loads(answer[0][1])["code"]) == (1, 11)
    node.start()
    tools.until("half-made pair gone", lambda: ": cali" not in node.space.run("ip", "link"))
    tools.until("address given back", lambda: f"k8s-pod-network.{pod.container_id}" not in handles(world))
    pod.add()
    assert tools.talk(pod.space, node.space, node.address) == pod.address


def test_spoofed_source_and_unknown_interface_are_dropped(world: Any) -> None:
    node = world.nodes[0]
    a, b = node.pod("a").add(), node.pod("b").add()
    a.space.run("ip", "addr", "add", "10.244.1.200/32", "dev", "eth0")
    with b.space.socket(socket.SOCK_DGRAM) as receiver, a.space.socket(socket.SOCK_DGRAM) as sender:
        receiver.bind((b.address, 9))
        receiver.settimeout(0.3)
        sender.bind(("10.244.1.200", 0))
        sender.sendto(b"x", (b.address, 9))
        with pytest.raises(TimeoutError):
            receiver.recv(10)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"cniVersion": "9.9.9"}, 1),
        ({"name": ""}, 7),
        ({"name": "a b"}, 7),
    ],
)
def test_bad_configuration(world: Any, change: dict[str, str], code: int) -> None:
    exit_code, output = world.nodes[0].pod("a").call("ADD", **change)
    assert (exit_code, json.loads(output)["code"]) == (1, code)


def test_old_versions_get_their_shape(world: Any) -> None:
    pod = world.nodes[0].pod("a")
    code, output = pod.call("ADD", cniVersion="0.3.1")
    assert code == 0, output
    assert json.loads(output)["ips"][0]["version"] == "4"


def test_a_node_joins_and_leaves(world: Any, tools: Any) -> None:
    one, _ = world.nodes
    tools.until("route there", lambda: "10.244.2.0/26 via" in one.space.run("ip", "route"))
    world.api.do(world.api.fake.delete(NODES, "node2"))
    tools.until(
        "neighbour gone", lambda: "10.244.2.0" not in one.space.run("ip", "neigh", "show", "dev", "vxlan.calico")
    )


def test_conflist_is_written_atomically_and_readable(world: Any) -> None:
    node = world.nodes[0]
    assert node.conflist.stat().st_mode & 0o777 == 0o644
    assert (node.bin_dir / "podwire").stat().st_mode & 0o777 == 0o755
    assert sorted(path.name for path in Path(node.conflist.parent).iterdir()) == ["05-podwire.conflist"]


def test_many_calls_at_once_leave_nothing_behind(world: Any, tools: Any) -> None:
    node = world.nodes[0]

    def descriptors() -> int:
        return len(list(Path(f"/proc/{node.agent.pid}/fd").iterdir()))

    def cycle(number: int) -> None:
        pod = node.pod(f"p{number}")
        pod.add()
        pod.delete()
        pod.space.close()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(cycle, range(16)))  # threads and sockets that stay are open now
        before = descriptors()
        list(pool.map(cycle, range(16, 96)))
    tools.until("addresses released", lambda: not [h for h in handles(world) if h.startswith("k8s-pod-network")])
    tools.until("links gone", lambda: not [n for n in ("cali", "pw") if f": {n}" in node.space.run("ip", "link")])
    assert "dev cali" not in node.space.run("ip", "route")
    assert '"cali' not in node.space.run(tools.nft.program(), "list", "set", "inet", "podwire", "endpoints")
    # handles are written in a lull: that there is none does not yet say that all was released
    tools.until("records gone", lambda: not list((node.folder / "state" / "attachments").iterdir()))
    # the agent's threads (at most eight for ADDs and eight for the rest here) keep two sockets each
    assert descriptors() < before + 40


def test_api_down(world: Any, tools: Any) -> None:
    node = world.nodes[0]
    pod, other = node.pod("a").add(), node.pod("b")
    world.api.fake.fail_next(times=100_000)
    code, output = other.call("ADD")
    assert (code, json.loads(output)["code"]) == (1, 11)
    pod.delete()  # answered; the address is given back once the API is there again
    world.api.fake._faults.clear()
    tools.until("address released", lambda: f"k8s-pod-network.{pod.container_id}" not in handles(world))
    other.add()
    assert tools.talk(other.space, node.space, node.address) == other.address


def test_a_node_reborn_without_its_memory_frees_what_its_former_life_held(world: Any, tools: Any) -> None:
    node = world.nodes[0]
    pod = node.pod("a").add()
    node.stop(signal.SIGKILL)
    shutil.rmtree(node.folder / "state")
    node.space.run("ip", "link", "del", pod.host_name)  # with the namespace, in life
    node.start()
    tools.until("address released", lambda: f"k8s-pod-network.{pod.container_id}" not in handles(world))
    node.pod("b").add()
