"""Host ports with packets: who reaches them, whose address the pod sees, what ends and what outlives the agent."""

from __future__ import annotations

import contextlib
import json
import select
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from podwire.agent.hostports import HostPorts, Ports
from podwire.agent.wiring import Sockets
from podwire.cni.capabilities import PortMapping
from podwire.kernel import netns
from podwire.kernel.tables import Nft

PORT, INNER = 8080, 80
NODE, CLIENT, POD = "fd00:1::1", "fd00:1::2", "fd00:2::5"


def mapping(**changes: Any) -> dict[str, Any]:
    """One mapping as containerd spells it."""
    return {"HostPort": PORT, "ContainerPort": INNER, "Protocol": "tcp", "HostIP": "", **changes}


def asking(*mappings: dict[str, Any]) -> dict[str, Any]:
    return {"runtimeConfig": {"portMappings": list(mappings)}}


def ask(client: Any, address: str, pod: Any, port: int = PORT, inner: int = INNER) -> str:
    """The client's address as the pod sees it; "" when nothing comes through."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with pod.space.socket(family=family) as listener, client.socket(family=family) as speaker:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("::" if family == socket.AF_INET6 else "0.0.0.0", inner))
        listener.listen()
        try:
            speaker.connect((address, port))
        except OSError:
            return ""
        connection, peer = listener.accept()
        connection.close()
        return str(peer[0])


def elements(node: Any) -> str:
    return str(node.space.run("nft", "-n", "list", "table", "inet", "podwire-ports"))


def test_every_client_reaches_the_port_and_keeps_its_address(world: Any) -> None:
    one, two = world.nodes
    web = one.pod("web").add(**asking(mapping()))
    near, far = one.pod("near").add(), two.pod("far").add()
    assert ask(two.space, one.address, web) == two.address
    assert ask(world.outside, one.address, web) == "203.0.113.10"
    assert ask(near.space, one.address, web) == near.address
    assert ask(far.space, one.address, web) == far.address
    assert ask(one.space, one.address, web) == one.address
    assert ask(one.space, "127.0.0.1", web) not in ("", "127.0.0.1")
    assert ask(web.space, one.address, web) not in ("", web.address)
    assert ask(two.space, two.address, web) == ""
    assert ask(two.space, one.address, web, port=PORT + 1) == ""


def test_a_pod_does_not_reach_what_listens_on_the_nodes_loopback(world: Any) -> None:
    """Even where somebody else has the kernel let it, as kube-proxy may."""
    one = world.nodes[0]
    with netns.inside(one.space.fd):
        netns.write_sysctl("net/ipv4/conf/all/route_localnet", "1")
    pod = one.pod("a").add()
    pod.space.run("ip", "route", "del", "table", "local", "127.0.0.0/8", "dev", "lo")
    pod.space.run("ip", "address", "flush", "dev", "lo")
    pod.space.run("ip", "route", "add", "127.0.0.1/32", "via", "169.254.1.1", "dev", "eth0", "src", pod.address)
    kind = socket.SOCK_DGRAM
    with one.space.socket(kind) as hidden, one.space.socket(kind) as open_one, pod.space.socket(kind) as client:
        hidden.bind(("127.0.0.1", 9000))
        open_one.bind((one.address, 9000))
        hidden.setblocking(False)
        for _ in range(3):
            client.sendto(b"x", ("127.0.0.1", 9000))
            client.sendto(b"y", (one.address, 9000))
            assert open_one.recv(10) == b"y"
        with pytest.raises(BlockingIOError):
            hidden.recv(10)


def test_transit_traffic_is_not_caught(world: Any) -> None:
    """A pod's connection to the same port of somebody else goes there, through the node that has the host port."""
    one, two = world.nodes
    web = one.pod("web").add(**asking(mapping()))
    near, far = one.pod("near").add(), two.pod("far").add()
    for address, space, source in (
        ("203.0.113.10", world.outside, one.address),
        (far.address, far.space, near.address),
        (two.address, two.space, near.address),
    ):
        with space.listen(address, PORT) as listener, near.space.socket() as client:
            client.connect((address, PORT))
            connection, peer = listener.accept()
            connection.close()
            assert peer[0] == source
    assert ask(near.space, one.address, web) == near.address


