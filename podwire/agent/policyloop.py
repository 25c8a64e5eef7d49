"""Policy from the API to the kernel: everything that policies and their selectors read → classes and tables → engine.

Like `loop`, and beside it: newest update of each key, batches of a few milliseconds, nothing applied before every kind
is in sync. Kinds that not every cluster has are watched while their definitions are there. What cannot be read of a
policy is told on the object; the others stand.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from errno import ENOSPC
from functools import partial
from typing import Any

import msgspec

from podwire.agent import families
from podwire.agent.health import Health
from podwire.agent.loop import GATHER_SECONDS, RETRY_SECONDS, Watcher
from podwire.agent.policyengine import PolicyEngine
from podwire.calc.numbers import Exhausted
from podwire.calc.policy import PolicyCalc
from podwire.calc.verdicts import PolicyChanges
from podwire.ipam.layout import CLASSIC, NATIVE, stored_gvr
from podwire.kernel.netlink import KernelError
from podwire.kube.watch import InSync, Update
from podwire.model import policykinds
from podwire.model.endpointslice import EndpointSlice
from podwire.model.gvr import CRDS, ENDPOINTSLICES, GVR, IPAMBLOCKS, NAMESPACES, NODES, PODS, SERVICEACCOUNTS
from podwire.model.member import Namespace, ServiceAccount
from podwire.model.meta import Meta
from podwire.model.node import Node
from podwire.model.pod import Pod, PodIP
from podwire.model.policy import PolicyKey
from podwire.model.policykinds import PolicyKind
from podwire.model.written import PolicyError, Written

log = logging.getLogger(__name__)

PART = "policy"
SETTLE_SECONDS = 0.05
"""So long after a change, if nothing comes meanwhile, what it left behind is cleared away."""
Key = tuple[str, str]  # namespace, name

_BUILT_IN = {kind.gvr for kind in policykinds.KINDS if kind.gvr.group == "networking.k8s.io"}


class Version(msgspec.Struct, frozen=True):
    """One of those that a CustomResourceDefinition lists."""

    name: str = ""
    served: bool = False


class Versions(msgspec.Struct, frozen=True):
    versions: tuple[Version, ...] = ()


class Definition(msgspec.Struct, frozen=True):
    """A CustomResourceDefinition: its name, and which versions are served."""

    metadata: Meta = Meta()
    spec: Versions = Versions()


@dataclass(frozen=True, slots=True)
class Told:
    """What is to be said of a policy: its object, and why it is not honoured as written."""

    kind: GVR
    record: Written
    problems: tuple[str, ...]


@dataclass
class _Kind:
    """One watched kind: its updates not yet calculated, newest of each key."""

    gvr: GVR
    decode: type[Any]
    sink: Callable[[Key, Any], None]
    waiting: dict[Key, Any | None] = field(default_factory=dict)
    in_sync: bool = False
    task: asyncio.Task[None] | None = None
    known: set[Key] = field(default_factory=set)


class PolicyLoop:
    """`run` until cancelled. `tell` gets policies of which something is not honoured; threads may ask `ready`."""

    def __init__(
        self,
        api: Watcher,
        calc: PolicyCalc,
        engine: PolicyEngine,
        node: str,
        health: Health,
        tell: Callable[[Told], None] = lambda told: None,
    ) -> None:
        self._api = api
        self.calc = calc
        self.engine = engine
        self._node = node
        self._health = health
        self._tell = tell
        self._news = asyncio.Event()
        self._oldest = 0.0
        self._doubtful = False
        self._pods: dict[Key, Pod] = {}  # this node's
        self._wired: dict[Key, tuple[str, ...]] = {}
        self._rewired: set[Key] = set()
        self._policies: dict[tuple[GVR, Key], PolicyKey] = {}
        self._tiers: dict[Key, str] = {}
        self.problems: dict[tuple[GVR, Key], tuple[str, ...]] = {}
        self.applied = asyncio.Event()
        self._ready: dict[Key, str] = {}
        self._done = threading.Condition()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._definitions = _Kind(CRDS, Definition, self._on_definition)
        self._kinds = [
            self._definitions,
            _Kind(NAMESPACES, Namespace, lambda key, found: self.calc.on_namespace(key[1], found)),
            _Kind(SERVICEACCOUNTS, ServiceAccount, self.calc.on_service_account),
            _Kind(NODES, Node, lambda key, found: self.calc.on_node(key[1], found)),
            _Kind(ENDPOINTSLICES, EndpointSlice, self.calc.on_slice),
            _Kind(PODS, Pod, self._on_pod),
        ]
        self._optional: list[_Kind] = []
        self._defined: dict[str, frozenset[str]] = {}  # versions served, of definitions by name
        self._classic = False
        for kind in policykinds.KINDS:
            self._add(kind.gvr, kind.record, partial(self._on_policy, kind))
        self._add(policykinds.TIER.gvr, Written, self._on_tier)
        for each in policykinds.SETS:
            self._add(each.gvr, each.record, partial(self._on_set, each))
        self._tasks: asyncio.TaskGroup | None = None
        health.not_ready(PART, "waiting for the API")

    def _add(self, gvr: GVR, decode: type[Any], sink: Callable[[Key, Any], None]) -> None:
        kind = _Kind(gvr, decode, sink)
        if gvr in _BUILT_IN:
            self._kinds.append(kind)
        else:
            self._optional.append(kind)

    # -- following the API ------------------------------------------------------------------------------------------

    async def run(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.engine.on_doubt = self._look
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            for kind in self._kinds:
                self._start(kind)
            tasks.create_task(self._work(), name="policy")

    def _start(self, kind: _Kind) -> None:
        assert self._tasks is not None
        kind.task = self._tasks.create_task(self._watch(kind), name=f"watch-policy-{kind.gvr.plural}")

    async def _watch(self, kind: _Kind) -> None:
        async for item in self._api.watch(kind.gvr, decode=kind.decode):
            if isinstance(item, InSync):
                kind.in_sync = True
            else:
                kind.waiting[item.key] = item.object
            if kind is self._definitions:
                self._define(item)
            self._hear()

    def _hear(self) -> None:
        self._oldest = self._oldest or time.monotonic()
        self._news.set()

    def _define(self, item: Update | InSync) -> None:
        if isinstance(item, InSync):
            # as `ipam.layout.is_classic` decides it, and as seldom: the other layout's definitions are not ours
            older, newer = (f"{IPAMBLOCKS.plural}.{group}" in self._defined for group in (CLASSIC, NATIVE))
            self._classic = older and not newer
        elif item.object is None:
            self._defined.pop(item.key[1], None)
        else:
            served = frozenset(each.name for each in item.object.spec.versions if each.served)
            self._defined[item.key[1]] = served
        if self._definitions.in_sync:
            self._follow()

    def _follow(self) -> None:
        """Watch each kind as long as it is defined, with the version that is read, where the cluster's state lies."""
        for kind in self._optional:
            at = stored_gvr(kind.gvr) if self._classic else kind.gvr
            there = at.version in self._defined.get(f"{at.plural}.{at.group}", ())
            if there and kind.task is None:
                self._start(kind)
            elif not there and kind.task is not None:
                kind.task.cancel()
                kind.task, kind.in_sync = None, False
                kind.waiting = dict.fromkeys(kind.known)

    def _watched(self) -> list[_Kind]:
        return [*self._kinds, *(kind for kind in self._optional if kind.task is not None)]

    def ready(self, pod: Key, uid: str) -> bool:
        """Whether the kernel holds what this pod (of that UID, if one is given) needs. From any thread."""
        known = self._ready.get(pod)
        return known is not None and (not uid or known == uid)

    def await_apply(self, seconds: float) -> None:
        """Until something was applied, or so long. From any thread."""
        with self._done:
            self._done.wait(seconds)

    def _look(self) -> None:
        """`doubt`, from any thread."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self.doubt)

    def doubt(self) -> None:
        """Somebody may have changed the kernel: compare it again, soon."""
        self._doubtful = True
        self._news.set()

    # -- calculating and applying -----------------------------------------------------------------------------------

    async def _work(self) -> None:
        pause, unapplied = 0.0, 0.0
        while True:
            if pause and not await self._news_within(pause):
                self._news.set()
            await self._news.wait()
            await asyncio.sleep(GATHER_SECONDS)
            self._news.clear()
            unapplied, self._oldest = unapplied or self._oldest, 0.0
            doubtful, self._doubtful = self._doubtful, False
            known = all(kind.in_sync for kind in self._watched())
            news = [(kind, self._taken(kind)) for kind in (*self._kinds, *self._optional) if kind.waiting]
            rewired, self._rewired = self._rewired, set()
            if not news and not rewired and not doubtful and not pause and self.applied.is_set():
                continue
            failed = await asyncio.to_thread(self._step, news, rewired, known, doubtful)
            if failed is None:
                unapplied = 0.0 if not known else unapplied
                continue
            pause = self._told(failed, unapplied, pause)
            unapplied = unapplied if pause else 0.0
            if not pause and not await self._news_within(SETTLE_SECONDS):
                await asyncio.to_thread(self._stock)

    async def _news_within(self, seconds: float) -> bool:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._news.wait(), seconds)
            return True
        return False

    def _taken(self, kind: _Kind) -> dict[Key, Any | None]:
        waiting, kind.waiting = kind.waiting, {}
        for key, found in waiting.items():
            (kind.known.add if found is not None else kind.known.discard)(key)
        return waiting

    def _step(
        self, news: list[tuple[_Kind, dict[Key, Any | None]]], rewired: set[Key], known: bool, doubtful: bool
    ) -> list[KernelError] | None:
        """In a thread; None: nothing had to be applied."""
        for kind, waiting in news:
            for key, found in waiting.items():
                kind.sink(key, found)
        for key in rewired & self._pods.keys():
            self._tell_pod(key, self._pods[key])
        if not known:
            return None
        try:
            changes = self.calc.flush()
        except Exhausted as error:
            return [KernelError("calculate policy", ENOSPC, str(error))]
        if doubtful or not self.engine.in_force:
            self.engine.suspect()
            changes = changes or PolicyChanges()
        failed = self.engine.apply(self.calc.state, changes)
        if not failed:
            self._ready = {key: pod.metadata.uid for key, pod in self._pods.items() if key in self.calc.state.pods}
        with self._done:
            self._done.notify_all()
        return failed

    def _stock(self) -> None:
        try:
            self.engine.stock()
        except KernelError as error:
            log.warning("policy slots not made error=%s", error)

    def _told(self, failed: list[KernelError], since: float, pause: float) -> float:
        """The pause before the next attempt, 0 when all is applied."""
        figures = self._health.figures
        if not failed:
            if since:
                figures.observe(families.POLICY_EVENT_TO_KERNEL, time.monotonic() - since)
            self._health.good(PART)
            self.applied.set()
            return 0.0
        for error in failed:
            log.error("policy failed error=%s", error)
        self._health.not_ready(PART, str(failed[0]))
        figures.add(families.POLICY_ERRORS, amount=len(failed))
        return min(max(pause * 2, RETRY_SECONDS[0]), RETRY_SECONDS[1])

    # -- sinks ------------------------------------------------------------------------------------------------------

    def _on_definition(self, key: Key, found: Definition | None) -> None:
        """What follows from it has happened already."""

    def _on_pod(self, key: Key, pod: Pod | None) -> None:
        here = pod is not None and pod.spec.nodeName == self._node and pod.governed
        if pod is not None and here:
            self._pods[key] = pod
            self.calc.on_local(key, True)
            self._tell_pod(key, pod)
            return
        if self._pods.pop(key, None) is not None:
            self.calc.on_local(key, None)
        self.calc.on_pod(key, pod)

    def _tell_pod(self, key: Key, pod: Pod) -> None:
        """A pod that is wired has its addresses, whether or not its kubelet has told the API yet."""
        wired = self._wired.get(key)
        if wired and not pod.addresses:
            status = msgspec.structs.replace(pod.status, podIPs=tuple(PodIP(each) for each in wired))
            pod = msgspec.structs.replace(pod, status=status)
        self.calc.on_pod(key, pod)

    def _on_policy(self, kind: PolicyKind[Any], key: Key, record: Written | None) -> None:
        where = kind.gvr, key
        former = self._policies.pop(where, None)
        policy, problems = None, tuple[str, ...]()
        if record is not None:
            try:
                policy = kind.convert(record)
                problems = policy.problems
            except PolicyError as error:
                problems = (str(error),)
        if former is not None and (policy is None or policy.key != former):
            self.calc.on_policy(former, None)
        if policy is not None:
            self._policies[where] = policy.key
            self.calc.on_policy(policy.key, policy)
        self._see_problems(where, record, problems)

    def _on_tier(self, key: Key, record: Written | None) -> None:
        former, problems = self._tiers.pop(key, None), tuple[str, ...]()
        if record is not None:
            try:
                tier = policykinds.TIER.convert(record)
                self.calc.on_tier(tier.name, tier)
                self._tiers[key] = tier.name
                former = None if former == tier.name else former
            except PolicyError as error:
                problems = (str(error),)
        if former is not None:
            self.calc.on_tier(former, None)
        self._see_problems((policykinds.TIER.gvr, key), record, problems)

    def _on_set(self, kind: PolicyKind[Any], key: Key, record: Written | None) -> None:
        found, problems = None, tuple[str, ...]()
        if record is not None:
            try:
                found = kind.convert(record)
            except PolicyError as error:
                problems = (str(error),)
        self.calc.on_network_set((kind.gvr.plural, key), found)
        self._see_problems((kind.gvr, key), record, problems)

    def _see_problems(self, where: tuple[GVR, Key], record: Written | None, problems: tuple[str, ...]) -> None:
        if problems == self.problems.get(where, ()):
            return
        self.problems.pop(where, None)
        if problems and record is not None:
            self.problems[where] = problems
            name = "/".join(part for part in where[1] if part)
            log.warning("policy not honoured kind=%s name=%s error=%s", where[0].kind, name, "; ".join(problems))
            self._tell(Told(where[0], record, problems))

    def policies(self) -> Counter[tuple[str, str]]:
        """How many policies there are of each kind, honoured as written, or not."""
        told, held = dict(self.problems), list(self._policies)
        found = Counter((where[0].kind, "problem" if where in told else "good") for where in held)
        found.update((where[0].kind, "refused") for where in told if where not in self._policies)
        return found

    # -- what CNI calls ask -----------------------------------------------------------------------------------------

    def wired(self, key: Key, addresses: tuple[str, ...]) -> None:
        """A pod of this node has these addresses now; none: it is not wired any more. From any thread."""
        if addresses:
            self._wired[key] = addresses
        else:
            self._wired.pop(key, None)
        if self._loop is not None and addresses:
            self._loop.call_soon_threadsafe(self._rewire, key)

    def _rewire(self, key: Key) -> None:
        self._rewired.add(key)
        self._hear()
