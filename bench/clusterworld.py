"""The API of a large cluster, as far as agents read it: nodes, blocks, namespaces and pods as genuine servers tell
them, made up on the fly and streamed. A process of its own: `python -m bench.clusterworld NODES PODS` prints its port.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator
from typing import Any

from aiohttp import web

Object = dict[str, Any]
BLOCK = 64
OWNED = [{"f:metadata": {"f:labels": {".": {}, f"f:label-{n}": {}}}, "f:spec": {"f:containers": {}}} for n in range(3)]


def meta(name: str, number: int, namespace: str = "", **more: Any) -> Object:
    fields = [
        {
            "manager": f"manager-{n}",
            "operation": "Update",
            "apiVersion": "v1",
            "fieldsType": "FieldsV1",
            "fieldsV1": one,
        }
        for n, one in enumerate(OWNED)
    ]
    scope = {"namespace": namespace} if namespace else {}
    uid = f"00000000-0000-4000-8000-{number:012x}"
    head = {"name": name, **scope, "uid": uid, "resourceVersion": str(1000 + number)}
    return {**head, "creationTimestamp": "2026-01-01T00:00:00Z", "managedFields": fields, **more}


def node(number: int) -> Object:
    name, low = f"node-{number:04d}", f"{number // 250}.{number % 250 + 1}"
    annotations = {
        "projectcalico.org/IPv4Address": f"172.18.{low}/16",
        "projectcalico.org/IPv4VXLANTunnelAddr": address(number * BLOCK),
        "node.alpha.kubernetes.io/ttl": "0",
    }
    labels = {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "topology.kubernetes.io/zone": "z1"}
    images = [{"names": [f"registry.example/team/image-{n}:v{n}"], "sizeBytes": n << 20} for n in range(50)]
    conditions = [
        {"type": kind, "status": "False", "lastHeartbeatTime": "2026-01-01T00:00:00Z", "message": "kubelet is well"}
        for kind in ("MemoryPressure", "DiskPressure", "PIDPressure", "Ready")
    ]
    told = [{"type": "InternalIP", "address": f"172.18.{low}"}, {"type": "Hostname", "address": name}]
    return {
        "metadata": meta(name, number, annotations=annotations, labels=labels),
        "spec": {"podCIDR": f"{address(number * BLOCK)}/26"},
        "status": {"addresses": told, "images": images, "conditions": conditions},
    }


def address(number: int) -> str:
    return f"10.{64 + (number >> 16)}.{number >> 8 & 255}.{number & 255}"


def pod(number: int, nodes: int, first: int = 0) -> Object:
    """`first` is the number of the first of these nodes."""
    space, app = f"team-{number % 100:03d}", f"app-{number % 2000:04d}"
    name, home = f"{app}-7d9f8b6c5-{number:05d}", first + number % nodes
    labels = {"app": app, "team": space, "tier": f"tier-{number % 4}", "pod-template-hash": "7d9f8b6c5"}
    annotations = {"kubectl.kubernetes.io/last-applied-configuration": "x" * 1500, "prometheus.io/scrape": "true"}
    env = [{"name": f"VARIABLE_{n}", "value": f"value {n}"} for n in range(20)]
    containers = [
        {"name": "main", "image": "registry.example/team/app:v1", "env": env, "ports": [{"containerPort": 80}]}
    ]
    ip = address(home * BLOCK + 1 + number // nodes)
    return {
        "metadata": meta(name, number, space, labels=labels, annotations=annotations),
        "spec": {"nodeName": f"node-{home:04d}", "serviceAccountName": "default", "containers": containers},
        "status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "containerStatuses": containers},
    }


def block(number: int, each: int) -> Object:
    name, first = f"node-{number:04d}", number * BLOCK
    held = [n if n <= each else None for n in range(BLOCK)]
    attributes = [
        {"handle_id": f"k8s-pod-network.{number:032x}{n:032x}", "secondary": {"node": name, "pod": f"pod-{n}"}}
        for n in range(each + 1)
    ]
    cidr = f"{address(first)}/26"
    spec = {"cidr": cidr, "affinity": f"host:{name}", "allocations": held, "attributes": attributes}
    return {"metadata": meta(cidr.replace(".", "-").replace("/", "-"), number), "spec": spec}


def objects(plural: str, nodes: int, pods: int, home: str) -> Iterator[Object]:
    if plural == "nodes":
        yield from (node(number) for number in range(nodes))
    elif plural == "ipamblocks":
        yield from (block(number, pods // nodes) for number in range(nodes))
    elif plural == "namespaces":
        yield from ({"metadata": meta(f"team-{n:03d}", n, labels={"team": f"{n}"})} for n in range(100))
    elif plural == "ippools":
        spec = {"cidr": "10.64.0.0/10", "vxlanMode": "Always", "natOutgoing": True, "nodeSelector": "all()"}
        yield {"metadata": meta("default-ipv4-ippool", 1), "spec": spec}
    elif plural == "pods":
        told = (pod(number, nodes) for number in range(pods))
        yield from (one for one in told if not home or one["spec"]["nodeName"] == home)


async def serve(nodes: int, pods: int) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        plural = request.path.rsplit("/", 1)[-1]
        if request.query.get("watch") != "1":
            return web.json_response({"kind": "Status", "code": 404, "reason": "NotFound"}, status=404)
        response = web.StreamResponse()
        await response.prepare(request)
        home = request.query.get("fieldSelector", "").partition("spec.nodeName=")[2]
        for obj in objects(plural, nodes, pods, home):
            await response.write(json.dumps({"type": "ADDED", "object": obj}).encode() + b"\n")
        end = {"metadata": {"resourceVersion": "100000", "annotations": {"k8s.io/initial-events-end": "true"}}}
        await response.write(json.dumps({"type": "BOOKMARK", "object": end}).encode() + b"\n")
        await asyncio.sleep(3600)
        return response

    runner = web.ServerRunner(web.Server(answer))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    assert site._server is not None
    print(site._server.sockets[0].getsockname()[1], flush=True)
    await asyncio.sleep(3600)


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), int(sys.argv[2])))
