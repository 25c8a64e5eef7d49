"""Applies what is to be installed, and watches it come up.

Server-side apply under one field manager: a second run changes the difference, a newer version takes what the older one
had, and fields that others own stay theirs unless ours are claimed by them (then ours win: `force`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from podwire.install import manifests
from podwire.install.options import AGENT, Options
from podwire.ipam.layout import is_classic, stored_gvr
from podwire.model.api import Api, ApiError
from podwire.model.gvr import (
    CONFIGMAPS,
    CRDS,
    DAEMONSETS,
    DEPLOYMENTS,
    GVR,
    IPPOOLS,
    NAMESPACES,
    PODS,
    SERVICEACCOUNTS,
    TIERS,
)

Object = dict[str, Any]
Say = Callable[[str], None]

_RBAC, _ADMISSION = "rbac.authorization.k8s.io", "admissionregistration.k8s.io"
KINDS = {
    gvr.kind: gvr
    for gvr in (
        NAMESPACES,
        SERVICEACCOUNTS,
        CONFIGMAPS,
        DAEMONSETS,
        DEPLOYMENTS,
        CRDS,
        GVR(_RBAC, "v1", "roles", "Role"),
        GVR(_RBAC, "v1", "rolebindings", "RoleBinding"),
        GVR(_RBAC, "v1", "clusterroles", "ClusterRole", namespaced=False),
        GVR(_RBAC, "v1", "clusterrolebindings", "ClusterRoleBinding", namespaced=False),
        GVR(_ADMISSION, "v1", "validatingadmissionpolicies", "ValidatingAdmissionPolicy", namespaced=False),
        GVR(
            _ADMISSION, "v1", "validatingadmissionpolicybindings", "ValidatingAdmissionPolicyBinding", namespaced=False
        ),
    )
}
"""Where objects of the kinds that are installed live."""

OTHERS = {
    "calico-node": "Calico",
    "canal": "Canal",
    "cilium": "Cilium",
    "kube-flannel-ds": "flannel",
    "kindnet": "kindnet",
    "weave-net": "Weave Net",
    "kube-router": "kube-router",
    "antrea-agent": "Antrea",
    "ovnkube-node": "OVN-Kubernetes",
    "aws-node": "the Amazon VPC CNI",
    "azure-cni": "the Azure CNI",
}
"""DaemonSets of other pod networks, by name."""
PERIOD = 0.5


class InstallError(Exception):
    """What was refused or does not come up, and the way out."""


async def other_networks(api: Api) -> list[tuple[str, str, str]]:
    """(product, namespace, DaemonSet) of each other pod network that is installed. Raises ApiError."""
    found = []
    for item in (await api.list(DAEMONSETS))[0]:
        metadata = item["metadata"]
        if product := OTHERS.get(metadata["name"]):  # on no node at present says nothing: a tainted node counts as none
            found.append((product, metadata.get("namespace", ""), metadata["name"]))
    return sorted(found)


async def refuse_second_network(api: Api) -> None:
    """Two networks on one node undo each other's routes, rules and tunnel device. Raises InstallError, ApiError."""
    if not (found := await other_networks(api)):
        return
    product, namespace, name = found[0]
    raise InstallError(
        f"{product} is installed (DaemonSet {namespace}/{name}), and two networks on one node undo each other's work:"
        f" remove it first (`kubectl -n {namespace} delete daemonset {name}`; running pods keep their network), or use"
        " --force if its agents touch none of these nodes"
    )


async def classic(api: Api) -> bool:
    """Calico's older storage layout holds this cluster's addresses: they go on being kept there. Raises ApiError."""
    return await is_classic(api)


async def _can_confine(api: Api) -> None:
    """Nothing is begun where it could not be finished. Raises InstallError, ApiError."""
    try:
        await api.list(KINDS["ValidatingAdmissionPolicy"])
    except ApiError as error:
        if not error.not_found:
            raise
        raise InstallError(
            "this API server has no ValidatingAdmissionPolicies, without which a node's agent could not be confined to"
            " its node: Kubernetes before 1.30 cannot have Podwire, and the lab's own API server has it already"
            " (`podwire lab up --kubernetes --network none` gives a cluster to install on)"
        ) from None


