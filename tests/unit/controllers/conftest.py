"""A cluster without machines: the fake API, all controllers, and a kubelet that says what a test wants."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from podwire.controllers.run import ControllersConfig, run
from podwire.kube.client import ApiError
from podwire.kube.fake import FakeApi
from podwire.kube.watch import Update
from podwire.model import gvr
from podwire.model.gvr import GVR

Object = dict[str, Any]


def node(name: str, *, ready: bool = True, cpu: str = "4", **spec: Any) -> Object:
    role = {"node-role.kubernetes.io/control-plane": ""} if "control-plane" in name else {}
    amounts = {"cpu": cpu, "memory": "8Gi", "pods": "110"}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, **role}},
        "spec": spec,
        "status": {
            "allocatable": amounts,
            "capacity": amounts,
            "conditions": [{"type": "Ready", "status": "True" if ready else "False"}],
        },
    }


def template(app: str, image: str = "nginx:1", **spec: Any) -> Object:
    container = {"name": "web", "image": image, "ports": [{"name": "http", "containerPort": 80}]}
    return {"metadata": {"labels": {"app": app}}, "spec": {"containers": [container], **spec}}


def deployment(name: str, replicas: int = 3, **more: Any) -> Object:
    wanted = {
        "replicas": replicas,
        "selector": {"matchLabels": {"app": name}},
        "template": template(name),
        "progressDeadlineSeconds": 600,
        **more,
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": "default"},
        "spec": wanted,
    }


class Kubelets:
    """Every node's kubelet: runs what is bound, ends what must end. `hold` keeps pods from becoming ready."""

    def __init__(self, api: FakeApi) -> None:
        self.api = api
        self.hold: Callable[[Object], bool] = lambda pod: False
        self._next = 10

    async def run(self) -> None:
        async for update in self.api.watch(gvr.PODS):
            if isinstance(update, Update) and update.object is not None:
                await self.tend(update.object)

    async def tend(self, pod: Object) -> None:
        name, namespace = pod["metadata"]["name"], pod["metadata"]["namespace"]
        if not pod["spec"].get("nodeName"):
            return
        try:
            if "deletionTimestamp" in pod["metadata"]:
                await self.api.delete(gvr.PODS, name, namespace, grace=0)
            elif (pod.get("status") or {}).get("phase") != "Running" or not self.hold(pod):
                await self._report(pod)
        except ApiError as error:
            assert error.status in (404, 409), error

    async def _report(self, pod: Object) -> None:
        status = pod.get("status") or {}
        ready = "False" if self.hold(pod) else "True"
        conditions = [one for one in status.get("conditions") or [] if one["type"] != "Ready"]
        before = [one for one in status.get("conditions") or [] if one["type"] == "Ready"]
        if before and before[0]["status"] == ready:
            return
        conditions.append({"type": "Ready", "status": ready, "lastTransitionTime": "2026-01-01T00:00:00Z"})
        if not status.get("podIP"):
            self._next += 1
        ip = status.get("podIP") or f"10.244.1.{self._next}"
        new = {**status, "phase": "Running", "conditions": conditions, "podIP": ip, "podIPs": [{"ip": ip}]}
        await self.api.patch(
            gvr.PODS, pod["metadata"]["name"], {"status": new}, pod["metadata"]["namespace"], subresource="status"
        )

    async def release(self) -> None:
        """Let held pods become ready."""
        self.hold = lambda pod: False
        for pod in self.api.objects(gvr.PODS):
            await self.tend(pod)


class Running:
    """A cluster in motion."""

    def __init__(self, api: FakeApi) -> None:
        self.api = api
        self.kubelets = Kubelets(api)

    async def until(self, holds: Callable[[], Any], seconds: float = 10.0) -> None:
        """Wait until a condition holds; fails with what there is."""
        for _ in range(int(seconds / 0.005)):
            if holds():
                return
            await asyncio.sleep(0.005)
        world = {kind.plural: [brief(one) for one in self.api.objects(kind)] for kind in SHOWN}
        raise AssertionError(f"did not come to be: {world}")

    def get(self, kind: GVR, name: str, namespace: str = "default") -> Object | None:
        return next(
            (
                one
                for one in self.api.objects(kind)
                if one["metadata"]["name"] == name and one["metadata"].get("namespace", "") in (namespace, "")
            ),
            None,
        )

    def pods(self, **labels: str) -> list[Object]:
        return [
            one for one in self.api.objects(gvr.PODS) if labels.items() <= (one["metadata"].get("labels") or {}).items()
        ]

    def ready(self, **labels: str) -> list[Object]:
        return [pod for pod in self.pods(**labels) if is_ready(pod) and "deletionTimestamp" not in pod["metadata"]]

    async def still(self, seconds: float = 0.1) -> None:
        """Wait until nothing has been written for a while."""
        before, quiet = self.writes(), 0.0
        while quiet < seconds:
            await asyncio.sleep(0.01)
            now = self.writes()
            quiet = quiet + 0.01 if now == before else 0.0
            before = now

    def writes(self) -> int:
        verbs = ("create", "update", "patch", "delete")
        return sum(count for (verb, _), count in self.api.calls.items() if verb in verbs)


SHOWN = [gvr.DEPLOYMENTS, gvr.REPLICASETS, gvr.DAEMONSETS, gvr.PODS, gvr.NODES, gvr.EVENTS]


def is_ready(pod: Object) -> bool:
    conditions = (pod.get("status") or {}).get("conditions") or []
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


def brief(obj: Object) -> Object:
    told = {"name": obj["metadata"]["name"], "status": obj.get("status"), "message": obj.get("message")}
    return {**told, "deleting": obj["metadata"].get("deletionTimestamp")}


@asynccontextmanager
async def controllers(api: FakeApi, **config: Any) -> AsyncIterator[None]:
    task = asyncio.create_task(run(api, ControllersConfig(ca_pem="PEM", **config)))
    try:
        yield
    finally:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


@pytest.fixture
async def cluster() -> AsyncIterator[Running]:
    """Three ready nodes as kind makes them, the default namespace, kubelets; no controllers yet."""
    api = FakeApi()
    taint = {"key": "node-role.kubernetes.io/control-plane", "effect": "NoSchedule"}
    await api.create(gvr.NAMESPACES, namespace("default"))
    await api.create(gvr.NODES, node("lab-control-plane", taints=[taint]))
    for name in ("lab-worker", "lab-worker2"):
        await api.create(gvr.NODES, node(name))
    running = Running(api)
    task = asyncio.create_task(running.kubelets.run())
    yield running
    task.cancel()


def namespace(name: str) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": name},
        "spec": {"finalizers": ["kubernetes"]},
        "status": {"phase": "Active"},
    }
