"""The main job, start to end: a small web app on a running lab, and the proof that its network is flat."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from podwire.kube.api import ApiError, Object
from podwire.kube.client import Client
from podwire.kube.kubeconfig import load
from podwire.lab.reachability import Probe, matrix, workloads
from podwire.model.gvr import CONFIGMAPS, DAEMONSETS, DEPLOYMENTS, GVR, NAMESPACES

NAMESPACE = "podwire-demo"
APP = "web-app"
_KINDS = {"ConfigMap": CONFIGMAPS, "Deployment": DEPLOYMENTS, "DaemonSet": DAEMONSETS}


class DemoError(Exception):
    """The app did not come up; the message says what is missing."""


async def _ensure(client: Client, gvr: GVR, obj: Object) -> None:
    """Server-side apply: creates what is missing, changes nothing that is right."""
    metadata = obj["metadata"]
    await client.patch(
        gvr, metadata["name"], obj, metadata.get("namespace", ""), kind="apply", manager="podwire-demo", force=True
    )


def missing(deployment: Object, daemonset: Object) -> str:
    """What is not ready yet, in words; '' when all is."""
    wanted, status = deployment["spec"]["replicas"], deployment.get("status", {})
    current = status.get("observedGeneration", 0) >= deployment["metadata"]["generation"]
    ready = status.get("updatedReplicas", 0) == status.get("readyReplicas", 0) == status.get("replicas", 0) == wanted
    if not (current and ready):
        return f"deployment web has {status.get('readyReplicas', 0)} of {wanted} pods ready"
    status = daemonset.get("status", {})
    asked = status.get("desiredNumberScheduled", 0)
    if not asked or status.get("numberReady", 0) != asked:
        return f"daemonset node has {status.get('numberReady', 0)} of {asked} pods ready"
    return ""


async def _ready(client: Client, seconds: float) -> None:
    """Wait for the app. Raises DemoError."""
    end = time.monotonic() + seconds
    while True:
        lacking = missing(
            await client.get(DEPLOYMENTS, "web", NAMESPACE), await client.get(DAEMONSETS, "node", NAMESPACE)
        )
        if not lacking:
            return
        if time.monotonic() > end:
            raise DemoError(f"after {seconds:g} s, {lacking}; look with: kubectl -n {NAMESPACE} describe pods")
        await asyncio.sleep(0.1)


async def _prove(kubeconfig: Path, context: str, say: Callable[[str], None], seconds: float) -> list[Probe]:
    client = Client(load(kubeconfig, context))
    try:
        namespace: dict[str, Any] = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
        await _ensure(client, NAMESPACES, namespace)
        for obj in workloads(NAMESPACE, APP):
            await _ensure(client, _KINDS[obj["kind"]], obj)
        say("waiting for the web app")
        await _ready(client, seconds)
        say("asking from everywhere to everywhere")
        return await matrix(client, NAMESPACE, f"app.kubernetes.io/part-of={APP}")
    finally:
        await client.close()


def prove(kubeconfig: Path, context: str, say: Callable[[str], None], seconds: float = 90.0) -> list[Probe]:
    """Deploy the web app (once: what is right stays as it is) and probe every pair. Raises DemoError, ApiError."""
    return asyncio.run(_prove(kubeconfig, context, say, seconds))


__all__ = ["ApiError", "DemoError", "missing", "prove"]
