"""An API in memory with the real one's manners, for tests of everything that speaks `Api`.

It keeps resource versions, refuses lost updates, honours finalizers and graceful deletion, keeps status and spec apart
for the kinds that do, and streams watches from a log that can be compacted. It does not validate or default objects.
Faults: `fail_next` makes calls fail, `latency` slows them, `compact` and `break_watches` disturb watches.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import msgspec

from podwire.kube import fakepatch
from podwire.kube.watch import Change, Gone, Interrupted, Pause, Record, Unstreamed, reflect
from podwire.model import gvr as resources
from podwire.model.api import ApiError, InSync, Key, Object, Update
from podwire.model.gvr import GVR
from podwire.model.selectors import parse_field_selector, parse_label_selector

_WITH_STATUS = {"namespaces", "nodes", "pods", "services", "replicasets", "deployments", "daemonsets"}
_WITH_STATUS |= {"networkpolicies", "customresourcedefinitions"}

Matcher = Callable[[Object], bool]


@dataclass(slots=True)
class Fault:
    """`error` for the next `times` calls of `verb` ("" = any) on `plural` ("" = any)."""

    error: ApiError
    verb: str
    plural: str
    times: int


@dataclass(slots=True)
class _Event:
    version: int
    type: str
    collection: tuple[str, str]
    body: bytes
    before: bytes | None


@dataclass(slots=True)
class FakeApi:
    """Implements Api. `calls` counts by (verb, plural)."""

    latency: float = 0.0
    streams: bool = True  # what there is, as a stream (WatchList); else lists only
    calls: dict[tuple[str, str], int] = field(default_factory=dict)
    pause: Pause = field(default_factory=lambda: Pause(0.005, 0.05))
    _objects: dict[tuple[str, str], dict[Key, bytes]] = field(default_factory=dict)
    _log: list[_Event] = field(default_factory=list)
    _version: int = 0
    _compacted: int = 0
    _generation: int = 0  # of the watches: raised to break all of them
    _bookmarks: int = 0
    _open: dict[_FakeSource, int] = field(default_factory=dict)  # streams → bookmarks told
    _faults: list[Fault] = field(default_factory=list)
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    # -- for tests ------------------------------------------------------------------------------------------------

    def fail_next(self, error: ApiError | None = None, *, verb: str = "", plural: str = "", times: int = 1) -> None:
        """Make the next matching calls fail (by default as a server that cannot be reached)."""
        self._faults.append(Fault(error or ApiError(0, "ConnectionError", "connection refused"), verb, plural, times))

    def recover(self) -> None:
        """No call fails any more."""
        self._faults.clear()

    def compact(self) -> None:
        """Forget the history: watches that lag get 410."""
        self._log.clear()
        self._compacted = self._version

    async def bookmark(self) -> None:
        """Tell every open watch how far history has come."""
        self._bookmarks += 1
        self._wake()
        while any(told < self._bookmarks for told in self._open.values()):
            await asyncio.sleep(0)

    def break_watches(self) -> None:
        """Cut every open watch."""
        self._generation += 1
        self._wake()

    @property
    def watching(self) -> int:
        """How many watches wait for what comes."""
        return len(self._open)

    def objects(self, gvr: GVR) -> list[Object]:
        """Everything of a kind, by key."""
        held = self._objects.get((gvr.group, gvr.plural), {})
        return [msgspec.json.decode(held[key]) for key in sorted(held)]

    # -- Api ------------------------------------------------------------------------------------------------------

    async def get(self, gvr: GVR, name: str, namespace: str = "", subresource: str = "") -> Object:
        await self._enter("get", gvr)
        obj = self._load(gvr, namespace, name)
        return _scale(gvr, obj) if subresource == "scale" else obj

    async def list(
        self, gvr: GVR, namespace: str = "", *, label_selector: str = "", field_selector: str = ""
    ) -> tuple[list[Object], str]:
        await self._enter("list", gvr)
        wanted = _matcher(namespace, label_selector, field_selector)
        return [obj for obj in self.objects(gvr) if wanted(obj)], str(self._version)

    async def create(
        self, gvr: GVR, obj: Object, namespace: str = "", *, subresource: str = "", name: str = ""
    ) -> Object:
        await self._enter("create", gvr)
        obj = _copy(obj)
        metadata = obj.setdefault("metadata", {})
        where = (namespace or metadata.get("namespace", "")) if gvr.namespaced else ""
        if subresource:
            return self._act(gvr, where, name or metadata.get("name", ""), subresource, obj)
        return self._insert(gvr, where, obj)

    async def update(self, gvr: GVR, obj: Object, *, subresource: str = "") -> Object:
        await self._enter("update", gvr)
        obj = _copy(obj)
        metadata = obj["metadata"]
        old = self._load(gvr, metadata.get("namespace", ""), metadata["name"])
        return self._replace(gvr, old, obj, subresource)

    async def patch(
        self,
        gvr: GVR,
        name: str,
        patch: Any,
        namespace: str = "",
        *,
        kind: str = "merge",
        subresource: str = "",
        manager: str = "",
        force: bool = False,
    ) -> Object:
        await self._enter("patch", gvr)
        patch = _copy(patch)
        try:
            old = self._load(gvr, namespace, name)
        except ApiError as error:
            if kind != "apply" or not error.not_found:
                raise
            patch.setdefault("metadata", {})["name"] = name
            return self._insert(gvr, namespace if gvr.namespaced else "", patch)
        change = {"merge": fakepatch.merge_patch, "json": fakepatch.json_patch}.get(kind, fakepatch.strategic_merge)
        target = _scale(gvr, old) if subresource == "scale" else _copy(old)
        if not (isinstance(patch, dict) and (patch.get("metadata") or {}).get("resourceVersion")):
            target["metadata"].pop("resourceVersion", None)
        try:
            new = change(target, patch)
        except fakepatch.PatchError as error:
            raise ApiError(422, "Invalid", str(error)) from error
        return self._replace(gvr, old, new, subresource)

    async def delete(
        self,
        gvr: GVR,
        name: str,
        namespace: str = "",
        *,
        uid: str = "",
        resource_version: str = "",
        grace: int | None = None,
        propagation: str = "",
    ) -> None:
        await self._enter("delete", gvr)
        obj = self._load(gvr, namespace, name)
        metadata = obj["metadata"]
        for what, wanted, have in (
            ("UID", uid, metadata["uid"]),
            ("ResourceVersion", resource_version, metadata["resourceVersion"]),
        ):
            if wanted and wanted != have:
                raise _conflict(gvr, name, f"Precondition failed: {what} in precondition: {wanted}, got: {have}")
        self._remove_or_mark(gvr, obj, grace, propagation)

    def watch(
        self,
        gvr: GVR,
        namespace: str = "",
        *,
        label_selector: str = "",
        field_selector: str = "",
        decode: type[Any] | None = None,
    ) -> AsyncIterator[Update | InSync]:
        source = _FakeSource(self, gvr, _matcher(namespace, label_selector, field_selector), decode)
        return reflect(source, f"{gvr.plural} (fake)", self.pause)

    async def close(self) -> None:
        self.break_watches()

    # -- inside ---------------------------------------------------------------------------------------------------

    async def _enter(self, verb: str, gvr: GVR) -> None:
        self.calls[(verb, gvr.plural)] = self.calls.get((verb, gvr.plural), 0) + 1
        await asyncio.sleep(self.latency)
        for fault in self._faults:
            if fault.times > 0 and fault.verb in ("", verb) and fault.plural in ("", gvr.plural):
                fault.times -= 1
                raise fault.error

    def _load(self, gvr: GVR, namespace: str, name: str) -> Object:
        body = self._objects.get((gvr.group, gvr.plural), {}).get((namespace if gvr.namespaced else "", name))
        if body is None:
            details = {"name": name, "group": gvr.group, "kind": gvr.plural}
            raise ApiError(404, "NotFound", f'{_resource(gvr)} "{name}" not found', details)
        found: Object = msgspec.json.decode(body)
        return found

    def _insert(self, gvr: GVR, namespace: str, obj: Object) -> Object:
        metadata = obj.setdefault("metadata", {})
        if gvr.namespaced:
            if not namespace:
                raise ApiError(400, "BadRequest", "an empty namespace may not be set during creation")
            if metadata.get("namespace", namespace) != namespace:
                raise ApiError(400, "BadRequest", "the namespace of the provided object does not match the request")
            metadata["namespace"] = namespace
        else:
            metadata.pop("namespace", None)
        if not metadata.get("name"):
            if not metadata.get("generateName"):
                raise ApiError(422, "Invalid", f"{gvr.kind} is invalid: metadata.name: Required value")
            metadata["name"] = metadata["generateName"] + uuid.uuid4().hex[:5]
        if metadata.get("resourceVersion"):
            raise ApiError(400, "BadRequest", "resourceVersion should not be set on objects to be created")
        name = metadata["name"]
        if (namespace, name) in self._objects.get((gvr.group, gvr.plural), {}):
            raise ApiError(409, "AlreadyExists", f'{_resource(gvr)} "{name}" already exists')
        obj["apiVersion"], obj["kind"] = gvr.api_version, gvr.kind
        metadata |= {"uid": str(uuid.uuid4()), "creationTimestamp": _now(), "generation": 1}
        if gvr == resources.NAMESPACES:
            obj.setdefault("spec", {}).setdefault("finalizers", ["kubernetes"])
            obj.setdefault("status", {}).setdefault("phase", "Active")
        return self._store(gvr, obj, "ADDED")

    def _replace(self, gvr: GVR, old: Object, new: Object, subresource: str) -> Object:
        before, after = old["metadata"], new.setdefault("metadata", {})
        version = after.get("resourceVersion")
        if version and version != before["resourceVersion"]:
            words = "the object has been modified; please apply your changes to the latest version and try again"
            raise _conflict(gvr, before["name"], words)
        if after.get("uid") and after["uid"] != before["uid"]:
            raise _conflict(gvr, before["name"], f"Precondition failed: UID in precondition: {after['uid']}")
        if subresource == "scale":
            result = _copy(old)
            result.setdefault("spec", {})["replicas"] = (new.get("spec") or {}).get("replicas", 0)
        elif subresource == "status":
            result = {**old, "status": new.get("status", {})}
            for part in ("annotations", "labels"):
                if part in after:
                    result["metadata"] = {**result["metadata"], part: after[part]}
        else:
            result = {**new}
            if gvr.plural in _WITH_STATUS and subresource != "finalize":
                result.pop("status", None)
                if "status" in old:
                    result["status"] = old["status"]
        return self._write(gvr, old, result, _scale if subresource == "scale" else None)

    def _write(
        self, gvr: GVR, old: Object, new: Object, shape: Callable[[GVR, Object], Object] | None = None
    ) -> Object:
        """Store a changed object with the metadata that a client cannot change; end it if nothing holds it any more."""
        before = old["metadata"]
        kept = ("uid", "creationTimestamp", "generation", "deletionTimestamp", "deletionGracePeriodSeconds", "name")
        metadata = {**new["metadata"], **{name: before[name] for name in kept if name in before}}
        metadata["resourceVersion"] = before["resourceVersion"]
        if "namespace" in before:
            metadata["namespace"] = before["namespace"]
        new = {**new, "metadata": metadata, "apiVersion": gvr.api_version, "kind": gvr.kind}
        if new.get("spec") != old.get("spec"):
            metadata["generation"] = before.get("generation", 1) + 1
        if new == old:
            return shape(gvr, old) if shape else old
        if _finished(gvr, new):
            return self._store(gvr, new, "DELETED")
        stored = self._store(gvr, new, "MODIFIED")
        return shape(gvr, stored) if shape else stored

    def _remove_or_mark(self, gvr: GVR, obj: Object, grace: int | None, propagation: str) -> None:
        metadata = obj["metadata"]
        finalizers = list(metadata.get("finalizers") or [])
        wanted = {"Foreground": "foregroundDeletion", "Orphan": "orphan"}.get(propagation, "")
        if wanted and wanted not in finalizers:
            metadata["finalizers"] = finalizers = [*finalizers, wanted]
        seconds = 0
        if gvr == resources.PODS and obj.get("spec", {}).get("nodeName"):
            default = obj["spec"].get("terminationGracePeriodSeconds", 30)
            seconds = default if grace is None else grace
        held = finalizers or seconds or (gvr == resources.NAMESPACES and (obj.get("spec") or {}).get("finalizers"))
        if not held:
            self._store(gvr, obj, "DELETED")
            return
        first = "deletionTimestamp" not in metadata
        shorter = seconds < metadata.get("deletionGracePeriodSeconds", seconds)
        if first or shorter:
            metadata.setdefault("deletionTimestamp", _now())
            metadata["deletionGracePeriodSeconds"] = seconds
            if gvr == resources.NAMESPACES:
                obj.setdefault("status", {})["phase"] = "Terminating"
            self._store(gvr, obj, "MODIFIED")

    def _act(self, gvr: GVR, namespace: str, name: str, subresource: str, body: Object) -> Object:
        """Subresources that are created rather than stored."""
        obj = self._load(gvr, namespace, name)
        success = {"apiVersion": "v1", "kind": "Status", "status": "Success"}
        if subresource == "binding":
            if obj.get("spec", {}).get("nodeName"):
                raise _conflict(gvr, name, f"pod {name} is already assigned to node {obj['spec']['nodeName']}")
            obj.setdefault("spec", {})["nodeName"] = body["target"]["name"]
            conditions = obj.setdefault("status", {}).setdefault("conditions", [])
            conditions[:] = [c for c in conditions if c.get("type") != "PodScheduled"]
            conditions.append({"type": "PodScheduled", "status": "True", "lastTransitionTime": _now()})
            self._store(gvr, obj, "MODIFIED")
            return success
        if subresource == "eviction":
            self._remove_or_mark(gvr, obj, (body.get("deleteOptions") or {}).get("gracePeriodSeconds"), "")
            return success
        if subresource == "token":
            return {**body, "status": {"token": f"fake-token-of-{namespace}-{name}", "expirationTimestamp": _now()}}
        raise ApiError(404, "NotFound", "the server could not find the requested resource")

    def _store(self, gvr: GVR, obj: Object, event: str) -> Object:
        metadata = obj["metadata"]
        held = self._objects.setdefault((gvr.group, gvr.plural), {})
        key = (metadata.get("namespace", ""), metadata["name"])
        self._version += 1
        metadata["resourceVersion"] = str(self._version)
        body, before = msgspec.json.encode(obj), held.get(key)
        if event == "DELETED":
            del held[key]
        else:
            held[key] = body
        self._log.append(_Event(self._version, event, (gvr.group, gvr.plural), body, before))
        self._wake()
        stored: Object = msgspec.json.decode(body)
        return stored

    def _wake(self) -> None:
        self._news.set()
        self._news = asyncio.Event()


class _FakeSource:
    """One collection of a FakeApi for `reflect`."""

    def __init__(self, api: FakeApi, gvr: GVR, wanted: Matcher, decode: type[Any] | None) -> None:
        self._api, self._gvr, self._wanted, self._decode = api, gvr, wanted, decode

    async def snapshot(self) -> tuple[list[Record], str]:
        try:
            items, version = await self._api.list(self._gvr)
        except ApiError as error:
            raise (Gone() if error.status == 410 else Interrupted(error.message)) from error
        return [self._record(item) for item in items if self._wanted(item)], version

    async def stream(self) -> AsyncGenerator[Change, None]:
        if not self._api.streams:
            raise Unstreamed
        await self._enter()
        generation, version = self._api._generation, self._api._version
        for item in self._api.objects(self._gvr):
            if self._wanted(item):
                yield Change("ADDED", self._record(item))
        yield Change("LEARNED", Record(("", ""), str(version), None))
        async for change in self._after(version, generation):
            yield change

    async def changes(self, version: str) -> AsyncGenerator[Change, None]:
        await self._enter()
        async for change in self._after(int(version), self._api._generation):
            yield change

    async def _enter(self) -> None:
        try:
            await self._api._enter("watch", self._gvr)
        except ApiError as error:
            raise (Gone() if error.status == 410 else Interrupted(error.message)) from error

    async def _after(self, at: int, generation: int) -> AsyncGenerator[Change, None]:
        self._api._open[self] = self._api._bookmarks
        try:
            while True:
                if self._api._generation != generation:
                    raise Interrupted("the stream was cut")
                if at < self._api._compacted:
                    raise Gone
                news = self._api._news
                for event in [event for event in self._api._log if event.version > at]:
                    at = event.version
                    if event.collection == (self._gvr.group, self._gvr.plural) and (change := self._change(event)):
                        yield change
                if self._api._open[self] < self._api._bookmarks:
                    self._api._open[self] += 1
                    yield Change("BOOKMARK", Record(("", ""), str(at), None))
                if news is self._api._news:
                    await news.wait()
        finally:
            self._api._open.pop(self, None)

    def _change(self, event: _Event) -> Change | None:
        """With a selector, objects come and go as they begin and cease to match."""
        obj = msgspec.json.decode(event.body)
        matched = event.before is not None and self._wanted(msgspec.json.decode(event.before))
        matches = event.type != "DELETED" and self._wanted(obj)
        if matches:
            return Change("MODIFIED" if matched else "ADDED", self._record(obj))
        return Change("DELETED", self._record(obj)) if matched else None

    def _record(self, obj: Object) -> Record:
        metadata = obj["metadata"]
        value: Any = obj
        if self._decode is not None:
            try:
                value = msgspec.convert(obj, self._decode)
            except msgspec.ValidationError:
                value = None
        return Record((metadata.get("namespace", ""), metadata["name"]), metadata["resourceVersion"], value)


def _copy(obj: Any) -> Any:
    return msgspec.json.decode(msgspec.json.encode(obj))


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _resource(gvr: GVR) -> str:
    return f"{gvr.plural}.{gvr.group}" if gvr.group else gvr.plural


def _conflict(gvr: GVR, name: str, words: str) -> ApiError:
    message = f'Operation cannot be fulfilled on {_resource(gvr)} "{name}": {words}'
    return ApiError(409, "Conflict", message, {"name": name, "group": gvr.group, "kind": gvr.plural})


def _finished(gvr: GVR, obj: Object) -> bool:
    metadata = obj["metadata"]
    if "deletionTimestamp" not in metadata or metadata.get("finalizers"):
        return False
    if gvr == resources.PODS and metadata.get("deletionGracePeriodSeconds"):
        return False
    return not (gvr == resources.NAMESPACES and (obj.get("spec") or {}).get("finalizers"))


def _scale(gvr: GVR, obj: Object) -> Object:
    metadata = {key: obj["metadata"][key] for key in ("name", "namespace", "uid", "resourceVersion")}
    replicas = (obj.get("spec") or {}).get("replicas", 1)
    status = {"replicas": (obj.get("status") or {}).get("replicas", 0)}
    return {
        "apiVersion": "autoscaling/v1",
        "kind": "Scale",
        "metadata": metadata,
        "spec": {"replicas": replicas},
        "status": status,
    }


def _matcher(namespace: str, label_selector: str, field_selector: str) -> Matcher:
    labels, fields = parse_label_selector(label_selector), parse_field_selector(field_selector)

    def wanted(obj: Object) -> bool:
        metadata = obj["metadata"]
        in_scope = not namespace or metadata.get("namespace", "") == namespace
        return in_scope and labels.matches(metadata.get("labels")) and fields.matches(obj)

    return wanted
