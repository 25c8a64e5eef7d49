"""Calico's older storage layout, seen as the newer one: for continuing a cluster's IPAM state where it lies.

`crd.projectcalico.org/v1` keeps the same specs under other names (`ipamconfigs`), and a BlockAffinity's `deleted` as
the text "true" or "false". Translated at the door, so that nobody above knows of it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import msgspec

from podwire.model.api import Api, ApiError, InSync, Object, Update
from podwire.model.gvr import BLOCKAFFINITIES, CRDS, GVR, IPAMBLOCKS, IPAMCONFIGS

log = logging.getLogger(__name__)

Watched = Any  # an Api; its watch takes `decode` too, as those of the HTTP client and of the fake do

NATIVE, CLASSIC = "projectcalico.org", "crd.projectcalico.org"


async def is_classic(api: Api) -> bool:
    """The cluster has the older layout's blocks and not the newer one's. Raises ApiError."""
    for blocks in (IPAMBLOCKS, stored_gvr(IPAMBLOCKS)):
        if await _served(api, blocks):
            return blocks.group == CLASSIC
    return False


async def _served(api: Api, gvr: GVR) -> bool:
    """Asks for the definition; who may not read that asks for the objects themselves."""
    try:
        await api.get(CRDS, f"{gvr.plural}.{gvr.group}")
    except ApiError as error:
        if error.status == 403:
            try:
                await api.list(gvr)
            except ApiError as second:
                error = second
            else:
                return True
        if error.not_found:
            return False
        raise error from None
    return True


def stored_gvr(gvr: GVR) -> GVR:
    """Where objects of a kind lie in the older layout; other groups are left alone."""
    if gvr.group != NATIVE:
        return gvr
    plural = "ipamconfigs" if gvr.plural == IPAMCONFIGS.plural else gvr.plural
    kind = "IPAMConfig" if gvr.kind == IPAMCONFIGS.kind else gvr.kind
    return replace(gvr, group=CLASSIC, version="v1", plural=plural, kind=kind)


def outward(gvr: GVR, there: GVR, obj: Object) -> Object:
    """An object as it is stored `there`."""
    if there == gvr:
        return obj
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
    """The calls of Api and the watches of IPAM, on a cluster with the older layout. Raises what `api` raises."""

    def __init__(self, api: Watched) -> None:
        self._api = api

    async def _classic(self) -> bool:
        return True

    async def _at(self, gvr: GVR) -> GVR:
        return stored_gvr(gvr) if gvr.group == NATIVE and await self._classic() else gvr

    async def get(self, gvr: GVR, name: str, namespace: str = "", subresource: str = "") -> Object:
        return inward(gvr, await self._api.get(await self._at(gvr), name, namespace, subresource))

    async def list(self, gvr: GVR, namespace: str = "", **options: Any) -> tuple[list[Object], str]:
        items, version = await self._api.list(await self._at(gvr), namespace, **options)
        return [inward(gvr, item) for item in items], version

    async def create(self, gvr: GVR, obj: Object, namespace: str = "", **options: Any) -> Object:
        at = await self._at(gvr)
        return inward(gvr, await self._api.create(at, outward(gvr, at, obj), namespace, **options))

    async def update(self, gvr: GVR, obj: Object, *, subresource: str = "") -> Object:
        at = await self._at(gvr)
        return inward(gvr, await self._api.update(at, outward(gvr, at, obj), subresource=subresource))

    async def patch(self, gvr: GVR, name: str, patch: Any, namespace: str = "", **options: Any) -> Object:
        return inward(gvr, await self._api.patch(await self._at(gvr), name, patch, namespace, **options))

    async def delete(self, gvr: GVR, name: str, namespace: str = "", **options: Any) -> None:
        await self._api.delete(await self._at(gvr), name, namespace, **options)

    async def watch(
        self, gvr: GVR, namespace: str = "", *, decode: type[Any] | None = None, **options: Any
    ) -> AsyncIterator[Update | InSync]:
        """As Api's; with `decode`, what cannot be understood counts as absent."""
        at = await self._at(gvr)
        if at == gvr:
            async for item in self._api.watch(gvr, namespace, decode=decode, **options):
                yield item
            return
        async for item in self._api.watch(at, namespace, **options):
            if isinstance(item, Update) and item.object is not None:
                item = replace(item, object=_understood(inward(gvr, item.object), decode))
            yield item

    async def close(self) -> None:
        await self._api.close()


class FoundApi(ClassicApi):
    """In whichever layout the cluster has its blocks; found out at the first use. None there yet: the newer one."""

    def __init__(self, api: Watched, pause: float = 0.5) -> None:
        super().__init__(api)
        self._pause = pause
        self._found: bool | None = None

    async def _classic(self) -> bool:
        if self._found is None:
            self._found = await is_classic(self._api)
            if self._found:
                log.info("addresses are kept in the older layout group=%s", CLASSIC)
        return self._found

    async def watch(
        self, gvr: GVR, namespace: str = "", *, decode: type[Any] | None = None, **options: Any
    ) -> AsyncIterator[Update | InSync]:
        while gvr.group == NATIVE and self._found is None:
            try:
                await self._classic()
            except ApiError as error:
                log.warning("cannot find out how addresses are kept error=%s", error)
                await asyncio.sleep(self._pause)
        async for item in super().watch(gvr, namespace, decode=decode, **options):
            yield item


def _understood(obj: Object, decode: type[Any] | None) -> Any | None:
    if decode is None:
        return obj
    try:
        return msgspec.convert(obj, decode)
    except msgspec.ValidationError as error:
        log.warning("object passed over kind=%s name=%s error=%s", obj["kind"], obj["metadata"]["name"], error)
        return None
