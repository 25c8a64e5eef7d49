"""The mending of what a check found, through the API: addresses, handles, affinities.

Each step is a compare-and-swap on what was found, so that nothing is undone that somebody began to use meanwhile.
"""

from __future__ import annotations

from dataclasses import replace

from podwire.ipam import blocks, stored
from podwire.ipam.blocks import Block
from podwire.ipam.stored import Held, Lost
from podwire.model.address import Cidr
from podwire.model.api import Api, ApiError, Object
from podwire.model.block import affinity_name, hostname_hash
from podwire.model.gvr import BLOCKAFFINITIES, IPAMBLOCKS, IPAMHANDLES
from podwire.observe.damage import DROP_AFFINITY, MAKE_AFFINITY, RECOUNT, RELEASE, Finding

TRIES = 20


class Changed(Exception):
    """What was found is not so any more; nothing was done."""


async def mend(api: Api, finding: Finding) -> str:
    """Do what the finding's cure says; what was done, in words. Raises Changed, ApiError; ValueError for a cure that is
    none of the API's."""
    if finding.cure == RELEASE:
        await release(api, finding.block, finding.address, finding.handle, finding.sequence)
        return f"released {finding.address} of block {finding.block}"
    if finding.cure == RECOUNT:
        return f"IPAMHandle {finding.handle}: {await recount(api, finding.handle)}"
    if finding.cure == DROP_AFFINITY:
        return await give_back(api, finding.node, Cidr.parse(finding.block))
    if finding.cure == MAKE_AFFINITY:
        await put_affinity(api, finding.node, Cidr.parse(finding.block))
        return f"wrote the BlockAffinity of node {finding.node} for block {finding.block}"
    raise ValueError(f"{finding.kind}: no cure of the API: {finding.cure!r}")


async def release(api: Api, block: str, address: str, handle: str, sequence: int | None) -> None:
    """Free one address if it is still held as it was found: by that handle, taken at that sequence. Raises Changed,
    ApiError."""
    cidr = Cidr.parse(block)
    for _ in range(TRIES):
        held = await stored.read(api, cidr)
        if held is None:
            raise Changed(f"block {block} is gone")
        ordinal = blocks.ordinal_of(held.block, address)
        holder = held.block.holder(ordinal)
        if holder is None:
            raise Changed(f"{address} is free already")
        if (holder.handle, dict(held.block.taken_at).get(ordinal)) != (handle, sequence):
            raise Changed(
                f"{address} was released and taken again meanwhile, by {holder.handle or 'an unknown handle'}"
            )
        try:
            await stored.write(api, held, blocks.release(held.block, [ordinal]))
        except Lost:
            continue
        if handle:
            await recount(api, handle)
        return
    raise Changed(f"block {block} changes all the time")


async def recount(api: Api, handle: str) -> str:
    """Make a handle's object say what the blocks say, or go when they say nothing; which, in words. Raises Changed,
    ApiError."""
    for _ in range(TRIES):
        known = await _get(api, handle)
        counts = {}
        for held in await stored.read_all(api):
            if ordinals := held.block.holdings().get(handle):
                counts[str(held.block.cidr)] = len(ordinals)
        try:
            return await _put_counts(api, handle, known, counts)
        except ApiError as error:
            if not (error.conflict or error.not_found or error.already_exists):
                raise
    raise Changed(f"IPAMHandle {handle} changes all the time")


async def _get(api: Api, handle: str) -> Object | None:
    try:
        return await api.get(IPAMHANDLES, handle.lower())
    except ApiError as error:
        if error.not_found:
            return None
        raise


async def _put_counts(api: Api, handle: str, known: Object | None, counts: dict[str, int]) -> str:
    if not counts:
        if known is None:
            return "is gone already"
        metadata = known["metadata"]
        version = metadata["resourceVersion"]
        await api.delete(IPAMHANDLES, metadata["name"], uid=metadata["uid"], resource_version=version)
        return "removed, as no block knows it"
    told = ", ".join(f"{count} in {block}" for block, count in sorted(counts.items()))
    if known is None:
        head = {"apiVersion": IPAMHANDLES.api_version, "kind": IPAMHANDLES.kind}
        spec = {"handleID": handle, "block": counts, "deleted": False}
        await api.create(IPAMHANDLES, {**head, "metadata": {"name": handle.lower()}, "spec": spec})
    elif known["spec"].get("block") != counts:
        await api.update(IPAMHANDLES, {**known, "spec": {**known["spec"], "block": counts}})
    return f"says {told} now"


async def give_back(api: Api, node: str, cidr: Cidr) -> str:
    """Take a block from a node: the block first (it goes when it is empty, and is nobody's when it is not), then the
    affinity. What was done, in words. Raises Changed, ApiError."""
    done = []
    for _ in range(TRIES):
        held = await stored.read(api, cidr)
        if held is None or held.block.node != node:
            break
        try:
            done.append(await _disown(api, held))
        except Lost:
            continue
        break
    else:
        raise Changed(f"block {cidr} changes all the time")
    name = affinity_name(node, str(cidr))
    try:
        affinity = await api.get(BLOCKAFFINITIES, name)
        metadata = affinity["metadata"]
        version = metadata["resourceVersion"]
        await api.delete(BLOCKAFFINITIES, name, uid=metadata["uid"], resource_version=version)
        done.append(f"removed BlockAffinity {name}")
    except ApiError as error:
        if error.conflict:
            raise Changed(f"BlockAffinity {name} was changed meanwhile") from error
        if not error.not_found:
            raise
    return ", ".join(done) or f"block {cidr} was given back already"


async def _disown(api: Api, held: Held) -> str:
    """Raises Lost."""
    block: Block = replace(held.block, affinity="", claimed="")
    if not block.empty:
        await stored.write(api, held, block)
        return f"block {block.cidr} is nobody's now"
    metadata = held.metadata
    version = metadata["resourceVersion"]
    try:
        await api.delete(IPAMBLOCKS, block.name, uid=metadata["uid"], resource_version=version)
    except ApiError as error:
        if error.conflict or error.not_found:
            raise Lost(error.message) from error
        raise
    return f"removed the empty block {block.cidr}"


async def put_affinity(api: Api, node: str, cidr: Cidr) -> None:
    """Note that a block is a node's, if it is. Raises Changed, ApiError."""
    held = await stored.read(api, cidr)
    if held is None or held.block.node != node:
        raise Changed(f"block {cidr} is not node {node}'s any more")
    labels = {
        "projectcalico.org/hostname-hash": hostname_hash(node),
        "projectcalico.org/affinity-type": "host",
        "projectcalico.org/ip-version": "4" if cidr.width == 32 else "6",
    }
    spec = {"cidr": str(cidr), "deleted": False, "node": node, "state": "confirmed", "type": "host"}
    head = {"apiVersion": BLOCKAFFINITIES.api_version, "kind": BLOCKAFFINITIES.kind}
    name = affinity_name(node, str(cidr))
    try:
        await api.create(BLOCKAFFINITIES, {**head, "metadata": {"name": name, "labels": labels}, "spec": spec})
    except ApiError as error:
        if not error.already_exists:
            raise
        await _confirm(api, name)


async def _confirm(api: Api, name: str) -> None:
    try:
        known = await api.get(BLOCKAFFINITIES, name)
        await api.update(BLOCKAFFINITIES, {**known, "spec": {**known["spec"], "state": "confirmed"}})
    except ApiError as error:
        if error.conflict or error.not_found:
            raise Changed(f"BlockAffinity {name} was changed meanwhile") from error
        raise
