"""Events: telling people what happened to an object, without flooding the API.

The same event again raises `count` and `lastTimestamp` of the one before; an object that makes very many events is
cut short. Telling is best effort: a refused event is logged, never raised.
Source: the behaviour of client-go's EventCorrelator (aggregation, spam filter of 25 at once and one in five minutes).
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from weakref import WeakKeyDictionary

from podwire.kube.api import Api, ApiError
from podwire.model.gvr import EVENTS

log = logging.getLogger(__name__)

REMEMBERED = 4096  # events and objects
BURST = 25
REFILL_SECONDS = 300.0
FORGET_SECONDS = 3600.0  # the API server drops events after an hour: a later one is a new one

Object = dict[str, Any]
_Subject = tuple[str, str, str, str, str]  # namespace, kind, name, uid, field path


@dataclass(slots=True)
class _Told:
    """An event that stands in the API."""

    name: str
    count: int
    at: float


@dataclass(slots=True)
class _Bucket:
    tokens: float
    at: float


class Recorder:
    """Remembers what it told, per API and process."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._told: OrderedDict[tuple[_Subject, str, str, str, str], _Told] = OrderedDict()
        self._buckets: OrderedDict[tuple[_Subject, str], _Bucket] = OrderedDict()

    async def record(
        self,
        obj: Object,
        kind: str,
        reason: str,
        message: str,
        component: str,
        *,
        host: str = "",
        field_path: str = "",
        same: str = "",
    ) -> None:
        """Tell that `reason` happened to `obj`. `kind` is Normal or Warning; `component` and `host` say who tells it;
        `field_path` names a part, such as spec.containers{web}; `same` is the message without what differs each time
        (an ID, say): events that agree in it are one, with the last one's message."""
        reference = _reference(obj, field_path)
        subject = tuple(reference.get(part, "") for part in ("namespace", "kind", "name", "uid", "fieldPath"))
        assert len(subject) == 5
        source = component + host
        if not self._may(subject, source):
            about = reference["kind"], reference["name"]
            log.debug("event left out for being one of many kind=%s name=%s reason=%s", *about, reason)
            return
        # Events about what lives in no namespace stand in `default`.
        namespace = reference.get("namespace") or "default"
        try:
            await self._tell(
                (subject, kind, reason, same or message, source), message, namespace, reference, component, host
            )
        except ApiError as error:
            # A namespace on its way out refuses new events: that is as it should be.
            level = logging.DEBUG if error.status in (403, 404) else logging.WARNING
            about = reference["kind"], reference["name"]
            log.log(level, "event not recorded kind=%s name=%s reason=%s error=%s", *about, reason, error)

    def _may(self, subject: _Subject, source: str) -> bool:
        now = time.monotonic()
        bucket = self._buckets.get((subject, source))
        if bucket is None:
            bucket = self._buckets[(subject, source)] = _Bucket(BURST, now)
            if len(self._buckets) > REMEMBERED:
                self._buckets.popitem(last=False)
        bucket.tokens = min(BURST, bucket.tokens + (now - bucket.at) / REFILL_SECONDS)
        bucket.at = now
        if bucket.tokens < 1:
            return False
        bucket.tokens -= 1
        return True

    async def _tell(
        self,
        same: tuple[_Subject, str, str, str, str],
        message: str,
        namespace: str,
        reference: Object,
        component: str,
        host: str,
    ) -> None:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        told = self._told.get(same)
        if told is not None and time.monotonic() - told.at < FORGET_SECONDS:
            told.count += 1
            told.at = time.monotonic()
            try:
                news: Object = {"count": told.count, "lastTimestamp": now}
                if message != same[3]:
                    news["message"] = message[:1024]
                await self._api.patch(EVENTS, told.name, news, namespace)
                return
            except ApiError as error:
                if not error.not_found:
                    raise
        _, kind, reason, _, _ = same
        name = f"{reference['name']}.{time.time_ns():x}"
        self._told[same] = _Told(name, 1, time.monotonic())
        if len(self._told) > REMEMBERED:
            self._told.popitem(last=False)
        event = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": name, "namespace": namespace},
            "involvedObject": reference,
            "type": kind,
            "reason": reason,
            "message": message[:1024],
            "source": {"component": component, "host": host} if host else {"component": component},
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
            "reportingComponent": component,
            "reportingInstance": host,
        }
        try:
            await self._api.create(EVENTS, event, namespace)
        except ApiError:
            self._told.pop(same, None)
            raise


_recorders: WeakKeyDictionary[Any, Recorder] = WeakKeyDictionary()


async def record(
    api: Api,
    obj: Object,
    kind: str,
    reason: str,
    message: str,
    component: str,
    *,
    host: str = "",
    field_path: str = "",
) -> None:
    """`Recorder.record` with one Recorder per API."""
    try:
        recorder = _recorders.get(api)
        if recorder is None:
            recorder = _recorders[api] = Recorder(api)
    except TypeError:  # an Api that cannot be referred to weakly: no memory, so no counting
        recorder = Recorder(api)
    await recorder.record(obj, kind, reason, message, component, host=host, field_path=field_path)


def _reference(obj: Object, field_path: str) -> Object:
    metadata = obj.get("metadata") or {}
    reference = {
        "kind": obj.get("kind", ""),
        "namespace": metadata.get("namespace", ""),
        "name": metadata.get("name", ""),
        "uid": metadata.get("uid", ""),
        "apiVersion": obj.get("apiVersion", ""),
        "resourceVersion": metadata.get("resourceVersion", ""),
        "fieldPath": field_path,
    }
    return {key: value for key, value in reference.items() if value}
