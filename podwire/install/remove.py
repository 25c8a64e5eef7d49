"""Takes Podwire off a cluster, in the order that ends each node's network cleanly.

The agents end first, or they would put their files back. Then, on every node: the CNI configuration goes (the node
turns NotReady and gets no new pods), then the executables, and what had made way for Podwire comes back. Rights and
settings go last. What stays: running pods keep their wiring, addresses and routes until they end; the kinds and what is
stored under them (a new install continues there), unless `purge`.

What nodes' kernels have of ours stays for those pods, until the node boots anew or a call with `clean`: then each node
where no pod uses it any more loses it ("unused"), or every node at once ("all").
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
from podwire.model.gvr import CRDS, DAEMONSETS, NODES, PODS
from podwire.model.node import IPV4_ADDRESS, VXLAN_MAC, VXLAN_TUNNEL, VXLAN_TUNNEL6

Object = dict[str, Any]

CLEANER = "podwire-uninstall"
TOLD = (IPV4_ADDRESS, VXLAN_TUNNEL, VXLAN_TUNNEL6, VXLAN_MAC)
"""Annotations of Nodes."""


async def remove(api: Api, options: Options, say: Say, seconds: float, *, purge: bool = False, clean: str = "") -> None:
    """`clean`: "", "unused" or "all". Raises InstallError (at the end for nodes that could not be cleaned), ApiError.
    May be called again after either."""
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
    options = _as_installed(options, found)
    cleaner = daemon.cleaner(options, manifests.LABELS, clean)
    await api.patch(DAEMONSETS, CLEANER, cleaner, options.namespace, kind="apply", manager=manifests.OWNER, force=True)
    number = await _cleaned(api, options, seconds)
    say(f"CNI files are removed from {number} node{'s' if number != 1 else ''}, and what had made way is back")
    left = await _told(api, options) if clean else {}
    if clean:
        await _forget_nodes(api, set(left))
        say("their kernels have nothing of Podwire's any more" + (f", but for {', '.join(left)}" if left else ""))
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
        which = "of policies are removed (Calico's older ones of IPAM stay)" if options.classic else "are removed"
        say(f"the kinds {which}, with everything stored under them")
    if left:
        again = f"podwire uninstall --clean --set image={options.image} --set pull-policy={options.pull_policy}"
        lines = "".join(f"\n  {node}: {why}" for node, why in sorted(left.items()))
        raise InstallError(f"not every node is clean (later: `{again}`, or with --clean=all now):{lines}")


async def _told(api: Api, options: Options) -> Object:
    """Why the cleaner left nodes as they are, by node."""
    selector = "app.kubernetes.io/name=podwire,app.kubernetes.io/component=uninstall"
    found = {}
    for pod in (await api.list(PODS, options.namespace, label_selector=selector))[0]:
        for each in (pod.get("status") or {}).get("initContainerStatuses") or []:
            ended = (each.get("state") or {}).get("terminated") or {}
            if words := ended.get("message"):
                found[pod["spec"]["nodeName"]] = words
    return found


async def _forget_nodes(api: Api, left: set[str]) -> None:
    """What the agents said of their nodes, for their peers, is no longer so."""
    for node in (await api.list(NODES))[0]:
        name, notes = node["metadata"]["name"], node["metadata"].get("annotations") or {}
        gone: Object = dict.fromkeys(set(notes) & set(TOLD))
        if gone and name not in left:
            await api.patch(NODES, name, {"metadata": {"annotations": gone}})


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
