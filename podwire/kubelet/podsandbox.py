"""A pod's sandbox as the worker sees it: namespaces, then CNI; torn down in reverse, with a runtime's words."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

import msgspec

from podwire.kubelet import cniconf, dnsfiles
from podwire.kubelet.cniargs import capability_arguments
from podwire.kubelet.cniconf import CniError
from podwire.kubelet.cnirun import Attachment
from podwire.kubelet.context import Context
from podwire.kubelet.sandbox import Namespaces, Sandbox, SandboxError

log = logging.getLogger(__name__)
Object = dict[str, Any]

_CREATE_FAILED = "Failed to create pod sandbox: rpc error: code = Unknown desc = "


class SandboxProblem(Exception):
    """A sandbox could not be set up or torn down; the text is what kubelet's event says, `same` that text without what
    differs in every try."""

    def __init__(self, words: str, sandbox_id: str = "") -> None:
        super().__init__(words)
        self.same = words.replace(sandbox_id, "") if sandbox_id else words


def _attachment(sandbox: Sandbox, arguments: Object | None = None) -> Attachment:
    return Attachment(sandbox.id, sandbox.netns, sandbox.namespace, sandbox.name, sandbox.pod_uid, arguments or {})


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
        raise SandboxProblem(_CREATE_FAILED + str(error)) from error
    try:
        addresses = await _connect(context, pod, sandbox)
    except (CniError, ValueError) as error:
        await remove(context, sandbox, give_up=True)
        raise not_connected(sandbox.id, error) from error
    except asyncio.CancelledError:
        await remove(context, sandbox, give_up=True)
        raise
    sandbox = msgspec.structs.replace(sandbox, addresses=addresses, attached=not host_network)
    context.sandboxes.save(sandbox)
    return sandbox


def not_connected(sandbox_id: str, error: Exception) -> SandboxProblem:
    """What to say when a chain's ADD failed."""
    words = f'failed to setup network for sandbox "{sandbox_id}": {error}'
    return SandboxProblem(_CREATE_FAILED + words, sandbox_id)


async def _connect(context: Context, pod: Object, sandbox: Sandbox) -> tuple[str, ...]:
    if not sandbox.netns:
        return (context.config.node_ip,)
    config = context.config
    resolver = dnsfiles.resolver(pod, context.resolver, config.cluster_dns, config.cluster_domain)
    result = await context.cni.add(_attachment(sandbox, capability_arguments(pod, resolver)))
    return tuple(cniconf.pod_addresses(result))


async def remove(context: Context, sandbox: Sandbox, *, give_up: bool = False) -> None:
    """DEL, then the namespaces. Raises SandboxProblem when a plugin refuses; then it stays, unless `give_up`."""
    if sandbox.netns:
        try:
            await context.cni.delete(_attachment(sandbox))
        except CniError as error:
            if not give_up:
                words = f'failed to destroy network for sandbox "{sandbox.id}": {error}'
                raise SandboxProblem(f"rpc error: code = Unknown desc = {words}") from error
            log.warning("kubelet: DEL of sandbox %s: %s", sandbox.id, error)
    await context.children.call(lambda: context.sandboxes.remove(sandbox))
