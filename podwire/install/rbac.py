"""What the agent may do with the API: each verb it uses, and none else. Pure.

A verb that a page of the agent newly uses gets its row here, or the tests fail. What RBAC cannot say (only its own
node's objects) is said by `confinement`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from podwire.install.options import AGENT, NODE_GROUP, Options
from podwire.ipam.layout import CLASSIC, NATIVE, stored_gvr
from podwire.model.gvr import (
    BLOCKAFFINITIES,
    CRDS,
    EVENTS,
    GVR,
    IPAMBLOCKS,
    IPAMCONFIGS,
    IPAMHANDLES,
    IPPOOLS,
    IPRESERVATIONS,
    NAMESPACES,
    NODES,
    PODS,
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
    Grant(EVENTS, ("create", "patch"), "tell about refused settings and about other plugins' configurations"),
    Grant(IPPOOLS, ("list", "watch"), "where addresses come from and what is tunnelled"),
    Grant(IPAMCONFIGS, READ, "rules of address assignment"),
    Grant(IPRESERVATIONS, ("list", "watch"), "addresses that nobody may be given"),
    Grant(IPAMBLOCKS, (*READ, "create", "update", "delete"), "assign and release; routes to others' blocks"),
    Grant(BLOCKAFFINITIES, ("get", "list", "create", "update", "delete"), "claim blocks for its node, give them back"),
    Grant(IPAMHANDLES, ("get", "list", "create", "update", "delete"), "which blocks hold a pod's addresses"),
    Grant(
        CRDS,
        ("get",),
        "which of Calico's two storage layouts the cluster has",
        tuple(f"{IPAMBLOCKS.plural}.{group}" for group in (NATIVE, CLASSIC)),
    ),
)


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
    """ServiceAccount, ClusterRole, and the binding of both the DaemonSet's and the host services' identity."""
    api = "rbac.authorization.k8s.io"
    head = {"name": AGENT, "labels": labels}
    role = {
        "apiVersion": f"{api}/v1",
        "kind": "ClusterRole",
        "metadata": head,
        "rules": rules(GRANTS, classic=options.classic),
    }
    binding = {
        "apiVersion": f"{api}/v1",
        "kind": "ClusterRoleBinding",
        "metadata": head,
        "roleRef": {"apiGroup": api, "kind": "ClusterRole", "name": AGENT},
        "subjects": [
            {"kind": "ServiceAccount", "name": AGENT, "namespace": options.namespace},
            {"apiGroup": api, "kind": "Group", "name": NODE_GROUP},
        ],
    }
    account = {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": {**head, "namespace": options.namespace},
        "automountServiceAccountToken": False,
    }
    return [account, role, binding]
