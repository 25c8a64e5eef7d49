"""The node's loopback belongs to the node: pods do not reach it, and host ports on 127.0.0.1 need no opening of it."""

from __future__ import annotations

import contextlib
import socket
import struct
from pathlib import Path
from typing import Any

import pytest

from podwire.kernel import netns
from tests.netns.agent.onbridge import add, shape
from tests.netns.agent.test_hostports import asking, mapping

__all__ = ["shape"]


def opened(node: Any) -> list[str]:
    """Interfaces of the node with route_localnet."""
    with netns.inside(node.space.fd):
        names = sorted(path.parent.name for path in Path("/proc/sys/net/ipv4/conf").glob("*/route_localnet"))
        return [name for name in names if netns.read_sysctl(f"net/ipv4/conf/{name}/route_localnet") != "0"]


@pytest.mark.parametrize("wiring", ["routed", "bridge"])
def test_route_localnet_is_never_set(world: Any, shape: dict[str, Any], wiring: str) -> None:
    """Even where the node's own default says otherwise."""
    node = world.nodes[0]
    with netns.inside(node.space.fd):
        netns.write_sysctl("net/ipv4/conf/default/route_localnet", "1")
    pod = node.pod("a")
    if wiring == "routed":
        pod.add(**asking(mapping()))
    else:
        add(pod, shape, **asking(mapping()))
        chained = {"program": "portmap", "type": "portmap", "prevResult": pod.result}
        assert pod.call("ADD", **chained, **asking(mapping(HostPort=8081)))[0] == 0
    # a bridge's port carries no addresses: what the default gave it reaches nothing
    assert set(opened(node)) - {"default"} <= ({pod.result["interfaces"][1]["name"]} if wiring == "bridge" else set())


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_a_port_of_127_0_0_1_talks_both_ways(world: Any, kind: int) -> None:
    node = world.nodes[0]
    protocol = "tcp" if kind == socket.SOCK_STREAM else "udp"
    pod = node.pod("a").add(**asking(mapping(Protocol=protocol)))
    with pod.space.socket(kind) as server, node.space.socket(kind) as client:
        server.bind(("0.0.0.0", 80))
        if kind == socket.SOCK_STREAM:
            server.listen()
        client.connect(("127.0.0.1", 8080))
        client.send(b"q" * 1000)
        talker, peer = server.accept() if kind == socket.SOCK_STREAM else (server, None)
        with contextlib.closing(talker):
            got, source = talker.recvfrom(2000)
            assert (peer or source)[0] == node.address
            talker.sendto(b"a" * len(got), peer or source)
            assert client.recv(2000) == b"a" * 1000
            assert client.getpeername() == ("127.0.0.1", 8080)


@pytest.mark.parametrize("host_ip", ["", "127.0.0.1"])
@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_a_client_of_127_0_0_1_with_another_address_of_the_node(world: Any, kind: int, host_ip: str) -> None:
    """And one from 127.0.0.1 before and after it, with the same port."""
    node = world.nodes[0]
    protocol = "tcp" if kind == socket.SOCK_STREAM else "udp"
    pod = node.pod("a").add(**asking(mapping(Protocol=protocol, HostIP=host_ip)))
    with pod.space.socket(kind) as server:
        server.bind(("0.0.0.0", 80))
        if kind == socket.SOCK_STREAM:
            server.listen()
        for own in ("127.0.0.1", node.address, "127.0.0.1", node.address):
            with node.space.socket(kind) as client:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                # a connection at once after another one of the same ports would meet its end in the kernel's tables
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                client.bind((own, 5001))
                client.connect(("127.0.0.1", 8080))
                client.send(own.encode())
                talker, peer = server.accept() if kind == socket.SOCK_STREAM else (server, None)
                with contextlib.ExitStack() as ends:
                    if peer:
                        ends.enter_context(talker)
                    got, source = talker.recvfrom(2000)
                    assert (got.decode(), (peer or source)[0]) == (own, node.address)
                    talker.sendto(b"answer", peer or source)
                    assert client.recv(2000) == b"answer"


def test_who_happens_to_have_a_port_of_that_number_is_left_alone(world: Any) -> None:
    """A connection of the node with itself, from a client port that a pod has as its host port, older or younger."""
    node = world.nodes[0]
    with node.space.listen("127.0.0.1", 7000) as listener, node.space.socket() as client:
        client.bind(("127.0.0.1", 8080))
        client.connect(("127.0.0.1", 7000))
        server, _ = listener.accept()
        with server:
            pod = node.pod("a").add(**asking(mapping()))
            server.sendall(b"older")
            assert client.recv(10) == b"older"
        pod.delete()
    with node.space.listen("127.0.0.1", 7001) as listener, node.space.socket() as client:
        node.pod("b").add(**asking(mapping(HostPort=8090)))
        client.bind(("127.0.0.1", 8090))
        client.connect(("127.0.0.1", 7001))
        server, _ = listener.accept()
        with server:
            server.sendall(b"younger")
            assert client.recv(10) == b"younger"


def test_nothing_reaches_the_agent_from_a_pod(world: Any) -> None:
    """Its page is on the node's loopback, its socket is root's alone."""
    node = world.nodes[0]
    pod = node.pod("a").add()
    for address in (node.address, "10.244.1.0", "169.254.1.1"):
        with pod.space.socket() as client, pytest.raises(OSError, match=r"refused|timed out|unreachable|No route"):
            client.settimeout(0.5)
            client.connect((address, 9098))
    assert (node.folder / "run" / "cni.sock").stat().st_mode & 0o777 == 0o600
    assert "podwire_ready 1" in node.metrics()