def test_an_address_of_its_own_comes_first(world: Any) -> None:
    one, two = world.nodes
    every = one.pod("every").add(**asking(mapping()))
    local = one.pod("local").add(**asking(mapping(HostIP="127.0.0.1")))
    assert ask(two.space, one.address, every) == two.address
    assert ask(one.space, "127.0.0.1", every) == ""
    assert ask(one.space, "127.0.0.1", local) != ""


def test_a_taken_port_is_refused_and_names_who_has_it(world: Any) -> None:
    one = world.nodes[0]
    holder = one.pod("holder").add(**asking(mapping()))
    second = one.pod("second")
    code, output = second.call("ADD", **asking(mapping()))
    error = json.loads(output)
    assert (code, error["code"]) == (1, 101), error
    assert "8080" in error["msg"]
    assert "default/holder" in error["details"]
    assert holder.container_id in error["details"]
    second.add(**asking(mapping(Protocol="udp")))
    holder.delete()
    one.pod("third").add(**asking(mapping()))


def test_an_end_needs_no_runtime_config_and_a_restart_is_silent(world: Any, tools: Any) -> None:
    one, two = world.nodes
    web = one.pod("web").add(**asking(mapping(), mapping(Protocol="udp"), mapping(Protocol="sctp")))
    before = elements(one)
    assert before.count(web.address) == 4  # three ports, and the pod as its own client
    one.restart()
    assert elements(one) == before
    tools.until("silence", lambda: one.writes().get("nft", 0) == one.writes().get("nf_tables", 0) == 0)
    one.space.run("nft", "flush", "map", "inet", "podwire-ports", "any4")
    code, output = web.call("CHECK", prevResult=web.result, **asking(mapping()))
    assert (code, json.loads(output)["code"]) == (1, 100)
    assert "tcp . 8080" in output
    one.restart()
    assert elements(one) == before
    assert ask(two.space, one.address, web) == two.address
    code, output = web.call("DEL")
    assert (code, output) == (0, "")
    assert web.address not in elements(one)


def test_a_busy_udp_client_follows_the_port(world: Any, tools: Any) -> None:
    """Its packets never pause, so connection tracking would keep their first way."""
    one, two = world.nodes
    udp = asking(mapping(Protocol="udp", ContainerPort=PORT))
    with two.space.socket(socket.SOCK_DGRAM) as client:
        client.connect((one.address, PORT))

        def sent() -> bool:
            with contextlib.suppress(ConnectionRefusedError):  # an answer to an earlier one that went the old way
                client.send(b"x")
            return True

        def heard(pod: Any) -> str:
            with pod.space.socket(socket.SOCK_DGRAM) as server:
                server.bind(("0.0.0.0", PORT))
                server.setblocking(False)
                tools.until("the pod hears", lambda: sent() and select.select([server], [], [], 0.02)[0])
                return str(server.recvfrom(10)[1][0])

        with one.space.socket(socket.SOCK_DGRAM) as node:
            node.bind((one.address, PORT))
            client.send(b"x")
            assert node.recv(10) == b"x"
        first = one.pod("first").add(**udp)
        assert heard(first) == two.address
        first.delete()
        second = one.pod("second").add(**udp)
        assert heard(second) == two.address


