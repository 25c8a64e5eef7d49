"""All pods of the node: one worker each, fed by the watch; taking up and tidying away what a former kubelet left."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from podwire.kube.watch import InSync, Update
from podwire.kubelet import podsandbox
from podwire.kubelet.cniconf import CniError
from podwire.kubelet.cnirun import Attachment
from podwire.kubelet.context import Context
from podwire.kubelet.podsandbox import SandboxProblem
from podwire.kubelet.runtime import Container, ExecProcess
from podwire.kubelet.sandbox import Sandbox
from podwire.kubelet.slots import Slot
from podwire.kubelet.stream import RunningContainer
from podwire.kubelet.worker import Worker

log = logging.getLogger(__name__)
Object = dict[str, Any]
_STALE_RETRY = 10.0


class Pods:
    """`follow` runs for ever. Also what streaming asks for containers (stream.PodLookup)."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._workers: dict[str, Worker] = {}  # by uid
        self._names: dict[tuple[str, str], str] = {}  # (namespace, name): uid of the newest
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._sandboxes: dict[str, list[Sandbox]] = {}
        self._containers: dict[str, list[Container]] = {}
        context.runtime.on_exit = self._container_ended

    def recover(self) -> None:
        """Find what a former kubelet started. Call once, before `follow`."""
        for container in self._context.runtime.adopt():
            self._containers.setdefault(container.record.pod_uid, []).append(container)
        for sandbox in self._context.sandboxes.load():
            self._sandboxes.setdefault(sandbox.pod_uid, []).append(sandbox)
        known = {sandbox.id for one in self._sandboxes.values() for sandbox in one}
        for container_id in self._context.cni.remembered().keys() - known:
            self._context.background(self._detach_stale(container_id))

    async def _detach_stale(self, container_id: str) -> None:
        """A sandbox that is gone without DEL (its node was rebooted): DEL with an empty namespace, until it works."""
        while True:
            try:
                await self._context.cni.delete(Attachment(container_id, ""))
            except CniError as error:
                log.warning("kubelet: DEL of vanished sandbox %s: %s", container_id, error)
                await asyncio.sleep(_STALE_RETRY)
                continue
            return

    async def follow(self, updates: AsyncIterator[Update | InSync]) -> None:
        """Keep a worker for each pod of the stream."""
        async for update in updates:
            if isinstance(update, InSync):
                self._tidy()
            else:
                self._note(update)

    def _note(self, update: Update) -> None:
        pod: Object | None = update.object
        known = self._names.get(update.key)
        if pod is None or (known is not None and known != pod["metadata"]["uid"]):
            if known is not None and known in self._workers:
                self._workers[known].update(None)
            if pod is None:
                self._names.pop(update.key, None)
                return
        uid = str(pod["metadata"]["uid"])
        self._names[update.key] = uid
        if uid in self._workers:
            self._workers[uid].update(pod)
        else:
            self._begin(uid, pod)

    def _begin(self, uid: str, pod: Object) -> None:
        sandboxes = sorted(self._sandboxes.pop(uid, []), key=lambda one: one.attempt)
        containers = self._containers.pop(uid, [])
        for old in sandboxes[:-1]:
            self._context.background(self._drop_sandbox(old))
        worker = Worker(self._context, pod, sandboxes[-1] if sandboxes else None, containers)
        if not sandboxes and not containers:
            worker.rejected = self._refusal(pod)
        self._workers[uid] = worker
        self._tasks[uid] = asyncio.ensure_future(self._work(uid, worker))

    def _refusal(self, pod: Object) -> tuple[str, str] | None:
        """Why the node cannot take one more pod; None when it can."""
        active = sum(1 for worker in self._workers.values() if not worker.through)
        limit = self._context.config.max_pods
        if active < limit or pod["metadata"].get("deletionTimestamp"):
            return None
        text = f"Node didn't have enough resource: pods, requested: 1, used: {active}, capacity: {limit}"
        self._context.tell(pod, "Warning", "OutOfpods", text)
        return "OutOfpods", text

    async def _work(self, uid: str, worker: Worker) -> None:
        try:
            await worker.run()
        finally:
            self._workers.pop(uid, None)
            self._tasks.pop(uid, None)

    def _tidy(self) -> None:
        """Every pod is known now: what belongs to none goes."""
        for containers in self._containers.values():
            for container in containers:
                self._context.background(self._context.runtime.discard(container.record))
        for sandboxes in self._sandboxes.values():
            for sandbox in sandboxes:
                self._context.background(self._drop_sandbox(sandbox))
        self._containers.clear()
        self._sandboxes.clear()
        known = set(self._workers)
        self._context.background(self._context.children.call(lambda: self._tidy_directories(known)))

    def _tidy_directories(self, known: set[str]) -> None:
        """Volumes of pods that went while no kubelet was there. Blocking."""
        top = self._context.config.pods
        for directory in list(top.iterdir()) if top.is_dir() else ():
            if directory.name not in known:
                self._context.volumes.teardown(directory.name)

    async def _drop_sandbox(self, sandbox: Sandbox) -> None:
        try:
            await podsandbox.remove(self._context, sandbox, give_up=True)
        except (SandboxProblem, OSError) as error:
            log.warning("kubelet: sandbox %s: %s", sandbox.id, error)

    def _container_ended(self, container: Container) -> None:
        worker = self._workers.get(container.record.pod_uid)
        if worker is not None:
            worker.container_ended(container)

    def network_ready(self) -> None:
        """Pods that waited for a CNI configuration may go on."""
        for worker in self._workers.values():
            worker.wake()

    def _slot(self, namespace: str, pod: str, container: str) -> tuple[Worker, Slot] | None:
        worker = self._workers.get(self._names.get((namespace, pod), ""))
        if worker is None:
            return None
        for slot in worker.slots:
            if slot.name == container or (not container and not slot.init):
                return worker, slot
        return None

    def find(self, namespace: str, pod: str, container: str) -> RunningContainer | None:
        """See stream.PodLookup."""
        found = self._slot(namespace, pod, container)
        if found is None:
            return None
        worker, slot = found
        netns = worker.sandbox.netns if worker.sandbox is not None else ""
        current = slot.current
        logs = [] if current is None else [Path(current.record.log_path)]
        logs += [Path(record.log_path) for record in reversed(slot.retired[-1:])]
        return RunningContainer(
            container_id=current.record.id if current is not None else "",
            tty=bool(slot.spec.get("tty")),
            stdin=bool(slot.spec.get("stdin")),
            log_paths=tuple(logs),
            attach=lambda: _attach(current),
            netns_path=netns,
            running=slot.running,
        )

    async def exec(self, container_id: str, argv: list[str], *, tty: bool, stdin: bool) -> ExecProcess:
        """See stream.PodLookup."""
        return await self._context.runtime.exec(container_id, argv, tty=tty, stdin=stdin)

    def listing(self) -> Object:
        """What `/pods` answers."""
        return {"kind": "PodList", "apiVersion": "v1", "items": [worker.pod for worker in self._workers.values()]}

    async def close(self) -> None:
        """Stop all workers; their pods run on."""
        tasks = list(self._tasks.values())
        for worker in list(self._workers.values()):
            await worker.stop()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _attach(container: Container | None) -> ExecProcess:
    if container is None:
        raise OSError("the container is not running")
    return container.attach()
