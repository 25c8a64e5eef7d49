"""Blocks of addresses as values: assign and release give a new block, nothing is changed in place.

A block lists for each ordinal (offset of an address) the attribute of whoever holds it. Free ordinals queue in
`unallocated`: taken from the head, returned to the tail, so that an address rests as long as possible before it is
used again. Every written change raises `sequence`; an ordinal remembers the sequence at which it was taken, so that a
release can tell one holder from the next.
Source: Calico's IPAMBlock (shape and order), projectcalico.org/v3.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from podwire.model.address import Cidr, parse_ip
from podwire.model.block import block_name

Reserved = Callable[[int], bool]  # an address (as number) that automatic assignment leaves out


class BlockError(Exception):
    """The block cannot do what was asked; the message names block and address."""


@dataclass(frozen=True, slots=True)
class Attribute:
    """Who holds addresses: a handle and free-form facts (namespace, pod, node, timestamp, type)."""

    handle: str
    secondary: tuple[tuple[str, str], ...] = ()
    extra: tuple[tuple[str, Any], ...] = ()  # fields that only upstream knows, kept as they are

    @staticmethod
    def of(handle: str, facts: Mapping[str, str]) -> Attribute:
        return Attribute(handle, tuple(sorted(facts.items())))

    def fact(self, name: str) -> str:
        return dict(self.secondary).get(name, "")


@dataclass(frozen=True, slots=True)
class Block:
    """`affinity` is `host:<node>`, `virtual:load-balancer` or '' (nobody's)."""

    cidr: Cidr
    affinity: str
    allocations: tuple[int | None, ...]
    unallocated: tuple[int, ...]
    attributes: tuple[Attribute, ...] = ()
    sequence: int = 0
    taken_at: tuple[tuple[int, int], ...] = ()  # (ordinal, sequence when it was taken)
    claimed: str = ""  # when the affinity was taken, RFC 3339
    extra: tuple[tuple[str, Any], ...] = field(default=(), compare=False)

    @property
    def name(self) -> str:
        return block_name(str(self.cidr))

    @property
    def node(self) -> str:
        kind, _, name = self.affinity.partition(":")
        return name if kind == "host" else ""

    @property
    def empty(self) -> bool:
        return not self.attributes

    def holdings(self) -> dict[str, list[int]]:
        """The ordinals of every handle."""
        found: dict[str, list[int]] = {}
        for ordinal, index in enumerate(self.allocations):
            if index is not None:
                found.setdefault(self.attributes[index].handle, []).append(ordinal)
        return found

    def holder(self, ordinal: int) -> Attribute | None:
        index = self.allocations[ordinal]
        return None if index is None else self.attributes[index]

    def has_room(self, reserved: Reserved | None = None) -> bool:
        if reserved is None:
            return bool(self.unallocated)
        return any(not reserved(self.cidr.first + ordinal) for ordinal in self.unallocated)


def fresh(cidr: Cidr, affinity: str, claimed: str = "") -> Block:
    """A block in which nothing is taken."""
    return Block(cidr, affinity, (None,) * cidr.size, tuple(range(cidr.size)), claimed=claimed)


def assign(
    block: Block, wanted: Iterable[Attribute], reserved: Reserved | None = None
) -> tuple[Block, list[tuple[Attribute, int]]]:
    """One address for each of `wanted`, as far as they last: the new block and (who, ordinal) of those served.

    Reserved addresses keep their place in the queue.
    """
    queue, kept = list(block.unallocated), []
    allocations, attributes = list(block.allocations), list(block.attributes)
    indexes = {attribute: index for index, attribute in enumerate(attributes)}
    taken_at, served = dict(block.taken_at), []
    position = 0
    for attribute in wanted:
        while position < len(queue) and reserved is not None and reserved(block.cidr.first + queue[position]):
            kept.append(queue[position])
            position += 1
        if position == len(queue):
            break
        ordinal = queue[position]
        position += 1
        if attribute not in indexes:
            indexes[attribute] = len(attributes)
            attributes.append(attribute)
        allocations[ordinal] = indexes[attribute]
        taken_at[ordinal] = block.sequence
        served.append((attribute, ordinal))
    if not served:
        return block, []
    changed = replace(
        block,
        allocations=tuple(allocations),
        unallocated=tuple(kept + queue[position:]),
        attributes=tuple(attributes),
        taken_at=tuple(taken_at.items()),
    )
    return changed, served


def assign_exact(block: Block, ordinal: int, attribute: Attribute) -> Block:
    """That one address, reserved or not. Raises BlockError when somebody holds it."""
    if block.allocations[ordinal] is not None:
        raise BlockError(f"address {block.cidr.address(ordinal)} of block {block.cidr} is already assigned")
    one = replace(block, unallocated=(ordinal, *(o for o in block.unallocated if o != ordinal)))
    return assign(one, [attribute])[0]


def release(block: Block, ordinals: Iterable[int]) -> Block:
    """Give addresses back, to the tail of the queue, in the order given; those that are free already are passed over.
    Attributes that nobody uses any more go, and the indexes close up."""
    allocations, queue = list(block.allocations), list(block.unallocated)
    freed = set()
    for ordinal in ordinals:
        if allocations[ordinal] is not None:
            allocations[ordinal] = None
            queue.append(ordinal)
            freed.add(ordinal)
    if not freed:
        return block
    used = sorted({index for index in allocations if index is not None})
    moved = {old: new for new, old in enumerate(used)}
    return replace(
        block,
        allocations=tuple(None if index is None else moved[index] for index in allocations),
        unallocated=tuple(queue),
        attributes=tuple(block.attributes[index] for index in used),
        taken_at=tuple((ordinal, at) for ordinal, at in block.taken_at if ordinal not in freed),
    )


def release_handle(block: Block, handle: str) -> tuple[Block, list[int]]:
    """Everything that a handle holds in the block."""
    ordinals = block.holdings().get(handle, [])
    return release(block, ordinals), ordinals


# -- the stored form ----------------------------------------------------------------------------------------------

_FIELDS = {
    "cidr",
    "affinity",
    "affinityClaimTime",
    "allocations",
    "unallocated",
    "attributes",
    "sequenceNumber",
    "sequenceNumberForAllocation",
    "deleted",
}


def from_spec(spec: Mapping[str, Any]) -> Block:
    """An IPAMBlock's spec as a value. Raises BlockError when its lists contradict each other."""
    cidr = Cidr.parse(spec["cidr"])
    attributes = tuple(_attribute(item) for item in spec.get("attributes") or [])
    allocations = tuple(spec.get("allocations") or [None] * cidr.size)
    unallocated = tuple(spec.get("unallocated") or [])
    if len(allocations) != cidr.size:
        raise BlockError(f"block {cidr}: {len(allocations)} allocations for {cidr.size} addresses")
    if any(index is not None and not 0 <= index < len(attributes) for index in allocations):
        raise BlockError(f"block {cidr}: an allocation points at no attribute")
    if any(not 0 <= o < cidr.size or allocations[o] is not None for o in unallocated):
        raise BlockError(f"block {cidr}: an address is both taken and free")
    numbers = spec.get("sequenceNumberForAllocation") or {}
    return Block(
        cidr=cidr,
        affinity=spec.get("affinity") or "",
        allocations=allocations,
        unallocated=unallocated,
        attributes=attributes,
        sequence=spec.get("sequenceNumber") or 0,
        taken_at=tuple((int(ordinal), number) for ordinal, number in numbers.items()),
        claimed=spec.get("affinityClaimTime") or "",
        extra=tuple((key, value) for key, value in spec.items() if key not in _FIELDS),
    )


def to_spec(block: Block) -> dict[str, Any]:
    """The stored form; strictAffinity is ignored by every reader but required by upstream's schema."""
    spec: dict[str, Any] = {
        "cidr": str(block.cidr),
        "allocations": list(block.allocations),
        "unallocated": list(block.unallocated),
        "attributes": [_stored(attribute) for attribute in block.attributes],
        "sequenceNumber": block.sequence,
        "sequenceNumberForAllocation": {str(ordinal): number for ordinal, number in block.taken_at},
        "deleted": False,
        "strictAffinity": False,
        **dict(block.extra),
    }
    if block.affinity:
        spec["affinity"] = block.affinity
    if block.claimed:
        spec["affinityClaimTime"] = block.claimed
    return spec


def _attribute(item: Mapping[str, Any]) -> Attribute:
    extra = tuple((key, value) for key, value in item.items() if key not in ("handle_id", "secondary"))
    # Releases of old versions left a carriage return and what followed it in some ids.
    handle = (item.get("handle_id") or "").partition("\r")[0]
    return Attribute(handle, tuple(sorted((item.get("secondary") or {}).items())), _hashable(extra))


def _stored(attribute: Attribute) -> dict[str, Any]:
    return {"handle_id": attribute.handle, "secondary": dict(attribute.secondary), **_plain(attribute.extra)}


def _hashable(pairs: tuple[tuple[str, Any], ...]) -> tuple[tuple[str, Any], ...]:
    """Attributes are dictionary keys: maps inside become sorted pairs, marked so that they can become maps again."""
    return tuple((key, ("map", *sorted(value.items())) if isinstance(value, dict) else value) for key, value in pairs)


def _plain(pairs: tuple[tuple[str, Any], ...]) -> dict[str, Any]:
    return {key: dict(value[1:]) if isinstance(value, tuple) else value for key, value in pairs}


def ordinal_of(block: Block, address: str) -> int:
    """The offset of an address. Raises BlockError when it lies elsewhere."""
    number, width = parse_ip(address)
    if width != block.cidr.width or not block.cidr.holds(number):
        raise BlockError(f"address {address} is not in block {block.cidr}")
    return number - block.cidr.first
