"""Addresses claimed ahead: allocated on the API to the node's own handle, so that an ADD is answered at once.

The stock knows which of them are free to give and which are lent: given to a pod whose own handle is not yet written.
An address is in the stock only as long as the block, as last read or written, says that this very process holds it.
Pure: what is written when is decided in `claims`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from podwire.ipam.blocks import Attribute, Block
from podwire.ipam.ledger import Spot
from podwire.model.address import Cidr

TYPE = "podwireAhead"
FIRST, CEILING = 4, 64
QUIET_SECONDS, LONGEST_SECONDS = 0.25, 2.0


def handle_of(node: str) -> str:
    return f"podwire-ahead-{node}"


def allowance(target: int, room: int) -> int:
    """How many addresses may be kept when the node's blocks have that many in all (free ones and the stock): at most a
    quarter, none when there are fewer than eight, so that keeping them never makes others go without."""
    return 0 if room < 8 else min(target, room // 4)


@dataclass(slots=True)
class Pace:
    """How many to keep: twice as many whenever more than half were gone at a time, half when nobody asked for long."""

    target: int = FIRST
    asked: int = 0

    def took(self, left: int) -> None:
        self.asked += 1
        if left * 2 < self.target:
            self.target = min(CEILING, max(FIRST, self.target * 2))

    def idle(self) -> bool:
        """Call once a period; whether fewer shall be kept from now on."""
        quiet, self.asked = self.asked == 0, 0
        if quiet and self.target > FIRST:
            self.target = max(FIRST, self.target // 2)
            return True
        return False


@dataclass(slots=True)
class Lull:
    """When what was lent is written under the pods' handles: once no address was given for a moment, so that it takes
    nothing from a burst, and what ends soon is never written; or when one has waited for long. Times in seconds."""

    _began: float | None = None
    _last: float = float("-inf")

    def gave(self, now: float) -> None:
        self._began = now if self._began is None else self._began
        self._last = now

    def wrote(self) -> None:
        """Nothing is lent any more."""
        self._began = None

    def calm(self, now: float) -> bool:
        return now >= self._last + QUIET_SECONDS

    def due(self) -> float:
        calm = self._last + QUIET_SECONDS
        return calm if self._began is None else min(calm, self._began + LONGEST_SECONDS)


@dataclass(eq=False, slots=True)
class Lent:
    """Given to a pod, but still under the node's handle. `dying`: the pod gave it back before that changed. `noted`:
    the pod's handle may be stored already. `wanted`: somebody waits for that."""

    handle: str
    attribute: Attribute
    spots: tuple[Spot, ...]
    dying: bool = False
    noted: bool = False
    wanted: bool = False


@dataclass(slots=True)
class Stock:
    """`attribute` marks what this process claimed ahead; others' under the same handle were left by a former life.
    `clock` gives seconds that only grow."""

    attribute: Attribute
    clock: Callable[[], float] = time.monotonic
    lull: Lull = field(default_factory=Lull)
    pace: dict[int, Pace] = field(default_factory=dict)  # by width
    lent: dict[str, Lent] = field(default_factory=dict)
    _risks: dict[Cidr, tuple[int, set[int]]] = field(default_factory=dict)
    _free: dict[Cidr, dict[int, None]] = field(default_factory=dict)

    @property
    def handle(self) -> str:
        return self.attribute.handle

    def saw(self, cidr: Cidr, block: Block | None) -> None:
        """A block as it is stored now."""
        if block is None or block.sequence != self._risks.get(cidr, (block.sequence,))[0]:
            self._risks.pop(cidr, None)
        ours = [] if block is None else [at for at, a in enumerate(block.attributes) if a == self.attribute]
        if block is None or not ours:
            self._free.pop(cidr, None)
            return
        lent = {ordinal for entry in self.lent.values() for where, ordinal in entry.spots if where == cidr}
        index = ours[0]
        self._free[cidr] = {o: None for o, at in enumerate(block.allocations) if at == index and o not in lent}

    def unanswered(self, base: Block, block: Block) -> None:
        """A write of `block` over `base` has no answer: it may land as long as `base` is what is stored, also when that
        was read after it. What it takes from the stock is not safe to give without a write of our own."""
        lost = {o for o in range(base.cidr.size) if base.holder(o) == self.attribute != block.holder(o)}
        sequence, risky = self._risks.get(base.cidr, (base.sequence, set()))
        self._risks[base.cidr] = (base.sequence, lost | (risky if sequence == base.sequence else set()))

    def safe(self, cidr: Cidr, ordinal: int) -> bool:
        """Ours on the API, whatever becomes of writes that have no answer."""
        return cidr not in self._risks or ordinal not in self._risks[cidr][1]

    def left(self, width: int) -> int:
        return sum(len(free) for cidr, free in self._free.items() if cidr.width == width)

    def spots(self, width: int) -> list[Spot]:
        return [(cidr, o) for cidr, free in self._free.items() if cidr.width == width for o in free]

    def cidrs(self) -> list[Cidr]:
        return [cidr for cidr, free in self._free.items() if free]

    def draw(self, width: int, fits: Callable[[Cidr, int], bool]) -> Spot | None:
        """One of them, out of the stock; None when none fits."""
        for cidr, free in self._free.items():
            if cidr.width == width:
                for ordinal in free:
                    if fits(cidr, ordinal):
                        del free[ordinal]
                        return cidr, ordinal
        return None

    def take(self, spot: Spot) -> bool:
        """That very one, out of the stock."""
        free = self._free.get(spot[0], {})
        return free.pop(spot[1], 0) is None

    def put_back(self, spots: Iterable[Spot]) -> None:
        """Drawn, but not given."""
        for cidr, ordinal in spots:
            self._free.setdefault(cidr, {})[ordinal] = None

    def lend(self, handle: str, attribute: Attribute, spots: tuple[Spot, ...], *, noted: bool = False) -> None:
        self.lent[handle] = Lent(handle, attribute, spots, noted=noted)
        self.lull.gave(self.clock())
        for cidr, _ in spots:
            self.pace.setdefault(cidr.width, Pace()).took(self.left(cidr.width))
