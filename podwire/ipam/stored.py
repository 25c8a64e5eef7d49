"""Blocks and affinities as the API stores them: read, compare-and-swap, claim, give up.

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
from podwire.model.gvr import BLOCKAFFINITIES, GVR, IPAMBLOCKS

TRIES = 100


class Lost(Exception):
    """A compare-and-swap lost: what was read is no longer what is stored."""


@dataclass(frozen=True, slots=True)
class Held:
    """A block as read, with what a compare-and-swap needs."""

    block: Block
    metadata: Object


def _gone(obj: Object) -> bool:
    """It is being deleted: for readers it is not there. The older layout writes the flag as text."""
    return obj["spec"].get("deleted") in (True, "true")


async def read(api: Api, cidr: Cidr) -> Held | None:
    """A block; None if there is none. One whose deletion was cut off is deleted now. Raises BlockError for one that
    contradicts itself."""
    try:
        obj = await api.get(IPAMBLOCKS, block_name(str(cidr)))
    except ApiError as error:
        if error.not_found:
            return None
        raise
    if _gone(obj):
        await _erase(api, IPAMBLOCKS, obj["metadata"])
        return None
    return Held(blocks.from_spec(obj["spec"]), obj["metadata"])


async def read_all(api: Api) -> list[Held]:
    """Every block. One that contradicts itself is left out: nobody may assign from it."""
    found = []
    for obj in (await api.list(IPAMBLOCKS))[0]:
        try:
            if not _gone(obj):
                found.append(Held(blocks.from_spec(obj["spec"]), obj["metadata"]))
        except (ValueError, KeyError, blocks.BlockError):
            continue
    return found


def _object(block: Block, metadata: Object) -> Object:
    body = {"apiVersion": IPAMBLOCKS.api_version, "kind": IPAMBLOCKS.kind, "metadata": metadata}
    return {**body, "spec": blocks.to_spec(block)}


async def write(api: Api, held: Held, block: Block) -> Held | None:
    """Replace what was read; None when that deleted it: a block that is empty and nobody's goes. Raises Lost."""
    block = replace(block, sequence=held.block.sequence + 1)
    body = _object(block, held.metadata)
    body["spec"]["deleted"] = gone = block.empty and not block.affinity
    try:
        stored = await api.update(IPAMBLOCKS, body)
    except ApiError as error:
        if error.conflict or error.not_found:
            raise Lost(error.message) from error
        raise
    if gone:
        await _erase(api, IPAMBLOCKS, stored["metadata"])
        return None
    return Held(block, stored["metadata"])


async def _erase(api: Api, gvr: GVR, metadata: Object) -> None:
    """The second step of a deletion: exactly what was marked. If it is gone or was made anew, nothing is done."""
    try:
        version = metadata["resourceVersion"]
        await api.delete(gvr, metadata["name"], uid=metadata["uid"], resource_version=version)
    except ApiError as error:
        if not (error.conflict or error.not_found):
            raise


# -- affinities ---------------------------------------------------------------------------------------------------


async def affinities(api: Api, node: str = "") -> dict[Cidr, Object]:
    """The affinity records of a node, whatever their state."""
    found = {}
    for obj in (await api.list(BLOCKAFFINITIES))[0]:
        spec = obj["spec"]
        if spec.get("node") == node and (spec.get("type") or "host") == "host" and not _gone(obj):
            found[Cidr.parse(spec["cidr"])] = obj
    return found


def confirmed(affinity: Object) -> bool:
    return (affinity["spec"].get("state") or "confirmed") == "confirmed"


