"""Podwire beside the reference plugins on one cluster of genuine Kubernetes, and what its agent costs there.

One lab: a node of ours, a node of the peer's (`clustersite`), in turn. Moments of pods are those at which one watch
tells their condition.

`node_ready_after_agent_start` (s): from the start of the agent's process to the node's Ready condition; what a former
agent left is there, except for the CNI configuration. `node_ready_first_start`: the same on a new node, once.
`pod_ready_cluster` (s): from the create call to Ready, node given. `pod_burst_60` (s): the same of the last of 60.
`agent_memory` (MB, proportional set size) and `agent_idle_cpu` (% of a core over a minute) with a burst's pods running.
`agent_memory_400_nodes` (MB): the agent, started anew, once there are 400 nodes with 20,000 pods; it follows its own
pods. `agent_memory_20000_pods` (MB): the agent's pages with a slim record of every pod, learned from that API.
"""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from bench import clusterfill
from bench.clusterpods import Pods, pods
from bench.clustersite import OURS, PEER, SECONDS, Process, Site, now, opened, say, site, within
from bench.record import record
from podwire.kube.client import Client
from podwire.kube.kubeconfig import load

ROOT = Path(__file__).parents[1]
NODES, PODS = 400, 20_000
FILL_SECONDS = 240.0
PARTS = 2

Records = list[dict[str, Any]]


def measure(runs: int = 10, *, quick: bool = False) -> Records:
    """`runs` is a third of the number of single pods; `quick` has a few pods and objects only."""
    say("a cluster of three nodes comes up")
    with site() as lab:
        return asyncio.run(_measure(lab, runs, quick))


async def _measure(lab: Any, runs: int, quick: bool) -> Records:
    began = time.monotonic()
    found: Records = []
    try:
        async with opened(lab) as place, pods(place) as them:
            found += await starts(place, 1 if quick else 5)
            found += await singles(place, them, 2 if quick else 3 * runs)
            found += await bursts(place, them, 1 if quick else 3, 5 if quick else 60, 2.0 if quick else 60.0)
            found += await crowd(place, 20 if quick else NODES, 100 if quick else PODS)
    finally:  # what was measured is told, too, when the rest cannot be
        for one in found:
            peer = f"{one['peer']:9.3f}  {one['ratio']:5.3f}" if one["peer"] else ""
            say(f"{one['name']:30}{one['ours']:9.3f} {one['unit']:3}{peer}")
        say(f"{time.monotonic() - began:.0f} s")
    return found


async def starts(place: Site, runs: int) -> Records:
    """The first start is on a new node; before the others the CNI configuration is taken away."""
    took: list[float] = []
    for number in range(runs + 1):
        await place.end_agent()
        place.run(place.ours, f"rm -f {OURS}")
        await place.new_kubelet()
        waiting = asyncio.create_task(place.ready(wanted=True))
        await asyncio.sleep(0.5)  # the watch is open, and the kubelet's own start over
        agent = await place.start_agent()
        took.append(await waiting - agent.began)
        say(f"node Ready {took[-1]:.2f} s after the agent's start ({number + 1} of {runs + 1})")
    return [
        record("node_ready_after_agent_start", "s", took[1:], n=1),
        record("node_ready_first_start", "s", took[:1], n=1),
    ]


async def singles(place: Site, them: Pods, runs: int) -> Records:
    """One pod on each node, in turn; the first of each is not counted.

    kubelet looks at its containers once a second: how long a pod takes depends most on when within that second it was
    created. One measurement right after the other would always meet the same moment, so both nodes get pods at moments
    spread evenly over a second.
    """
    took: dict[str, list[float]] = {place.ours: [], place.peer: []}
    moments = [0.0, *random.sample([number / runs for number in range(runs)], runs)]
    for moment in moments:
        for node, times in took.items():
            await asyncio.sleep((moment - now()) % 1.0)
            names, seconds = await them.create(node, 1)
            times.append(seconds)
            await them.delete(names)
    ours, peer = (times[1:] for times in took.values())
    found = record("pod_ready_cluster", "s", ours, peer=peer, peer_name=PEER, n=1)
    say(f"a pod Ready: {found['ours']:.3f} s, the peer {found['peer']:.3f} s ({runs} each)")
    return [found]


