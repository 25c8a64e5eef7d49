"""Pods on a bridge, by the real shim and agents: who reaches whom, who may not, what is left, what survives."""

from __future__ import annotations

import json
import os
import socket
import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from podwire.kernel import netns, nft
from podwire.kernel.bridges import ports
from tests.netns.agent.onbridge import add, address, host_end, shape

__all__ = ["shape"]


def test_kubenets_shape(world: Any, shape: dict[str, Any], tools: Any) -> None:
    node = world.nodes[0]
    a, b = add(node.pod("a"), shape), add(node.pod("b"), shape)
    assert a.result["ips"] == [{"address": "10.77.1.2/24", "gateway": "10.77.1.1", "interface": 2}]
    assert a.result["routes"] == [{"dst": "0.0.0.0/0", "gw": "10.77.1.1"}]
    assert [one["name"] for one in a.result["interfaces"]] == ["cbr0", host_end(a), "eth0"]
    assert "10.77.1.1/24" in node.space.run("ip", "address", "show", "cbr0")
    assert "10.77.1.0/24 dev cbr0" in node.space.run("ip", "route")
    assert "default via 10.77.1.1" in a.space.run("ip", "route")
    with node.space.links() as links:
        assert {port.name: port.hairpin for port in ports(links)} == {host_end(a): True, host_end(b): True}
    talk = tools.talk
    assert talk(a.space, b.space, address(b)) == address(a)
    assert talk(node.space, a.space, address(a)) == "10.77.1.1"
    assert talk(a.space, node.space, "10.77.1.1") == address(a)
    assert talk(a.space, world.outside, "203.0.113.10") == node.address
    # again for the same attachment: the same answer; CHECK agrees; DEL leaves nothing but the bridge
    assert json.loads(a.call("ADD", **shape)[1]) == a.result
    assert a.call("CHECK", **shape, prevResult=a.result) == (0, "")
    a.call("DEL", **shape, prevResult=a.result)
    assert a.call("DEL", **shape, prevResult=a.result) == (0, "")
    tools.until("the file is gone", lambda: not Path(shape["ipam"]["dataDir"], "k8s-pod-network", "10.77.1.2").exists())
    with node.space.links() as links:
        assert links.link(host_end(a)) is None
    assert a.space.run("ip", "-o", "link").count("\n") == 1
    assert talk(node.space, b.space, address(b)) == "10.77.1.1"


def test_the_first_packet_passes(world: Any, shape: dict[str, Any]) -> None:
    node = world.nodes[0]
    for number in range(8):
        a, b = add(node.pod(f"a{number}"), shape), add(node.pod(f"b{number}"), shape)
        with b.space.socket(socket.SOCK_DGRAM) as receiver, a.space.socket(socket.SOCK_DGRAM) as sender:
            receiver.bind((address(b), 9))
            sender.sendto(b"x", (address(b), 9))
            assert receiver.recvfrom(10)[0] == b"x", number


@pytest.mark.parametrize(
    ("mode", "filtered"),
    [("hairpinMode", "1"), ("hairpinMode", "0"), ("promiscMode", "0")],
    ids=["hairpin, br_netfilter on", "hairpin, br_netfilter off", "promiscuous, br_netfilter off"],
)
def test_a_pod_reaches_itself_by_a_service(world: Any, shape: dict[str, Any], mode: str, filtered: str) -> None:
    """What leaves by a port comes back by the same one."""
    node = world.nodes[0]
    with netns.inside(node.space.fd):
        if Path("/proc/sys/net/bridge").exists():
            netns.write_sysctl("net/bridge/bridge-nf-call-iptables", filtered)
    pod = add(node.pod("self"), {**shape, "hairpinMode": False, mode: True})
    with netns.inside(node.space.fd):
        nft.run(
            "table ip service {\nchain in {\ntype nat hook prerouting priority dstnat\n"
            f"ip daddr 10.96.0.99 dnat to {address(pod)}\n}}\nchain out {{\ntype nat hook postrouting priority 90\n"
            f"ip saddr {address(pod)} ip daddr {address(pod)} masquerade\n}}\n}}\n"
        )
    with pod.space.listen(address(pod)), pod.space.socket() as client:
        client.connect(("10.96.0.99", 8080))


def frame(target: str, source: str, kind: int, payload: bytes) -> bytes:
    return (
        bytes.fromhex(target.replace(":", ""))
        + bytes.fromhex(source.replace(":", ""))
        + struct.pack(">H", kind)
        + payload
    )


def arp(operation: int, mac: str, sender: str, target: str) -> bytes:
    raw = bytes.fromhex(mac.replace(":", ""))
    head = struct.pack(">HHBBH", 1, 0x0800, 6, 4, operation)
    return head + raw + socket.inet_aton(sender) + bytes(6) + socket.inet_aton(target)


