"""Objects of many nodes and pods, created through a genuine API by parallel clients:
`python -m bench.clusterfill KUBECONFIG NODES PODS PART PARTS` makes its part of them and ends; `spaces` come first.

No kubelet runs for these nodes. Pods are bound, running and have addresses; nobody restarts or evicts them.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from bench import clusterworld
from podwire.kube.client import Client
from podwire.kube.kubeconfig import load
from podwire.model.api import ApiError
from podwire.model.gvr import IPAMBLOCKS, NAMESPACES, NODES, PODS, SERVICEACCOUNTS

FIRST = 1024
"""Number of the first node: its addresses are past those of the lab's own nodes."""
AT_ONCE = 24
SPACES = 100

Object = dict[str, Any]


def _meta(made: Object) -> Object:
    """What a client may say of it; the rest is the server's."""
    kept = ("name", "namespace", "labels", "annotations")
    return {key: value for key, value in made["metadata"].items() if key in kept}


async def node(client: Client, number: int) -> None:
    made = clusterworld.node(FIRST + number)
    await client.create(NODES, {"metadata": _meta(made), "spec": made["spec"], "status": made["status"]})


async def block(client: Client, number: int, each: int) -> None:
    made = clusterworld.block(FIRST + number, each)
    held = made["spec"]["allocations"]
    free = [place for place, one in enumerate(held) if one is None]
    spec = {**made["spec"], "strictAffinity": False, "unallocated": free, "deleted": False}
    kind = {"apiVersion": IPAMBLOCKS.api_version, "kind": IPAMBLOCKS.kind}
    await client.create(IPAMBLOCKS, {**kind, "metadata": _meta(made), "spec": spec})


async def pod(client: Client, number: int, nodes: int) -> None:
    made = clusterworld.pod(number, nodes, FIRST)
    metadata, spec = _meta(made), {**made["spec"], "tolerations": [{"operator": "Exists"}]}
    await client.create(PODS, {"metadata": metadata, "spec": spec})
    status = {key: made["status"][key] for key in ("phase", "podIP", "podIPs")}
    await client.patch(PODS, metadata["name"], {"status": status}, metadata["namespace"], subresource="status")


async def space(client: Client, number: int) -> None:
    name = f"team-{number:03d}"
    with contextlib.suppress(ApiError):  # the server may have made it without being able to say so
        await client.create(NAMESPACES, {"metadata": {"name": name, "labels": {"team": str(number)}}})
    while not (await client.list(SERVICEACCOUNTS, name))[0]:
        await asyncio.sleep(0.1)


async def spaces(client: Client) -> None:
    """The namespaces of all pods."""
    await several(range(SPACES), lambda number: space(client, number))


async def several(numbers: range, work: Callable[[int], Awaitable[None]]) -> None:
    """So many calls under way at a time."""
    left = iter(numbers)

    async def one() -> None:
        for number in left:
            while True:
                try:
                    await work(number)
                except ApiError as error:
                    if error.already_exists:
                        break
                    if error.status not in (0, 429, 500, 503):
                        raise
                    await asyncio.sleep(0.5)  # the server asks for a rest
                else:
                    break

    async with asyncio.TaskGroup() as tasks:
        for _ in range(AT_ONCE):
            tasks.create_task(one())


async def fill(kubeconfig: Path, nodes: int, pods: int, part: int, parts: int) -> None:
    client = Client(load(kubeconfig), user_agent="podwire-bench")
    try:
        await several(range(part, nodes, parts), lambda number: node(client, number))
        await several(range(part, nodes, parts), lambda number: block(client, number, pods // nodes))
        await several(range(part, pods, parts), lambda number: pod(client, number, nodes))
    finally:
        await client.close()


if __name__ == "__main__":
    path, *counts = sys.argv[1:]
    asyncio.run(fill(Path(path), *map(int, counts)))
