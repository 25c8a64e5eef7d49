"""Between a pod's wiring and its policy: an ADD is answered when the kernel holds what governs the pod, and not before.

What a pod's interface leads to goes into the kernel with the interface's admission, in one transaction. A pod that
nobody told of is asked for; one that the API does not have is governed by nobody. Where policy is not enforced, all of
this does nothing.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Protocol

from podwire.agent.attachments import BRIDGE, CHAINED, READY, ROUTED, Attachment
from podwire.agent.policyengine import Binding, Elements, PolicyEngine
from podwire.agent.turns import Turns
from podwire.calc.verdicts import Pod
from podwire.cni import spec
from podwire.cni.spec import CniError
from podwire.kernel.links import Link, RouteSocket

log = logging.getLogger(__name__)

WAIT_SECONDS = 8.0
"""So long an ADD waits for its pod's policy; then it is to be tried again (11)."""


class Knowledge(Protocol):
    """What is known of pods. `ready`: the kernel holds what the pod of this UID (any, if empty) needs."""

    def ready(self, pod: Pod, uid: str) -> bool: ...
    def await_apply(self, seconds: float) -> None: ...
    def wired(self, pod: Pod, addresses: tuple[str, ...]) -> None: ...


class PolicyGate:
    """`exists` asks the API for a pod (namespace, name, UID); `route` gives the node's links. Threads may call."""

    def __init__(
        self,
        engine: PolicyEngine | None,
        exists: Callable[[str, str, str], bool],
        route: Callable[[], RouteSocket],
        turns: Turns,
    ) -> None:
        self._engine = engine
        self._exists = exists
        self._route = route
        self._turns = turns
        self._expected: dict[str, Binding] = {}
        self.knowledge: Knowledge | None = None

    def restore(self, records: Iterable[Attachment]) -> None:
        """After a start: the pods that are wired. Raises KernelError."""
        if self._engine is not None:
            links = {link.name: link for link in self._route().links()}
            mine = [record for record in records if record.state == READY and record.role in (ROUTED, BRIDGE, CHAINED)]
            found = [binding for record in mine if (binding := _binding(record, links)) is not None]
            self._engine.restore(found)

    def told(self, records: Iterable[Attachment]) -> None:
        """What `restore` knew, for `knowledge`, which came later."""
        for record in records:
            if self.knowledge is not None and record.state == READY and record.pod:
                self.knowledge.wired((record.namespace, record.pod), record.addresses)

    def expect(self, record: Attachment) -> None:
        """Wait for the policy of a pod that is being wired. Raises CniError 11, KernelError."""
        if self._engine is None:
            return
        free = bool(record.pod) and not self._await(record)
        binding = _binding(record, self._links(record), free=free)
        if binding is not None:
            self._expected[record.host_name] = binding
        if record.pod and self.knowledge is not None:
            self.knowledge.wired((record.namespace, record.pod), record.addresses)

    def _links(self, record: Attachment) -> Mapping[str, Link]:
        return {} if record.role == ROUTED else {link.name: link for link in self._route().links()}

    def _await(self, record: Attachment) -> bool:
        """Whether the API has the pod; if so, its policy is in the kernel."""
        pod, end = (record.namespace, record.pod), time.monotonic() + WAIT_SECONDS
        if self.knowledge is not None and self.knowledge.ready(pod, record.uid):
            return True
        if not self._exists(*pod, record.uid):
            self._await_start(end)
            return False
        with self._turns.waiting():
            while self.knowledge is None or not self.knowledge.ready(pod, record.uid):
                self._wait(end, f"policy of pod {'/'.join(pod)} is not in the kernel yet")
        return True

    def _await_start(self, end: float) -> None:
        """Also who is nobody's waits until the tables stand."""
        assert self._engine is not None
        if self._engine.in_force:  # who waits gives its turn away, and has to get it back
            return
        with self._turns.waiting():
            while not self._engine.in_force:
                self._wait(end, "network policy is not in the kernel yet")

    def _wait(self, end: float, what: str) -> None:
        left = end - time.monotonic()
        if left <= 0:
            raise CniError(spec.TRY_AGAIN, what, "the agent has not yet learned, or not yet applied, what governs it")
        if self.knowledge is None:
            time.sleep(0.05)
        else:
            self.knowledge.await_apply(min(left, 0.5))

    @contextmanager
    def admitting(self, interface: str) -> Iterator[tuple[Elements, Elements]]:
        """Elements to delete and to add in the transaction that admits the interface. Raises KernelError."""
        binding = self._expected.pop(interface, None)
        if self._engine is None or binding is None:
            yield {}, {}
            return
        with self._alone(self._engine), self._engine.binding(binding) as elements:
            yield elements

    @contextmanager
    def _alone(self, engine: PolicyEngine) -> Iterator[None]:
        """The engine may be at work. Who had to wait goes on without a turn: to wait for one with the engine held
        would hold up all who have theirs."""
        if engine.guard.acquire(blocking=False):
            try:
                yield
            finally:
                engine.guard.release()
        else:
            with self._turns.waiting(), engine.guard:
                yield

    def bind(self, record: Attachment) -> None:
        """In a transaction of its own, for what the guard admits. Raises KernelError."""
        binding = self._expected.pop(record.host_name, None)
        if self._engine is not None and binding is not None:
            with self._alone(self._engine):
                self._engine.bind(binding)

    def unbind(self, interface: str) -> None:
        """Absent is fine. Raises KernelError."""
        self._expected.pop(interface, None)
        if self._engine is None:
            return
        with self._alone(self._engine):
            former = self._engine.bound().get(interface)
            self._engine.unbind(interface)
        if former is not None and former.pod is not None and self.knowledge is not None:
            self.knowledge.wired(former.pod, ())


def _binding(record: Attachment, links: Mapping[str, Link], *, free: bool = False) -> Binding | None:
    """None: a wire that policy cannot be had on."""
    pod = (record.namespace, record.pod) if record.pod else None
    found = Binding(record.host_name, pod, record.addresses, free=free)
    if record.role == ROUTED:
        return found
    link = links.get(record.host_name)
    bridge = next((one.name for one in links.values() if link is not None and one.index == link.master), "")
    if record.role == BRIDGE and not record.bridge_gateway:
        log.warning("policy not enforced on a bridge without gateway pod=%s/%s", record.namespace, record.pod)
        return None
    if link is None or not bridge:
        return found if record.role == CHAINED else replace(found, bridge=record.bridge)
    return replace(found, bridge=bridge, mac=link.mac)
