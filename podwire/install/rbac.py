"""What agent and controller may do with the API: each verb they use, and none else. Pure.

A verb that a page of the agent newly uses gets its row here, or the tests fail. What RBAC cannot say (only its own
node's objects) is said by `confinement`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from podwire.install.options import AGENT, CONTROLLER, NODE_GROUP, Options
from podwire.ipam.layout import CLASSIC, NATIVE, stored_gvr
from podwire.model import policykinds
from podwire.model.gvr import (
    BLOCKAFFINITIES,
    CRDS,
    ENDPOINTSLICES,
    EVENTS,
    GVR,
    IPAMBLOCKS,
    IPAMCONFIGS,
    IPAMHANDLES,
    IPPOOLS,
    IPRESERVATIONS,
    LEASES,
    NAMESPACES,
    NODES,
    PODS,
    SERVICEACCOUNTS,
)

Object = dict[str, Any]

READ = ("get", "list", "watch")


@dataclass(frozen=True, slots=True)
class Grant:
    """Verbs on a kind, and what they are for. `names`: only on objects of these names; `part`: a subresource."""

    kind: GVR
    verbs: tuple[str, ...]
    why: str
    names: tuple[str, ...] = ()
    part: str = ""


GRANTS = (
    Grant(NODES, (*READ, "patch"), "routes to every node's blocks; its own node's addresses as annotations"),
    Grant(NAMESPACES, READ, "annotations and labels by which pods choose their pools"),
    Grant(PODS, READ, "annotations of its pods; whether the pod of an address still lives"),
    Grant(NODES, ("patch",), "say that its node's network is there (condition NetworkUnavailable)", part="status"),
    Grant(PODS, ("patch",), "annotate its pods with their addresses, for tools", part="status"),
    Grant(EVENTS, ("create", "patch"), "tell about refused settings and about other plugins' configurations"),
    Grant(IPPOOLS, ("list", "watch"), "where addresses come from and what is tunnelled"),
    Grant(IPAMCONFIGS, READ, "rules of address assignment"),
    Grant(IPRESERVATIONS, ("list", "watch"), "addresses that nobody may be given"),
    Grant(IPAMBLOCKS, (*READ, "create", "update", "delete"), "assign and release; routes to others' blocks"),
    Grant(BLOCKAFFINITIES, ("get", "list", "create", "update", "delete"), "claim blocks for its node, give them back"),
    Grant(IPAMHANDLES, ("get", "list", "create", "update", "delete"), "which blocks hold a pod's addresses"),
    Grant(SERVICEACCOUNTS, ("list", "watch"), "labels by which policies choose pods"),
    Grant(ENDPOINTSLICES, ("list", "watch"), "pods that policies name by their Service"),
    *(
        Grant(kind, ("list", "watch"), "network policy, and what it speaks of")
        for kind in (each.gvr for each in policykinds.BY_API.values())
    ),
    Grant(CRDS, READ, "which kinds of policies, and which of Calico's two storage layouts, the cluster has"),
)


_LAYOUT = Grant(
    CRDS,
    ("get",),
    "which of Calico's two storage layouts the cluster has",
    tuple(f"{IPAMBLOCKS.plural}.{group}" for group in (NATIVE, CLASSIC)),
)


CONTROLLER_GRANTS = (
    Grant(NODES, ("get", "list"), "which nodes there are"),
    Grant(PODS, ("get",), "whether the pod of an address still lives"),
    Grant(IPAMBLOCKS, ("get", "list", "update", "delete"), "free what vanished nodes held"),
    Grant(BLOCKAFFINITIES, ("get", "list", "update", "delete"), "give up their blocks"),
    Grant(IPAMHANDLES, ("get", "list", "create", "update", "delete"), "forget handles that hold nothing"),
    Grant(IPPOOLS, ("list",), "where addresses come from"),
    Grant(IPAMCONFIGS, ("get",), "rules of address assignment"),
    _LAYOUT,
)
LEASE_GRANTS = (
    Grant(LEASES, ("create",), "be a candidate"),
    Grant(LEASES, ("get", "update"), "hold the duties", (CONTROLLER,)),
    Grant(EVENTS, ("create", "patch"), "tell who holds them"),
)
"""In the namespace of the Lease alone."""


def rules(grants: tuple[Grant, ...], *, classic: bool) -> list[Object]:
    """As in a ClusterRole."""
    found = []
    for grant in grants:
        kind = stored_gvr(grant.kind) if classic else grant.kind
        rule: Object = {
            "apiGroups": [kind.group],
            "resources": [f"{kind.plural}/{grant.part}" if grant.part else kind.plural],
            "verbs": list(grant.verbs),
        }
        if grant.names:
            rule["resourceNames"] = list(grant.names)
        found.append(rule)
    return found


def objects(options: Options, labels: dict[str, str]) -> list[Object]:
    """Accounts, roles and bindings; the agent's role is also for host services."""
    classic, place = options.classic, options.namespace
    host_services = {"apiGroup": _GROUP, "kind": "Group", "name": NODE_GROUP}
    return [
        _account(AGENT, place, labels),
        *_role("Cluster", AGENT, "", rules(GRANTS, classic=classic), labels, [_subject(AGENT, place), host_services]),
        _account(CONTROLLER, place, labels),
        *_role(
            "Cluster",
            CONTROLLER,
            "",
            rules(CONTROLLER_GRANTS, classic=classic),
            labels,
            [_subject(CONTROLLER, place)],
        ),
        *_role("", CONTROLLER, place, rules(LEASE_GRANTS, classic=False), labels, [_subject(CONTROLLER, place)]),
    ]


_GROUP = "rbac.authorization.k8s.io"


def _account(name: str, namespace: str, labels: dict[str, str]) -> Object:
    head = {"name": name, "labels": labels, "namespace": namespace}
    return {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": head, "automountServiceAccountToken": False}


def _subject(name: str, namespace: str) -> Object:
    return {"kind": "ServiceAccount", "name": name, "namespace": namespace}


def _role(
    scope: str, name: str, namespace: str, granted: list[Object], labels: dict[str, str], subjects: list[Object]
) -> list[Object]:
    """A role of `scope` (Cluster or none) and its binding."""
    head: Object = {"name": name, "labels": labels}
    if namespace:
        head["namespace"] = namespace
    api, kind = f"{_GROUP}/v1", f"{scope}Role"
    reference = {"apiGroup": _GROUP, "kind": kind, "name": name}
    return [
        {"apiVersion": api, "kind": kind, "metadata": head, "rules": granted},
        {"apiVersion": api, "kind": f"{kind}Binding", "metadata": head, "roleRef": reference, "subjects": subjects},
    ]
