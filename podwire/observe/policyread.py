"""Everything that policies depend on, read once through the API."""

from __future__ import annotations

import asyncio

from podwire.model.api import Api, ApiError
from podwire.model.gvr import (
    ENDPOINTSLICES,
    GVR,
    NAMESPACES,
    NETWORKPOLICIES,
    NODES,
    PODS,
    SERVICEACCOUNTS,
    SERVICES,
)
from podwire.observe.manifests import Manifest

_CLUSTER, _CALICO = "policy.networking.k8s.io", "projectcalico.org"
KINDS = (
    NAMESPACES,
    NODES,
    PODS,
    SERVICES,
    SERVICEACCOUNTS,
    ENDPOINTSLICES,
    NETWORKPOLICIES,
    GVR(_CLUSTER, "v1alpha2", "clusternetworkpolicies", "ClusterNetworkPolicy", namespaced=False),
    GVR(_CLUSTER, "v1alpha1", "adminnetworkpolicies", "AdminNetworkPolicy", namespaced=False),
    GVR(_CLUSTER, "v1alpha1", "baselineadminnetworkpolicies", "BaselineAdminNetworkPolicy", namespaced=False),
    GVR(_CALICO, "v3", "networkpolicies", "NetworkPolicy"),
    GVR(_CALICO, "v3", "globalnetworkpolicies", "GlobalNetworkPolicy", namespaced=False),
    GVR(_CALICO, "v3", "stagednetworkpolicies", "StagedNetworkPolicy"),
    GVR(_CALICO, "v3", "stagedglobalnetworkpolicies", "StagedGlobalNetworkPolicy", namespaced=False),
    GVR(_CALICO, "v3", "stagedkubernetesnetworkpolicies", "StagedKubernetesNetworkPolicy"),
    GVR(_CALICO, "v3", "tiers", "Tier", namespaced=False),
    GVR(_CALICO, "v3", "networksets", "NetworkSet"),
    GVR(_CALICO, "v3", "globalnetworksets", "GlobalNetworkSet", namespaced=False),
)
"""Those of other groups than Kubernetes' own a cluster may lack."""


async def read(api: Api) -> tuple[Manifest, ...]:
    """Raises ApiError (403 names what may not be listed)."""
    lists = await asyncio.gather(*(_list(api, gvr) for gvr in KINDS))
    return tuple(manifest for found in lists for manifest in found)


async def _list(api: Api, gvr: GVR) -> list[Manifest]:
    try:
        objects, _ = await api.list(gvr)
    except ApiError as error:
        if error.not_found and gvr.group in (_CLUSTER, _CALICO):
            return []
        raise
    return [Manifest({**obj, "apiVersion": gvr.api_version, "kind": gvr.kind}) for obj in objects]
