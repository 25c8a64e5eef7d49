"""How a Deployment moves from its old ReplicaSets to its new one: numbers only.

Source: k8s.io/kubernetes pkg/controller/deployment (rolling.go, sync.go, util). Two promises hold after each step,
whatever becomes ready in whatever order: never more pods asked for than replicas + surge, never fewer available
pods left than replicas - unavailable (as long as pods do not fail by themselves).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from math import ceil, floor


@dataclass(frozen=True, slots=True)
class SetState:
    """A ReplicaSet as the roll-out sees it: pods asked for, pods available, and its age (higher is younger)."""

    name: str
    replicas: int
    available: int
    age: int = 0
    max_replicas: int = 0  # replicas + surge of the deployment when the set was last scaled, 0 if unknown

    @property
    def sure(self) -> int:
        """Available pods that stay: a status that lags may count some that the set has been told to delete."""
        return min(self.available, self.replicas)


@dataclass(frozen=True, slots=True)
class Limits:
    """What a roll-out may do: `surge` pods more, `unavailable` fewer."""

    replicas: int
    surge: int
    unavailable: int

    @property
    def most(self) -> int:
        return self.replicas + self.surge

    @property
    def least(self) -> int:
        return max(0, self.replicas - self.unavailable)


def resolve(value: int | str | None, replicas: int, *, up: bool, default: int | str) -> int:
    """An int-or-percent as a number of pods. Raises ValueError for anything else."""
    value = default if value is None else value
    if isinstance(value, int):
        return value
    if not value.endswith("%"):
        raise ValueError(f"{value!r} is neither a number nor a percentage")
    share = Fraction(int(value[:-1]) * replicas, 100)
    return ceil(share) if up else floor(share)


def limits(replicas: int, max_surge: int | str | None, max_unavailable: int | str | None) -> Limits:
    """Surge rounds up, unavailable rounds down; both zero would never move, so one may then be unavailable."""
    surge = resolve(max_surge, replicas, up=True, default="25%")
    unavailable = resolve(max_unavailable, replicas, up=False, default="25%")
    if surge == 0 and unavailable == 0:
        unavailable = 1
    return Limits(replicas, surge, min(unavailable, replicas))


def step(bounds: Limits, new: SetState, olds: Sequence[SetState]) -> dict[str, int]:
    """The next wanted sizes, only of sets that change; empty when there is nothing to do for now. The new set grows
    first; old ones shrink when it cannot."""
    grown = _grow(bounds, new, olds)
    if grown != new.replicas:
        return {new.name: grown}
    return _shrink(bounds, new, olds)


def _grow(bounds: Limits, new: SetState, olds: Sequence[SetState]) -> int:
    if new.replicas >= bounds.replicas:
        return bounds.replicas
    room = bounds.most - new.replicas - sum(old.replicas for old in olds)
    return new.replicas + max(0, min(room, bounds.replicas - new.replicas))


def _shrink(bounds: Limits, new: SetState, olds: Sequence[SetState]) -> dict[str, int]:
    """Old pods that may go: all that is above the least, less those of the new set that are not there yet."""
    asked = new.replicas + sum(old.replicas for old in olds)
    spare = asked - bounds.least - (new.replicas - new.sure)
    if spare <= 0:
        return {}
    left = {old.name: old for old in sorted(olds, key=lambda old: (old.age, old.name))}
    for old in list(left.values()):  # pods that are not available cost nothing
        gone = min(spare, old.replicas - old.sure)
        left[old.name] = replace(old, replicas=old.replicas - gone)
        spare -= gone
    over = min(spare, new.sure + sum(old.sure for old in left.values()) - bounds.least)
    for old in list(left.values()):
        gone = max(0, min(over, left[old.name].replicas))
        left[old.name] = replace(left[old.name], replicas=left[old.name].replicas - gone)
        over -= gone
    before = {old.name: old.replicas for old in olds}
    return {name: old.replicas for name, old in left.items() if old.replicas != before[name]}


def proportional(bounds: Limits, sets: Sequence[SetState], *, rolling: bool) -> dict[str, int]:
    """Wanted sizes after the deployment itself was scaled. One set with pods takes it all; several, in the middle of a
    roll-out, share the difference in proportion to their sizes."""
    busy = [one for one in sets if one.replicas > 0]
    if len(busy) <= 1:
        target = busy[0] if busy else max(sets, key=lambda one: one.age, default=None)
        if target is None or target.replicas == bounds.replicas:
            return {}
        return {target.name: bounds.replicas}
    if not rolling:
        return {}
    total = sum(one.replicas for one in busy)
    allowed = bounds.most if bounds.replicas > 0 else 0
    left = allowed - total
    # Larger first; of equals the younger first when growing, the older when shrinking.
    order = sorted(busy, key=lambda one: (-one.replicas, -one.age if left > 0 else one.age))
    wanted = {one.name: one.replicas for one in order}
    for one in order:
        share = 0 if left == 0 else _share(one, bounds, total, left)
        wanted[one.name] = one.replicas + share
        left -= share
    # What rounding left over goes to the largest set, and on to the next when that is used up.
    for one in order:
        size = max(0, wanted[one.name] + left)
        left -= size - wanted[one.name]
        wanted[one.name] = size
    return {name: size for name, size in wanted.items() if size != next(o.replicas for o in order if o.name == name)}


def _share(one: SetState, bounds: Limits, total: int, left: int) -> int:
    """The part of `left` that belongs to one set by its weight, never more than what is left."""
    before = one.max_replicas or total
    grown = Fraction(one.replicas * bounds.most, before) if bounds.replicas else Fraction(0)
    change = floor(grown + Fraction(1, 2)) - one.replicas
    return min(max(change, 0), left) if left > 0 else max(min(change, 0), left)
