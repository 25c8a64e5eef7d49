"""Deployments: the loop that has ReplicaSets made, grown, shrunk and cleaned up.

The numbers are decided in `rollout`, the history in `revisions`, the words in `deployment_status`.
Source: k8s.io/kubernetes pkg/controller/deployment.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass

from podwire.controllers import claim, revisions, rollout
from podwire.controllers import deployment_status as words
from podwire.controllers.cache import Key, World, key_of
from podwire.controllers.loop import Controller
from podwire.controllers.objects import (
    Object,
    condition,
    controlled_by,
    controller_of,
    meta,
    name_of,
    notes,
    spec,
    with_condition,
)
from podwire.controllers.pods import finished
from podwire.controllers.replicaset import owner_key
from podwire.kube.client import ApiError
from podwire.model.gvr import DEPLOYMENTS, PODS, REPLICASETS
from podwire.model.selectors import LabelSelector, label_selector

COMPONENT = "deployment-controller"


@dataclass(frozen=True)
class View:
    """A deployment and its sets; `new` is the one of the present template, `olds` the others."""

    deployment: Object
    new: Object | None
    olds: list[Object]

    @property
    def sets(self) -> list[Object]:
        return [*self.olds, self.new] if self.new else list(self.olds)

    @property
    def replicas(self) -> int:
        return int(spec(self.deployment).get("replicas", 1))

    @property
    def rolling(self) -> bool:
        return bool((spec(self.deployment).get("strategy") or {}).get("type", "RollingUpdate") == "RollingUpdate")

    @property
    def limits(self) -> rollout.Limits:
        """A Recreate deployment never has more than it asks for, and may be unavailable altogether."""
        if not self.rolling:
            return rollout.Limits(self.replicas, 0, self.replicas)
        update = (spec(self.deployment).get("strategy") or {}).get("rollingUpdate") or {}
        return rollout.limits(self.replicas, update.get("maxSurge"), update.get("maxUnavailable"))

    def state(self, rs: Object) -> rollout.SetState:
        ages = sorted(self.sets, key=revisions.age)
        most = notes(rs).get(revisions.MAX, "0")
        return rollout.SetState(
            name_of(rs),
            words.replicas_of(rs),
            words.counted(rs, "availableReplicas"),
            next(number for number, one in enumerate(ages) if one is rs),
            int(most) if most.isdigit() else 0,
        )


def scaled(view: View) -> bool:
    """The deployment's replicas differ from what its sets with pods were last told."""
    told = [notes(rs).get(revisions.DESIRED) for rs in view.sets if words.replicas_of(rs) > 0]
    return any(one is not None and one != str(view.replicas) for one in told)


def pause_condition(deployment: Object) -> tuple[str, str] | None:
    """(reason, message) of the Progressing condition when the deployment has just been paused or resumed."""
    told = condition(deployment, "Progressing") or {}
    if not words.has_deadline(deployment) or told.get("reason") == "ProgressDeadlineExceeded":
        return None
    paused, said = bool(spec(deployment).get("paused")), told.get("reason") == "DeploymentPaused"
    if paused and not said:
        return "DeploymentPaused", "Deployment is paused"
    if not paused and said:
        return "DeploymentResumed", "Deployment is resumed"
    return None