def test_nobody_speaks_for_another(world: Any, shape: dict[str, Any]) -> None:
    """Neither by address, nor by ARP, nor by MAC; and what is not admitted is closed."""
    node = world.nodes[0]
    a, b = add(node.pod("a"), shape), add(node.pod("b"), shape)
    mac, other = (str(pod.result["interfaces"][2]["mac"]) for pod in (a, b))
    gateway = str(a.result["interfaces"][0]["mac"])

    def sees(sent: bytes) -> bool:
        """Whether b's interface gets the frame (marked by its end) from a."""
        marked = sent + os.urandom(8)
        with netns.inside(b.space.fd):
            receiver = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
            receiver.bind(("eth0", 3))
        with netns.inside(a.space.fd):
            sender = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
            sender.bind(("eth0", 0))
        with receiver, sender:
            sender.send(marked)
            # an honest frame behind it: when that one is there, the other would be, too
            end = honest + os.urandom(8)
            sender.send(end)
            receiver.settimeout(5)
            found = False
            while True:
                got = receiver.recv(2000)
                found |= marked[-8:] in got
                if end[-8:] in got:
                    return found

    def ip(source: str, target: str) -> bytes:
        ends = socket.inet_aton(source) + socket.inet_aton(target)
        total = sum(struct.unpack(">10H", struct.pack(">BBHHHBBH", 0x45, 0, 28, 1, 0, 64, 253, 0) + ends))
        check = 0xFFFF - (total + (total >> 16) & 0xFFFF)
        return struct.pack(">BBHHHBBH", 0x45, 0, 28, 1, 0, 64, 253, check) + ends

    honest = frame(other, mac, 0x0800, ip(address(a), address(b)))
    assert sees(frame(other, mac, 0x0806, arp(1, mac, address(a), address(b))))
    assert not sees(frame(other, mac, 0x0800, ip("10.77.1.99", address(b))))
    assert not sees(frame(other, gateway, 0x0800, ip(address(a), address(b))))
    assert not sees(frame(other, mac, 0x0806, arp(2, mac, "10.77.1.1", address(b))))
    assert not sees(frame("ff:ff:ff:ff:ff:ff", mac, 0x0806, arp(1, mac, address(a), "10.77.1.77")))
    assert not sees(frame(other, mac, 0x88CC, bytes(40)))
    assert not sees(frame(other, mac, 0x86DD, b"\x60" + bytes(60)))
    with netns.inside(node.space.fd):
        nft.run(f'delete element bridge podwire endpoints {{ "{host_end(a)}" . {address(a)} }}\n')
    code, output = a.call("CHECK", **shape, prevResult=a.result)
    assert code == 1 and "is not admitted in bridge podwire endpoints" in output
    with a.space.socket() as client:
        client.settimeout(0.3)
        assert client.connect_ex((address(b), 8080)) != 0


def test_an_agents_restart_drops_nothing_and_writes_nothing(world: Any, shape: dict[str, Any], tools: Any) -> None:
    node = world.nodes[0]
    a, b = add(node.pod("a"), shape), add(node.pod("b"), shape)
    with b.space.listen(address(b)) as listener, a.space.socket() as client:
        client.connect((address(b), 8080))
        connection, _ = listener.accept()
        before = node.space.run("nft", "-s", "list", "ruleset")
        node.restart()
        assert node.writes().get("nf_tables", 0) == node.writes().get("nft", 0) == 0
        assert node.space.run("nft", "-s", "list", "ruleset") == before
        client.sendall(b"still")
        connection.settimeout(5)
        assert connection.recv(5) == b"still"
        connection.close()
    assert a.call("CHECK", **shape, prevResult=a.result) == (0, "")
    a.call("DEL", **shape, prevResult=a.result)
    assert address(a) not in node.space.run("nft", "list", "ruleset")


def test_refused(world: Any, shape: dict[str, Any]) -> None:
    pod = world.nodes[0].pod("bad")
    table: list[tuple[dict[str, Any], int, str]] = [
        ({"promiscMode": True}, 7, "cannot set hairpin mode and promiscuous mode at the same time."),
        ({"vlan": 7}, 2, "vlan does not work with Podwire's bridge wiring"),
        ({"bridge": "calibridge"}, 7, "bridge is no name for a bridge"),
        ({"bridge": "lo"}, 999, "not a bridge"),
        ({"mtu": 12}, 7, "mtu is no number from 68 to 65535"),
        ({"isGateway": "yes"}, 7, "isGateway is neither true nor false"),
        ({"ipam": {"type": "dhcp"}}, 7, "ipam.type is none of host-local, podwire-ipam"),
        ({"ipam": {"type": "host-local"}}, 7, "no IP ranges specified"),
    ]
    for more, code, words in table:
        status, output = pod.call("ADD", **{**shape, **more})
        answer = json.loads(output)
        assert (status, answer["code"]) == (1, code), answer
        assert words in answer["msg"] + answer.get("details", "")
        assert pod.space.run("ip", "-o", "link").count("\n") == 1


