"""Pods to try things on: objects, waiting, and looking into a node."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import subprocess
from collections.abc import Iterator
from typing import Any

from kubectl import PODWIRE, Kubectl, eventually

Object = dict[str, Any]
_NUMBERS = itertools.count(1)


def pod(name: str, *command: str, image: str = "busybox:1.36", container: Object | None = None, **spec: Any) -> Object:
    """A pod with one container, of its own name, which sleeps unless a command is given (nginx runs by itself)."""
    main: Object = {"name": name, "image": image, **(container or {})}
    if command or image.startswith("busybox"):
        main.setdefault("command", list(command) or ["sleep", "3600"])
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"containers": [main], "terminationGracePeriodSeconds": 1, **spec},
    }


def shell(name: str, script: str, **more: Any) -> Object:
    """A pod that runs a script."""
    return pod(name, "sh", "-c", script, **more)


def part(name: str, script: str, **more: Any) -> Object:
    """One more container: it runs a script."""
    return {"name": name, "image": "busybox:1.36", "command": ["sh", "-c", script], **more}


def ready(kubectl: Kubectl, *names: str) -> None:
    kubectl.run("wait", "--for=condition=Ready", *(f"pod/{name}" for name in names), "--timeout=40s")


def ended(kubectl: Kubectl, name: str, seconds: float = 30) -> Object:
    """The status of a pod that has ended."""

    def look() -> Object | None:
        found: Object = kubectl.object("pod", name)["status"]
        return found if found["phase"] in ("Succeeded", "Failed") else None

    status: Object = eventually(look, seconds)
    return status


def output(kubectl: Kubectl, name: str) -> str:
    """What a pod that ran to its good end has printed."""
    status = ended(kubectl, name)
    shown = kubectl.run("logs", name)
    assert status["phase"] == "Succeeded", f"{shown}\n{json.dumps(status, indent=1)}"
    return shown


def shown(kubectl: Kubectl, name: str) -> str:
    """The STATUS column of a pod."""
    return kubectl.run("get", "pod", name, "--no-headers").split()[2]


def events(kubectl: Kubectl, name: str, reason: str = "") -> str:
    """Messages of a pod's events, a line each."""
    chosen = f"involvedObject.name={name}" + (f",reason={reason}" if reason else "")
    return kubectl.run("get", "events", "--field-selector", chosen, "-o", "jsonpath={range .items[*]}{.message}\n{end}")


def on_node(kubectl: Kubectl, node: str, script: str) -> str:
    """Run a script in a node."""
    argv = [str(PODWIRE), "lab", "exec", node, "--", "sh", "-c", script]
    done = subprocess.run(argv, env=kubectl.env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, f"{script}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def genuine() -> bool:
    """Whether these tests' labs are of genuine Kubernetes."""
    return bool(os.environ.get("PODWIRE_KUBERNETES"))


def runc_root() -> str:
    """Where a node's runtime keeps what runc knows of its containers."""
    return "/run/containerd/runc/k8s.io" if genuine() else "/run/podwire-kubelet/runc"


@contextlib.contextmanager
def namespace(cluster: Kubectl, name: str) -> Iterator[Kubectl]:
    """A namespace for the time of the block, whose pods can begin at once. No second one has its name."""
    name = f"{name}-{next(_NUMBERS)}"
    cluster.run("create", "namespace", name)
    own = Kubectl(cluster.env, name)
    eventually(lambda: own.run("get", "serviceaccount", "default", "-o", "name", check=False))
    yield own
    cluster.run("delete", "namespace", name, "--wait=false")
