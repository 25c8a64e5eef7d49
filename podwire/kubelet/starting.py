"""Starting the containers of one pod: when one is due, what to do when a start fails, and the back-off between starts.
Part of the worker (worker.py), which calls `drive` for each slot."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from podwire.kubelet import launcher, times
from podwire.kubelet.backoff import Backoff, words
from podwire.kubelet.launcher import StartProblem
from podwire.kubelet.runtime import Container
from podwire.kubelet.slots import Slot, should_restart

if TYPE_CHECKING:
    from podwire.kubelet.worker import Worker

_CONFIG_RETRY = 5.0
_SHOW_PULL_ERROR = 2.0


class Starter:
    """Belongs to one worker."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._crash = Backoff()
        self._pull = Backoff()

    async def drive(self, slot: Slot) -> float | None:
        """Start a slot if it should run; a pause when it has to wait."""
        policy = self._worker.pod["spec"].get("restartPolicy") or "Always"
        if slot.running and slot.image and slot.image != slot.spec.get("image"):
            await self._replace(slot)
        elif slot.running or (slot.exit_code is not None and not should_restart(policy, slot)):
            return None
        pause = self._crash_pause(slot)
        if pause > 0:
            return pause
        assert self._worker.sandbox is not None
        try:
            pulled = f"{slot.name} {slot.spec.get('image')}"
            remaining = self._pull.remaining(pulled, time.monotonic())
            if remaining > 0:
                self._hold_pull(slot)
                return remaining
            image = await launcher.image_for(self._worker.context, self._worker.effective, slot)
            self._pull.forget(pulled)
            if slot.exit_code is not None:
                self._crash.fail(slot.name, time.monotonic())
            slot.retire()
            container = await launcher.launch(
                self._worker.context, self._worker.effective, slot, self._worker.sandbox, image
            )
        except StartProblem as problem:
            return self._start_failed(slot, problem)
        await self._begin(slot, container)
        return None

    async def _replace(self, slot: Slot) -> None:
        """End a container whose image is another one by now; it starts again at once, whatever the restart policy."""
        worker = self._worker
        words = f"Container {slot.name} definition changed, will be restarted"
        await worker.ending.kill(slot, worker.ending.default_grace, words)
        slot.retire()
        self._crash.forget(slot.name)

    def _hold_pull(self, slot: Slot) -> None:
        """Show that a pull is not tried again yet."""
        if slot.waiting[0] != "ErrImagePull":
            return
        context, pod, text = (
            self._worker.context,
            self._worker.pod,
            f'Back-off pulling image "{slot.spec.get("image")}"',
        )
        slot.waiting = ("ImagePullBackOff", f"{text}: ErrImagePull: {slot.waiting[1]}")
        context.tell(pod, "Normal", "BackOff", text, slot.name, slot.init)
        context.tell(pod, "Warning", "Failed", "Error: ImagePullBackOff", slot.name, slot.init)

    def _crash_pause(self, slot: Slot) -> float:
        """Seconds that a container which ended must still wait; it shows CrashLoopBackOff meanwhile."""
        if slot.exit_code is None:
            return 0.0
        if slot.finished_at - (slot.current.record.started if slot.current else slot.finished_at) > self._crash.reset:
            self._crash.forget(slot.name)
        delay = self._crash.delay(slot.name)
        remaining = slot.finished_at + delay - time.time()
        if remaining <= 0:
            return 0.0
        if slot.waiting[0] != "CrashLoopBackOff":
            message = f"back-off {words(delay)} restarting failed container={slot.name} pod={self._worker.label}"
            slot.waiting = ("CrashLoopBackOff", message)
            text = f"Back-off restarting failed container {slot.name} in pod {self._worker.label}"
            self._worker.context.tell(self._worker.pod, "Warning", "BackOff", text, slot.name, slot.init)
        return remaining

    def _start_failed(self, slot: Slot, problem: StartProblem) -> float:
        """Show why, and say when to try again."""
        tell, message = self._worker.context.tell, str(problem)
        slot.waiting = (problem.reason, message)
        if problem.image:
            pulled = f'Failed to pull image "{slot.spec.get("image")}": {message}'
            tell(
                self._worker.pod,
                "Warning",
                "Failed",
                pulled if problem.reason == "ErrImagePull" else message,
                slot.name,
                slot.init,
            )
            tell(self._worker.pod, "Warning", "Failed", f"Error: {problem.reason}", slot.name, slot.init)
            self._pull.fail(f"{slot.name} {slot.spec.get('image')}", time.monotonic())
            return _SHOW_PULL_ERROR
        tell(self._worker.pod, "Warning", "Failed", f"Error: {message}", slot.name, slot.init)
        if problem.reason != "RunContainerError":
            return _CONFIG_RETRY
        now = times.text(time.time())
        slot.failed = {
            "exitCode": 128,
            "reason": "StartError",
            "message": message,
            "startedAt": times.text(0),
            "finishedAt": now,
        }
        slot.starts += 1
        if not should_restart(self._worker.pod["spec"].get("restartPolicy") or "Always", slot):
            slot.waiting = ("", "")
        return _SHOW_PULL_ERROR

    async def _begin(self, slot: Slot, container: Container) -> None:
        """It runs: postStart, then probes. Records of the starts before the last one are dropped."""
        slot.current, slot.waiting = container, ("", "")
        slot.starts += 1
        slot.image, slot.image_id = str(slot.spec.get("image") or ""), container.record.image_id
        old, slot.retired = slot.retired[:-1], slot.retired[-1:]
        for record in old:
            self._worker.context.background(self._worker.context.runtime.discard(record))
        if not container.running:  # its end was told before we knew of its start
            self._worker.container_ended(container)
            return
        problem = await self._hook(slot, container)
        if problem:
            self._worker.context.tell(self._worker.pod, "Warning", "FailedPostStartHook", problem, slot.name, slot.init)
            await self._worker.ending.kill(slot, self._worker.ending.default_grace, "FailedPostStartHook")
            return
        self._worker.prober.start(slot)
        self._worker.publish()

    async def _hook(self, slot: Slot, container: Container) -> str:
        """postStart: what went wrong with it. A deletion does not wait for it."""
        hook = asyncio.ensure_future(self._worker.prober.post_start(slot, container))
        begun = asyncio.ensure_future(self._worker.ending.begun.wait())
        try:
            await asyncio.wait({hook, begun}, return_when=asyncio.FIRST_COMPLETED)
            return hook.result() if hook.done() else ""
        finally:
            hook.cancel()
            begun.cancel()
            await asyncio.gather(hook, begun, return_exceptions=True)
