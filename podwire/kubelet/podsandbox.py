"""A pod's sandbox as the worker sees it: namespaces, then CNI; torn down in reverse, with a runtime's words."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

import msgspec

from podwire.kubelet import cniconf, dnsfiles
from podwire.kubelet.cniconf import CniError
from podwire.kubelet.cnirun import Attachment
from podwire.kubelet.context import Context
from podwire.kubelet.sandbox import Namespaces, Sandbox, SandboxError
from podwire.model.quantity import parse_quantity

log = logging.getLogger(__name__)
Object = dict[str, Any]
_BURST = (1 << 32) - 1


class SandboxProblem(Exception):
    """A sandbox could not be set up or torn down; the text is what kubelet's event says."""


def capability_arguments(pod: Object) -> Object:
    """runtimeConfig offered to plugins: host ports, bandwidth annotations, DNS."""
    ports = []
    for container in pod["spec"].get("containers") or []:
        for port in container.get("ports") or []:
            if port.get("hostPort"):
                mapping = {"hostPort": port["hostPort"], "containerPort": port["containerPort"]}
                mapping["protocol"] = str(port.get("protocol") or "TCP").lower()
                if port.get("hostIP"):
                    mapping["hostIP"] = port["hostIP"]
                ports.append(mapping)
    found: Object = {"portMappings": ports} if ports else {}
    annotations = pod["metadata"].get("annotations") or {}
    bandwidth: Object = {}
    for direction in ("ingress", "egress"):
        value = annotations.get(f"kubernetes.io/{direction}-bandwidth")
        if value:
            bandwidth[f"{direction}Rate"] = int(parse_quantity(value))
            bandwidth[f"{direction}Burst"] = _BURST
    if bandwidth:
        found["bandwidth"] = bandwidth
    if annotations:
        found["io.kubernetes.cri.pod-annotations"] = dict(annotations)
    return found


def _attachment(pod: Object, sandbox: Sandbox, netns: str) -> Attachment:
    arguments = capability_arguments(pod)
    return Attachment(sandbox.id, netns, sandbox.namespace, sandbox.name, sandbox.pod_uid, arguments)


async def create(context: Context, pod: Object, attempt: int) -> Sandbox:
    """Make and connect a sandbox. Raises SandboxProblem; then nothing of it is left, but what a failed DEL kept."""
    metadata, spec = pod["metadata"], pod["spec"]
    host_network = bool(spec.get("hostNetwork"))
    own = Namespaces(
        net=not host_network,
        ipc=not spec.get("hostIPC"),
        uts=not host_network,
        shared_pid=bool(spec.get("shareProcessNamespace")),
    )
    hostname = context.config.node_name if host_network else dnsfiles.hostname(pod)
    security = spec.get("securityContext") or {}
    sysctls = {one["name"]: str(one["value"]) for one in security.get("sysctls") or []}
    prefix = "Failed to create pod sandbox: rpc error: code = Unknown desc = "
    try:
        sandbox = await context.children.call(
            lambda: context.sandboxes.create(
                metadata["uid"],
                metadata["namespace"],
                metadata["name"],
                hostname,
                own,
                created=time.time(),
                attempt=attempt,
                sysctls=sysctls,
            )
        )
    except SandboxError as error:
        raise SandboxProblem(prefix + str(error)) from error
    try:
        addresses = await _connect(context, pod, sandbox)
    except (CniError, ValueError) as error:
        await remove(context, pod, sandbox, give_up=True)
        words = f'failed to setup network for sandbox "{sandbox.id}": {error}'
        raise SandboxProblem(prefix + words) from error
    except asyncio.CancelledError:
        await remove(context, pod, sandbox, give_up=True)
        raise
    sandbox = msgspec.structs.replace(sandbox, addresses=addresses, attached=not host_network)
    context.sandboxes.save(sandbox)
    return sandbox


async def _connect(context: Context, pod: Object, sandbox: Sandbox) -> tuple[str, ...]:
    if not sandbox.netns:
        return (context.config.node_ip,)
    result = await context.cni.add(_attachment(pod, sandbox, sandbox.netns))
    return tuple(cniconf.pod_addresses(result))


async def remove(context: Context, pod: Object, sandbox: Sandbox, *, give_up: bool = False) -> None:
    """DEL, then the namespaces. Raises SandboxProblem when a plugin refuses; then it stays, unless `give_up`."""
    if sandbox.netns:
        try:
            await context.cni.delete(_attachment(pod, sandbox, sandbox.netns))
        except CniError as error:
            if not give_up:
                words = f'failed to destroy network for sandbox "{sandbox.id}": {error}'
                raise SandboxProblem(f"rpc error: code = Unknown desc = {words}") from error
            log.warning("kubelet: DEL of sandbox %s: %s", sandbox.id, error)
    await context.children.call(lambda: context.sandboxes.remove(sandbox))
