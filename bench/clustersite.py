"""What `bench cluster` measures on: a lab of genuine Kubernetes with one node of ours and one of the peer's.

The lab has no network of its own making. Ours: an agent, a process of its own that we start and end. The peer's: the
reference's bridge, host-local and portmap with a configuration that never changes. The control plane has a third node.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.session import PODWIRE, Session, session
from podwire.cni import build
from podwire.controllers.pool import default_pool
from podwire.genuine import firstobjects
from podwire.kube.client import Client
from podwire.kube.kubeconfig import load
from podwire.lab.state import cache_root
from podwire.model.gvr import IPPOOLS, NODES

PLUGINS = ("bridge", "host-local", "loopback", "portmap")
PEER = "reference bridge + host-local + portmap"
CONFLISTS = "/etc/cni/net.d"
OURS = f"{CONFLISTS}/05-podwire.conflist"
POD_SUBNET = "10.64.0.0/11"
"""Room for the podCIDRs of 400 nodes more."""
MARK = "Measurement"
"""Reason of a condition that is ours, not kubelet's."""
SECONDS = 90.0
"""For how long anything is waited for."""


def now() -> float:
    """Seconds since the machine started: the clock that start times of processes are told by."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@contextlib.asynccontextmanager
async def within(seconds: float, what: str) -> AsyncIterator[None]:
    """Raises RuntimeError that says what was waited for in vain."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise RuntimeError(f"not within {seconds:.0f} s: {what}") from None


def say(words: str) -> None:
    """Progress, beside the figures."""
    print(f"  {words}", file=sys.stderr, flush=True)


def programs() -> Path:
    """Where genuine Kubernetes is."""
    return cache_root() / "kubernetes/bin"


@dataclass(slots=True)
class Process:
    """One process of a node, as this machine numbers it; `began` on the clock of `now`."""

    pid: int
    began: float

    def memory(self) -> float:
        """Proportional set size, MB (10^6 bytes)."""
        rows = Path(f"/proc/{self.pid}/smaps_rollup").read_text().splitlines()
        return int(next(row for row in rows if row.startswith("Pss:")).split()[1]) * 1024 / 1e6

    def cpu(self) -> float:
        """Seconds of one core used so far."""
        fields = _stat(self.pid)
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _stat(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def find(*words: str) -> Process | None:
    """The process whose command line has all of these; not `lab exec`, which started it."""
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            argv = (path / "cmdline").read_text().split("\0")
            if all(word in argv for word in words) and "exec" not in argv:
                pid = int(path.name)
                return Process(pid, int(_stat(pid)[19]) / os.sysconf("SC_CLK_TCK"))
    return None


@dataclass
class Site:
    """A running lab. `ours` and `peer` are node names."""

    lab: Session
    client: Client
    ours: str
    peer: str
    agent: Process | None = None
    _started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def run(self, node: str, script: str, stdin: bytes = b"") -> str:
        """A shell's output in that node. Raises CalledProcessError."""
        words = [str(PODWIRE), "lab", "exec", "-i", node, "--", "sh", "-ec", script]
        done = subprocess.run(words, env=self.lab.env, input=stdin, stdout=subprocess.PIPE, check=True, timeout=SECONDS)
        return done.stdout.decode()

    async def start_agent(self) -> Process:
        """`podwire agent` in our node; the process, at once when it is there."""
        mark = f"/etc/podwire/{self.ours}.toml"
        words = [str(PODWIRE), "lab", "exec", self.ours, "--", "podwire", "agent", "--config", mark]
        log = (Path(self.lab.env["HOME"]) / "agent.log").open("ab")
        self._started.append(subprocess.Popen(words, env=self.lab.env, stdin=-3, stdout=log, stderr=log))
        log.close()
        async with within(SECONDS, "the agent's process"):
            while (found := find("agent", "--config", mark)) is None:
                await asyncio.sleep(0.005)
        self.agent = found
        return found

    async def end_agent(self) -> None:
        """SIGTERM, and wait."""
        if self.agent is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.agent.pid, signal.SIGTERM)
            self.agent = None
        while self._started:
            await asyncio.to_thread(self._started.pop().wait, SECONDS)

    async def new_kubelet(self) -> None:
        """End our node's, so that its keeper starts another one, on a node that is not Ready: then for two minutes it
        looks ten times a second whether the node is, as on a machine that joins a cluster. Until it says that it is
        not."""
        told = {"type": "Ready", "status": "False", "reason": MARK, "message": "a measurement begins"}
        await self.client.patch(
            NODES, self.ours, {"status": {"conditions": [told]}}, kind="strategic", subresource="status"
        )
        process = find(f"--hostname-override={self.ours}")
        assert process is not None, "the node has a kubelet"
        os.kill(process.pid, signal.SIGKILL)
        await self.ready(wanted=False)

    async def ready(self, *, wanted: bool, node: str = "") -> float:
        """The moment when the node's Ready condition is seen to be so, by its kubelet's word."""
        name = node or self.ours
        what = f"node {name} {'Ready' if wanted else 'not Ready'}, by its kubelet's word"
        async with within(SECONDS, what), contextlib.aclosing(_objects(self.client)) as changes:
            async for obj in changes:
                if obj["metadata"]["name"] == name and _told(obj) and is_ready(obj) == wanted:
                    return now()
        raise AssertionError("watches do not end")


