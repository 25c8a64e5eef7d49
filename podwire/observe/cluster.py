"""Everything that views of addresses look at, read once through the API."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import msgspec

from podwire.ipam import blocks
from podwire.ipam.blocks import Block, BlockError
from podwire.model.address import AddressError, Cidr
from podwire.model.api import Api, ApiError, Object
from podwire.model.block import BlockAffinity
from podwire.model.gvr import (
    BLOCKAFFINITIES,
    GVR,
    IPAMBLOCKS,
    IPAMCONFIGS,
    IPAMHANDLES,
    IPPOOLS,
    IPRESERVATIONS,
    NODES,
    PODS,
)
from podwire.model.ippool import IPAMConfig, IPPool
from podwire.model.node import Node

T = TypeVar("T")

CLASSIC = "crd.projectcalico.org"


class NoKinds(Exception):
    """The cluster knows no IPPools, neither as projectcalico.org/v3 nor in the older layout."""


@dataclass(frozen=True, slots=True)
class Handle:
    """An IPAMHandle: in which blocks (CIDR → how many) somebody is said to hold addresses."""

    name: str
    id: str
    counts: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class Reservation:
    """An IPReservation's range."""

    name: str
    cidr: Cidr


@dataclass(frozen=True, slots=True)
class Cluster:
    """`broken` are objects that cannot be understood: (kind and name, why). `classic` is the layout under
    crd.projectcalico.org/v1. Pods are plain objects, as a view of them needs most of what they say."""

    pools: tuple[IPPool, ...] = ()
    blocks: tuple[Block, ...] = ()
    affinities: tuple[BlockAffinity, ...] = ()
    handles: tuple[Handle, ...] = ()
    reservations: tuple[Reservation, ...] = ()
    config: IPAMConfig = field(default_factory=IPAMConfig)
    nodes: tuple[Node, ...] = ()
    pods: tuple[Object, ...] = ()
    broken: tuple[tuple[str, str], ...] = ()
    classic: bool = False

    def pool_of(self, cidr: Cidr) -> IPPool | None:
        """The pool that a block or an address lies in; the narrowest, should pools overlap."""
        found = [pool for pool in self.pools if pool.sound and pool.cidr.covers(cidr)]
        return max(found, key=lambda pool: pool.cidr.length, default=None)


async def read(api: Api) -> Cluster:
    """Raises ApiError (403 names what may not be listed), NoKinds."""
    classic = False
    try:
        pools = (await api.list(IPPOOLS))[0]
    except ApiError as error:
        if not error.not_found:
            raise
        try:
            pools, classic = (await api.list(stored_as(IPPOOLS, classic=True)))[0], True
        except ApiError as second:
            if second.not_found:
                raise NoKinds from error
            raise
    kinds = (IPAMBLOCKS, BLOCKAFFINITIES, IPAMHANDLES, IPRESERVATIONS, IPAMCONFIGS)
    lists = await asyncio.gather(
        *(_optional(api, stored_as(gvr, classic=classic)) for gvr in kinds), api.list(NODES), api.list(PODS)
    )
    return assemble(pools, *(items for items, _ in lists), classic=classic)


def stored_as(gvr: GVR, *, classic: bool) -> GVR:
    """The same kind in the older layout, where its objects are called the same but for one."""
    if not classic:
        return gvr
    plural = "ipamconfigs" if gvr == IPAMCONFIGS else gvr.plural
    return replace(gvr, group=CLASSIC, version="v1", plural=plural)


async def _optional(api: Api, gvr: GVR) -> tuple[list[Object], str]:
    """A kind that a cluster may lack, as old ones lack IPReservation."""
    try:
        return await api.list(gvr)
    except ApiError as error:
        if error.not_found:
            return [], ""
        raise


def assemble(
    pools: Iterable[Object],
    ipam_blocks: Iterable[Object] = (),
    affinities: Iterable[Object] = (),
    handles: Iterable[Object] = (),
    reservations: Iterable[Object] = (),
    configs: Iterable[Object] = (),
    nodes: Iterable[Object] = (),
    pods: Iterable[Object] = (),
    *,
    classic: bool = False,
) -> Cluster:
    """The picture that these objects make; what is not understood goes to `broken`."""
    broken: list[tuple[str, str]] = []
    found_blocks = []
    for obj in _alive(ipam_blocks):
        try:
            found_blocks.append(blocks.from_spec(obj["spec"]))
        except (BlockError, ValueError, KeyError, TypeError) as error:
            broken.append((f"IPAMBlock {obj['metadata']['name']}", str(error)))
    config = next((obj for obj in configs if obj["metadata"]["name"] == "default"), None)
    reserved = []
    for obj in reservations:
        for text in (obj.get("spec") or {}).get("reservedCIDRs") or []:
            try:
                reserved.append(Reservation(obj["metadata"]["name"], Cidr.parse(text, host_bits=True)))
            except AddressError as error:
                broken.append((f"IPReservation {obj['metadata']['name']}", str(error)))
    return Cluster(
        pools=tuple(sorted(_records(pools, IPPool, broken), key=lambda pool: pool.name)),
        blocks=tuple(sorted(found_blocks, key=lambda block: (block.cidr.width, block.cidr))),
        affinities=tuple(_records(_alive(affinities), BlockAffinity, broken)),
        handles=tuple(_handle(obj) for obj in _alive(handles)),
        reservations=tuple(reserved),
        config=next(iter(_records([config], IPAMConfig, broken)), IPAMConfig()) if config else IPAMConfig(),
        nodes=tuple(sorted(_records(nodes, Node, broken), key=lambda node: node.name)),
        pods=tuple(pods),
        broken=tuple(broken),
        classic=classic,
    )


def _alive(objects: Iterable[Object]) -> list[Object]:
    """Objects marked deleted are on their way out and count as gone (the older layout has a text there)."""
    return [obj for obj in objects if (obj.get("spec") or {}).get("deleted") not in (True, "true")]


def _records(objects: Iterable[Object], kind: type[T], broken: list[tuple[str, str]]) -> list[T]:
    found = []
    for obj in objects:
        try:
            found.append(msgspec.convert(obj, kind))
        except msgspec.ValidationError as error:
            broken.append((f"{kind.__name__} {obj['metadata']['name']}", str(error)))
    return found


def _handle(obj: Object) -> Handle:
    spec: dict[str, Any] = obj.get("spec") or {}
    counts = tuple(sorted((str(key), int(count)) for key, count in (spec.get("block") or {}).items()))
    name = obj["metadata"]["name"]
    return Handle(name, spec.get("handleID") or name, counts)
