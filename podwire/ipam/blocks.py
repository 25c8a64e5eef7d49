"""Blocks of addresses as values: assign and release give a new block, nothing is changed in place.

A block lists for each ordinal (offset of an address) the attribute of whoever holds it. Free ordinals queue in
`unallocated`: taken from the head, returned to the tail, so that an address rests as long as possible before it is
used again. Every written change raises `sequence`; an ordinal remembers the sequence at which it was taken, so that a
release can tell one holder from the next.
Source: Calico's IPAMBlock (shape and order), projectcalico.org/v3.
"""

from __future__ import annotations

from collections import deque
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
        return next((value for key, value in self.secondary if key == name), "")

    @property
    def released(self) -> str:
        """When the address was given back and began to rest; '' while somebody holds it."""
        return "" if self.handle else next((str(value) for key, value in self.extra if key == "releasedAt"), "")


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
        """The ordinals of every handle; addresses that rest are nobody's."""
        found: dict[str, list[int]] = {}
        for ordinal, index in enumerate(self.allocations):
            if index is not None and not self.attributes[index].released:
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


class Draft:
    """A block being changed in place; `done` gives the changed value. One change costs the same however big the block.

    Who takes an ordinal is noted with the block's sequence, so that a release can tell one holder from the next.
    """

    def __init__(self, block: Block) -> None:
        self.block = block
        self._allocations = list(block.allocations)
        self._queue = deque(block.unallocated)
        self._attributes = list(block.attributes)
        self._indexes = {attribute: index for index, attribute in enumerate(self._attributes)}
        self._taken_at = dict(block.taken_at)
        self._changed = False

    def holder(self, ordinal: int) -> Attribute | None:
        index = self._allocations[ordinal]
        return None if index is None else self._attributes[index]

    def room(self, reserved: Reserved | None = None) -> int:
        """How many addresses automatic assignment can still take."""
        if reserved is None:
            return len(self._queue)
        return sum(not reserved(self.block.cidr.first + ordinal) for ordinal in self._queue)

    def count(self, handle: str) -> int:
        """How many addresses a handle holds."""
        indexes = {index for index, item in enumerate(self._attributes) if item.handle == handle}
        return sum(index in indexes for index in self._allocations) if indexes else 0

    def take(self, attribute: Attribute, reserved: Reserved | None = None) -> int | None:
        """The next free address; reserved ones keep their place in the queue. None when nothing is left."""
        queue = self._queue
        if not queue:
            return None
        if reserved is None:
            ordinal = queue.popleft()
        else:
            first = self.block.cidr.first
            free = (at for at, candidate in enumerate(queue) if not reserved(first + candidate))
            place = next(free, None)
            if place is None:
                return None
            ordinal = queue[place]
            del queue[place]
        self._give(ordinal, attribute)
        return ordinal

    def take_exact(self, ordinal: int, attribute: Attribute) -> None:
        """That one address, reserved or not. Raises BlockError when somebody holds it."""
        if self._allocations[ordinal] is not None:
            raise BlockError(
                f"address {self.block.cidr.address(ordinal)} of block {self.block.cidr} is already assigned"
            )
        self._queue.remove(ordinal)
        self._give(ordinal, attribute)

    def hand_over(self, ordinal: int, attribute: Attribute) -> None:
        """A taken address gets another holder, without being free in between."""
        self._give(ordinal, attribute)

    def undo(self, ordinal: int) -> None:
        """What this draft took, as if it had not."""
        self._allocations[ordinal] = None
        self._taken_at.pop(ordinal, None)
        self._queue.appendleft(ordinal)

    def release(self, ordinals: Iterable[int], resting: Attribute | None = None) -> list[int]:
        """Addresses back to the tail of the queue, in the order given; those that were taken. With `resting` (see
        `cooling`) they stay out of the queue under that attribute."""
        freed = []
        for ordinal in ordinals:
            if self._allocations[ordinal] is not None:
                self._allocations[ordinal] = None
                self._taken_at.pop(ordinal, None)
                freed.append(ordinal)
                if resting is not None:
                    self._allocations[ordinal] = self._index(resting)
                else:
                    self._queue.append(ordinal)
        self._changed |= bool(freed)
        return freed

    def thaw(self, rested: Callable[[str], bool]) -> None:
        """Addresses whose rest is over (asked with the time of their release) join the queue."""
        ready = {index for index, item in enumerate(self._attributes) if item.released and rested(item.released)}
        if ready:
            self.release([ordinal for ordinal, index in enumerate(self._allocations) if index in ready])

    def done(self) -> Block:
        """The changed block; attributes that nobody uses any more are gone, and the indexes closed up."""
        if not self._changed:
            return self.block
        used = sorted({index for index in self._allocations if index is not None})
        moved = {old: new for new, old in enumerate(used)}
        return replace(
            self.block,
            allocations=tuple(None if index is None else moved[index] for index in self._allocations),
            unallocated=tuple(self._queue),
            attributes=tuple(self._attributes[index] for index in used),
            taken_at=tuple(self._taken_at.items()),
        )

    def _give(self, ordinal: int, attribute: Attribute) -> None:
        self._allocations[ordinal] = self._index(attribute)
        self._taken_at[ordinal] = self.block.sequence
        self._changed = True

    def _index(self, attribute: Attribute) -> int:
        index = self._indexes.get(attribute)
        if index is None:
            index = self._indexes[attribute] = len(self._attributes)
            self._attributes.append(attribute)
        return index


def cooling(released: str) -> Attribute:
    """The attribute of addresses that rest after their release (ipCooldownSeconds): the time alone, RFC 3339."""
    return Attribute("", (), (("releasedAt", released),))


def assign(
    block: Block, wanted: Iterable[Attribute], reserved: Reserved | None = None
) -> tuple[Block, list[tuple[Attribute, int]]]:
    """One address for each of `wanted`, as far as they last: the new block and (who, ordinal) of those served."""
    draft, served = Draft(block), []
    for attribute in wanted:
        ordinal = draft.take(attribute, reserved)
        if ordinal is None:
            break
        served.append((attribute, ordinal))
    return draft.done(), served


def assign_exact(block: Block, ordinal: int, attribute: Attribute) -> Block:
    """That one address, reserved or not. Raises BlockError when somebody holds it."""
    draft = Draft(block)
    draft.take_exact(ordinal, attribute)
    return draft.done()


def release(block: Block, ordinals: Iterable[int]) -> Block:
    """Give addresses back, to the tail of the queue, in the order given; free ones are passed over."""
    draft = Draft(block)
    draft.release(ordinals)
    return draft.done()


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
    if attribute.released:
        return _plain(attribute.extra)
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
