"""One pod's worker: brings the pod on this node towards what its object says, one step after the other.

    volumes → sandbox (CNI) → init containers in order → containers → probes … → graceful end → sandbox → API delete

`_sync` looks at what is there and does what is next; it is run again after every event (object changed, container
ended, probe result, back-off over), so that nothing depends on having seen the one before.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from podwire.kube.api import ApiError
from podwire.kubelet import launcher, node, podsandbox, status, times
from podwire.kubelet.backoff import Backoff
from podwire.kubelet.context import Context
from podwire.kubelet.ending import Ending
from podwire.kubelet.podsandbox import SandboxProblem
from podwire.kubelet.prober import Prober
from podwire.kubelet.runtime import Container
from podwire.kubelet.sandbox import Sandbox
from podwire.kubelet.slots import slots_of
from podwire.kubelet.starting import Starter
from podwire.kubelet.status import PodView
from podwire.kubelet.statuswriter import StatusWriter
from podwire.kubelet.volumes import VolumeError, with_token
from podwire.model.gvr import SERVICEACCOUNTS

log = logging.getLogger(__name__)
Object = dict[str, Any]
_ENDED = ("Succeeded", "Failed")
_REFRESH_VOLUMES = 10.0  # upstream: about a minute; nobody who tries things out wants to wait that long
_REFRESH_TOKEN = 60.0
_OBJECT_VOLUMES = ("configMap", "secret", "projected", "downwardAPI")
_CONFIG_RETRY = 5.0


class Worker:
    """`run` ends when the pod is gone from this node. `wake` may be called from anywhere on the event loop."""

    def __init__(
        self, context: Context, pod: Object, sandbox: Sandbox | None = None, containers: Sequence[Container] = ()
    ) -> None:
        self.context = context
        self.pod = pod
        self.sandbox = sandbox
        self.addresses: tuple[str, ...] = sandbox.addresses if sandbox else ()
        self.slots = slots_of(pod)
        self.rejected: tuple[str, str] | None = None
        self.effective = pod
        self._resolved_token = False
        self._wake = asyncio.Event()
        self._retry = Backoff(initial=1.0, maximum=15.0, reset=60.0)
        self._attempt = sandbox.attempt + 1 if sandbox else 0
        self._has_volumes = False
        self._volumes_due = 0.0
        self._final_phase = ""
        self._final: tuple[str, str] = ("", "")
        old = pod.get("status") or {}
        self._start_time = str(old.get("startTime") or times.text(time.time()))
        self.writer = StatusWriter(context.api, pod)
        self.ending = Ending(self)
        self.starter = Starter(self)
        self.prober = Prober(self)
        if old.get("phase") in _ENDED:
            self._final_phase = old["phase"]
        self._adopt(containers, old)
        if sandbox is not None and sandbox.alive:
            self._watch_pause(sandbox)

    @property
    def uid(self) -> str:
        return str(self.pod["metadata"]["uid"])

    @property
    def label(self) -> str:
        metadata = self.pod["metadata"]
        return f"{metadata['name']}_{metadata['namespace']}({metadata['uid']})"

    @property
    def deleted(self) -> bool:
        """Whether the API object is gone or going."""
        return self.ending.wanted

    @property
    def through(self) -> bool:
        """Whether the pod does not run any more (Succeeded, Failed, refused)."""
        return bool(self._final_phase or self.rejected)

    def wake(self) -> None:
        """Something changed: look again."""
        self._wake.set()

    def update(self, pod: Object | None) -> None:
        """The newest object; None: it is gone from the API (a forced deletion)."""
        if pod is not None:
            if any(self.pod["metadata"].get(key) != pod["metadata"].get(key) for key in ("labels", "annotations")):
                self._volumes_due = 0.0
            self.pod = pod
            self.effective = with_token(pod) if self._resolved_token else pod
            for slot, fresh in zip(self.slots, slots_of(self.effective), strict=False):
                slot.spec = fresh.spec
            self.writer.seen(pod)
        self.ending.note(pod)
        self.wake()

    def container_ended(self, container: Container) -> None:
        """A container of this pod ended: note what it left to say."""
        record = container.record
        for slot in self.slots:
            if slot.current is container:
                slot.stop_probes()
                record.message = launcher.termination_message(self.context, self.pod, slot, record)
                self.context.runtime.save(record)
        self.wake()

    async def run(self) -> None:
        """Work until the pod is gone."""
        while True:
            self._wake.clear()
            try:
                pause = await self._sync()
            except Exception:
                log.exception("kubelet: pod %s", self.label)
                pause = _CONFIG_RETRY
            if self.ending.done:
                await self.writer.close()
                return
            self.publish()
            try:
                await asyncio.wait_for(self._wake.wait(), pause)
            except TimeoutError:
                continue

    async def stop(self) -> None:
        """The kubelet leaves: containers run on."""
        for slot in self.slots:
            slot.stop_probes()
        await self.writer.close()

    def publish(self) -> None:
        """Write the status, if it differs from what the API has."""
        initializing = any(slot.init for slot in self.slots)
        alive = self.sandbox is not None and self.sandbox.alive
        view = PodView(
            host_address=self.context.config.node_ip,
            start_time=self._start_time,
            now=times.text(time.time()),
            addresses=self.addresses,
            sandbox_ready=alive and bool(self.addresses),
            containers=[slot.view(initializing) for slot in self.slots if not slot.init] if not self.rejected else (),
            init=[slot.view(initializing) for slot in self.slots if slot.init] if not self.rejected else (),
            sidecars=frozenset(slot.name for slot in self.slots if slot.sidecar),
        )
        phase = self._phase(view)
        reason, message = self.rejected or self._final
        if phase in _ENDED and any(slot.running for slot in self.slots):
            phase, reason, message = self.writer.phase, "", ""  # not before the last sidecar has ended
        self.writer.write(self.pod, replace(view, phase=phase, reason=reason, message=message))

    def _phase(self, view: PodView) -> str:
        """The phase, which is fixed once the pod has ended."""
        if self.rejected:
            return "Failed"
        phase = self._final_phase or status.phase(self.pod["spec"].get("restartPolicy") or "Always", view)
        if phase in _ENDED and not self._final_phase:
            self._final_phase = phase
            self.wake()
        return phase

    def finish(self, phase: str, reason: str = "", message: str = "") -> None:
        """Fix the phase: this pod does not run again."""
        self._final_phase, self._final = phase, (reason, message)

    async def _sync(self) -> float | None:
        """One look; seconds until the next one is due without an event, None for never."""
        if self.ending.wanted:
            return await self.ending.proceed()
        if self.rejected or self._final_phase:
            await self.ending.settle()
            return None
        overdue = self._overdue()
        if overdue is not None and overdue <= 0:
            self.finish("Failed", "DeadlineExceeded", "Pod was active on the node longer than the specified deadline")
            await self.ending.settle()
            return None
        self.publish()
        pause = await self._ready_to_start()
        if pause is None:
            pause = await self._advance()
            pause = min(pause or self._refresh, self._refresh)
        return pause if overdue is None else min(pause, overdue)

    def _overdue(self) -> float | None:
        """Seconds until activeDeadlineSeconds are over; None without them."""
        limit = self.pod["spec"].get("activeDeadlineSeconds")
        return None if limit is None else times.parse(self._start_time) + float(limit) - time.time()

    async def _ready_to_start(self) -> float | None:
        """Volumes and sandbox; a pause when they are not there yet."""
        alive = self.sandbox is not None and self.sandbox.alive
        if not alive and not self.pod["spec"].get("hostNetwork") and not self.context.network_ready.is_set():
            words = node.network_not_ready(self.context.network_fault)
            self.context.tell(self.pod, "Warning", "NetworkNotReady", f"network is not ready: {words}")
            return _CONFIG_RETRY
        try:
            await self._prepare_volumes()
        except VolumeError as error:
            self.context.tell(self.pod, "Warning", "FailedMount", str(error))
            return self._retry.fail("volumes", time.monotonic())
        if self.sandbox is not None and self.sandbox.alive:
            return None
        return await self._make_sandbox()

    async def _prepare_volumes(self) -> None:
        """Raises VolumeError. A refresh that fails leaves what was there."""
        if not self._resolved_token:
            await self._resolve_token()
        if time.monotonic() < self._volumes_due:
            return
        try:
            await self.context.volumes.setup(self.effective, self.addresses)
        except VolumeError as error:
            if not self._has_volumes:
                raise
            self.context.tell(self.pod, "Warning", "FailedMount", str(error))
        self._has_volumes = True
        self._volumes_due = time.monotonic() + self._refresh

    @property
    def _refresh(self) -> float:
        """Seconds between two looks at what the volumes show."""
        volumes = self.pod["spec"].get("volumes") or []
        return _REFRESH_VOLUMES if any(kind in one for one in volumes for kind in _OBJECT_VOLUMES) else _REFRESH_TOKEN

    async def _resolve_token(self) -> None:
        """Give the pod its API access volume, if its service account wants that."""
        spec, metadata = self.pod["spec"], self.pod["metadata"]
        automount = True
        if spec.get("automountServiceAccountToken") is None:
            name = spec.get("serviceAccountName") or "default"
            try:
                account = await self.context.api.get(SERVICEACCOUNTS, name, metadata["namespace"])
            except ApiError as error:
                raise VolumeError(f'MountVolume.SetUp failed for volume "kube-api-access" : {error}') from error
            automount = account.get("automountServiceAccountToken") is not False
        self.effective = with_token(self.pod, automount)
        self._resolved_token = True
        for slot, fresh in zip(self.slots, slots_of(self.effective), strict=True):
            slot.spec = fresh.spec

    async def _make_sandbox(self) -> float | None:
        if self.sandbox is not None:
            words = "Pod sandbox changed, it will be killed and re-created."
            self.context.tell(self.pod, "Normal", "SandboxChanged", words)
            await self._drop_sandbox()
        try:
            self.sandbox = await podsandbox.create(self.context, self.effective, self._attempt)
        except SandboxProblem as error:
            self.context.tell(self.pod, "Warning", "FailedCreatePodSandBox", str(error), same=error.same)
            return self._retry.fail("sandbox", time.monotonic())
        self._attempt += 1
        self._watch_pause(self.sandbox)
        self.addresses = self.sandbox.addresses
        sandbox = self.sandbox
        await self.context.children.call(lambda: launcher.write_pod_files(self.context, self.effective, sandbox))
        if _wants_addresses(self.effective):
            self._volumes_due = 0.0
            await self._prepare_volumes()
        return None

    def _watch_pause(self, sandbox: Sandbox) -> None:
        """Look again when the pause process ends."""

        async def wait() -> None:
            await self.context.children.wait(sandbox.pid)
            self.wake()

        self.context.background(wait())

    async def _drop_sandbox(self) -> None:
        """The pause process is gone: end what is left of the pod and start over."""
        assert self.sandbox is not None
        for slot in self.slots:
            slot.stop_probes()
            if slot.current is not None and slot.current.running:
                await self.ending.kill(slot, 1.0, "")
            slot.retire()
        try:
            await podsandbox.remove(self.context, self.sandbox, give_up=True)
        finally:
            self.sandbox = None

    async def _advance(self) -> float | None:
        """Start what is next; the shortest pause that something asks for."""
        pauses: list[float] = []
        started = any(slot.starts for slot in self.slots if not slot.init)
        for slot in self.slots:
            if slot.init and not slot.sidecar:
                if started or slot.exit_code == 0:
                    continue
                pause = await self.starter.drive(slot)
                return min([*pauses, pause]) if pause is not None else min(pauses, default=None)
            pause = await self.starter.drive(slot)
            if pause is not None:
                pauses.append(pause)
            if self.ending.wanted:
                return 0.0
            if slot.sidecar and not slot.started:
                break
        return min(pauses, default=None)

    def _adopt(self, containers: Sequence[Container], old: Object) -> None:
        """Fill the slots from containers that a former kubelet started, and from the status it wrote."""
        reported = [*(old.get("initContainerStatuses") or []), *(old.get("containerStatuses") or [])]
        by_name = {one.get("name"): one for one in reported}
        for slot in self.slots:
            own = sorted((one for one in containers if one.record.name == slot.name), key=lambda c: c.record.attempt)
            status = by_name.get(slot.name) or {}
            if own:
                slot.current = own[-1]
                slot.starts = own[-1].record.attempt + 1
                slot.image_id = own[-1].record.image_id
                slot.retired = [one.record for one in own[:-1]]
                slot.last_state = status.get("lastState") or {}
                slot.started = bool(status.get("started")) or not slot.spec.get("startupProbe")
                slot.ready = bool(status.get("ready")) or not slot.spec.get("readinessProbe")
                if slot.running and not self.deleted:
                    self.prober.start(slot, again=True)
            elif status.get("containerID"):
                slot.starts = int(status.get("restartCount") or 0) + 1
                slot.last_state = _lost(status)
                if slot.init and not slot.sidecar:
                    slot.starts = 0


def _lost(status: Object) -> Object:
    """The last state of a container that is gone with everything, as after a reboot of its node."""
    state = status.get("state") or {}
    if state.get("terminated"):
        return {"terminated": state["terminated"]}
    ended = {
        "exitCode": 255,
        "reason": "Unknown",
        "startedAt": (state.get("running") or {}).get("startedAt") or times.text(0),
        "finishedAt": times.text(time.time()),
        "containerID": status["containerID"],
    }
    return {"terminated": ended}


def _wants_addresses(pod: Object) -> bool:
    """Whether a volume shows the pod's address, which is known only now."""
    return any("podIP" in str(volume) for volume in pod["spec"].get("volumes") or [])
