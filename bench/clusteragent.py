"""What a node's agent keeps of a large cluster: `python -m bench.clusteragent API NODE [all]` learns it, says how long
that took and what the process weighs, and ends. API is a port of 127.0.0.1 or a kubeconfig. With `all` it keeps every
pod's slim record, too, as policy will.

The pages are the agent's own, from the HTTP client to the tables; the kernel below them is the one in memory.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import time
from pathlib import Path
from typing import Any

from podwire.agent import main as whole
from podwire.agent.datapath import NodeDatapath
from podwire.agent.health import Health
from podwire.agent.loop import Loop
from podwire.agent.pods import Pods
from podwire.agent.turns import Turns
from podwire.calc.routes import RouteCalc
from podwire.kernel.fake import FakeKernel, FakeNft
from podwire.kube.client import Client
from podwire.kube.kubeconfig import Cluster, load
from podwire.kube.watch import InSync
from podwire.model.gvr import PODS
from podwire.model.pod import Pod
from podwire.render.routing import Names


def weight() -> int:
    """Proportional set size in bytes."""
    rows = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return int(next(row for row in rows if row.startswith("Pss:")).split()[1]) * 1024


async def learn(api: str, node: str, everything: bool) -> dict[str, Any]:
    assert whole.Agent, "the process of an agent has all of its pages"
    cluster = Cluster(f"http://127.0.0.1:{api}") if api.isdigit() else load(Path(api))
    began, client = time.monotonic(), Client(cluster)
    kernel = FakeKernel()
    kernel.add_link("eth0")
    datapath = NodeDatapath(kernel, FakeNft(), Names(), lambda *_: False, lambda _: "0")
    loop, pods = Loop(client, RouteCalc(node), datapath, Names(), Health()), Pods(client, node, Turns())
    kept: dict[Any, Pod] = {}
    synced = asyncio.Event()

    async def follow() -> None:
        async for item in client.watch(PODS, decode=Pod):
            if isinstance(item, InSync):
                synced.set()
            elif item.object is not None:
                kept[item.key] = item.object

    tasks = [asyncio.create_task(one) for one in (loop.run(), pods.run(), *([follow()] if everything else []))]
    await loop.applied.wait()
    while not pods.known():
        await asyncio.sleep(0.01)
    if everything:
        await synced.wait()
    seconds = time.monotonic() - began
    gc.collect()
    found = {"seconds": seconds, "bytes": weight(), "nodes": len(loop.nodes), "pods": len(kept) or len(pods.known())}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await client.close()
    return found


if __name__ == "__main__":
    print(json.dumps(asyncio.run(learn(sys.argv[1], sys.argv[2], sys.argv[3:] == ["all"]))))
