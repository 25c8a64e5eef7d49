"""The mending of what a check found, through the API: addresses, handles, affinities.

Each step is a compare-and-swap on what was found, so that nothing is undone that somebody began to use meanwhile.
"""

from __future__ import annotations

from podwire.ipam import blocks, handles, stored
from podwire.ipam.handles import Marks
from podwire.ipam.stored import Lost
from podwire.model.address import Cidr
from podwire.model.api import Api
from podwire.model.block import affinity_name
from podwire.observe.finding import DROP_AFFINITY, MAKE_AFFINITY, RECOUNT, RELEASE, Finding

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

    async def everywhere(_: set[Cidr]) -> dict[Cidr, int]:
        found = ((held.block.cidr, held.block.holdings().get(handle)) for held in await stored.read_all(api))
        return {cidr: len(ordinals) for cidr, ordinals in found if ordinals}

    try:
        counts = await handles.lower_to(api, handle, everywhere, make=Marks())
    except Lost as error:
        raise Changed(str(error)) from error
    if counts is None:
        return "is gone already"
    told = ", ".join(f"{count} in {cidr}" for cidr, count in sorted(counts.items()))
    return f"says {told} now" if told else "removed, as no block knows it"


async def give_back(api: Api, node: str, cidr: Cidr) -> str:
    """Take a block from a node: the block first (it goes when it is empty, and is nobody's when it is not), then the
    affinity. What was done, in words. Raises Changed, ApiError."""
    done = []
    for _ in range(TRIES):
        held = await stored.read(api, cidr)
        if held is not None and held.block.node == node:
            if await stored.give_up(api, node, held, only_empty=False):
                done.append(f"removed the empty block {cidr}" if held.block.empty else f"block {cidr} is nobody's now")
            continue
        affinity = await stored.affinity_of(api, node, cidr)
        if affinity is None:
            return ", ".join(done) or f"block {cidr} was given back already"
        await stored.drop_affinity(api, affinity)
        done.append(f"removed BlockAffinity {affinity_name(node, str(cidr))}")
    raise Changed(f"block {cidr} changes all the time")


async def put_affinity(api: Api, node: str, cidr: Cidr) -> None:
    """Note that a block is a node's, if it is. Raises Changed, ApiError."""
    if await _owner(api, cidr) != node:
        raise Changed(f"block {cidr} is not node {node}'s any more")
    try:
        affinity = await stored.pending(api, node, cidr)
    except Lost as error:
        raise Changed(str(error)) from error
    if stored.confirmed(affinity):
        return
    if await _owner(api, cidr) != node:  # given up while this was written
        await stored.drop_affinity(api, affinity)
        raise Changed(f"block {cidr} is not node {node}'s any more")
    await stored.confirm(api, affinity)


async def _owner(api: Api, cidr: Cidr) -> str:
    held = await stored.read(api, cidr)
    return held.block.node if held is not None else ""
