"""`podwire bench policy`, the kernel's part: what policy costs the first packet of a connection, and how long a change
takes to the kernel. Two pods in namespaces of their own; must run as root, in a network namespace without a way out.

A connection is made, accepted and cut off by one thread: nothing but the kernel's path is between. Ours and the peer
alternate; of each round the tenth percentile counts.
"""

from __future__ import annotations

import os
import shutil
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from bench.policyscale import Scale, read_namespace, read_pod, read_policy
from bench.record import record
from podwire.agent import wiring
from podwire.agent.policyengine import Binding, PolicyEngine
from podwire.calc.policy import PolicyCalc
from podwire.calc.verdicts import (
    Decision,
    Governed,
    Match,
    PolicyChanges,
    PolicyState,
    Range,
    RuleRef,
    Stage,
    Table,
)
from podwire.cni.plan import PREFIX, Wiring
from podwire.kernel import netns, nft
from podwire.kernel.links import RouteSocket
from podwire.kernel.nfelements import ElementSocket
from podwire.kernel.tables import Nft
from podwire.model.policy import TCP, Direction

CLIENT, SERVER = "10.244.1.2", "10.244.1.3"
CONNECTIONS = 600
_LINGER = struct.pack("ii", 1, 0)
_PEER = """table inet peer {
	chain forward {
		type filter hook forward priority filter; policy accept;
		ct state vmap { established : accept, related : accept, invalid : drop }
	}
}
"""


class Space:
    """A network namespace, kept by a process that waits."""

    def __init__(self) -> None:
        read, write = os.pipe()
        script = "import os,ctypes,signal;ctypes.CDLL(None).unshare(0x40000000);os.write(1,b'x');signal.pause()"
        self._holder = subprocess.Popen([sys.executable, "-ISE", "-c", script], stdout=write)
        os.close(write)
        os.read(read, 1)
        os.close(read)
        self.fd = netns.open_path(f"/proc/{self._holder.pid}/ns/net")

    def close(self) -> None:
        os.close(self.fd)
        self._holder.kill()
        self._holder.wait()


