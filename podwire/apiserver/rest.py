"""The verbs of the API on values: get, list, create, update, patch. No HTTP in here; deletion is in deletion.py.

Each write reads the newest staged version, computes and stages its result without awaiting in between, then waits for
the disk (see store.py): compare-and-swap without a loop. Source of the behaviour: k8s.io/apiserver registry/generic
and endpoints/handlers.
"""

from __future__ import annotations

import base64
import binascii
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from podwire.apiserver import shape
from podwire.apiserver.addresses import ServiceAddresses
from podwire.apiserver.admission import Admission
from podwire.apiserver.durations import timestamp
from podwire.apiserver.errors import (
    StatusCause,
    StatusError,
    already_exists,
    bad_request,
    conflict,
    forbidden,
    invalid,
    not_found,
)
from podwire.apiserver.kinds_pod import random_suffix
from podwire.apiserver.managedfields import track
from podwire.apiserver.resources import Registry, Resource
from podwire.apiserver.selection import Selection
from podwire.apiserver.shape import Object, Options
from podwire.apiserver.store import Collection, Key, Store, Stored, encode
from podwire.model.gvr import NAMESPACES

Change = Callable[[Object], Object]
_GENERATED_NAME = 58  # apimachinery's limit for the prefix of generateName


@dataclass(frozen=True, slots=True)
class Page:
    """A list, or a part of one. `token` continues it; `remaining` is None when it is not known."""

    items: list[Stored]
    revision: int
    token: str = ""
    remaining: int | None = None