async def apply(api: Api, options: Options, say: Say) -> None:
    """All but waiting for the agents. Raises ApiError, InstallError; it may be called again then."""
    await _can_confine(api)
    kinds = manifests.kinds(options)
    for crd in kinds:
        await _put(api, crd)
    for crd in manifests.policy_kinds(options):
        if await is_ours(api, crd):
            await _put(api, crd)
            kinds.append(crd)
        else:
            say(f"kind {crd['metadata']['name']} stays as it is: somebody else's")
    for crd in kinds:
        await _established(api, crd["metadata"]["name"])
    say("resource kinds are served")
    await _tiers(api, options)
    pools = stored_gvr(IPPOOLS) if options.classic else IPPOOLS
    there = (await api.list(pools))[0]
    if there:
        say(f"address pools stay as they are: {', '.join(item['metadata']['name'] for item in there)}")
    else:
        pool = manifests.pool(options)
        await api.patch(pools, pool["metadata"]["name"], pool, kind="apply", manager=manifests.OWNER, force=True)
        say(f"address pool {pool['metadata']['name']}: {options.pod_cidr}")
    for each in manifests.workload(options):
        await _put(api, each)
    say(f"roles, policy, settings, controller and DaemonSet {options.namespace}/{AGENT} are applied")


async def is_ours(api: Api, crd: Object) -> bool:
    """There is no such definition, or we made it: kinds of policies are brought by others too, and perhaps newer.
    Raises ApiError."""
    try:
        found = await api.get(CRDS, crd["metadata"]["name"])
    except ApiError as error:
        if error.not_found:
            return True
        raise
    labels = found["metadata"].get("labels") or {}
    return all(labels.get(key) == value for key, value in manifests.LABELS.items())


async def _tiers(api: Api, options: Options) -> None:
    """Those that are always there; none of them is changed."""
    kind = stored_gvr(TIERS) if options.classic else TIERS
    for tier in manifests.tiers():
        try:
            await api.create(kind, {**tier, "apiVersion": kind.api_version})
        except ApiError as error:
            if not (error.already_exists or (options.classic and error.not_found)):
                raise InstallError(f"Tier {tier['metadata']['name']}: {error}") from error


async def _put(api: Api, one: Object) -> None:
    metadata = one["metadata"]
    try:
        await api.patch(
            KINDS[one["kind"]],
            metadata["name"],
            one,
            metadata.get("namespace", ""),
            kind="apply",
            manager=manifests.OWNER,
            force=True,
        )
    except ApiError as error:
        raise InstallError(f"{one['kind']} {metadata['name']}: {error}") from error


async def _established(api: Api, name: str, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        conditions = ((await api.get(CRDS, name)).get("status") or {}).get("conditions") or []
        if any(each["type"] == "Established" and each["status"] == "True" for each in conditions):
            return
        await asyncio.sleep(0.1)
    raise InstallError(f"CustomResourceDefinition {name} is not established after {seconds:.0f} s")


async def wait(api: Api, options: Options, say: Say, seconds: float) -> int:
    """Until every node's agent is ready; how many there are. Raises InstallError naming the nodes that are not."""
    end, told = time.monotonic() + seconds, ""
    while True:
        found = await api.get(DAEMONSETS, AGENT, options.namespace)
        status = found.get("status") or {}
        current = status.get("observedGeneration", 0) >= found["metadata"].get("generation", 0)
        wanted, ready = int(status.get("desiredNumberScheduled", 0)), int(status.get("numberReady", 0))
        fresh = int(status.get("updatedNumberScheduled", 0))
        if current and wanted and min(ready, fresh) >= wanted:
            return wanted
        if current and (words := f"{min(ready, fresh)} of {wanted} agents are ready") != told:
            say(told := words)
        if time.monotonic() >= end:
            missing = await _trouble(api, options)
            raise InstallError(f"after {seconds:.0f} s {told or 'no agent is scheduled'}{missing}")
        await asyncio.sleep(PERIOD)


async def _trouble(api: Api, options: Options) -> str:
    """Each agent that is not ready, and why, in lines."""
    lines = []
    selector = "app.kubernetes.io/name=podwire,app.kubernetes.io/component=agent"
    for pod in (await api.list(PODS, options.namespace, label_selector=selector))[0]:
        if not _is_ready(pod):
            node = (pod.get("spec") or {}).get("nodeName") or "(no node yet)"
            lines.append(f"\n  {node}: pod {pod['metadata']['name']}: {_why(pod)}")
    return "".join(lines)


def _is_ready(pod: Object) -> bool:
    conditions = (pod.get("status") or {}).get("conditions") or []
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


def _why(pod: Object) -> str:
    status = pod.get("status") or {}
    for each in status.get("containerStatuses") or []:
        waiting = (each.get("state") or {}).get("waiting") or {}
        if waiting:
            return f"{waiting.get('reason', 'waiting')} {waiting.get('message', '')}".strip()
    for each in status.get("conditions") or []:
        if each["status"] != "True" and each.get("message"):
            return str(each["message"])
    return f"{status.get('phase', 'Pending')}; its own words: `curl 127.0.0.1:9098/readyz` on the node"
