"""How long until a cluster is there, and what it weighs.

`lab_up_3_nodes`: seconds from the command to all nodes Ready. `lab_up_to_answer`: on the same clock, until a pod on
each node answers the other two by address. `lab_memory`: proportional set size of everything in the lab with the web
app running, in MB (10^6 bytes).
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from bench.record import record
from bench.session import Session, session
from podwire.kube.client import Client
from podwire.kube.exec import run
from podwire.kube.kubeconfig import load
from podwire.kube.watch import Update
from podwire.lab.demo import prove
from podwire.model.gvr import NODES, PODS

PUBLISHED = "none run here; published for one node with a container engine: k3d 12.6 s, kind 14.2 s"


def pod(name: str, node: str = "") -> dict[str, Any]:
    """A pod of the web app's kind, on a given node or wherever the scheduler puts it."""
    spec: dict[str, Any] = {
        "containers": [{"name": "web", "image": "nginx:1.27"}],
        "terminationGracePeriodSeconds": 0,
        "tolerations": [{"operator": "Exists"}],
    }
    if node:
        spec["nodeName"] = node
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "labels": {"bench": "yes"}},
        "spec": spec,
    }


def is_ready(obj: dict[str, Any]) -> bool:
    conditions = obj.get("status", {}).get("conditions", [])
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


async def ready(client: Client, count: int) -> dict[str, str]:
    """Wait for `count` Ready pods; their addresses by name."""
    found: dict[str, str] = {}
    async for change in client.watch(PODS, "default", label_selector="bench=yes"):
        if isinstance(change, Update) and change.object and is_ready(change.object):
            found[change.key[1]] = change.object["status"]["podIP"]
        if len(found) == count:
            break
    return found


async def answering(lab: Session) -> float:
    """The moment when one pod on each node has answered both others."""
    client = Client(load(lab.kubeconfig))
    try:
        nodes, _ = await client.list(NODES)
        names = [node["metadata"]["name"] for node in nodes]
        for name in names:
            await client.create(PODS, pod(name, name))
        addresses = await asyncio.wait_for(ready(client, len(names)), 60)

        async def ask(sender: str) -> None:
            others = [f"http://{address}/" for name, address in addresses.items() if name != sender]
            for url in others:
                argv = [
                    "curl",
                    "-s",
                    "--retry",
                    "20",
                    "--retry-connrefused",
                    "--retry-delay",
                    "0",
                    "-o",
                    "/dev/null",
                    url,
                ]
                done = await run(client, "default", sender, "web", argv)
                assert done.exit_code == 0, f"{sender} got no answer from {url}: {done}"

        await asyncio.gather(*(ask(name) for name in names))
        moment = time.monotonic()
        for name in names:
            await client.delete(PODS, name, "default", grace=0)
        return moment
    finally:
        await client.close()


def megabytes(status: Any) -> float:
    return float(status["memory_bytes"]) / 1e6


def measure(runs: int = 10) -> list[dict[str, Any]]:
    """Bring a three-node lab up `runs` times, each time from nothing but the cache."""
    up, answer, memory = [], [], []
    for _ in range(runs):
        with session() as lab:
            up.append(lab.ready - lab.began)
            answer.append(asyncio.run(answering(lab)) - lab.began)
            prove(lab.kubeconfig, f"podwire-{lab.name}", lambda words: None)
            memory.append(megabytes(lab.status()))
    return [
        record("lab_up_3_nodes", "s", up, n=3, peer_name=PUBLISHED),
        record("lab_up_to_answer", "s", answer, n=3),
        record("lab_memory", "MB", memory, n=3),
    ]
