"""A slot is one container of a pod spec over all its starts: which runs now, how the last one ended, why it waits."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from podwire.kubelet import times
from podwire.kubelet.runtime import Container, Record
from podwire.kubelet.status import ContainerView

Object = dict[str, Any]


@dataclass
class Slot:
    """`failed` is a terminated state of a start that runc refused: there is no container then. `image` is what the
    newest start was asked for; "" where an earlier kubelet started it."""

    spec: Object
    init: bool
    sidecar: bool = False
    current: Container | None = None
    last_state: Object = field(default_factory=dict)
    starts: int = 0
    waiting: tuple[str, str] = ("", "")
    failed: Object | None = None
    image: str = ""
    image_id: str = ""
    started: bool = False
    ready: bool = False
    probing: list[asyncio.Task[None]] = field(default_factory=list)
    retired: list[Record] = field(default_factory=list)

    @property
    def name(self) -> str:
        return str(self.spec["name"])

    @property
    def running(self) -> bool:
        return self.current is not None and self.current.running

    @property
    def exit_code(self) -> int | None:
        """How the newest start ended; None while it runs, or before the first one."""
        if self.failed is not None:
            return int(self.failed["exitCode"])
        if self.current is None or self.current.running:
            return None
        return self.current.record.exit_code

    @property
    def finished_at(self) -> float:
        """When the newest start ended, seconds since the epoch."""
        if self.failed is not None:
            return times.parse(self.failed["finishedAt"])
        return self.current.record.finished if self.current is not None else 0.0

    def stop_probes(self) -> None:
        """No result counts any more."""
        for task in self.probing:
            task.cancel()
        self.probing.clear()

    def retire(self) -> None:
        """Make room for a new start: what ran becomes the last state."""
        self.stop_probes()
        ended = self.terminated()
        if ended is not None:
            self.last_state = {"terminated": ended}
        if self.current is not None:
            self.retired.append(self.current.record)
        self.current, self.failed = None, None
        self.started = self.ready = False

    def terminated(self) -> Object | None:
        """The terminated state of the newest start."""
        if self.failed is not None:
            return self.failed
        if self.current is None or self.current.running:
            return None
        return terminated_state(self.current.record)

    def view(self, pod_initializing: bool) -> ContainerView:
        """What the pod's status shows of it."""
        record = self.current.record if self.current is not None else None
        reason, message = self.waiting
        if self.running and record is not None:
            state: Object = {"running": {"startedAt": times.text(record.started)}}
        elif reason:
            state = {"waiting": {"reason": reason, **({"message": message} if message else {})}}
        else:
            ended = self.terminated()
            idle = "PodInitializing" if pod_initializing else "ContainerCreating"
            state = {"terminated": ended} if ended is not None else {"waiting": {"reason": idle}}
        last = self.last_state
        if "waiting" in state:
            ended = self.terminated()
            last = {"terminated": ended} if ended is not None else last
        ended_well = self.init and not self.sidecar and self.exit_code == 0
        return ContainerView(
            name=self.name,
            image=record.image if record else str(self.spec.get("image", "")),
            state=state,
            last_state=last,
            image_id=record.image_id if record else self.image_id,
            container_id=record.id if record else "",
            restarts=max(0, self.starts - 1),
            ready=ended_well or (self.running and self.started and self.ready),
            started=self.running and self.started,
        )


def terminated_state(record: Record) -> Object:
    """An API terminated state. The reason is Completed or Error unless a better one is known."""
    found: Object = {
        "exitCode": record.exit_code,
        "reason": record.reason or ("Completed" if record.exit_code == 0 else "Error"),
        "startedAt": times.text(record.started),
        "finishedAt": times.text(record.finished),
        "containerID": f"podwire://{record.id}",
    }
    if record.message:
        found["message"] = record.message
    return found


def slots_of(pod: Mapping[str, Any]) -> list[Slot]:
    """All containers of a pod: init containers first, in order; an init container that restarts always is a sidecar."""
    spec = pod["spec"]
    found = [Slot(one, True, one.get("restartPolicy") == "Always") for one in spec.get("initContainers") or []]
    return found + [Slot(one, False) for one in spec.get("containers") or []]


def should_restart(policy: str, slot: Slot) -> bool:
    """Whether a container that ended is started again. An init container runs until it succeeds, unless Never."""
    code = slot.exit_code
    if slot.sidecar:
        return True
    if slot.init:
        return code != 0 and policy != "Never"
    return policy == "Always" or (policy == "OnFailure" and code != 0)
