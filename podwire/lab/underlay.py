"""The wires of a lab: a bridge that stands for the network between nodes, and a namespace that stands for outside.

    outside 203.0.113.10 ── outside0 203.0.113.1 ─ (the outer namespace routes) ─ podwire0 172.18.0.1/16
                                                                                    │    │    │
                                                                            node eth0  172.18.0.2, .3, .4 …
The outer namespace is the router of that network. `podwire.lab.cloudroutes` gives it routes to nodes' podCIDRs where
the network of the pods relies on a cloud that has them (kubenet).
Runs in the outer namespace, before any node has a process: nodes are handed their finished network namespace.
"""

from __future__ import annotations

import os
import socket
from contextlib import ExitStack
from dataclasses import dataclass

from podwire.kernel import netns
from podwire.kernel.links import RouteSocket
from podwire.lab import syscalls
from podwire.lab.topology import GATEWAY, OUTSIDE, OUTSIDE_ADDRESS, UNDERLAY6, LabPlan, NodePlan

BRIDGE = "podwire0"
API_PORT = 6443


@dataclass(frozen=True, slots=True)
class Wiring:
    """Open descriptors of the network namespaces made here; they live as long as this process."""

    nodes: dict[str, int]
    outside: int


def build(plan: LabPlan) -> Wiring:
    """Make the bridge, the outside and every node's namespace with its addresses and routes. Raises KernelError."""
    with RouteSocket() as outer:
        _up(outer, "lo")
        bridge = outer.add_bridge(BRIDGE)
        outer.add_address(bridge, f"{GATEWAY}/16")
        outer.add_address(bridge, f"{UNDERLAY6}1/64")
        outer.set_link(bridge, up=True)
        netns.write_sysctl("net/ipv4/ip_forward", "1")
        # a packet that the router sends back to where it came from is no reason to tell its sender of a shorter way
        netns.write_sysctl("net/ipv4/conf/all/send_redirects", "0")
        netns.write_sysctl(f"net/ipv4/conf/{BRIDGE}/send_redirects", "0")
        outside = _make_outside(outer)
        nodes = {node.name: _make_node(outer, bridge, plan, index, node) for index, node in enumerate(plan.nodes)}
    return Wiring(nodes, outside)


def new_namespace() -> int:
    """A descriptor of a fresh network namespace; this thread stays where it is."""
    home = netns.open_own()
    with ExitStack() as stack:
        stack.callback(syscalls.setns, home, syscalls.CLONE_NEWNET)
        syscalls.unshare(syscalls.CLONE_NEWNET)
        netns.write_sysctl("net/ipv4/ip_forward", "1")
        netns.write_sysctl("net/ipv6/conf/default/accept_dad", "0")
        return netns.open_own()


def _up(sock: RouteSocket, name: str) -> int:
    index = sock.link_index(name)
    assert index is not None, name
    sock.set_link(index, up=True)
    return index


def _make_outside(outer: RouteSocket) -> int:
    space = new_namespace()
    outer.add_veth("outside0", "eth0", peer_netns=space)
    outer.add_address(_up(outer, "outside0"), f"{OUTSIDE[1]}/{OUTSIDE.prefixlen}")
    with RouteSocket(space) as inner:
        _up(inner, "lo")
        inner.add_address(_up(inner, "eth0"), f"{OUTSIDE_ADDRESS}/{OUTSIDE.prefixlen}")
        inner.add_route("0.0.0.0/0", via=str(OUTSIDE[1]))
    return space


def renew(plan: LabPlan, index: int, space: int) -> int:
    """A fresh namespace in the place of a node's former one, as after a reboot; the former one is closed."""
    with RouteSocket() as outer:
        if (link := outer.link_index(f"node{index}")) is not None:
            outer.delete_link(link)
        os.close(space)
        bridge = outer.link_index(BRIDGE)
        assert bridge is not None
        return _make_node(outer, bridge, plan, index, plan.nodes[index])


def _make_node(outer: RouteSocket, bridge: int, plan: LabPlan, index: int, node: NodePlan) -> int:
    space = new_namespace()
    name = f"node{index}"
    outer.add_veth(name, "eth0", peer_netns=space)
    outer.set_link(_up(outer, name), master=bridge)
    with RouteSocket(space) as inner:
        loopback, eth0 = _up(inner, "lo"), _up(inner, "eth0")
        inner.add_address(eth0, f"{node.address}/16")
        inner.add_address(eth0, f"{node.address6}/64")
        inner.add_route("0.0.0.0/0", via=GATEWAY)
        if plan.genuine:
            pass  # an address of a Service: kube-proxy's business
        elif node == plan.control_plane:
            inner.add_address(loopback, f"{plan.api_service}/32")
        else:
            inner.add_route(f"{plan.api_service}/32", via=plan.control_plane.address)
    return space


def listen_in(space: int, addresses: list[tuple[str, int]]) -> list[socket.socket]:
    """Listening sockets inside a namespace; opened before anything runs there, so nobody is ever refused."""

    def listen() -> list[socket.socket]:
        found = []
        for address in addresses:
            sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(address)
            sock.listen(512)
            found.append(sock)
        return found

    return netns.run_inside(space, listen)
