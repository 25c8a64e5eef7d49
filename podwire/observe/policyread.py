"""Everything that policies depend on, read once through the API."""

from __future__ import annotations

import asyncio

from podwire.model.api import Api, ApiError
from podwire.model.gvr import (
    ENDPOINTSLICES,
    GVR,
    NAMESPACES,
    NODES,
    PODS,
    SERVICEACCOUNTS,
    SERVICES,
)
from podwire.model.policykinds import BY_API
from podwire.observe.manifests import Manifest

_OPTIONAL = ("policy.networking.k8s.io", "projectcalico.org")
KINDS = (
    *(NAMESPACES, NODES, PODS, SERVICES, SERVICEACCOUNTS, ENDPOINTSLICES),
    *(kind.gvr for kind in BY_API.values()),
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
        if error.not_found and gvr.group in _OPTIONAL:
            return []
        raise
    return [Manifest({**obj, "apiVersion": gvr.api_version, "kind": gvr.kind}) for obj in objects]
