"""What may happen to a world, event by event: the same for the same seed."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator

from tests.unit.policy.objects import Object
from tests.unit.policy.worlds import (
    ACCOUNT_LABELS,
    LABELS,
    PLACES,
    SPACE_LABELS,
    SPACES,
    Key,
    Maker,
    Places,
    World,
    key_of,
)

NOT_POLICIES = ("Namespace", "Pod", "ServiceAccount", "Node", "EndpointSlice", "NetworkSet", "GlobalNetworkSet", "Tier")


def steps(seed: int, world: World, count: int, places: Places = PLACES) -> Iterator[tuple[Key, Object | None]]:
    """Changes the world `count` times and says what changed: a key with its new object, or None where it is gone. Now
    and then an event tells nothing new."""
    chance = random.Random(seed)
    maker = Maker(chance, places)
    maker.named = 1_000
    gone: list[Object] = []
    kinds: tuple[Callable[[], Object | Key], ...] = (
        lambda: _relabelled(maker, world),
        lambda: _relabelled(maker, world),
        lambda: _pod(maker, world),
        lambda: _moved(maker, world),
        maker.policy,
        lambda: _rewritten(maker, world),
        lambda: _replaced(maker, world),
        lambda: chance.choice(list(world.by_key)),
        lambda: gone.pop(chance.randrange(len(gone))) if gone else maker.network_set(),
        lambda: copy.deepcopy(chance.choice(world.objects)),
    )
    for _ in range(count):
        changed = chance.choice(kinds)()
        if isinstance(changed, dict):
            world.put(changed)
            yield key_of(changed), changed
        else:
            gone.append(world.by_key.pop(changed))
            yield changed, None


def _relabelled(maker: Maker, world: World) -> Object:
    """Somebody's labels are others."""
    obj = copy.deepcopy(
        maker.one(
            world.of_kind("Namespace", "Pod", "Pod", "ServiceAccount", "Node", "NetworkSet") or [_pod(maker, world)]
        )
    )
    labels = {"Namespace": SPACE_LABELS, "ServiceAccount": ACCOUNT_LABELS, "Node": {"role": ("edge", "core")}}
    obj["metadata"]["labels"] = maker.labels(labels.get(obj["kind"], LABELS))
    return obj  # type: ignore[no-any-return]


def _pod(maker: Maker, world: World) -> Object:
    """A new pod, or an old name with all new."""
    number = maker.random.randrange(12)
    return maker.pod(f"{maker.one(SPACES)}/p{number}", number)


def _moved(maker: Maker, world: World) -> Object:
    """A pod ends, loses its addresses, or has another's."""
    pods = world.of_kind("Pod")
    if not pods:
        return _pod(maker, world)
    obj: Object = copy.deepcopy(maker.one(pods))
    match maker.random.randrange(3):
        case 0:
            obj["status"]["phase"] = "Failed"
        case 1:
            obj["status"] = {"phase": "Pending"}
        case _:
            obj["status"] = copy.deepcopy(maker.one(pods)["status"])
    return obj


def _rewritten(maker: Maker, world: World) -> Object:
    """A policy of an old name says something else."""
    policies = [obj for obj in world.objects if obj["kind"] not in NOT_POLICIES]
    made = maker.policy()
    alike = [obj for obj in policies if obj["kind"] == made["kind"] and obj["apiVersion"] == made["apiVersion"]]
    if alike:
        made["metadata"] = copy.deepcopy(maker.one(alike)["metadata"])
    return made


def _replaced(maker: Maker, world: World) -> Object:
    """A network set, a slice or a tier comes, or is another."""
    match maker.random.randrange(3):
        case 0:
            sets = world.of_kind("NetworkSet", "GlobalNetworkSet")
            obj = copy.deepcopy(maker.one(sets)) if sets else maker.network_set()
            obj["spec"] = maker.network_set()["spec"]
            return obj  # type: ignore[no-any-return]
        case 1:
            return maker.slices(f"{maker.one(SPACES)}/{maker.one(('svc', 'api'))}", 8)
        case _:
            made = maker.tier(maker.one(("early", "mid", "late")))
            made["spec"]["order"] = maker.one((100, 500_000, 2_000_000))
            return made
