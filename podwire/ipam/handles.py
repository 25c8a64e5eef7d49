"""IPAMHandle objects: in which blocks a handle holds how many addresses.

Raised before the block is written and lowered after it, so that a handle never says less than is taken: what a cut-off
attempt left is found again by its handle. Removed at zero. Every raise leaves a mark of its own: a removal that was
sent before it, and comes late, is refused; and who cleans up after an attempt that failed leaves alone what another
raised since.
Source: projectcalico.org/v3 IPAMHandle (name: the handle in lower case; spec.block: CIDR → count).
"""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from podwire.ipam.stored import TRIES, Lost
from podwire.model.address import Cidr
from podwire.model.api import Api, ApiError, Object
from podwire.model.gvr import IPAMHANDLES

Counts = Mapping[Cidr, int]
MARK = "podwire/raised"
"""Annotation: which process raised the handle last, and its how-manieth raise that was."""


def name_of(handle: str) -> str:
    return handle.lower()


@dataclass(slots=True)
class Marks:
    """Those that one process leaves. `known` are handles as it last stored them, by name: the API refuses what is
    built on one that changed since, so it need not be read first."""

    process: str = field(default_factory=lambda: uuid.uuid4().hex[:12])
    known: dict[str, Object] = field(default_factory=dict)
    _raises: int = 0

    def next(self) -> str:
        self._raises += 1
        return f"{self.process}.{self._raises}"

    def ours(self, stored: Object) -> bool:
        """Nobody else raised the handle since this process did."""
        mark: str = (stored["metadata"].get("annotations") or {}).get(MARK, "")
        return mark.partition(".")[0] == self.process


def _object(handle: str, counts: Counts, mark: str) -> Object:
    spec = {"handleID": handle, "block": {str(cidr): count for cidr, count in counts.items()}, "deleted": False}
    head = {"apiVersion": IPAMHANDLES.api_version, "kind": IPAMHANDLES.kind}
    return {**head, "metadata": {"name": name_of(handle), "annotations": {MARK: mark}}, "spec": spec}


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


async def raise_to(api: Api, handle: str, wanted: Counts, marks: Marks) -> set[Cidr]:
    """Note that a handle is about to hold at least so many addresses; the other blocks in which it is said to hold
    some. Raises ApiError, Lost."""
    mark, name = marks.next(), name_of(handle)
    stored = marks.known.pop(name, None)
    for _ in range(TRIES):
        try:
            if stored is None:
                marks.known[name] = await api.create(IPAMHANDLES, _object(handle, wanted, mark))
                return set()
        except ApiError as error:
            if not error.already_exists:
                raise
        try:
            stored = stored or await read(api, handle)
            if stored is None:
                continue
            counts = counts_of(stored)
            block = stored["spec"].setdefault("block", {})
            block |= {str(cidr): max(count, counts.get(cidr, 0)) for cidr, count in wanted.items()}
            metadata = stored["metadata"]
            metadata["annotations"] = {**(metadata.get("annotations") or {}), MARK: mark}
            marks.known[name] = await api.update(IPAMHANDLES, stored)
            return set(counts) - set(wanted)
        except ApiError as error:
            if not (error.conflict or error.not_found):
                raise
            stored = None
    raise Lost(f"IPAM handle {name_of(handle)} changes all the time")


async def lower_to(
    api: Api,
    handle: str,
    look: Callable[[set[Cidr]], Awaitable[dict[Cidr, int]]],
    only: Marks | None = None,
    make: Marks | None = None,
    known: dict[str, Object] | None = None,
) -> Counts | None:
    """Make a handle say what it holds; nothing: it is removed. `look` answers that, given the blocks that the stored
    handle names. With `only`, not if another process raised it since; with `make` one that is missing is made; `known`
    are handles as this process stored them. What it says now; None if there was none and is none. Raises ApiError,
    Lost."""
    stored = None if known is None else known.pop(name_of(handle), None)
    for _ in range(TRIES):
        stored = stored or await read(api, handle)
        if (stored is None and make is None) or (stored and only is not None and not only.ours(stored)):
            return None
        actual = await look(set(counts_of(stored)))
        try:
            if stored is None:
                if not actual or make is None:
                    return None
                await api.create(IPAMHANDLES, _object(handle, actual, make.next()))
            elif not actual:
                await _remove(api, stored)
            elif counts_of(stored) != actual:
                stored["spec"]["block"] = {str(cidr): count for cidr, count in actual.items()}
                await api.update(IPAMHANDLES, stored)
            return actual
        except ApiError as error:
            if not (error.conflict or error.not_found or error.already_exists):
                raise
            stored = None
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
