"""A worker's probes and lifecycle hooks: which run when, and what their results do to the container's slot."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from podwire.kubelet import probes
from podwire.kubelet.probes import Outcome, ProbeError, Target
from podwire.kubelet.runtime import Container, RuntimeFailure
from podwire.kubelet.slots import Slot

if TYPE_CHECKING:
    from podwire.kubelet.worker import Worker

log = logging.getLogger(__name__)
Object = dict[str, Any]
_HOOK_TIMEOUT = 120.0


class Prober:
    """Belongs to one worker."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    def start(self, slot: Slot, *, again: bool = False) -> None:
        """Begin probing a container that just started; `again`: results of an earlier kubelet stand."""
        spec = slot.spec
        if not again:
            slot.started = not spec.get("startupProbe")
            slot.ready = slot.started and not spec.get("readinessProbe")
        if slot.started:
            self._start_lasting(slot)
        else:
            self._launch(slot, "startupProbe", False)

    def _start_lasting(self, slot: Slot) -> None:
        if slot.spec.get("readinessProbe"):
            self._launch(slot, "readinessProbe", slot.ready)
        if slot.spec.get("livenessProbe"):
            self._launch(slot, "livenessProbe", True)

    def _target(self, slot: Slot, container: Container) -> Target:
        async def run(argv: list[str], timeout: float) -> tuple[int, bytes]:
            try:
                return await self._worker.context.runtime.exec_sync(container.record.id, argv, timeout)
            except RuntimeFailure as error:
                return 1, str(error).encode()

        address = self._worker.addresses[0] if self._worker.addresses else "127.0.0.1"
        return Target(address, slot.spec, run)

    def _launch(self, slot: Slot, kind: str, initial: bool) -> None:
        container = slot.current
        if container is None:
            return
        probe = slot.spec[kind]

        def report(result: bool, outcome: Outcome, due: bool) -> bool:
            return slot.current is container and self._report(slot, kind, result, outcome, due)

        watching = probes.watch(probe, initial, self._target(slot, container), report)
        slot.probing.append(asyncio.ensure_future(watching))

    def _report(self, slot: Slot, kind: str, result: bool, outcome: Outcome, due: bool) -> bool:
        """One result is in; False ends this probe."""
        worker = self._worker
        noun = kind.removesuffix("Probe").capitalize()
        if not outcome.ok:
            text = f"{noun} probe failed: {outcome.message}"
            worker.context.tell(worker.pod, "Warning", "Unhealthy", text, slot.name, slot.init)
        if not due:
            return True
        if kind == "readinessProbe":
            if slot.ready != result:
                slot.ready = result
                worker.publish()
            return True
        if not result:
            grace = slot.spec[kind].get("terminationGracePeriodSeconds")
            message = f"Container {slot.name} failed {noun.lower()} probe, will be restarted"
            seconds = worker.ending.default_grace if grace is None else float(grace)
            worker.context.background(worker.ending.kill(slot, seconds, message))
            return False
        if kind == "startupProbe":
            slot.started = True
            slot.ready = not slot.spec.get("readinessProbe")
            self._start_lasting(slot)
            worker.publish()
            worker.wake()
            return False
        return True

    async def post_start(self, slot: Slot, container: Container) -> str:
        """Run the postStart hook; what went wrong, or ""."""
        hook = (slot.spec.get("lifecycle") or {}).get("postStart")
        if not hook:
            return ""
        outcome = await self._hook(slot, container, hook, _HOOK_TIMEOUT)
        return "" if outcome.ok else f"PostStartHook failed: {outcome.message}"

    async def pre_stop(self, slot: Slot, container: Container, seconds: float) -> None:
        """Run the preStop hook, no longer than `seconds`; a failure is told and does not hinder."""
        hook = (slot.spec.get("lifecycle") or {}).get("preStop")
        if not hook:
            return
        outcome = await self._hook(slot, container, hook, seconds)
        if not outcome.ok:
            text = f"PreStopHook failed: {outcome.message}"
            self._worker.context.tell(self._worker.pod, "Warning", "FailedPreStopHook", text, slot.name, slot.init)

    async def _hook(self, slot: Slot, container: Container, hook: Object, seconds: float) -> Outcome:
        target = self._target(slot, container)
        try:
            if "exec" in hook:
                argv = hook["exec"].get("command") or []
                code, output = await target.run(argv, seconds)
                text = output.decode(errors="replace")
                return Outcome(code == 0, f"command '{' '.join(argv)}' exited with {code}: {text}")
            if "httpGet" in hook:
                return await asyncio.wait_for(probes.http_get(hook["httpGet"], target), seconds)
            if "sleep" in hook:
                wanted = float(hook["sleep"].get("seconds") or 0)
                await asyncio.wait_for(container.exited.wait(), min(wanted, seconds))
                return Outcome(True)
        except TimeoutError:
            return Outcome("sleep" in hook, f"did not end within {seconds:g}s")
        except (OSError, ProbeError) as error:
            return Outcome(False, str(error))
        return Outcome(False, "the hook has no handler that is supported")
