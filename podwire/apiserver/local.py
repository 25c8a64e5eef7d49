"""The API without HTTP, for the control plane's own loops: the same verbs, the same checks, plain values.

Implements `kube.api.Api`. Objects that go in and come out are copies: neither side can change the other's.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any, NoReturn

import msgspec

from podwire.apiserver import deletion, subresources
from podwire.apiserver.errors import StatusError, method_not_allowed, not_found
from podwire.apiserver.patching import patch_object
from podwire.apiserver.resources import Resource
from podwire.apiserver.rest import Rest
from podwire.apiserver.selection import Selection, selection
from podwire.apiserver.shape import Options
from podwire.apiserver.store import encode
from podwire.apiserver.watch import seen
from podwire.kube.api import ApiError
from podwire.kube.watch import Change, Gone, InSync, Pause, Record, Update, reflect
from podwire.model.gvr import GVR

Object = dict[str, Any]
_decode = msgspec.json.Decoder(dict[str, Any]).decode


def _raise(error: StatusError) -> NoReturn:
    raise ApiError(error.code, error.reason, error.message, error.details) from error


class LocalClient:
    """Implements Api in the event loop of the server. `manager` names its writes in managedFields."""

    def __init__(self, rest: Rest, token_key: bytes, manager: str = "podwire-controllers") -> None:
        self._rest = rest
        self._token_key = token_key
        self._manager = manager

    def _resource(self, gvr: GVR) -> Resource:
        found = self._rest.registry.find(gvr.group, gvr.version, gvr.plural)
        if found is None:
            raise ApiError(404, "NotFound", f"the server could not find the requested resource ({gvr.plural})")
        return found

    def _options(self, manager: str = "", *, force: bool = False) -> Options:
        return Options(manager=manager or self._manager, force=force)

    @staticmethod
    def _where(gvr: GVR, namespace: str) -> str:
        return namespace if gvr.namespaced else ""

    async def get(self, gvr: GVR, name: str, namespace: str = "", subresource: str = "") -> Object:
        resource = self._resource(gvr)
        try:
            stored = self._rest.get(resource, self._where(gvr, namespace), name)
        except StatusError as error:
            _raise(error)
        if subresource == "scale" and resource.scale:
            return subresources.scale_of(resource, stored.copy())
        return stored.copy()

    async def list(
        self, gvr: GVR, namespace: str = "", *, label_selector: str = "", field_selector: str = ""
    ) -> tuple[list[Object], str]:
        resource = self._resource(gvr)
        try:
            asked = selection(resource, self._where(gvr, namespace), label_selector, field_selector)
            page = self._rest.list(resource, asked)
        except StatusError as error:
            _raise(error)
        return [stored.copy() for stored in page.items], str(page.revision)

    async def create(
        self, gvr: GVR, obj: Object, namespace: str = "", *, subresource: str = "", name: str = ""
    ) -> Object:
        resource, body = self._resource(gvr), _decode(encode(obj))
        metadata = body.get("metadata") or {}
        where = self._where(gvr, namespace or metadata.get("namespace", ""))
        options = self._options()
        try:
            if subresource:
                return await self._post(resource, where, name or metadata.get("name", ""), subresource, body, options)
            if resource.verbs == ("create",):
                return subresources.review(self._rest, resource, body, options, self._token_key)
            return (await self._rest.create(resource, where, body, options)).copy()
        except StatusError as error:
            await self._rest.store.settled()
            _raise(error)

    async def _post(
        self, resource: Resource, namespace: str, name: str, subresource: str, body: Object, options: Options
    ) -> Object:
        where = (self._rest, resource, namespace, name, body, options)
        match subresource:
            case "binding":
                return await subresources.bind(*where)
            case "eviction":
                return await subresources.evict(*where)
            case "token":
                return await subresources.issue_token(*where, self._token_key)
        raise method_not_allowed()

    async def update(self, gvr: GVR, obj: Object, *, subresource: str = "") -> Object:
        resource, body = self._resource(gvr), _decode(encode(obj))
        name, where = body["metadata"]["name"], self._where(gvr, body["metadata"].get("namespace", ""))
        options = self._options()
        try:
            if subresource == "finalize":
                return (await deletion.finalize_namespace(self._rest, resource, name, body, options)).copy()
            if subresource == "scale":
                return await subresources.write_scale(self._rest, resource, where, name, "", body, options)
            return (await self._rest.update(resource, where, name, body, options, subresource)).copy()
        except StatusError as error:
            await self._rest.store.settled()
            _raise(error)

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
        resource, where = self._resource(gvr), self._where(gvr, namespace)
        options = self._options(manager, force=force)
        body = msgspec.json.decode(encode(patch))
        try:
            if subresource == "scale":
                return await subresources.write_scale(self._rest, resource, where, name, kind, body, options)
            stored, _ = await patch_object(self._rest, resource, where, name, kind, body, options, subresource)
            return stored.copy()
        except StatusError as error:
            await self._rest.store.settled()
            _raise(error)

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
        wanted = deletion.DeleteOptions(grace, propagation, uid, resource_version)
        where = self._where(gvr, namespace)
        try:
            await deletion.delete(self._rest, self._resource(gvr), where, name, wanted, self._options())
        except StatusError as error:
            await self._rest.store.settled()
            _raise(error)

    def watch(
        self, gvr: GVR, namespace: str = "", *, label_selector: str = "", field_selector: str = ""
    ) -> AsyncIterator[Update | InSync]:
        source = _LocalSource(self._rest, gvr, self._where(gvr, namespace), label_selector, field_selector)
        return reflect(source, f"{gvr.plural} (in process)", Pause(spread=0.0))

    async def close(self) -> None:
        """Nothing is held open."""


class _LocalSource:
    """What a reflector reads, straight from the store."""

    def __init__(self, rest: Rest, gvr: GVR, namespace: str, labels: str, fields: str) -> None:
        self._rest = rest
        self._gvr = gvr
        self._asked = (namespace, labels, fields)

    def _open(self) -> tuple[Resource, Selection]:
        """The kind as it is served now. Raises Interrupted while it is not."""
        from podwire.kube.watch import Interrupted

        gvr = self._gvr
        resource = self._rest.registry.find(gvr.group, gvr.version, gvr.plural)
        if resource is None:
            raise Interrupted(str(not_found(gvr, "")))
        try:
            return resource, selection(resource, *self._asked)
        except StatusError as error:
            raise Interrupted(str(error)) from error

    async def stream(self) -> AsyncGenerator[Change, None]:
        records, version = await self.snapshot()
        for record in records:
            yield Change("ADDED", record)
        yield Change("LEARNED", Record(("", ""), version, None))
        async for change in self.changes(version):
            yield change

    async def snapshot(self) -> tuple[list[Record], str]:
        resource, asked = self._open()
        page = self._rest.list(resource, asked)
        return [_record(each.copy()) for each in page.items], str(page.revision)

    async def changes(self, version: str) -> AsyncGenerator[Change, None]:
        resource, asked = self._open()
        collection = self._rest.collection(resource)
        try:
            position = collection.position(int(version))
            while True:
                await collection.changed(position)
                pending = collection.after(position)
                for change in pending:
                    position = change.sequence
                    event = seen(change, asked)
                    if event:
                        yield Change(event.type, _record(self._rest.versioned(resource, event.stored).copy()))
        except StatusError as error:
            raise Gone(str(error)) from error


def _record(obj: Object) -> Record:
    metadata = obj["metadata"]
    return Record((metadata.get("namespace", ""), metadata["name"]), metadata["resourceVersion"], obj)
