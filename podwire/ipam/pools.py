"""Which pools may serve a wish. Pure.

Pools that were asked for (annotation or configuration) are taken as given, without regard to their selectors and
assignment mode; all others need to be automatic and to select the node and the namespace. What a pool is for
(allowedUses) counts always.
Source: Calico's order of pool choice.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from podwire.ipam.wish import Wish
from podwire.model.address import AddressError, Cidr, parse_ip
from podwire.model.ippool import IPPool

WIDTH = {4: 32, 6: 128}
FAMILY = {32: 4, 128: 6}


class PoolError(Exception):
    """What was asked of pools cannot be; the message names the pool and the way out."""


def family_of(address: str) -> int:
    """4 or 6. Raises AddressError."""
    return FAMILY[parse_ip(address)[1]]


def automatic(pools: Iterable[IPPool], family: int, use: str, node: Mapping[str, str]) -> list[IPPool]:
    """The pools of a family that serve this node of themselves, by name, whatever their namespaces."""
    width = WIDTH[family]
    found = [p for p in pools if p.usable and p.cidr.width == width and p.allows(use) and p.automatic]
    return sorted((p for p in found if p.selects_node(node)), key=lambda pool: pool.name)


def choose(pools: Iterable[IPPool], wish: Wish, family: int, node: Mapping[str, str]) -> list[IPPool]:
    """The pools from which `wish` may get its address of `family`, best first. Raises PoolError."""
    known = list(pools)
    asked = [_named(known, text, wish) for text in wish.pools]
    named = [pool for pool in asked if pool.cidr.width == WIDTH[family]]
    if named:
        return named
    return [p for p in automatic(known, family, wish.use, node) if p.selects_namespace(wish.namespace_labels)]


def _named(pools: list[IPPool], text: str, wish: Wish) -> IPPool:
    pool = next((p for p in pools if p.name == text), None) or _by_cidr(pools, text)
    if pool is None:
        shown = ", ".join(sorted(p.name for p in pools)) or "none"
        raise PoolError(f"IPPool {text!r} was asked for, but there is no such pool (there are: {shown})")
    if not pool.usable:
        raise PoolError(f"IPPool {pool.name} was asked for, but {pool.obstacle}")
    family = FAMILY[pool.cidr.width]
    if family not in wish.families:
        wanted = " and ".join(f"IPv{f}" for f in wish.families)
        raise PoolError(f"IPPool {pool.name} ({pool.spec.cidr}) was asked for, but it is IPv{family}, not {wanted}")
    if not pool.allows(wish.use):
        raise PoolError(
            f"IPPool {pool.name} was asked for, but its allowedUses exclude {wish.use}: add it, or ask for another pool"
        )
    return pool


def _by_cidr(pools: list[IPPool], text: str) -> IPPool | None:
    try:
        cidr = Cidr.parse(text)
    except AddressError:
        return None
    return next((p for p in pools if p.sound and p.cidr == cidr), None)


def holding(pools: Iterable[IPPool], address: str, use: str) -> IPPool:
    """The pool of an exact address. Raises PoolError when no pool has it, or the pool is not for that."""
    try:
        number, width = parse_ip(address)
    except AddressError as error:
        raise PoolError(f"address {address} was asked for, but {error}") from error
    inside = [p for p in pools if p.sound and p.cidr.width == width and p.cidr.holds(number)]
    if not inside:
        raise PoolError(f"address {address} was asked for, but it is in no IPPool")
    pool = next((p for p in inside if p.usable), None)
    if pool is None:
        raise PoolError(f"address {address} was asked for, but its IPPool {inside[0].name}: {inside[0].obstacle}")
    if not pool.allows(use):
        raise PoolError(f"address {address} was asked for, but allowedUses of its IPPool {pool.name} exclude {use}")
    return pool