def through(node: Any, client: Any, server: Any, port: int = 18080) -> str:
    """The address that the pod `server` sees when `client` speaks to its host port."""
    with server.space.listen(address(server)) as listener, client.space.socket() as speaker:
        speaker.connect((node.address, port))
        speaker.sendall(b"hello")
        connection, peer = listener.accept()
        with connection:
            connection.settimeout(3)
            assert connection.recv(5) == b"hello"
        return str(peer[0])


@pytest.mark.parametrize("filtered", ["1", "0"], ids=["br_netfilter on", "br_netfilter off"])
def test_host_ports_and_bandwidth(world: Any, shape: dict[str, Any], tools: Any, filtered: str) -> None:
    node = world.nodes[0]
    with netns.inside(node.space.fd):
        if Path("/proc/sys/net/bridge").exists():  # else there is no br_netfilter, and so it is off
            netns.write_sysctl("net/bridge/bridge-nf-call-iptables", filtered)
    runtime = {
        "portMappings": [{"hostPort": 18080, "containerPort": 8080, "protocol": "tcp"}],
        "bandwidth": {"ingressRate": 8_000_000, "ingressBurst": 8_000_000, "egressRate": 0, "egressBurst": 0},
    }
    pod = add(node.pod("a"), shape, runtimeConfig=runtime)
    with pod.space.listen(address(pod)) as listener, world.outside.socket() as client:
        client.connect((node.address, 18080))
        connection, peer = listener.accept()
        connection.close()
        assert peer[0] == "203.0.113.10"
    assert through(node, pod, pod)  # out of the bridge and back by the same port
    assert through(node, add(node.pod("b"), shape), pod)
    assert "tbf" in node.space.run("tc", "qdisc", "show", "dev", host_end(pod))
    pod.call("DEL", **shape, prevResult=pod.result)
    with world.outside.socket() as client:
        client.settimeout(0.5)
        assert client.connect_ex((node.address, 18080)) != 0


def test_promiscuous_and_blocks(world: Any, shape: dict[str, Any], tools: Any) -> None:
    node = world.nodes[0]
    odd = {**shape, "bridge": "br-odd", "promiscMode": True, "hairpinMode": False, "ipam": {"type": "podwire-ipam"}}
    a, b = add(node.pod("a"), odd), add(node.pod("b"), odd)
    assert "PROMISC" in node.space.run("ip", "link", "show", "br-odd")
    assert a.result["ips"][0]["address"].endswith("/32")
    assert tools.talk(a.space, b.space, address(b)) == address(a)
    assert tools.talk(a.space, world.outside, "203.0.113.10") == node.address


def test_an_exhausted_range_says_so_and_recovers(world: Any, shape: dict[str, Any], tools: Any) -> None:
    node = world.nodes[0]
    tiny = {**shape, "ipam": {**shape["ipam"], "ranges": [[{"subnet": "10.77.1.0/30"}]]}}
    a, late = add(node.pod("a"), tiny), node.pod("late")
    code, output = late.call("ADD", **tiny)
    answer = json.loads(output)
    assert (code, answer["code"]) == (1, 11)
    assert (
        answer["msg"] == "failed to allocate for range 0: no IP addresses available in range set: 10.77.1.1-10.77.1.2"
    )
    a.call("DEL", **tiny, prevResult=a.result)
    tools.until("room again", lambda: late.call("ADD", **tiny)[0] == 0)


def test_many_at_once_and_collection(world: Any, shape: dict[str, Any], tools: Any) -> None:
    node = world.nodes[0]
    pods = [node.pod(f"p{number}") for number in range(16)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda pod: add(pod, shape), pods))
    assert len({address(pod) for pod in pods}) == 16
    keep = pods[:3]
    valid = [{"containerID": pod.container_id, "ifname": "eth0"} for pod in keep]
    folder = Path(shape["ipam"]["dataDir"], "k8s-pod-network")
    (folder / "10.77.1.200").write_text("left-over\r\neth0")
    code, output = keep[0].call("GC", **{**shape, "cniVersion": "1.1.0", "cni.dev/valid-attachments": valid})
    assert code == 0, output
    wanted = {address(pod) for pod in keep}
    tools.until("files of the living", lambda: {p.name for p in folder.iterdir() if p.name[0] == "1"} == wanted)
    with node.space.links() as links:
        assert {port.name for port in ports(links)} == {host_end(pod) for pod in keep}
    assert tools.talk(keep[0].space, keep[1].space, address(keep[1])) == address(keep[0])
