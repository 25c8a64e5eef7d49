"""How long until a pod is Ready.

`pod_ready`: seconds from the create call to the Ready condition as a watch sees it. `pod_ready_kubectl`: the same, from
the start of a `kubectl create` process. `pods_100_ready`: seconds for 100 pods over three nodes.
"""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

from bench.lab import pod, ready
from bench.record import record
from bench.session import Session, session
from podwire.kube.client import Client
from podwire.kube.kubeconfig import load
from podwire.model.gvr import PODS

BASELINE = "none run here; genuine Kubernetes 1.36 on this kind of machine: 0.59 s"


async def _gone(client: Client) -> None:
    while (await client.list(PODS, "default", label_selector="bench=yes"))[0]:
        await asyncio.sleep(0.05)


async def _one(client: Client, lab: Session, *, kubectl: bool) -> float:
    waiting = asyncio.create_task(ready(client, 1))
    await asyncio.sleep(0.2)
    began = time.monotonic()
    if kubectl:
        child = await asyncio.create_subprocess_exec(
            *("kubectl", "create", "-f", "-"), env=lab.env, stdin=-1, stdout=-3, stderr=-3
        )
        await child.communicate(json.dumps(pod("one")).encode())
    else:
        await client.create(PODS, pod("one"))
    await asyncio.wait_for(waiting, 30)
    took = time.monotonic() - began
    await client.delete(PODS, "one", "default", grace=0)
    await _gone(client)
    return took


async def _hundred(client: Client) -> float:
    names = [f"many-{number}" for number in range(100)]
    began = time.monotonic()
    await asyncio.gather(*(client.create(PODS, pod(name)) for name in names))
    await asyncio.wait_for(ready(client, 100), 120)
    took = time.monotonic() - began
    await asyncio.gather(*(client.delete(PODS, name, "default", grace=0) for name in names))
    await _gone(client)
    return took


async def _measure(lab: Session, runs: int) -> tuple[list[float], list[float], list[float]]:
    client = Client(load(lab.kubeconfig))
    try:
        await _one(client, lab, kubectl=True)
        calls, commands = [], []
        for _ in range(runs):
            calls.append(await _one(client, lab, kubectl=False))
            commands.append(await _one(client, lab, kubectl=True))
        return calls, commands, [await _hundred(client) for _ in range(runs)]
    finally:
        await client.close()


def measure(runs: int = 10) -> list[dict[str, Any]]:
    """Pods one by one, then a hundred at once, on one lab."""
    with session() as lab:
        calls, commands, hundreds = asyncio.run(_measure(lab, runs))
    return [
        record("pod_ready", "s", calls, n=1, peer_name=BASELINE),
        record("pod_ready_kubectl", "s", commands, n=1),
        record("pods_100_ready", "s", hundreds, n=100),
    ]