class Rest:
    """The verbs over one store."""

    def __init__(self, store: Store, registry: Registry, addresses: ServiceAddresses) -> None:
        self.store = store
        self.registry = registry
        self.addresses = addresses

    def collection(self, resource: Resource) -> Collection:
        return self.store.collection(resource.storage)

    # reading

    def get(self, resource: Resource, namespace: str, name: str) -> Stored:
        """The committed object, in the version of `resource`. Raises 404."""
        stored = self.collection(resource).objects.get((namespace, name))
        if stored is None:
            raise not_found(resource.gvr, name)
        return self.versioned(resource, stored)

    def versioned(self, resource: Resource, stored: Stored) -> Stored:
        """The same object as `resource` shows it, which for most kinds is as it is stored."""
        if resource.from_storage is None:
            return stored
        shown = resource.from_storage(stored.object)
        return Stored(shown, encode(shown), stored.revision)

    def latest(self, resource: Resource, namespace: str, name: str) -> Stored:
        """What a write must build on. Raises 404."""
        stored = self.collection(resource).latest((namespace, name))
        if stored is None:
            raise not_found(resource.gvr, name)
        return stored

    def list(
        self,
        resource: Resource,
        selection: Selection,
        *,
        limit: int = 0,
        token: str = "",
        version: str = "",
        match: str = "",
    ) -> Page:
        """Objects in key order. `version` and `match` are resourceVersion and resourceVersionMatch. Raises
        StatusError 400, 410, 504."""
        collection = self.collection(resource)
        revision, after = self.store.revision, None
        objects = collection.objects
        if token:
            revision, after = _read_token(token)
            if revision != self.store.revision:
                objects = collection.at(revision)
        elif asked := read_version(version):
            self.store.check_version(asked)
            if match == "Exact":
                revision, objects = asked, collection.at(asked)
        if objects is collection.objects:
            keys = collection.keys_in(selection.namespace, after)
        else:
            keys = [
                key for key in sorted(objects) if selection.namespace in ("", key[0]) and (not after or key > after)
            ]
        if selection.name:
            keys = [key for key in keys if key[1] == selection.name]
        return self._page(resource, selection, objects, keys, limit, revision)

    def _page(
        self,
        resource: Resource,
        selection: Selection,
        objects: dict[Key, Stored],
        keys: Sequence[Key],
        limit: int,
        revision: int,
    ) -> Page:
        items: list[Stored] = []
        for position, key in enumerate(keys):
            stored = self.versioned(resource, objects[key])
            if selection.selective and not selection.matches(stored.object):
                continue
            if limit and len(items) == limit:
                remaining = None if selection.selective else len(keys) - position
                return Page(items, revision, _write_token(revision, keys[position - 1]), remaining)
            items.append(stored)
        return Page(items, revision)

    # writing

    def admission(self, options: Options) -> Admission:
        return Admission(self.store, self.addresses, options.user, options.now, options.dry_run, options.warnings)

    async def create(self, resource: Resource, namespace: str, obj: Any, options: Options, name: str = "") -> Stored:
        """Store a new object. Raises StatusError."""
        obj = shape.check_identity(resource, obj, namespace, name)
        shape.read_fields(resource, obj, options)
        return await self.create_read(resource, namespace, obj, options)

    async def create_read(
        self, resource: Resource, namespace: str, obj: Object, options: Options, *, applied: bool = False
    ) -> Stored:
        """`create` behind the decoder. An `applied` object brings its managedFields."""
        gvr, metadata = resource.gvr, obj["metadata"]
        if gvr.namespaced:
            self.check_namespace(resource, namespace, metadata.get("name", ""))
        if metadata.get("resourceVersion"):
            raise StatusError(500, "", "resourceVersion should not be set on objects to be created")
        self._new_metadata(resource, obj, options, applied=applied)
        admission = self.admission(options)
        shape.fill_in(resource, obj)
        if resource.has_status and not resource.keeps_status_on_create and resource.is_custom:
            obj.pop("status", None)
        if not applied:
            track(resource, None, obj, options, "")  # before the hooks: what admission adds belongs to nobody
        if resource.create:
            resource.create(admission, obj)
        shape.check(resource, obj, None)
        key = (namespace, metadata["name"])
        if self.collection(resource).latest(key) is not None:
            raise already_exists(gvr, metadata["name"])
        if resource.finish:
            resource.finish(admission, obj, None)
        return await self._put(resource, key, obj, options)

    def check_namespace(self, resource: Resource, namespace: str, name: str) -> None:
        """New objects need a namespace that lives. Raises 404, 403."""
        found = self.store.collection("namespaces").latest(("", namespace))
        if found is None:
            raise not_found(NAMESPACES, namespace)
        if found.object["metadata"].get("deletionTimestamp"):
            why = f"unable to create new content in namespace {namespace} because it is being terminated"
            cause = StatusCause(
                "NamespaceTerminating", f"namespace {namespace} is being terminated", "metadata.namespace"
            )
            raise forbidden(resource.gvr, name, why, [cause])

    def _new_metadata(self, resource: Resource, obj: Object, options: Options, *, applied: bool) -> None:
        metadata = obj["metadata"]
        if not metadata.get("name"):
            prefix = metadata.get("generateName")
            if not prefix:
                message = "Required value: name or generateName is required"
                cause = StatusCause("FieldValueRequired", message, "metadata.name")
                raise invalid(resource.gvr, "", [cause])
            metadata["name"] = self._free_name(resource, metadata.get("namespace", ""), prefix)
        for key in ("selfLink", "deletionTimestamp", "deletionGracePeriodSeconds", "resourceVersion"):
            metadata.pop(key, None)
        if not applied:
            metadata.pop("managedFields", None)
        metadata["uid"] = str(uuid.uuid4())
        metadata["creationTimestamp"] = timestamp(options.now)
        if resource.generation or resource.is_custom:
            metadata["generation"] = 1

    def _free_name(self, resource: Resource, namespace: str, prefix: str) -> str:
        collection = self.collection(resource)
        while True:
            name = prefix[:_GENERATED_NAME] + random_suffix()
            if collection.latest((namespace, name)) is None:
                return name

    async def _put(self, resource: Resource, key: Key, obj: Object, options: Options) -> Stored:
        if options.dry_run:
            return Stored(obj, encode(obj), 0)
        kept = resource.to_storage(obj) if resource.to_storage else obj
        stored = await self.store.put(resource.storage, key, kept)
        assert stored is not None
        return self.versioned(resource, stored)

    async def update(
        self, resource: Resource, namespace: str, name: str, obj: Any, options: Options, subresource: str = ""
    ) -> Stored:
        """PUT: replace the object, or one subresource of it. Raises StatusError."""
        obj = shape.check_identity(resource, obj, namespace, name)
        shape.read_fields(resource, obj, options)
        if (
            self.collection(resource).latest((namespace, name)) is None
            and resource.create_on_update
            and not subresource
        ):
            obj["metadata"].pop("resourceVersion", None)
            return await self.create_read(resource, namespace, obj, options)
        stored = self.latest(resource, namespace, name)
        if resource.is_custom and not obj["metadata"].get("resourceVersion"):
            message = "Invalid value: 0: must be specified for an update"
            cause = StatusCause("FieldValueInvalid", message, "metadata.resourceVersion")
            raise invalid(replace(resource.gvr, kind=resource.gvr.plural), name, [cause])
        return await self.change(resource, stored, obj, options, subresource)

    async def patch(
        self, resource: Resource, namespace: str, name: str, patched: Change, options: Options, subresource: str = ""
    ) -> Stored:
        """PATCH: `patched` makes the new object from a copy of the present one. Raises StatusError."""
        stored = self.latest(resource, namespace, name)
        current = self.versioned(resource, stored).copy()
        obj = shape.check_identity(resource, patched(current), namespace, name)
        shape.read_fields(resource, obj, options)
        return await self.change(resource, stored, obj, options, subresource)

    async def change(
        self,
        resource: Resource,
        stored: Stored,
        obj: Object,
        options: Options,
        subresource: str = "",
        *,
        applied: bool = False,
    ) -> Stored:
        """Replace `stored` by `obj`, which belongs to this call from now on: restore what a writer may not change,
        default, validate, count the generation, and complete a deletion that this write was waited for."""
        old = self.versioned(resource, stored).object
        metadata, before = obj["metadata"], old["metadata"]
        self._check_versions(resource, metadata, before)
        if subresource == "status":
            obj = _only_status(resource, obj, self.versioned(resource, stored).copy())
        elif resource.has_status:
            _keep(obj, old, "status")
        _keep_metadata(obj["metadata"], before)
        shape.fill_in(resource, obj)
        if not applied:
            track(resource, old, obj, options, subresource)
        admission = self.admission(options)
        if resource.update and not subresource:
            resource.update(admission, obj, old)
        if (resource.generation or resource.is_custom) and _wants_new_generation(resource, obj, old):
            obj["metadata"]["generation"] = before.get("generation", 0) + 1
        shape.check(resource, obj, old)
        if resource.finish and not subresource:
            resource.finish(admission, obj, old)
        return await self._put_changed(resource, stored, obj, old, options)

    async def _put_changed(
        self, resource: Resource, stored: Stored, obj: Object, old: Object, options: Options
    ) -> Stored:
        metadata = obj["metadata"]
        key = (metadata.get("namespace", ""), metadata["name"])
        metadata["resourceVersion"] = old["metadata"]["resourceVersion"]
        if is_finished(resource, obj):
            if not options.dry_run:
                await self.store.remove(resource.storage, key)
            return Stored(obj, encode(obj), stored.revision)
        if shape.same(obj, old):
            return self.versioned(resource, stored)
        return await self._put(resource, key, obj, options)

    @staticmethod
    def _check_versions(resource: Resource, metadata: Object, before: Object) -> None:
        name = before["name"]
        if metadata.get("uid", before["uid"]) != before["uid"]:
            why = f"Precondition failed: UID in precondition: {metadata['uid']}, UID in object meta: {before['uid']}"
            raise conflict(resource.gvr, name, why)
        asked = metadata.get("resourceVersion")
        if asked and asked != before["resourceVersion"]:
            if not str(asked).isdigit():
                message = f"Invalid value: {encode(asked).decode()}: must be a number"
                cause = StatusCause("FieldValueInvalid", message, "metadata.resourceVersion")
                raise invalid(resource.gvr, name, [cause])
            raise conflict(resource.gvr, name)


