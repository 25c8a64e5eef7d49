"""IPAMHandle objects: in which blocks a handle holds how many addresses.

Raised before the block is written and lowered after it, so that a handle never says less than is taken: what a cut-off
attempt left is found again by its handle. Removed at zero.
Source: projectcalico.org/v3 IPAMHandle (name: the handle in lower case; spec.block: CIDR → count).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from podwire.ipam.stored import TRIES, Lost
from podwire.model.address import Cidr
from podwire.model.api import Api, ApiError, Object
from podwire.model.gvr import IPAMHANDLES

Counts = Mapping[Cidr, int]


def name_of(handle: str) -> str:
    return handle.lower()


def _object(handle: str, counts: Counts) -> Object:
    spec = {"handleID": handle, "block": {str(cidr): count for cidr, count in counts.items()}, "deleted": False}
    head = {"apiVersion": IPAMHANDLES.api_version, "kind": IPAMHANDLES.kind}
    return {**head, "metadata": {"name": name_of(handle)}, "spec": spec}


async def read(api: Api, handle: str) -> Object | None:
    """The stored handle; one whose deletion was cut off is deleted now. Raises ApiError."""
    try:
        found = await api.get(IPAMHANDLES, name_of(handle))
    except ApiError as error:
        if error.not_found:
            return None
        raise
    if found["spec"].get("deleted") in (True, "true"):
        await _erase(api, found)
        return None
    return found


def counts_of(stored: Object | None) -> dict[Cidr, int]:
    """The blocks that it names; a name that cannot be read is passed over."""
    found = {}
    for text, count in ((stored or {}).get("spec", {}).get("block") or {}).items():
        try:
            found[Cidr.parse(text)] = int(count)
        except ValueError:
            continue
    return found


async def raise_to(api: Api, handle: str, wanted: Counts) -> set[Cidr]:
    """Note that a handle is about to hold at least so many addresses; the other blocks in which it is said to hold
    some. Raises ApiError, Lost."""
    for _ in range(TRIES):
        try:
            await api.create(IPAMHANDLES, _object(handle, wanted))
            return set()
        except ApiError as error:
            if not error.already_exists:
                raise
        try:
            stored = await read(api, handle)
            if stored is None:
                continue
            counts = counts_of(stored)
            if any(counts.get(cidr, 0) < count for cidr, count in wanted.items()):
                block = stored["spec"].setdefault("block", {})
                block |= {str(cidr): max(count, counts.get(cidr, 0)) for cidr, count in wanted.items()}
                await api.update(IPAMHANDLES, stored)
            return set(counts) - set(wanted)
        except ApiError as error:
            if not (error.conflict or error.not_found):
                raise
    raise Lost(f"IPAM handle {name_of(handle)} changes all the time")


async def lower_to(api: Api, handle: str, look: Callable[[set[Cidr]], Awaitable[dict[Cidr, int]]]) -> None:
    """Make a handle say what it holds; nothing: it is removed. `look` answers that, given the blocks that the stored
    handle names. Raises ApiError, Lost."""
    for _ in range(TRIES):
        stored = await read(api, handle)
        if stored is None:
            return
        actual = await look(set(counts_of(stored)))
        try:
            if not actual:
                await _remove(api, stored)
            elif counts_of(stored) != actual:
                stored["spec"]["block"] = {str(cidr): count for cidr, count in actual.items()}
                await api.update(IPAMHANDLES, stored)
            return
        except ApiError as error:
            if not (error.conflict or error.not_found):
                raise
    raise Lost(f"IPAM handle {name_of(handle)} changes all the time")


async def _remove(api: Api, stored: Object) -> None:
    """In one step: the API refuses when anything changed since it was read. Raises ApiError."""
    metadata = stored["metadata"]
    version = metadata["resourceVersion"]
    await api.delete(IPAMHANDLES, metadata["name"], uid=metadata["uid"], resource_version=version)


async def _erase(api: Api, stored: Object) -> None:
    try:
        await _remove(api, stored)
    except ApiError as error:
        if not (error.conflict or error.not_found):
            raise
