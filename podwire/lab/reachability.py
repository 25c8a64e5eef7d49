"""Who reaches whom, and which source address the receiver saw: the flat network, proved instead of claimed.

Senders and receivers are the pods of two small workloads: `web`, and `node`, whose pods share their node's network and
so stand for the nodes. Each answers `GET /source` with the address that it saw.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from podwire.kube.api import Object
from podwire.kube.client import Client
from podwire.kube.exec import run
from podwire.model.gvr import NODES, PODS

PORT = 80
NODE_PORT = 8780
TUNNEL_ANNOTATION = "projectcalico.org/IPv4VXLANTunnelAddr"


@dataclass(frozen=True, slots=True)
class Spot:
    """A place to send from and to, reached at `address`. Others must see one of `own` as its source: a pod has just its
    address, a node (`node` is true) also that of its tunnel's end."""

    name: str
    address: str
    own: frozenset[str]
    node: bool
    pod: str
    container: str
    on: str


@dataclass(frozen=True, slots=True)
class Probe:
    """One request: `seen` is the source address that the receiver told, or '' and `error` says why not."""

    sender: Spot
    receiver: Spot
    seen: str
    error: str = ""

    @property
    def flat(self) -> bool:
        """Whether the receiver saw an address of the sender's own."""
        return self.seen in self.sender.own


def spots(pods: list[dict[str, Any]], nodes: list[dict[str, Any]]) -> list[Spot]:
    """The running pods of the two workloads, nodes last."""
    tunnel = {
        node["metadata"]["name"]: (node["metadata"].get("annotations") or {}).get(TUNNEL_ANNOTATION) for node in nodes
    }
    found = []
    for pod in pods:
        metadata, spec, status = pod["metadata"], pod["spec"], pod.get("status", {})
        if status.get("phase") != "Running" or metadata.get("deletionTimestamp") or not status.get("podIP"):
            continue
        node = bool(spec.get("hostNetwork"))
        name = spec["nodeName"] if node else metadata["name"]
        container = spec["containers"][0]["name"]
        own = {status["podIP"], tunnel.get(name) if node else None} - {None}
        on = spec["nodeName"]
        found.append(Spot(name, status["podIP"], frozenset(own), node, metadata["name"], container, on))
    return sorted(found, key=lambda spot: (spot.node, spot.name))


async def probe_from(client: Client, namespace: str, sender: Spot, receivers: list[Spot]) -> list[Probe]:
    """All requests of one sender, in one exec: curl each receiver, two seconds at most."""
    ports = [NODE_PORT if receiver.node else PORT for receiver in receivers]
    urls = [f"http://{receiver.address}:{port}/source" for receiver, port in zip(receivers, ports, strict=True)]
    script = 'for u in "$@"; do curl -s -S --max-time 2 "$u" 2>&1 || true; echo; done'
    done = await run(client, namespace, sender.pod, sender.container, ["sh", "-c", script, "sh", *urls], seconds=60)
    answers = [line.strip() for line in done.stdout.decode("utf-8", "replace").splitlines() if line.strip()]
    probes = []
    for number, receiver in enumerate(receivers):
        answer = answers[number] if number < len(answers) else f"no answer (exit code {done.exit_code})"
        seen = answer if answer.replace(".", "").replace(":", "").isalnum() and " " not in answer else ""
        probes.append(Probe(sender, receiver, seen, "" if seen else answer))
    return probes


async def matrix(client: Client, namespace: str, selector: str) -> list[Probe]:
    """Every spot to every spot. Raises ApiError."""
    pods, _ = await client.list(PODS, namespace, label_selector=selector)
    nodes, _ = await client.list(NODES)
    places = spots(pods, nodes)
    rows = await asyncio.gather(*(probe_from(client, namespace, sender, places) for sender in places))
    return [probe for row in rows for probe in row]


def workloads(namespace: str, app: str) -> list[Object]:
    """The web app: a Deployment of three, the configuration it serves, and its twin on every node's own network."""
    conf = (
        "server {{ listen {port}; location = /source {{ default_type text/plain; return 200 $remote_addr; }} "
        "location / {{ root /usr/share/nginx/html; index index.html; }} }}\n"
    )
    labels = {"app.kubernetes.io/part-of": app}

    def pod(name: str, extra: Object) -> Object:
        container = {
            "name": "nginx",
            "image": "nginx:1.27",
            "readinessProbe": {"tcpSocket": {"port": NODE_PORT if extra else PORT}, "periodSeconds": 1},
            "volumeMounts": [{"name": "conf", "mountPath": "/etc/nginx/conf.d"}],
        }
        items = [{"key": f"{name}.conf", "path": "default.conf"}]
        volumes = [{"name": "conf", "configMap": {"name": app, "items": items}}]
        return {
            "metadata": {"labels": {"app": name, **labels}},
            "spec": {"containers": [container], "volumes": volumes, "terminationGracePeriodSeconds": 1, **extra},
        }

    tolerate = {"hostNetwork": True, "tolerations": [{"operator": "Exists"}]}
    return [
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": app, "namespace": namespace},
            "data": {"web.conf": conf.format(port=PORT), "node.conf": conf.format(port=NODE_PORT)},
        },
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "web", "namespace": namespace, "labels": labels},
            "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "web"}}, "template": pod("web", {})},
        },
        {
            "apiVersion": "apps/v1",
            "kind": "DaemonSet",
            "metadata": {"name": "node", "namespace": namespace, "labels": labels},
            "spec": {"selector": {"matchLabels": {"app": "node"}}, "template": pod("node", tolerate)},
        },
    ]
