"""Who owns a pod (or a ReplicaSet): adoption of matching orphans, release of what no longer matches.

Source: k8s.io/kubernetes pkg/controller/controller_ref_manager.go.
"""

from __future__ import annotations

from dataclasses import dataclass

from podwire.controllers.cache import Store, World, key_of
from podwire.controllers.objects import (
    Object,
    controlled_by,
    controller_of,
    labels,
    meta,
    owner_reference,
    owners,
    uid_of,
)
from podwire.kube.client import ApiError
from podwire.model.gvr import GVR
from podwire.model.selectors import LabelSelector


@dataclass(frozen=True)
class Claim:
    """What an owner finds: kept children, orphans to adopt, children to release."""

    keep: list[Object]
    adopt: list[Object]
    release: list[Object]


def decide(
    owner: Object, selector: LabelSelector, mine: list[Object], orphans: list[Object], *, leaving: bool
) -> Claim:
    """An owner on its way out adopts and releases nothing; objects on their way out are not adopted either."""
    matching = [child for child in mine if selector.matches(labels(child))]
    if leaving:
        return Claim(matching, [], [])
    adopt = [child for child in orphans if "deletionTimestamp" not in meta(child) and selector.matches(labels(child))]
    release = [
        child for child in mine if not selector.matches(labels(child)) and "deletionTimestamp" not in meta(child)
    ]
    return Claim(matching, adopt, release)


def index_orphans(store: Store) -> None:
    """Let a store find what has no controller, by namespace."""
    store.index("orphans", lambda obj: () if controller_of(obj) else (key_of(obj)[0],))


async def children(
    world: World, owner_gvr: GVR, owner: Object, child_gvr: GVR, selector: LabelSelector
) -> list[Object]:
    """The children of an owner after adoption and release."""
    store = world.store(child_gvr)
    mine = [child for child in store.by("owner", uid_of(owner)) if controlled_by(child, owner)]
    orphans = store.by("orphans", key_of(owner)[0])
    claim = decide(owner, selector, mine, orphans, leaving=world.store(owner_gvr).leaving(owner))
    keep = list(claim.keep)
    for child in claim.adopt:
        refs = [*owners(child), owner_reference(owner_gvr, owner)]
        adopted = await _write_owners(world, child_gvr, child, refs)
        if adopted is not None:
            keep.append(adopted)
    for child in claim.release:
        await _write_owners(world, child_gvr, child, [ref for ref in owners(child) if ref.get("uid") != uid_of(owner)])
    return keep


async def _write_owners(world: World, gvr: GVR, child: Object, refs: list[Object]) -> Object | None:
    """None when the child has gone meanwhile."""
    identity = {"uid": uid_of(child), "resourceVersion": meta(child).get("resourceVersion")}
    try:
        return await world.patch(gvr, child, {"metadata": {**identity, "ownerReferences": refs or None}})
    except ApiError as error:
        if error.not_found:
            return None
        raise
