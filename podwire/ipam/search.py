"""Where a node looks for its next block. Pure.

Order: inside the node's own podCIDR first, so that Kubernetes' view of a node's addresses and ours agree; then space
that is no node's podCIDR; then the rest. Outside the podCIDR a node starts its walk round the pool at a place of its
own, so that nodes seldom meet.
Source: Calico's block selection (FNV-1 of the host name as the start of the walk).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from podwire.model.address import Cidr


def fnv1_32(text: str) -> int:
    """The FNV-1 hash of the UTF-8 text."""
    value = 0x811C9DC5
    for byte in text.encode():
        value = (value * 0x01000193 & 0xFFFFFFFF) ^ byte
    return value


def walk(node: str, pool: Cidr, length: int) -> Iterator[Cidr]:
    """Every block of a pool once, from the node's own place round."""
    count = 1 << (length - pool.length)
    step = 1 << (pool.width - length)
    start = fnv1_32(node) % count
    for offset in range(count):
        yield Cidr(pool.first + (start + offset) % count * step, length, pool.width)


class Taken:
    """Answers quickly whether a prefix overlaps any of many."""

    def __init__(self, cidrs: Iterable[Cidr]) -> None:
        self._by_length: dict[int, set[Cidr]] = {}
        for cidr in cidrs:
            self._by_length.setdefault(cidr.length, set()).add(cidr)
        self._wide: dict[int, set[Cidr]] = {}

    def add(self, cidr: Cidr) -> None:
        self._by_length.setdefault(cidr.length, set()).add(cidr)
        for length, around in self._wide.items():
            if length < cidr.length:
                around.add(Cidr.around(cidr.first, length, cidr.width))

    def overlaps(self, cidr: Cidr) -> bool:
        for length, members in self._by_length.items():
            if length <= cidr.length and Cidr.around(cidr.first, length, cidr.width) in members:
                return True
        return cidr in self._around(cidr.length)

    def _around(self, length: int) -> set[Cidr]:
        """The prefixes of that length which hold a longer member."""
        if length not in self._wide:
            longer = (m for at, members in self._by_length.items() if at > length for m in members)
            self._wide[length] = {Cidr.around(m.first, length, m.width) for m in longer}
        return self._wide[length]


def inside(pod_cidr: Cidr, pool: Cidr, length: int) -> Iterator[Cidr]:
    """The blocks of a node's podCIDR in a pool; a podCIDR smaller than a block is one block of its own size."""
    if pool.covers(pod_cidr):
        yield from pod_cidr.parts(max(length, pod_cidr.length))
    elif pod_cidr.covers(pool):
        yield from pool.parts(length)


def candidates(
    node: str, pool: Cidr, length: int, blocks: Taken, own: Cidr | None, others: Iterable[Cidr]
) -> Iterator[Cidr]:
    """Blocks of a pool that nobody has, best first; `own` and `others` are the podCIDRs of this and the other nodes."""
    if own is not None:
        yield from (cidr for cidr in inside(own, pool, length) if not blocks.overlaps(cidr))
    foreign, mine = Taken(others), Taken([own] if own is not None else [])
    later = []
    for cidr in walk(node, pool, length):
        if blocks.overlaps(cidr) or mine.overlaps(cidr):
            continue
        if foreign.overlaps(cidr):
            later.append(cidr)
        else:
            yield cidr
    yield from later