def test_portmap_behind_another_plugin(world: Any) -> None:
    """As a chain has it: the wiring first (ours here, without ports), then the role `portmap` with its result."""
    one, two = world.nodes
    web = one.pod("web").add()
    chained = {"program": "portmap", "type": "portmap", "prevResult": web.result}
    code, output = web.call("ADD", **chained, **asking(mapping()))
    assert code == 0, output
    assert json.loads(output) == web.result
    assert ask(two.space, one.address, web) == two.address
    assert ask(one.space, "127.0.0.1", web) != ""
    assert web.call("CHECK", **chained, **asking(mapping())) == (0, "")
    assert web.call("ADD", **chained, **asking(mapping()))[0] == 0
    one.restart()
    assert ask(two.space, one.address, web) == two.address
    assert web.call("DEL", program="portmap", type="portmap") == (0, "")
    assert web.address not in elements(one)
    assert web.call("DEL", program="portmap", type="portmap") == (0, "")
    code, output = web.call("ADD", **chained, **asking(mapping()), masqAll=True)
    assert code == 0, output
    assert ask(two.space, one.address, web) not in ("", two.address)
    gc = {"cniVersion": "1.1.0", "program": "portmap", "type": "portmap"}
    assert web.call("GC", **gc, **{"cni.dev/valid-attachments": []}) == (0, "")
    assert web.address not in elements(one)
    assert web.call("STATUS", **gc) == (0, "")


REFUSED: list[tuple[dict[str, Any], int, str]] = [
    ({}, 7, "portmap must stand behind another plugin"),
    ({"conditionsV4": ["-s", "10.0.0.0/8"], "prevResult": {}}, 2, "conditionsV4"),
    ({"externalSetMarkChain": "KUBE-MARK-MASQ", "prevResult": {}}, 2, "externalSetMarkChain"),
    ({"prevResult": {"ips": [{"address": "10.1.1.1/24"}]}} | asking(mapping(HostIP="fd00::1")), 7, "fd00::1"),
    ({"prevResult": {}} | asking(mapping(HostPort=70000)), 7, "hostPort"),
]


def test_portmap_refuses(world: Any) -> None:
    node = world.nodes[0]
    pod = node.pod("a")
    for config, code, text in REFUSED:
        failed, output = pod.call("ADD", program="portmap", type="portmap", **config)
        error = json.loads(output)
        assert (failed, error["code"]) == (1, code), error
        assert text in error["msg"]
    assert list((node.folder / "state").rglob("*portmap*")) == []


class Space:
    """What `ask` calls a pod."""

    def __init__(self, space: Any) -> None:
        self.space = space


@pytest.fixture
def spaces(tools: Any) -> Iterator[tuple[Any, Any, Any]]:
    """A node with a client on one side and a pod on the other."""
    node, client, pod = (tools.Namespace() for _ in range(3))
    try:
        for far, name, near, address, gateway in (
            (client, "eth0", "fd00:1::1/64", f"{CLIENT}/64", NODE),
            (pod, "cali1", "fd00:2::1/64", f"{POD}/64", "fd00:2::1"),
        ):
            with node.links() as links, far.links() as outer:
                index = links.add_veth(name, "eth0", peer_netns=far.fd)
                links.set_link(index, up=True)
                outer.set_link(outer.link_index("eth0") or 0, up=True)
                outer.set_link(1, up=True)
            node.run("ip", "address", "add", near, "dev", name, "nodad")
            far.run("ip", "address", "add", address, "dev", "eth0", "nodad")
            far.run("ip", "route", "add", "default", "via", gateway)
        node.run("ip", "link", "set", "lo", "up")
        with netns.inside(node.fd):
            netns.write_sysctl("net/ipv6/conf/all/forwarding", "1")
        yield node, client, pod
    finally:
        for space in (node, client, pod):
            space.close()


def test_six(spaces: tuple[Any, Any, Any], tools: Any) -> None:
    """One table serves both families."""
    node, client, pod = spaces
    ports = Ports((PortMapping(8080, 80), PortMapping(8081, 81, "tcp", NODE)), (POD,))

    def give() -> None:
        found = HostPorts(Nft(), Sockets())
        found.restore({})
        found.claim("c/eth0", ports)
        assert found.faults("c/eth0", ports) == []

    tools.netns.run_inside(node.fd, give)
    web = Space(pod)
    assert ask(client, NODE, web) == CLIENT
    assert ask(client, NODE, web, port=8081, inner=81) == CLIENT
    assert ask(client, "fd00:2::1", web, port=8081, inner=81) == ""
    assert ask(node, NODE, web) != ""
    assert ask(node, "::1", web) == ""
    assert ask(pod, NODE, web) not in ("", POD)
