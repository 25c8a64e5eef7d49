"""Who does what only one may do: an elected holder of a Lease.

Pure: what a candidate may do next, from what it saw and when by its own clock; effects are in `Elector`. The clocks of
nodes need not agree: a lease is held until nobody has seen it renewed for as long as it says, by the watcher's clock.
Source: the rules and times of client-go's leader election; Lease of coordination.k8s.io/v1.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Any

from podwire.model.api import Api, ApiError, Object
from podwire.model.gvr import LEASES

log = logging.getLogger(__name__)

LEASE_SECONDS = 15.0
RENEW_SECONDS = 10.0
"""A holder that could not renew for so long holds no more: before anybody else can think that it may."""
RETRY_SECONDS = 2.0
JITTER = 1.2


class Step(Enum):
    """What a candidate may do now."""

    WAIT = "wait"  # somebody else holds it
    TAKE = "take"  # nobody holds it any more
    RENEW = "renew"  # it is ours


@dataclass(frozen=True, slots=True)
class Seen:
    """The lease as last read, and when it was first seen so (by the candidate's clock); `version` is its resource
    version."""

    holder: str
    seconds: float
    transitions: int
    version: str
    since: float
    acquired: str = ""


def look(before: Seen | None, lease: Object, now: float) -> Seen:
    """What was just read. What does not fit counts as held by nobody."""
    spec = lease.get("spec")
    spec = spec if isinstance(spec, dict) else {}
    version = str((lease.get("metadata") or {}).get("resourceVersion", ""))
    since = before.since if before is not None and before.version == version else now
    return Seen(
        str(spec.get("holderIdentity") or ""),
        _number(spec.get("leaseDurationSeconds"), LEASE_SECONDS),
        int(_number(spec.get("leaseTransitions"), 0)),
        version,
        since,
        str(spec.get("acquireTime") or ""),
    )


def step(seen: Seen, me: str, now: float) -> Step:
    if seen.holder == me:
        return Step.RENEW
    return Step.TAKE if not seen.holder or now >= seen.since + seen.seconds else Step.WAIT


def spec_of(seen: Seen | None, me: str, at: str) -> Object:
    """The lease's spec when `me` takes or renews it; `at` is the time of day as MicroTime."""
    mine = seen is not None and seen.holder == me
    transitions = 0 if seen is None else seen.transitions + (not mine)
    return {
        "holderIdentity": me,
        "leaseDurationSeconds": int(LEASE_SECONDS),
        "acquireTime": seen.acquired if mine and seen is not None and seen.acquired else at,
        "renewTime": at,
        "leaseTransitions": transitions,
    }


def _number(value: Any, otherwise: float) -> float:
    fits = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 31
    return float(value) if fits else otherwise


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class Elector:
    """A candidate. `run` until cancelled; `leads` says whether it holds the lease at this moment."""

    def __init__(
        self,
        api: Api,
        name: str,
        namespace: str,
        me: str,
        *,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], str] = _now,
        retry: float = RETRY_SECONDS,
    ) -> None:
        self._api = api
        self._name = name
        self._namespace = namespace
        self._me = me
        self._clock = clock
        self._now = now
        self._retry = retry
        self._seen: Seen | None = None
        self._until = 0.0
        self._led = False
        self._told = ""  # the last failure, told once

    def leads(self) -> bool:
        return self._clock() < self._until

    async def run(self) -> None:
        try:
            while True:
                await self.once()
                await asyncio.sleep(self._retry * (1.0 if self.leads() else random.uniform(1.0, 1.0 + JITTER)))
        finally:
            if self.leads():
                await self._let_go()

    async def once(self) -> None:
        """One attempt to take or keep the lease. What goes wrong is logged."""
        began = self._clock()
        try:
            held = await asyncio.wait_for(self._attempt(), RENEW_SECONDS / 2)
        except (ApiError, TimeoutError) as error:
            level = logging.DEBUG if isinstance(error, ApiError) and error.status == 409 else logging.WARNING
            words = str(error) or "no answer in time"
            level, self._told = logging.DEBUG if words == self._told else level, words
            log.log(level, "lease not written lease=%s/%s error=%s", self._namespace, self._name, words)
            held = None
        else:
            self._told = ""
        if held is not None:
            self._until = began + RENEW_SECONDS if held else 0.0
        if self.leads() != self._led:
            self._led = not self._led
            lease = f"{self._namespace}/{self._name}"
            if self._led:
                log.info("lease taken lease=%s holder=%s", lease, self._me)
            else:
                log.info("lease lost lease=%s holder=%s", lease, self._me)

    async def _attempt(self) -> bool:
        """Whether the lease is ours now. Raises ApiError."""
        try:
            lease = await self._api.get(LEASES, self._name, self._namespace)
        except ApiError as error:
            if not error.not_found:
                raise
            lease = {"metadata": {"name": self._name}, "spec": spec_of(None, self._me, self._now())}
            self._seen = look(None, await self._api.create(LEASES, lease, self._namespace), self._clock())
            return True
        self._seen = look(self._seen, lease, self._clock())
        if step(self._seen, self._me, self._clock()) is Step.WAIT:
            return False
        lease["spec"] = spec_of(self._seen, self._me, self._now())
        self._seen = look(None, await self._api.update(LEASES, lease), self._clock())
        return True

    async def _let_go(self) -> None:
        """So that the next one need not wait until the lease has run out. Best effort."""
        self._until = 0.0
        try:
            async with asyncio.timeout(2):
                lease = await self._api.get(LEASES, self._name, self._namespace)
                if lease["spec"].get("holderIdentity") == self._me:
                    lease["spec"] |= {"holderIdentity": "", "leaseDurationSeconds": 1}
                    await self._api.update(LEASES, lease)
        except (ApiError, TimeoutError, KeyError) as error:
            log.info("lease not given back lease=%s/%s error=%s", self._namespace, self._name, error)
