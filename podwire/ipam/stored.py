"""Blocks, affinities and handles as the API stores them: read, compare-and-swap, claim.

Everything here is one or a few API calls with a defined outcome under rivalry; what to do next is decided in `claims`.
Source: Calico's IPAM protocol (object shapes, order of writes), projectcalico.org/v3.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from podwire.ipam import blocks
from podwire.ipam.blocks import Block
from podwire.model.address import Cidr
from podwire.model.api import Api, ApiError, Object
from podwire.model.block import affinity_name, block_name, hostname_hash
from podwire.model.gvr import BLOCKAFFINITIES, IPAMBLOCKS, IPAMHANDLES

TRIES = 100


class Lost(Exception):
    """A compare-and-swap lost: what was read is no longer what is stored."""


@dataclass(frozen=True, slots=True)
class Held:
    """A block as read, with what a compare-and-swap needs."""

    block: Block
    metadata: Object


def _held(obj: Object) -> Held | None:
    """None for a block that is being deleted."""
    return (
        None if obj["spec"].get("deleted") in (True, "true") else Held(blocks.from_spec(obj["spec"]), obj["metadata"])
    )


async def read(api: Api, cidr: Cidr) -> Held | None:
    try:
        return _held(await api.get(IPAMBLOCKS, block_name(str(cidr))))
    except ApiError as error:
        if error.not_found:
            return None
        raise


async def read_all(api: Api) -> list[Held]:
    """Every block. One that contradicts itself is left out: nobody may assign from it."""
    found = []
    for obj in (await api.list(IPAMBLOCKS))[0]:
        try:
            if held := _held(obj):
                found.append(held)
        except (ValueError, blocks.BlockError):
            continue
    return found


def _object(block: Block, metadata: Object) -> Object:
    body = {"apiVersion": IPAMBLOCKS.api_version, "kind": IPAMBLOCKS.kind, "metadata": metadata}
    return {**body, "spec": blocks.to_spec(block)}


async def write(api: Api, held: Held, block: Block) -> Held:
    """Replace what was read. A block that is empty and nobody's goes. Raises Lost."""
    block = replace(block, sequence=held.block.sequence + 1)
    try:
        stored = await api.update(IPAMBLOCKS, _object(block, held.metadata))
    except ApiError as error:
        if error.conflict or error.not_found:
            raise Lost(error.message) from error
        raise
    done = Held(block, stored["metadata"])
    if block.empty and not block.affinity:
        await _remove(api, done)
    return done


async def _remove(api: Api, held: Held) -> None:
    """Delete exactly what was read; if it changed meanwhile, somebody uses it and it stays."""
    metadata = held.metadata
    try:
        version = metadata["resourceVersion"]
        await api.delete(IPAMBLOCKS, held.block.name, uid=metadata["uid"], resource_version=version)
    except ApiError as error:
        if not (error.conflict or error.not_found):
            raise


# -- affinities ---------------------------------------------------------------------------------------------------


async def affinities(api: Api, node: str) -> dict[Cidr, Object]:
    """The affinity records of a node, whatever their state."""
    found = {}
    for obj in (await api.list(BLOCKAFFINITIES))[0]:
        spec = obj["spec"]
        if (
            spec.get("node") == node
            and spec.get("type", "host") in ("", "host")
            and spec.get("deleted") in (None, False)
        ):
            found[Cidr.parse(spec["cidr"])] = obj
    return found


async def claim(api: Api, node: str, cidr: Cidr, now: str) -> Held | None:
    """Make a block the node's: affinity pending, block, affinity confirmed. None when it is somebody else's.

    Every step may have been done before by a claim that was cut off.
    """
    affinity = await _pending(api, node, cidr)
    held = await _create(api, blocks.fresh(cidr, f"host:{node}", now)) or await read(api, cidr)
    if held is None or held.block.node != node:
        await _drop(api, affinity)
        return None
    affinity["spec"]["state"] = "confirmed"
    try:
        await api.update(BLOCKAFFINITIES, affinity)
    except ApiError as error:
        if not error.conflict:
            raise
        # Another claim of the same node got there first; the record says the same.
    return held


async def _pending(api: Api, node: str, cidr: Cidr) -> Object:
    """The node's affinity record for a block; made, in state pending, where there is none."""
    name = affinity_name(node, str(cidr))
    labels = {
        "projectcalico.org/hostname-hash": hostname_hash(node),
        "projectcalico.org/affinity-type": "host",
        "projectcalico.org/ip-version": "4" if cidr.width == 32 else "6",
    }
    spec = {"cidr": str(cidr), "deleted": False, "node": node, "state": "pending", "type": "host"}
    head = {"apiVersion": BLOCKAFFINITIES.api_version, "kind": BLOCKAFFINITIES.kind}
    for _ in range(TRIES):
        try:
            return await api.create(
                BLOCKAFFINITIES, {**head, "metadata": {"name": name, "labels": labels}, "spec": spec}
            )
        except ApiError as error:
            if not error.already_exists:
                raise
        try:
            return await api.get(BLOCKAFFINITIES, name)
        except ApiError as error:
            if not error.not_found:
                raise
    raise Lost(f"block affinity {name} comes and goes")


async def _create(api: Api, block: Block) -> Held | None:
    """None when a block of that name exists."""
    try:
        stored = await api.create(IPAMBLOCKS, _object(block, {"name": block.name}))
    except ApiError as error:
        if error.already_exists:
            return None
        raise
    return Held(block, stored["metadata"])


async def _drop(api: Api, affinity: Object) -> None:
    metadata = affinity["metadata"]
    try:
        await api.delete(BLOCKAFFINITIES, metadata["name"], uid=metadata["uid"])
    except ApiError as error:
        if not (error.not_found or error.conflict):
            raise


# -- handles ------------------------------------------------------------------------------------------------------


def _handle_name(handle: str) -> str:
    return handle.lower()


async def count_handle(api: Api, handle: str, cidr: Cidr) -> list[Cidr]:
    """Note that a handle holds an address of a block; the other blocks in which it is said to hold one already."""
    key, name = str(cidr), _handle_name(handle)
    spec = {"handleID": handle, "block": {key: 1}, "deleted": False}
    head = {"apiVersion": IPAMHANDLES.api_version, "kind": IPAMHANDLES.kind}
    for _ in range(TRIES):
        try:
            await api.create(IPAMHANDLES, {**head, "metadata": {"name": name}, "spec": spec})
            return []
        except ApiError as error:
            if not error.already_exists:
                raise
        try:
            stored = await api.get(IPAMHANDLES, name)
            counts = stored["spec"].setdefault("block", {})
            if key not in counts:
                counts[key] = 1
                await api.update(IPAMHANDLES, stored)
            return [Cidr.parse(other) for other in counts if other != key]
        except ApiError as error:
            if not (error.conflict or error.not_found):
                raise
    raise Lost(f"IPAM handle {name} changes all the time")


async def forget_handle(api: Api, handle: str) -> None:
    """A handle holds nothing any more."""
    try:
        await api.delete(IPAMHANDLES, _handle_name(handle))
    except ApiError as error:
        if not error.not_found:
            raise


async def handle_blocks(api: Api, handle: str) -> list[Cidr]:
    """Where the API says that a handle holds addresses."""
    try:
        stored = await api.get(IPAMHANDLES, _handle_name(handle))
    except ApiError as error:
        if error.not_found:
            return []
        raise
    return [Cidr.parse(key) for key in stored["spec"].get("block") or {}]
