"""The cluster of `bench policy`'s calculation: many namespaces with a few kinds of pods each and two policies.

Objects are made as the JSON that an API server sends, so that what is decoded and kept is what an agent keeps.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass

import msgspec

from podwire.model.member import Namespace
from podwire.model.pod import Pod
from podwire.model.policy import Policy
from podwire.model.policykinds import KINDS
from podwire.model.written import Written

TEAMS = 50
_POD = msgspec.json.Decoder(Pod)
_NAMESPACE = msgspec.json.Decoder(Namespace)
_POLICY = msgspec.json.Decoder(Written)


@dataclass(frozen=True, slots=True)
class Scale:
    pods: int = 100_000
    namespaces: int = 5_000
    policies: int = 10_000
    local: int = 110

    def pod(self, number: int, *, app: str = "") -> bytes:
        """Replicas of four applications in each namespace."""
        space, index = number % self.namespaces, number // self.namespaces
        app = app or f"app-{index % 4}"
        meta = {
            "name": f"{app}-7d9f8b6c5d-{number:06x}",
            "namespace": f"space-{space}",
            "uid": f"5f0c0000-0000-4000-8000-{number:012x}",
            "resourceVersion": str(number),
            "labels": {
                "app": app,
                "app.kubernetes.io/part-of": f"shop-{space % 400}",
                "tier": ("front", "back")[index % 2],
                "pod-template-hash": f"{space * 4 + index % 4:08x}",
                "version": "v1",
            },
            "annotations": {"kubectl.kubernetes.io/restartedAt": "2026-01-01T00:00:00Z"},
        }
        ports = [{"name": "http", "containerPort": 8080}, {"name": "metrics", "containerPort": 9090}]
        spec = {
            "nodeName": f"node-{number % 1000}",
            "serviceAccountName": "default",
            "containers": [{"name": "main", "image": "shop:1", "ports": ports}],
        }
        ip = f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
        status = {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}]}
        return json.dumps({"metadata": meta, "spec": spec, "status": status}).encode()

    def namespace(self, number: int) -> bytes:
        labels = {"kubernetes.io/metadata.name": f"space-{number}", "team": f"team-{number % TEAMS}"}
        return json.dumps({"metadata": {"name": f"space-{number}", "labels": labels}}).encode()

    def policy(self, number: int, *, port: int = 8080, peer: str = "app-1") -> bytes:
        """One lets a team and a neighbour in, the other names an application, an address block and a port."""
        space, second = number % self.namespaces, number // self.namespaces
        peers: list[dict[str, object]] = [{"podSelector": {"matchLabels": {"app": peer}}}]
        if second % 2:
            peers.append(
                {"ipBlock": {"cidr": f"172.16.{number % 200}.0/24", "except": [f"172.16.{number % 200}.8/32"]}}
            )
        else:
            peers.append({"namespaceSelector": {"matchLabels": {"team": f"team-{number % TEAMS}"}}})
        spec = {
            "podSelector": {"matchLabels": {"tier": "back"}} if second % 2 else {},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [{"from": peers, "ports": [{"protocol": "TCP", "port": port}]}],
            "egress": [
                {"to": peers},
                {"to": [{"namespaceSelector": {}}], "ports": [{"protocol": "UDP", "port": 53}]},
            ],
        }
        return json.dumps(
            {"metadata": {"name": f"policy-{number}", "namespace": f"space-{space}"}, "spec": spec}
        ).encode()

    def local_pods(self) -> list[int]:
        return random.Random(1).sample(range(self.pods), self.local)


def read_pod(data: bytes) -> Pod:
    return _POD.decode(data)


def read_namespace(data: bytes) -> Namespace:
    return _NAMESPACE.decode(data)


def read_policy(data: bytes) -> Policy:
    return KINDS[0].convert(_POLICY.decode(data))
