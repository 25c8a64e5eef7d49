"""Calico's older storage layout, seen as the newer one: for continuing a cluster's IPAM state where it lies.

`crd.projectcalico.org/v1` keeps the same specs under other names (`ipamconfigs`), and a BlockAffinity's `deleted` as
the text "true" or "false". Translated at the door, so that nobody above knows of it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from podwire.model.api import Api, ApiError, Object
from podwire.model.gvr import BLOCKAFFINITIES, CRDS, GVR, IPAMBLOCKS, IPAMCONFIGS

NATIVE, CLASSIC = "projectcalico.org", "crd.projectcalico.org"


async def is_classic(api: Api) -> bool:
    """The cluster has the older layout's blocks and not the newer one's. Raises ApiError."""
    for group in (NATIVE, CLASSIC):
        try:
            await api.get(CRDS, f"{IPAMBLOCKS.plural}.{group}")
            return group == CLASSIC
        except ApiError as error:
            if not error.not_found:
                raise
    return False


def stored_gvr(gvr: GVR) -> GVR:
    """Where objects of a kind lie in the older layout; other groups are left alone."""
    if gvr.group != NATIVE:
        return gvr
    plural = "ipamconfigs" if gvr.plural == IPAMCONFIGS.plural else gvr.plural
    kind = "IPAMConfig" if gvr.kind == IPAMCONFIGS.kind else gvr.kind
    return replace(gvr, group=CLASSIC, version="v1", plural=plural, kind=kind)


def outward(gvr: GVR, obj: Object) -> Object:
    """An object as the older layout stores it."""
    if gvr.group != NATIVE:
        return obj
    there = stored_gvr(gvr)
    changed = {**obj, "apiVersion": there.api_version, "kind": there.kind}
    if gvr == BLOCKAFFINITIES:
        spec = obj["spec"]
        changed["spec"] = {**spec, "deleted": "true" if spec.get("deleted") in (True, "true") else "false"}
    return changed


def inward(gvr: GVR, obj: Object) -> Object:
    """An object of the older layout as the newer one would have it."""
    if gvr.group != NATIVE:
        return obj
    changed = {**obj, "apiVersion": gvr.api_version, "kind": gvr.kind}
    if gvr == BLOCKAFFINITIES:
        changed["spec"] = {**obj["spec"], "deleted": obj["spec"].get("deleted") in (True, "true")}
    return changed


class ClassicApi:
    """The calls of Api that IPAM makes, on a cluster with the older layout. Raises what `api` raises."""

    def __init__(self, api: Api) -> None:
        self._api = api

    async def get(self, gvr: GVR, name: str, namespace: str = "", subresource: str = "") -> Object:
        return inward(gvr, await self._api.get(stored_gvr(gvr), name, namespace, subresource))

    async def list(self, gvr: GVR, namespace: str = "", **options: Any) -> tuple[list[Object], str]:
        items, version = await self._api.list(stored_gvr(gvr), namespace, **options)
        return [inward(gvr, item) for item in items], version

    async def create(self, gvr: GVR, obj: Object, namespace: str = "", **options: Any) -> Object:
        return inward(gvr, await self._api.create(stored_gvr(gvr), outward(gvr, obj), namespace, **options))

    async def update(self, gvr: GVR, obj: Object, *, subresource: str = "") -> Object:
        return inward(gvr, await self._api.update(stored_gvr(gvr), outward(gvr, obj), subresource=subresource))

    async def patch(self, gvr: GVR, name: str, patch: Any, namespace: str = "", **options: Any) -> Object:
        return inward(gvr, await self._api.patch(stored_gvr(gvr), name, patch, namespace, **options))

    async def delete(self, gvr: GVR, name: str, namespace: str = "", **options: Any) -> None:
        await self._api.delete(stored_gvr(gvr), name, namespace, **options)

    def watch(self, gvr: GVR, namespace: str = "", **options: Any) -> Any:
        return self._api.watch(stored_gvr(gvr), namespace, **options)

    async def close(self) -> None:
        await self._api.close()