def is_finished(resource: Resource, obj: Object) -> bool:
    """Whether an object that is being deleted has nothing left to wait for."""
    metadata = obj["metadata"]
    if not metadata.get("deletionTimestamp") or metadata.get("finalizers"):
        return False
    if resource.gvr == NAMESPACES:
        return not (obj.get("spec") or {}).get("finalizers")
    return not metadata.get("deletionGracePeriodSeconds")


def _only_status(resource: Resource, obj: Object, kept: Object) -> Object:
    """`kept`, a copy of the present object, with the status of `obj`."""
    for key in ("labels", "annotations", "finalizers") if resource.status_metadata else ():
        _keep(kept["metadata"], obj["metadata"], key)
    _keep(kept["metadata"], obj["metadata"], "managedFields")
    _keep(kept, obj, "status")
    return kept


def _keep(obj: Object, old: Object, key: str) -> None:
    """Make `key` what it was before."""
    if key in old:
        obj[key] = old[key]
    else:
        obj.pop(key, None)


def _keep_metadata(metadata: Object, before: Object) -> None:
    for key in ("uid", "creationTimestamp", "generation", "deletionTimestamp", "deletionGracePeriodSeconds"):
        _keep(metadata, before, key)
    metadata.pop("selfLink", None)
    if metadata.get("finalizers") == []:
        del metadata["finalizers"]


def _wants_new_generation(resource: Resource, obj: Object, old: Object) -> bool:
    without = ("metadata", "status") if resource.has_status or not resource.is_custom else ("metadata",)
    keys = (obj.keys() | old.keys()) - set(without)
    return any(obj.get(key) != old.get(key) for key in keys)


def read_version(text: str) -> int:
    """resourceVersion as a number; "" and "0" mean any. Raises 400."""
    if not text:
        return 0
    if not text.isdigit():
        message = f'Invalid value: "{text}": strconv.ParseUint: parsing "{text}": invalid syntax'
        raise StatusError(400, "BadRequest", f"invalid resource version: resourceVersion: {message}")
    return int(text)


def _write_token(revision: int, after: Key) -> str:
    return base64.urlsafe_b64encode(encode([revision, *after])).decode().rstrip("=")


def _read_token(token: str) -> tuple[int, Key]:
    try:
        revision, namespace, name = msgspec.json.decode(
            base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)), type=tuple[int, str, str]
        )
    except (msgspec.MsgspecError, binascii.Error, ValueError) as error:
        raise bad_request(f"continue key is not valid: {error}") from error
    return revision, (namespace, name)


__all__ = ["Page", "Rest", "is_finished", "read_version"]