async def _objects(client: Client) -> AsyncGenerator[dict[str, Any]]:
    async for change in client.watch(NODES):
        if (obj := getattr(change, "object", None)) is not None:
            yield obj


def is_ready(obj: Mapping[str, Any]) -> bool:
    conditions = obj.get("status", {}).get("conditions") or []
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


def _told(obj: Mapping[str, Any]) -> bool:
    """Whether the Ready condition is its kubelet's."""
    conditions = obj.get("status", {}).get("conditions") or []
    return any(one["type"] == "Ready" and one.get("reason") != MARK for one in conditions)


@contextlib.contextmanager
def site() -> Iterator[Session]:
    """A lab of three genuine nodes without a network."""
    name = f"bench{os.getpid()}"
    words = ["--kubernetes", str(programs()), "--network", "none", "--services", "none", "--wait", "150"]
    config = {
        "kind": "Cluster",
        "apiVersion": "kind.x-k8s.io/v1alpha4",
        "networking": {"podSubnet": POD_SUBNET, "disableDefaultCNI": True},
        "nodes": [{"role": role} for role in ("control-plane", "worker", "worker")],
    }
    with session(name, 0, *words, config=json.dumps(config)) as lab:
        yield lab


@contextlib.asynccontextmanager
async def opened(lab: Session) -> AsyncIterator[Site]:
    """With everything made that the agent and the peer need. The agent does not run yet."""
    client = Client(load(lab.kubeconfig), user_agent="podwire-bench")
    found = Site(lab, client, f"{lab.name}-worker", f"{lab.name}-worker2")
    try:
        async with within(2 * SECONDS, "the objects and the peer's node"):
            await _objects_of_ours(found)
            await _peer(found)
        yield found
    finally:
        await found.end_agent()
        await client.close()


async def _objects_of_ours(found: Site) -> None:
    pool = default_pool(POD_SUBNET, 24)
    for gvr, obj in firstobjects.wanted(firstobjects.First("", (pool,), {})):
        await firstobjects.ensure(found.client, gvr, obj)
    await firstobjects.ensure(found.client, IPPOOLS, pool)
    node = await found.client.get(NODES, found.ours)
    address = next(one["address"] for one in node["status"]["addresses"] if one["type"] == "InternalIP")
    shim = build.build(cache_root()).read_bytes()
    found.run(found.ours, "cat > /var/lib/podwire/bench-shim; chmod 755 /var/lib/podwire/bench-shim", shim)
    settings = f'node_name = "{found.ours}"\nnode_ip = "{address}"\nshim = "/var/lib/podwire/bench-shim"\n'
    found.run(found.ours, f"cat > /etc/podwire/{found.ours}.toml", settings.encode())


async def _peer(found: Site) -> None:
    """Its plugins and configuration, as an administrator would write them who wants nothing that costs time."""
    async with within(SECONDS, "a podCIDR of the peer's node"):
        while not (cidr := (await found.client.get(NODES, found.peer))["spec"].get("podCIDR")):
            await asyncio.sleep(0.1)
    for name in PLUGINS:
        found.run(found.peer, f"ln -sf /opt/kubernetes/bin/{name} /opt/cni/bin/{name}")
    ipam = {"type": "host-local", "ranges": [[{"subnet": cidr}]], "routes": [{"dst": "0.0.0.0/0"}]}
    bridge = {"type": "bridge", "bridge": "cni0", "isGateway": True, "hairpinMode": True, "ipam": ipam}
    ports = {"type": "portmap", "backend": "nftables", "capabilities": {"portMappings": True}}
    conflist = {"cniVersion": "1.0.0", "name": "reference", "plugins": [bridge, ports]}
    found.run(found.peer, f"cat > {CONFLISTS}/10-reference.conflist", json.dumps(conflist).encode())
    await found.ready(wanted=True, node=found.peer)
