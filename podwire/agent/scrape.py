"""Figures that need no counting: read off the agent's parts when somebody scrapes."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from podwire.agent import families
from podwire.agent.attachments import Attachment
from podwire.agent.calls import Calls
from podwire.agent.figures import Family, Sample
from podwire.agent.health import Health
from podwire.agent.policyloop import PolicyLoop
from podwire.ipam.claims import Allocator
from podwire.ipam.fill import Fill
from podwire.kernel import netlink, reconcile
from podwire.kube import tallies
from podwire.model.ippool import IPPool

_CHANGES = {"write": "written", "remove": "removed"}
_TABLES: dict[str, Family] = {
    "read": families.TABLE_READS,
    "repair": families.TABLE_REPAIRS,
    "error": families.TABLE_ERRORS,
}


def readiness(health: Health, *, leads: bool = False) -> Iterator[Sample]:
    reasons = health.reasons
    yield families.LEADER, (), float(leads)
    yield families.READY, (), float(not reasons)
    for part in sorted(health.parts):
        yield families.PART_READY, (part,), float(part not in reasons)


def calls(counted: Calls) -> Iterable[Sample]:
    """None of its own: those that wait go into the histogram."""
    counted.count()
    return ()


def kernel() -> Iterator[Sample]:
    for kind, number in sorted(netlink.writes.items()):
        yield families.KERNEL_WRITES, (kind,), number
    for (table, what), number in sorted(reconcile.counts.items()):
        if what in _CHANGES:
            yield families.TABLE_CHANGES, (table, _CHANGES[what]), number
        else:
            yield _TABLES[what], (table,), number


def watches(now: float) -> Iterator[Sample]:
    """`now` is on the monotonic clock."""
    for resource, tally in sorted(tallies.tallies.items()):
        yield families.WATCH_LISTS, (resource,), tally.lists
        yield families.WATCH_RESUMES, (resource,), tally.resumes
        yield families.WATCH_FAILURES, (resource,), tally.failures
        if tally.last:
            yield families.WATCH_AGE, (resource,), max(0.0, round(now - tally.last, 3))


def endpoints(records: Iterable[Attachment], spool: Path) -> Iterator[Sample]:
    for (role, state), number in sorted(Counter((one.role, one.state) for one in records).items()):
        yield families.ENDPOINTS, (role, state), number
    names = os.listdir(spool) if spool.exists() else []  # noqa: PTH208 (names are wanted)
    yield families.SPOOL, (), sum(not name.startswith(".") for name in names)


def policy(loop: PolicyLoop | None) -> Iterator[Sample]:
    """Of policy; `loop` is None where it is not enforced."""
    yield families.POLICY_ENFORCED, (), float(loop is not None and loop.engine.in_force)
    if loop is None:
        return
    state = loop.calc.state
    for (kind, state_of), number in sorted(loop.policies().items()):
        yield families.POLICIES, (kind, state_of), number
    addresses, ranges = list(state.addresses.values()), list(state.ranges.values())
    yield families.POLICY_CLASSES, (), len({*addresses, *ranges})
    yield families.POLICY_ADDRESSES, ("address",), len(addresses)
    yield families.POLICY_ADDRESSES, ("range",), len(ranges)
    tables = list(state.tables.values())
    yield families.POLICY_TABLES, (), len(tables)
    yield families.POLICY_ROWS, (), sum(len(stage.rows) for table in tables for stage in table.stages)
    yield families.POLICY_STAGED, (), len(state.staged)
    for direction, number in sorted(loop.engine.denied().items()):
        yield families.POLICY_DENIED, (direction,), number


def pools(known: Iterable[IPPool], fill: Fill) -> Iterator[Sample]:
    totals = fill.totals()
    for pool in known:
        if pool.sound and pool.cidr in totals:
            size, free, blocks = totals[pool.cidr]
            for state, number in (("used", size - free), ("free", free), ("unclaimed", pool.cidr.size - size)):
                yield families.POOL_ADDRESSES, (pool.name, state), number
            yield families.POOL_BLOCKS, (pool.name,), blocks


def blocks(known: Iterable[IPPool], allocator: Allocator) -> Iterator[Sample]:
    """Blocks under no pool that there is now count as pool ""."""
    spaces = sorted(((-pool.cidr.length, pool.name, pool.cidr) for pool in known if pool.sound), key=lambda s: s[:2])
    counts: Counter[str] = Counter()
    addresses: Counter[tuple[str, str]] = Counter()
    for cidr, (used, ahead) in allocator.holdings().items():
        pool = next((name for _, name, space in spaces if space.covers(cidr)), "")
        counts[pool] += 1
        for state, number in (("used", used), ("ahead", ahead), ("free", cidr.size - used - ahead)):
            addresses[pool, state] += number
    for pool, number in sorted(counts.items()):
        yield families.NODE_BLOCKS, (pool,), number
    for key, number in sorted(addresses.items()):
        yield families.NODE_ADDRESSES, key, number