async def claim(api: Api, node: str, cidr: Cidr, now: str) -> tuple[Held | None, Held | None]:
    """Make a block the node's: affinity pending, block, affinity confirmed. (ours, None), or (None, whose it is), or
    (None, None) when it came and went meanwhile.

    Every step may have been done before by a claim that was cut off. A block that is ours behind an affinity which is
    not confirmed (somebody was about to take it back) is written once more, so that whoever read it before loses.
    """
    affinity = await pending(api, node, cidr)
    certain = confirmed(affinity)
    held = await _create(api, blocks.fresh(cidr, f"host:{node}", now))
    if held is None:
        held = await read(api, cidr)
        if held is None or held.block.node != node:
            await drop_affinity(api, affinity)
            return None, held
        if not certain:
            try:
                held = await write(api, held, held.block) or held
            except Lost:
                return None, None
    if not certain:
        affinity["spec"]["state"] = "confirmed"
        try:
            await api.update(BLOCKAFFINITIES, affinity)
        except ApiError as error:
            if not (error.conflict or error.not_found):
                raise
            # Another claim of the same node got there first, or a rival wants the block: the next look decides.
    return held, None


async def pending(api: Api, node: str, cidr: Cidr) -> Object:
    """The node's affinity record for a block; made, in state pending, where there is none. Raises ApiError,
    Lost."""
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
            found = await api.get(BLOCKAFFINITIES, name)
            if _gone(found):
                await _erase(api, BLOCKAFFINITIES, found["metadata"])
                continue
            if confirmed(found) or found["spec"]["state"] == "pending":
                return found
            found["spec"]["state"] = "pending"
            return await api.update(BLOCKAFFINITIES, found)
        except ApiError as error:
            if not (error.not_found or error.conflict):
                raise
    raise Lost(f"block affinity {name} comes and goes")


async def give_up(api: Api, node: str, held: Held, *, only_empty: bool) -> bool:
    """A node's block becomes nobody's: deleted when it is empty, else (unless `only_empty`) without affinity until its
    last address is released. False when the block is no longer as read: then it stays the node's. Raises ApiError."""
    affinity = await affinity_of(api, node, held.block.cidr)
    if affinity is not None:
        affinity["spec"]["state"] = "pendingDeletion"
        try:
            affinity = await api.update(BLOCKAFFINITIES, affinity)
        except ApiError as error:
            if error.conflict or error.not_found:
                return False
            raise
    try:
        if only_empty and not held.block.empty:
            raise Lost(f"block {held.block.cidr} is in use")
        await write(api, held, replace(held.block, affinity="", claimed=""))
    except Lost:
        now = await read(api, held.block.cidr)
        if affinity is not None and now is not None and now.block.node == node:
            await confirm(api, affinity)
            return False
        if affinity is not None:
            await drop_affinity(api, affinity)
        return False
    if affinity is not None:
        await drop_affinity(api, affinity)
    return True


async def affinity_of(api: Api, node: str, cidr: Cidr) -> Object | None:
    """The node's affinity record for a block, None if there is none. Raises ApiError."""
    try:
        found = await api.get(BLOCKAFFINITIES, affinity_name(node, str(cidr)))
    except ApiError as error:
        if error.not_found:
            return None
        raise
    return None if _gone(found) else found


async def confirm(api: Api, affinity: Object) -> None:
    """A record says that its node has the block; nothing is done if it changed or went. Raises ApiError."""
    affinity["spec"]["state"] = "confirmed"
    try:
        await api.update(BLOCKAFFINITIES, affinity)
    except ApiError as error:
        if not (error.conflict or error.not_found):
            raise


async def _create(api: Api, block: Block) -> Held | None:
    """None when a block of that name exists."""
    try:
        stored = await api.create(IPAMBLOCKS, _object(block, {"name": block.name}))
    except ApiError as error:
        if error.already_exists:
            return None
        raise
    return Held(block, stored["metadata"])


async def drop_affinity(api: Api, affinity: Object) -> None:
    """Delete an affinity record, as read, in two steps. Raises ApiError."""
    affinity["spec"]["deleted"] = True
    try:
        stored = await api.update(BLOCKAFFINITIES, affinity)
    except ApiError as error:
        if not (error.not_found or error.conflict):
            raise
        return
    await _erase(api, BLOCKAFFINITIES, stored["metadata"])