class Deployments:
    """The loop around the decisions."""

    def __init__(self, world: World) -> None:
        self._world = world
        claim.index_orphans(world.store(REPLICASETS))

    def controller(self) -> Controller:
        triggers = {
            DEPLOYMENTS: lambda old, new: {key_of(one) for one in (old, new) if one is not None},
            REPLICASETS: self._set_changed,
            PODS: self._pod_changed,
        }
        return Controller("deployment", triggers, self.reconcile)

    def _set_changed(self, old: Object | None, new: Object | None) -> Iterable[Hashable]:
        keys = {owner_key(rs, "Deployment") for rs in (old, new) if rs is not None}
        if new is not None and controller_of(new) is None:
            keys |= {key_of(found) for found in self._world.store(DEPLOYMENTS).by("namespace", key_of(new)[0])}
        return [key for key in keys if key is not None]

    def _pod_changed(self, old: Object | None, new: Object | None) -> Iterable[Hashable]:
        """Recreate waits for the last old pod to go."""
        if old is None or (new is not None and not finished(new)):
            return []
        set_key = owner_key(old, "ReplicaSet")
        rs = self._world.store(REPLICASETS).get(set_key[1], set_key[0]) if set_key else None
        key = owner_key(rs, "Deployment") if rs else None
        found = self._world.store(DEPLOYMENTS).get(key[1], key[0]) if key else None
        if key is None or found is None or (spec(found).get("strategy") or {}).get("type") != "Recreate":
            return []
        return [key]

    async def reconcile(self, key: Key) -> float | None:
        deployment = self._world.store(DEPLOYMENTS).get(key[1], key[0])
        if deployment is None:
            return None
        selector = label_selector(spec(deployment).get("selector"))
        if selector is None or not selector.requirements:
            return None
        view = await self._view(deployment, selector)
        if self._world.store(DEPLOYMENTS).leaving(deployment):
            return await self._tell(view, progress=False)
        if said := pause_condition(deployment):
            value = words.made_condition("Progressing", "Unknown", *said, self._world.now())
            conditions = words.set_condition(list((deployment.get("status") or {}).get("conditions") or []), value)
            status = {**(deployment.get("status") or {}), "conditions": conditions}
            deployment = await self._world.update_status(DEPLOYMENTS, deployment, status)
            view = View(deployment, view.new, view.olds)
        if spec(deployment).get("paused") or scaled(view):
            view = await self._revise(view, create=False)
            view = await self._scale_all(view)
            if spec(deployment).get("paused"):
                await self._clean(view)
            return await self._tell(view, progress=False)
        if view.rolling:
            return await self._roll(view)
        return await self._recreate(view)

    async def _view(self, deployment: Object, selector: LabelSelector) -> View:
        sets = await claim.children(self._world, DEPLOYMENTS, deployment, REPLICASETS, selector)
        sets = [rs for rs in sets if not self._world.store(REPLICASETS).leaving(rs)]
        new = revisions.find_new(deployment, sets)
        return View(deployment, new, [rs for rs in sets if rs is not new])

    async def _roll(self, view: View) -> float | None:
        view = await self._revise(view, create=True)
        if view.new is None:
            return None
        sizes = rollout.step(view.limits, view.state(view.new), [view.state(rs) for rs in view.olds])
        for name, size in sizes.items():
            view = await self._resize(view, name, size)
        if not sizes:
            await self._clean_when_complete(view)
        return await self._tell(view, progress=True)

    async def _recreate(self, view: View) -> float | None:
        """All old pods have to be gone before the new set gets one."""
        view = await self._revise(view, create=False)
        busy = [rs for rs in view.olds if words.replicas_of(rs) > 0]
        for rs in busy:
            view = await self._resize(view, name_of(rs), 0)
        if busy or self._old_pods_live(view):
            return await self._tell(view, progress=True)
        view = await self._revise(view, create=True)
        if view.new is None:
            return None
        if words.replicas_of(view.new) != view.replicas:
            view = await self._resize(view, name_of(view.new), view.replicas)
        await self._clean_when_complete(view)
        return await self._tell(view, progress=True)

    def _old_pods_live(self, view: View) -> bool:
        return any(
            controlled_by(pod, rs) and not finished(pod)
            for rs in view.olds
            for pod in self._world.store(PODS).by("owner", meta(rs)["uid"])
        )

    async def _revise(self, view: View, *, create: bool) -> View:
        """Find or make the new set, and give it and the deployment their revision."""
        number = revisions.next_revision(view.olds)
        new = view.new
        if new is None:
            if not create:
                return view
            new = await self._create(view, number)
            if new is None:
                return view
        else:
            wanted = revisions.set_annotations(
                view.deployment, new, number, desired=self._told_size(view, new), most=self._told_most(view, new)
            )
            change: Object = {}
            if wanted != notes(new):
                change["metadata"] = {"annotations": wanted}
            seconds = int(spec(view.deployment).get("minReadySeconds") or 0)
            if seconds != int(spec(new).get("minReadySeconds") or 0):
                change["spec"] = {"minReadySeconds": seconds}
            if change:
                new = await self._world.patch(REPLICASETS, new, change)
        # Making the set may have written the deployment's status: go on from there.
        fresh = self._world.store(DEPLOYMENTS).get(name_of(view.deployment), key_of(view.deployment)[0])
        if create and fresh is not None and meta(fresh).get("generation") == meta(view.deployment).get("generation"):
            view = View(fresh, new, view.olds)
        return View(await self._note_revision(view, new), new, view.olds)

    def _told_size(self, view: View, rs: Object) -> int:
        told = notes(rs).get(revisions.DESIRED, "")
        return int(told) if told.isdigit() and words.replicas_of(rs) > 0 else view.replicas

    def _told_most(self, view: View, rs: Object) -> int:
        told = notes(rs).get(revisions.MAX, "")
        return int(told) if told.isdigit() and words.replicas_of(rs) > 0 else view.limits.most

    async def _note_revision(self, view: View, new: Object) -> Object:
        """The deployment carries its newest revision; a set found again is told in Progressing."""
        deployment = view.deployment
        wanted = notes(new).get(revisions.REVISION)
        if wanted and notes(deployment).get(revisions.REVISION) != wanted:
            change = {"metadata": {"annotations": {revisions.REVISION: wanted}}}
            deployment = await self._world.patch(DEPLOYMENTS, deployment, change)
        if words.has_deadline(deployment) and condition(deployment, "Progressing") is None:
            found = words.made_condition(
                "Progressing",
                "True",
                "FoundNewReplicaSet",
                f'Found new replica set "{name_of(new)}"',
                self._world.now(),
            )
            deployment = await self._add_condition(deployment, found)
        return deployment

    async def _add_condition(self, deployment: Object, new: Object) -> Object:
        status = dict(deployment.get("status") or {})
        status["conditions"] = words.set_condition(list(status.get("conditions") or []), new)
        return await self._world.update_status(DEPLOYMENTS, deployment, status)

    async def _create(self, view: View, number: int) -> Object | None:
        """Make the new set, as large as the limits let it be at once. None: its name is taken, try again."""
        limits = view.limits
        empty = rollout.SetState("", 0, 0)
        sizes = (
            rollout.step(limits, empty, [view.state(rs) for rs in view.olds]) if view.rolling else {"": view.replicas}
        )
        rs = revisions.new_set(view.deployment, number, sizes.get("", 0), limits.most)
        try:
            made = await self._world.create(REPLICASETS, rs)
        except ApiError as error:
            if not error.already_exists:
                if words.has_deadline(view.deployment) and error.status != 403:
                    said = f'Failed to create new replica set "{name_of(rs)}": {error}'
                    failed = words.made_condition(
                        "Progressing", "False", "ReplicaSetCreateError", said, self._world.now()
                    )
                    await self._add_condition(view.deployment, failed)
                raise
            return await self._taken(view, rs)
        if size := words.replicas_of(made):
            self._event(view.deployment, f"Scaled up replica set {name_of(made)} from 0 to {size}")
        if words.has_deadline(view.deployment):
            said = f'Created new replica set "{name_of(made)}"'
            added = words.made_condition("Progressing", "True", "NewReplicaSetCreated", said, self._world.now())
            # Replace at any rate: the clock of the deadline starts anew.
            status = dict(view.deployment.get("status") or {})
            status["conditions"] = with_condition(status.get("conditions") or [], added)
            await self._world.update_status(DEPLOYMENTS, view.deployment, status)
        return made

    async def _taken(self, view: View, rs: Object) -> Object | None:
        """The name of the new set exists: it is ours after all, or two templates have the same hash."""
        namespace, name = key_of(rs)
        found = await self._world.client.get(REPLICASETS, name, namespace)
        self._world.store(REPLICASETS).apply(key_of(found), found)
        same = revisions.bare(spec(found).get("template") or {}) == revisions.bare(spec(rs)["template"])
        if same and controlled_by(found, view.deployment):
            return found
        status = dict(view.deployment.get("status") or {})
        status["collisionCount"] = int(status.get("collisionCount") or 0) + 1
        await self._world.update_status(DEPLOYMENTS, view.deployment, status)
        return None

    async def _scale_all(self, view: View) -> View:
        """After the deployment was scaled: bring all sets to the new size, and note it on them."""
        limits = view.limits
        if view.new is not None and self._saturated(view, view.new):
            for rs in [rs for rs in view.olds if words.replicas_of(rs) > 0]:
                view = await self._resize(view, name_of(rs), 0)
        sizes = rollout.proportional(limits, [view.state(rs) for rs in view.sets], rolling=view.rolling)
        for rs in view.sets:
            size = sizes.get(name_of(rs), words.replicas_of(rs))
            noted = {key: notes(rs).get(key) for key in (revisions.DESIRED, revisions.MAX)}
            stale = size > 0 and noted != revisions.sizes(view.replicas, limits.most)
            if size != words.replicas_of(rs) or stale:
                view = await self._resize(view, name_of(rs), size)
        return view

    def _saturated(self, view: View, new: Object) -> bool:
        """The new set has all the pods the deployment asks for, and all are available: what is old may go."""
        sizes = {words.replicas_of(new), words.counted(new, "availableReplicas"), self._told_size(view, new)}
        return sizes == {view.replicas}

    async def _resize(self, view: View, name: str, size: int) -> View:
        rs = next(found for found in view.sets if name_of(found) == name)
        before = words.replicas_of(rs)
        noted = revisions.sizes(view.replicas, view.limits.most)
        identity = {"uid": meta(rs)["uid"], "annotations": noted}
        change: Object = {"metadata": identity}
        if before != size:
            change["spec"] = {"replicas": size}
        scaled_set = await self._world.patch(REPLICASETS, rs, change)
        if before != size:
            verb = "up" if size > before else "down"
            self._event(view.deployment, f"Scaled {verb} replica set {name} from {before} to {size}")
        if rs is view.new:
            return View(view.deployment, scaled_set, view.olds)
        return View(view.deployment, view.new, [scaled_set if old is rs else old for old in view.olds])

    async def _clean_when_complete(self, view: View) -> None:
        counts = words.counts(view.deployment, view.new, view.sets)
        if words.complete(view.deployment, counts):
            await self._clean(view)

    async def _clean(self, view: View) -> None:
        for rs in revisions.superfluous(view.deployment, view.olds):
            await self._world.delete(REPLICASETS, rs)

    async def _tell(self, view: View, *, progress: bool) -> float | None:
        """Write the status; returns when to look at the deadline again."""
        deployment, now = view.deployment, self._world.now()
        status = words.counts(deployment, view.new, view.sets)
        conditions = list((deployment.get("status") or {}).get("conditions") or [])
        available = status.get("availableReplicas", 0)
        conditions = words.with_availability(conditions, available, view.limits.least, now)
        if progress:
            conditions = words.with_progress(deployment, conditions, status, view.new, now)
        conditions = words.with_failures(conditions, view.sets, now)
        if not words.has_deadline(deployment):
            conditions = [found for found in conditions if found.get("type") != "Progressing"]
        status["conditions"] = conditions
        if self._world.store(DEPLOYMENTS).get(name_of(deployment), meta(deployment).get("namespace", "")) is not None:
            await self._world.update_status(DEPLOYMENTS, deployment, status)
        left = words.deadline_in(deployment, status, now)
        return left + 1.0 if left is not None and left > 0 else None

    def _event(self, deployment: Object, message: str) -> None:
        self._world.tell(deployment, "Normal", "ScalingReplicaSet", message, COMPONENT)
