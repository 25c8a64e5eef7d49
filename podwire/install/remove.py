"""Takes Podwire off a cluster, in the order that ends each node's network cleanly.

The agents end first, or they would put their files back. Then, on every node: the CNI configuration goes (the node
turns NotReady and gets no new pods), then the executables, and what had made way for Podwire comes back. Rights and
settings go last. What stays: running pods keep their wiring, addresses and routes until they end or the node boots
anew; the kinds and what is stored under them (a new install continues there), unless `purge`.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import Any

from podwire.install import daemon, manifests
from podwire.install.apply import KINDS, PERIOD, InstallError, Say, is_ours
from podwire.install.options import AGENT, Options
from podwire.model.api import Api, ApiError
from podwire.model.gvr import CRDS, DAEMONSETS

Object = dict[str, Any]

CLEANER = "podwire-uninstall"


async def remove(api: Api, options: Options, say: Say, seconds: float, *, purge: bool = False) -> None:
    """Raises InstallError, ApiError. May be called again after either."""
    try:
        found = await api.get(DAEMONSETS, AGENT, options.namespace)
    except ApiError as error:
        if not error.not_found:
            raise
        found = None
    if found is not None:
        await _delete(api, found)
        await _gone(api, seconds)
        say("the agents have ended; pods that run keep their network")
    cleaner = daemon.cleaner(_as_installed(options, found), manifests.LABELS)
    await api.patch(DAEMONSETS, CLEANER, cleaner, options.namespace, kind="apply", manager=manifests.OWNER, force=True)
    number = await _cleaned(api, options, seconds)
    say(f"CNI files are removed from {number} node{'s' if number != 1 else ''}, and what had made way is back")
    await _delete(api, cleaner)
    for each in reversed(manifests.workload(options)):
        if each["kind"] != "Namespace":
            await _delete(api, each)
    say("roles, policy and settings are removed")
    if purge:
        for crd in manifests.kinds(options):
            await _delete(api, crd)
        for crd in manifests.policy_kinds(options):
            if await is_ours(api, crd):
                await _delete(api, crd)
        say("the kinds of IPAM and of policies are removed, with every pool, address and policy stored under them")


def _as_installed(options: Options, daemons: Object | None) -> Options:
    """With the image that the nodes have already."""
    if daemons is None:
        return options
    container = daemons["spec"]["template"]["spec"]["containers"][0]
    return replace(options, image=container["image"], pull_policy=container["imagePullPolicy"])


async def _delete(api: Api, one: Object) -> None:
    metadata = one["metadata"]
    kind = KINDS.get(one["kind"], CRDS)
    try:
        await api.delete(kind, metadata["name"], metadata.get("namespace", ""), propagation="Foreground")
    except ApiError as error:
        if not error.not_found:
            raise InstallError(f"{one['kind']} {metadata['name']}: {error}") from error


async def _gone(api: Api, seconds: float) -> None:
    """Foreground deletion: the DaemonSet goes after its pods."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if not [item for item in (await api.list(DAEMONSETS))[0] if item["metadata"]["name"] == AGENT]:
            return
        await asyncio.sleep(PERIOD)
    raise InstallError(
        f"agents still run after {seconds:.0f} s (`kubectl get pods -A -l app.kubernetes.io/name=podwire`)"
    )


async def _cleaned(api: Api, options: Options, seconds: float) -> int:
    """The cleaner's pods are running when their first step is done; on how many nodes. Raises InstallError."""
    end = time.monotonic() + seconds
    status: Object = {}
    while time.monotonic() < end:
        found = await api.get(DAEMONSETS, CLEANER, options.namespace)
        status = found.get("status") or {}
        wanted = int(status.get("desiredNumberScheduled", 0))
        current = status.get("observedGeneration", 0) >= found["metadata"].get("generation", 0)
        if current and wanted and int(status.get("numberReady", 0)) >= wanted:
            return wanted
        await asyncio.sleep(PERIOD)
    raise InstallError(
        f"after {seconds:.0f} s {status.get('numberReady', 0)} of {status.get('desiredNumberScheduled', 0)} nodes are"
        f" cleaned (`kubectl -n {options.namespace} get pods -o wide`): call again, or `podwire cni uninstall` there"
    )