class Site:
    """A node with a client and a server, and an engine. Everything happens in the node's namespace: call `inside`."""

    def __init__(self) -> None:
        self.node, self.client, self.server = Space(), Space(), Space()
        with netns.inside(self.node.fd):
            self._sockets = ElementSocket()
            netns.write_sysctl("net/ipv4/ip_forward", "1")
            home, route = netns.open_own(), RouteSocket()
            for number, (space, address) in enumerate(((self.client, CLIENT), (self.server, SERVER)), 1):
                shape = Wiring(f"{PREFIX}{number:011x}", "eth0", f"02:00:00:00:00:{number:02x}", 1500, (address,))
                wiring.create(route, shape, space.fd, 100 + number)
                wiring.address_pod(shape, space.fd, home, 100 + number, {})
                wiring.address_host(route, shape, 100 + number)
            os.close(home)
            route.close()
        self.engine = PolicyEngine(Nft(), lambda: self._sockets, PREFIX)
        self.engine.restore(
            Binding(f"{PREFIX}{number:011x}", ("default", name), (address,))
            for number, name, address in ((1, "client", CLIENT), (2, "server", SERVER))
        )

    def put(self, state: PolicyState, changes: PolicyChanges | None = None) -> None:
        with netns.inside(self.node.fd):
            if changes is None:
                self.engine.doubt()
            for error in self.engine.apply(state, changes or PolicyChanges()):
                raise error

    def nft(self, text: str) -> None:
        with netns.inside(self.node.fd):
            nft.run(text)

    def run(self, text: str, *words: str) -> None:
        with netns.inside(self.node.fd):
            libraries = ":".join(map(str, _cache().glob("root/usr/lib/*-linux-gnu*")))
            extensions = ":".join(map(str, _cache().glob("root/usr/lib/*-linux-gnu/xtables")))
            private = {"LD_LIBRARY_PATH": libraries, "XTABLES_LIBDIR": extensions}
            env = {**os.environ, **(private if str(_cache()) in words[0] else {})}
            subprocess.run(words, input=text, text=True, check=True, capture_output=True, env=env)

    def connect(self, port: int, count: int = CONNECTIONS) -> float:
        """Microseconds of a connection, made and cut off: the tenth percentile."""
        with netns.inside(self.server.fd):
            listener = socket.create_server((SERVER, port), backlog=16)
        took = []
        with listener, netns.inside(self.client.fd):
            for _ in range(count):
                began = time.perf_counter()
                one = socket.socket()
                one.connect((SERVER, port))
                other, _ = listener.accept()
                for each in (one, other):
                    each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER)
                    each.close()
                took.append(time.perf_counter() - began)
        return sorted(took)[count // 10] * 1e6

    def close(self) -> None:
        for space in (self.client, self.server, self.node):
            space.close()


def state(policies: int) -> PolicyState:
    """So many policies on both ends: each a port of one peer, each tenth a range of ports and a CIDR, too."""
    yes, no = Decision(True, RuleRef(None, "policy")), Decision(False, RuleRef(None, "default"))
    found = PolicyState(addresses={CLIENT: 1, SERVER: 2})
    for n, (direction, peer) in enumerate(((Direction.INGRESS, 1), (Direction.EGRESS, 2)), 1):
        rows = {Match(peer, TCP, 10_000 + one, 10_000 + one): yes for one in range(1, policies + 1)}
        for one in range(0, policies, 10):
            rows[Match(3 + one // 10, TCP, one + 1, one + 5)] = yes
            first = 0xAC100000 + one * 256
            found.ranges[Range(32, first, first + 255)] = 3 + one // 10
        found.tables[n] = Table(direction, (Stage(True, rows),), no)
    found.pods = {("default", "server"): Governed(1, None), ("default", "client"): Governed(None, 2)}
    return found


def first_connection(policies: int, rounds: int) -> dict[str, Any]:
    """Against connection tracking and no policy."""
    site, ours, peer = Site(), [], []
    try:
        for _ in range(rounds):
            site.put(state(policies))
            ours.append(site.connect(10_000 + policies))
            site.nft(f"delete table inet podwire_policy\n{_PEER}")
            peer.append(site.connect(10_000 + policies))
            site.nft("delete table inet peer\n")
    finally:
        site.close()
    name = "policy_first_connection" if policies == 1000 else f"policy_first_connection_{policies}"
    return record(name, "us", ours, peer=peer, peer_name="connection tracking, no policy", n=policies)


def linear(rules: int) -> tuple[str, str]:
    """The same in rules, for iptables and ipset: for each policy a chain and a set of its peers, asked one by one."""
    sets = "".join(
        f"create s{one} hash:net\nadd s{one} {CLIENT if one == rules else f'172.16.{one // 250}.{one % 250}'}\n"
        for one in range(1, rules + 1)
    )
    lines = ["*filter", ":FORWARD ACCEPT [0:0]", ":to - [0:0]"]
    lines += [f":p{one} - [0:0]" for one in range(1, rules + 1)]
    lines += ["-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"]
    lines += [f"-A FORWARD -o {PREFIX}{2:011x} -j to", "-A to -j MARK --set-xmark 0x0/0x10000"]
    for one in range(1, rules + 1):
        lines += [f"-A to -m mark --mark 0x0/0x10000 -j p{one}", "-A to -m mark --mark 0x10000/0x10000 -j RETURN"]
        match = f"-p tcp -m set --match-set s{one} src -m tcp --dport {10_000 + one}"
        lines += [
            f"-A p{one} {match} -j MARK --set-xmark 0x10000/0x10000",
            f"-A p{one} -m mark --mark 0x10000/0x10000 -j RETURN",
        ]
    return "\n".join([*lines, "-A to -j DROP", "COMMIT", ""]), sets


def against_linear(rules: int, rounds: int, iptables: str, ipset: str) -> dict[str, Any]:
    site, ours, peer = Site(), [], []
    chains, sets = linear(rules)
    try:
        for _ in range(rounds):
            site.put(state(rules))
            ours.append(site.connect(10_000 + rules))
            site.nft("delete table inet podwire_policy\n")
            site.run(sets, ipset, "restore")
            site.run(chains, iptables)
            peer.append(site.connect(10_000 + rules))
            site.run("*filter\n:FORWARD ACCEPT [0:0]\nCOMMIT\n", iptables)
            site.run("", ipset, "destroy")
    finally:
        site.close()
    return record(
        f"policy_against_linear_{rules}",
        "us",
        ours,
        peer=peer,
        peer_name="iptables, a chain and a set a policy",
        n=rules,
    )


def one_change(runs: int, *, quick: bool) -> dict[str, Any]:
    """Seconds from an event (a pod's label, a policy's port, by turns) until it is in the kernel."""
    scale = Scale(pods=2_000, namespaces=100, policies=200, local=20) if quick else Scale(20_000, 1_000, 2_000, 110)
    calc, site, took = PolicyCalc(), Site(), []
    try:
        for number in range(scale.namespaces):
            space = read_namespace(scale.namespace(number))
            calc.on_namespace(space.metadata.name, space)
        for number in range(scale.policies):
            policy = read_policy(scale.policy(number))
            calc.on_policy(policy.key, policy)
        local = scale.local_pods()
        for number in range(scale.pods):
            pod = read_pod(scale.pod(number))
            calc.on_pod(pod.key, pod)
            if number in local:
                calc.on_local(pod.key, True)
        calc.flush()
        site.put(calc.state)
        events = [_event(scale, calc, local, number) for number in range(max(runs, 20))]
        for event in events:
            began = time.perf_counter()
            event()
            site.put(calc.state, calc.flush())
            took.append(time.perf_counter() - began)
            with netns.inside(site.node.fd):
                site.engine.stock()
    finally:
        site.close()
    return record("policy_one_change", "s", took, peer=[0.015] * len(took), peer_name="wanted", n=scale.pods)


def _event(scale: Scale, calc: PolicyCalc, local: list[int], number: int) -> Callable[[], None]:
    if number % 2:
        policy = read_policy(scale.policy(local[number % len(local)] % scale.policies, port=8000 + number))
        return lambda: calc.on_policy(policy.key, policy)
    neighbour = (local[number % len(local)] + scale.namespaces) % scale.pods
    former, pod = read_pod(scale.pod(neighbour)), read_pod(scale.pod(neighbour, app=f"app-{number % 7}"))
    return lambda: calc.on_pod(former.key, _named(pod, former))


def _named(pod: Any, former: Any) -> Any:
    meta = msgspec.structs.replace(former.metadata, labels=pod.metadata.labels)
    return msgspec.structs.replace(former, metadata=meta)


def measure(runs: int = 5, *, quick: bool = False) -> list[dict[str, Any]]:
    """The records; those against iptables are left out where it is not installed."""
    rounds = 2 if quick else max(3, min(runs, 7))
    found = [first_connection(size, rounds) for size in ((10, 1000) if quick else (10, 1000, 10_000))]
    programs = [shutil.which(name) or _private(name) for name in ("iptables-restore", "ipset")]
    if all(programs):
        for rules in (100,) if quick else (100, 1000):
            found.append(against_linear(rules, rounds, str(programs[0]), str(programs[1])))
    found.append(one_change(runs, quick=quick))
    return found


def _private(name: str) -> str | None:
    """In the private Debian root that the lab has."""
    found = _cache() / "root/usr/sbin" / name
    return str(found) if found.exists() else None


def _cache() -> Path:
    return Path(os.environ.get("PODWIRE_CACHE", "/var/cache/podwire"))
