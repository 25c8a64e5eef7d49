"""What the calculation was told, kept so that a dump can be replayed: a snapshot, and the latest updates after it.

Bounded: updates that fall out of the ring become part of the snapshot, which holds one short text per object of the
cluster (only the fields that are calculated with). An update that changes none of these fields leaves no trace.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from podwire.model.block import IPAMBlock
from podwire.model.gvr import IPAMBLOCKS, IPPOOLS, NODES
from podwire.model.ippool import IPPool
from podwire.model.node import Node

ENTRIES = 1000

_DOMAIN = "projectcalico.org/"
"""Annotations under it tell of nodes' addresses."""


@dataclass(frozen=True, slots=True)
class Entry:
    """`at` is in seconds since 1970. `name` "" marks that everything of the kind has been told; `object` is JSON, None
    when there is none any more."""

    at: float
    kind: str
    name: str
    object: bytes | None


class Journal:
    """Keeps `limit` updates beside the snapshot. `clock` gives seconds since 1970."""

    def __init__(self, clock: Callable[[], float], limit: int = ENTRIES) -> None:
        self._clock = clock
        self._limit = limit
        self._base: dict[tuple[str, str], bytes] = {}
        self._base_synced: dict[str, None] = {}
        self._entries: deque[Entry] = deque()
        self._now: dict[tuple[str, str], bytes] = {}
        self._synced: dict[str, None] = {}
        self.folded = 0
        self.idle = 0

    def told(self, kind: str, name: str, value: Any | None) -> None:
        """The newest object of a name, or None. `kind` is a resource's plural."""
        fresh = None if value is None else msgspec.json.encode(SLIM[kind](value))
        if self._now.get((kind, name)) == fresh:
            self.idle += 1
            return
        if fresh is None:
            self._now.pop((kind, name), None)
        else:
            self._now[kind, name] = fresh
        self._append(Entry(self._clock(), kind, name, fresh))

    def synced(self, kind: str) -> None:
        """Everything of this kind has been told; only the first time counts."""
        if kind not in self._synced:
            self._synced[kind] = None
            self._append(Entry(self._clock(), kind, "", None))

    def _append(self, entry: Entry) -> None:
        self._entries.append(entry)
        while len(self._entries) > self._limit:
            old = self._entries.popleft()
            self.folded += 1
            if not old.name:
                self._base_synced[old.kind] = None
            elif old.object is None:
                self._base.pop((old.kind, old.name), None)
            else:
                self._base[old.kind, old.name] = old.object

    def document(self) -> dict[str, Any]:
        """For JSON: `snapshot` (objects, and kinds that were in sync), then `updates` in their order."""
        return {
            "snapshot": {
                "in_sync": list(self._base_synced),
                "objects": [
                    {"kind": kind, "name": name, "object": msgspec.Raw(body)}
                    for (kind, name), body in self._base.items()
                ],
            },
            "updates": [_entry(entry) for entry in self._entries],
            "folded_updates": self.folded,
            "updates_without_effect": self.idle,
        }

    def size(self) -> int:
        """Bytes of the texts held, about."""
        return sum(map(len, self._now.values())) + sum(len(e.object or b"") for e in self._entries)


def _entry(entry: Entry) -> dict[str, Any]:
    head: dict[str, Any] = {"at": round(entry.at, 3), "kind": entry.kind}
    if not entry.name:
        return {**head, "in_sync": True}
    return {**head, "name": entry.name, "object": None if entry.object is None else msgspec.Raw(entry.object)}


def slim_node(node: Node) -> dict[str, Any]:
    """Without labels and foreign annotations."""
    told = {name: text for name, text in node.metadata.annotations.items() if name.startswith(_DOMAIN)}
    return {
        "metadata": {"name": node.name, "annotations": told},
        "spec": msgspec.to_builtins(node.spec),
        "status": msgspec.to_builtins(node.status),
    }


def slim_pool(pool: IPPool) -> dict[str, Any]:
    return {"metadata": {"name": pool.name}, "spec": msgspec.to_builtins(pool.spec)}


def slim_block(block: IPAMBlock) -> dict[str, Any]:
    """Without its allocations, but for those of other nodes: these have routes of their own."""
    spec = block.spec
    slim: dict[str, Any] = {"cidr": spec.cidr, "affinity": spec.affinity, "deleted": spec.deleted}
    nodes: dict[str, int] = {}
    borrowed: list[int | None] = []
    for ordinal, index in enumerate(spec.allocations):
        if index is None or not 0 <= index < len(spec.attributes):
            continue
        node = (spec.attributes[index].secondary or {}).get("node", "")
        if node and node != block.node:
            borrowed += [None] * (ordinal + 1 - len(borrowed))
            borrowed[ordinal] = nodes.setdefault(node, len(nodes))
    if nodes:
        slim |= {"allocations": borrowed, "attributes": [{"secondary": {"node": node}} for node in nodes]}
    return {"metadata": {"name": block.metadata.name}, "spec": slim}


SLIM: dict[str, Callable[[Any], dict[str, Any]]] = {
    NODES.plural: slim_node,
    IPPOOLS.plural: slim_pool,
    IPAMBLOCKS.plural: slim_block,
}
TYPES: dict[str, type[Any]] = {NODES.plural: Node, IPPOOLS.plural: IPPool, IPAMBLOCKS.plural: IPAMBlock}
