"""How a pod ends on its node: containers are asked to stop, killed when their grace is over, then its sandbox and files
go, then its API object. Part of the worker (worker.py), which calls `proceed` and `settle`."""

from __future__ import annotations

import asyncio
import logging
import shutil
import signal
import time
from typing import TYPE_CHECKING, Any

from podwire.kube.api import ApiError
from podwire.kubelet import launcher, podsandbox, rootfs
from podwire.kubelet.backoff import Backoff
from podwire.kubelet.context import Context
from podwire.kubelet.podsandbox import SandboxProblem
from podwire.kubelet.slots import Slot
from podwire.model.gvr import PODS

if TYPE_CHECKING:
    from podwire.kubelet.worker import Worker

log = logging.getLogger(__name__)
Object = dict[str, Any]
_MINIMUM_GRACE = 1.0


class Ending:
    """`begun`: the object is going; `done`: nothing of the pod is left here."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self.begun = asyncio.Event()
        self.done = False
        self._object_gone = False
        self._deadline = 0.0
        self._sooner = asyncio.Event()
        self._retry = Backoff(initial=1.0, maximum=15.0, reset=120.0)
        self._settled = False
        self.note(worker.pod)

    @property
    def wanted(self) -> bool:
        """Whether the object is going."""
        return self.begun.is_set()

    @property
    def default_grace(self) -> float:
        """terminationGracePeriodSeconds of the pod."""
        grace = self._worker.pod["spec"].get("terminationGracePeriodSeconds")
        return 30.0 if grace is None else float(grace)

    def note(self, pod: Object | None) -> None:
        """Look at the object for a deletion; a second one may shorten the grace."""
        now = time.monotonic()
        if pod is None:
            self._object_gone = True
            grace = _MINIMUM_GRACE
        elif pod["metadata"].get("deletionTimestamp"):
            grace = float(pod["metadata"].get("deletionGracePeriodSeconds") or 0)
        else:
            return
        deadline = now + max(grace, _MINIMUM_GRACE)
        if not self.wanted or deadline < self._deadline:
            self._deadline = deadline
            self._sooner.set()
        self.begun.set()

    async def proceed(self) -> float | None:
        """End everything; a pause when a step has to be tried again."""
        worker = self._worker
        await self._kill_all()
        self._final_phase()
        worker.publish()
        try:
            await self._remove_sandbox()
        except SandboxProblem as error:
            text = (
                f'error killing pod: failed to "KillPodSandbox" for "{worker.uid}" with KillPodSandboxError: "{error}"'
            )
            worker.context.tell(worker.pod, "Warning", "FailedKillPod", text)
            return self._retry.fail("sandbox", time.monotonic())
        await worker.writer.flush()
        await self._remove_files()
        if not self._object_gone:
            try:
                await _delete_from_api(worker.context, worker.pod)
            except ApiError as error:
                log.warning("kubelet: deleting pod %s: %s", worker.label, error)
                return self._retry.fail("delete", time.monotonic())
        self.done = True
        return None

    async def settle(self) -> None:
        """The pod is through (Succeeded, Failed, refused) but its object stays: free all but logs and records."""
        if self._settled:
            return
        self._deadline = time.monotonic() + self.default_grace
        await self._kill_all()
        try:
            await self._remove_sandbox()
        except SandboxProblem as error:
            log.warning("kubelet: pod %s: %s", self._worker.label, error)
            return
        self._settled = True

    def _final_phase(self) -> None:
        """A pod that is deleted ends Succeeded when all its containers ended well, else Failed; if any ever ran."""
        codes = [slot.exit_code for slot in self._worker.slots if not slot.init and slot.exit_code is not None]
        if codes:
            self._worker.finish("Succeeded" if not any(codes) else "Failed")

    async def _kill_all(self) -> None:
        """Containers side by side, then sidecars from last to first."""
        worker = self._worker
        self._sooner.clear()
        for slot in worker.slots:
            slot.stop_probes()
        main = [slot for slot in worker.slots if slot.running and not slot.sidecar]
        await asyncio.gather(*(self.kill(slot, None, f"Stopping container {slot.name}") for slot in main))
        for slot in reversed([slot for slot in worker.slots if slot.running and slot.sidecar]):
            await self.kill(slot, None, f"Stopping container {slot.name}")

    async def kill(self, slot: Slot, grace: float | None, message: str) -> None:
        """Stop one container: preStop, SIGTERM, and SIGKILL at the end of its grace (None: that of the deletion)."""
        container = slot.current
        if container is None or not container.running:
            return
        own = None if grace is None else time.monotonic() + grace
        if message:
            worker = self._worker
            worker.context.tell(worker.pod, "Normal", "Killing", message, slot.name, slot.init)
        slot.stop_probes()
        left = self._left(own)
        if left > 0:
            await self._worker.prober.pre_stop(slot, container, left)
        stop = slot.spec.get("lifecycle", {}).get("stopSignal")
        container.signal(signal.Signals[stop] if stop in signal.Signals.__members__ else signal.SIGTERM)
        while container.running:
            left = self._left(own)
            if left <= 0:
                container.signal(signal.SIGKILL)
                await asyncio.wait_for(container.exited.wait(), 30)
                break
            await self._wait_exit(container.exited, left)
        await container.exited.wait()

    def _left(self, own: float | None) -> float:
        deadline = self._deadline if own is None else min(own, self._deadline) if self.wanted else own
        return deadline - time.monotonic()

    async def _wait_exit(self, exited: asyncio.Event, seconds: float) -> None:
        """Until the container ended, the time is over, or the deletion became more urgent."""
        waits = [asyncio.ensure_future(exited.wait()), asyncio.ensure_future(self._sooner.wait())]
        try:
            await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in waits:
                one.cancel()
        self._sooner.clear()

    async def _remove_sandbox(self) -> None:
        """Raises SandboxProblem."""
        worker = self._worker
        if worker.sandbox is not None:
            await podsandbox.remove(worker.context, worker.sandbox, give_up=self._object_gone)
            worker.sandbox = None

    async def _remove_files(self) -> None:
        worker, context = self._worker, self._worker.context
        for slot in worker.slots:
            for record in slot.retired + ([slot.current.record] if slot.current else []):
                await context.runtime.discard(record)
        logs, uid = launcher.log_directory(context, worker.pod), worker.uid

        def work() -> None:
            context.volumes.teardown(uid)
            shutil.rmtree(logs, ignore_errors=True)
            parent = context.config.cgroup_parent
            if parent:
                rootfs.remove_cgroup(f"{parent.rstrip('/')}/{uid}")

        await context.children.call(work)


async def _delete_from_api(context: Context, pod: Object) -> None:
    """The last step: the object goes, unless another pod has its name by now. Raises ApiError."""
    metadata = pod["metadata"]
    try:
        await context.api.delete(PODS, metadata["name"], metadata["namespace"], uid=metadata["uid"], grace=0)
    except ApiError as error:
        if not error.not_found and not error.conflict:
            raise