async def bursts(place: Site, them: Pods, runs: int, count: int, idle: float) -> Records:
    """A burst on each node, in turn. With the last ones running the agent is looked at for `idle` seconds."""
    took: dict[str, list[float]] = {place.ours: [], place.peer: []}
    cost: Records = []
    for number in range(runs):
        running: list[str] = []
        for node, times in took.items():
            names, seconds = await them.create(node, count)
            times.append(seconds)
            say(f"{count} pods Ready in {seconds:.2f} s ({'ours' if node == place.ours else 'peer'})")
            if number < runs - 1:
                await them.delete(names)
            else:
                running += names
        if running:
            cost = await costs(place, count, idle)
            await them.delete(running)
    ours, peer = took.values()
    return [record(f"pod_burst_{count}", "s", ours, peer=peer, peer_name=PEER, n=count), *cost]


async def costs(place: Site, count: int, seconds: float) -> Records:
    """The agent at rest with `count` pods on its node."""
    await asyncio.sleep(seconds / 12)  # kubelet's last words about these pods
    agent = _running(place)
    before, began = agent.cpu(), now()
    await asyncio.sleep(seconds)
    share = 100 * (agent.cpu() - before) / (now() - began)
    memory = agent.memory()
    say(f"agent at rest: {share:.2f} % of a core, {memory:.1f} MB")
    return [record("agent_memory", "MB", [memory], n=count), record("agent_idle_cpu", "%", [share], n=count)]


def _running(place: Site) -> Process:
    assert place.agent is not None, "the agent runs"
    return place.agent


async def crowd(place: Site, nodes: int, count: int) -> Records:
    """So many nodes and pods more, which no kubelet knows."""
    began = time.monotonic()
    client = Client(load(place.lab.kubeconfig), user_agent="podwire-bench")
    try:
        await asyncio.wait_for(clusterfill.spaces(client), SECONDS)
    finally:
        await client.close()
    words = [sys.executable, "-m", "bench.clusterfill", str(place.lab.kubeconfig), str(nodes), str(count)]
    fillers = [subprocess.Popen([*words, str(part), str(PARTS)], cwd=ROOT) for part in range(PARTS)]
    try:
        async with within(FILL_SECONDS, f"{nodes} nodes and {count} pods made"):
            codes = await asyncio.gather(*(asyncio.to_thread(one.wait) for one in fillers))
        assert codes == [0] * PARTS, f"not all objects could be made: {codes}"
    finally:
        for one in fillers:
            one.kill()
            one.wait()
    say(f"{nodes} nodes and {count} pods made in {time.monotonic() - began:.0f} s")
    await place.end_agent()
    agent = await place.start_agent()
    async with within(SECONDS, "the agent ready again"):
        while "ok" not in place.run(place.ours, "curl -s http://127.0.0.1:9098/readyz || true"):
            await asyncio.sleep(0.2)
    await asyncio.sleep(2)
    own = agent.memory()
    told = _learned(place, f"node-{clusterfill.FIRST:04d}")
    say(f"agent {own:.1f} MB; with a record of each of {told['pods']} pods {told['bytes'] / 1e6:.1f} MB")
    return [
        record("agent_memory_400_nodes", "MB", [own], n=nodes),
        record("agent_memory_20000_pods", "MB", [told["bytes"] / 1e6], n=told["pods"]),
    ]


def _learned(place: Site, node: str) -> dict[str, Any]:
    words = [sys.executable, "-m", "bench.clusteragent", str(place.lab.kubeconfig), node, "all"]
    done = subprocess.run(words, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True, timeout=SECONDS)
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told
