"""CustomResourceDefinitions at work: accepted when written, served once committed, emptied before they go.

What a definition may say is in crds.py. Source: behaviour of apiextensions-apiserver's naming, establishing and
finalizing controllers, done here in the write itself.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from podwire.apiserver import crds
from podwire.apiserver.admission import Admission
from podwire.apiserver.deletion import CRD_CLEANUP, DeleteOptions, delete
from podwire.apiserver.errors import StatusError, qualified
from podwire.apiserver.resources import CREATED, NAME, Resource
from podwire.apiserver.rest import Rest
from podwire.apiserver.shape import Options
from podwire.apiserver.store import Change
from podwire.model.gvr import CRDS

Object = dict[str, Any]
log = logging.getLogger(__name__)
COLLECTION = qualified(CRDS)


def create_crd(admission: Admission, crd: Object) -> None:
    crd.pop("status", None)
    _accept(admission, crd)


def update_crd(admission: Admission, crd: Object, old: Object) -> None:
    _accept(admission, crd)


def _accept(admission: Admission, crd: Object) -> None:
    spec = crd.get("spec")
    if not isinstance(spec, dict) or not isinstance(spec.get("versions"), list) or not spec.get("names"):
        return  # validation says what is missing
    if isinstance(crd.get("status"), dict):
        crd["status"] = {key: _copied(value) for key, value in crd["status"].items()}
    crds.accept(crd, admission.timestamp, _taken(admission, crd))
    admission.warnings += crds.not_evaluated(crd)


def _copied(value: Any) -> Any:
    """Lists of a status are shared with the stored object until they are copied."""
    return [dict(each) if isinstance(each, dict) else each for each in value] if isinstance(value, list) else value


def _taken(admission: Admission, crd: Object) -> str:
    """The kind, if another definition of the group has it."""
    spec = crd["spec"]
    for stored in admission.store.collection(COLLECTION).all_latest():
        other = stored.object
        same_group = other["spec"].get("group") == spec.get("group")
        if same_group and other["metadata"]["name"] != crd["metadata"]["name"]:
            kind = spec["names"].get("kind")
            if kind and other["spec"]["names"].get("kind") == kind:
                return str(kind)
    return ""


RESOURCE = Resource(
    CRDS,
    ("crd", "crds"),
    ("api-extensions",),
    columns=(NAME, CREATED),
    has_status=True,
    generation=True,
    create=create_crd,
    update=update_crd,
)


class CustomKinds:
    """Keeps the registry in step with the stored definitions."""

    def __init__(self, rest: Rest) -> None:
        self._rest = rest
        self._tasks: set[asyncio.Task[None]] = set()
        self._emptying: set[str] = set()
        for stored in rest.store.collection(COLLECTION).objects.values():
            self._serve(None, stored.object)
        rest.store.listen(self._changed)

    def resume(self) -> None:
        """Go on with deletions that a former run began; call in the running loop."""
        for stored in list(self._rest.store.collection(COLLECTION).objects.values()):
            self._empty(stored.object)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _changed(self, collection: str, change: Change) -> None:
        if collection == COLLECTION:
            old = change.old.object if change.old else None
            new = change.new.object if change.new else None
            self._serve(old, new)
            if new:
                self._empty(new)
        elif change.new is None and collection in self._emptying:
            found = self._rest.store.collection(COLLECTION).objects.get(("", collection))
            if found:
                self._empty(found.object)

    def _serve(self, old: Object | None, new: Object | None) -> None:
        if old and new and old.get("spec") == new.get("spec") and old.get("status") == new.get("status"):
            return
        registry = self._rest.registry
        for resource in crds.resource_from_crd(old) if old else []:
            registry.remove(resource.gvr)
        if new and _established(new):
            for resource in crds.resource_from_crd(new):
                registry.add(resource)

    def _empty(self, crd: Object) -> None:
        """A definition that is being deleted takes its objects with it, then goes itself."""
        metadata = crd["metadata"]
        if not metadata.get("deletionTimestamp") or CRD_CLEANUP not in (metadata.get("finalizers") or []):
            return
        self._emptying.add(metadata["name"])
        task = asyncio.get_running_loop().create_task(self._clean(crd))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _clean(self, crd: Object) -> None:
        name = crd["metadata"]["name"]
        resources = crds.resource_from_crd(crd)
        collection = self._rest.store.collection(name)
        try:
            for stored in list(collection.all_latest()) if resources else []:
                metadata = stored.object["metadata"]
                if not metadata.get("deletionTimestamp"):
                    where = (metadata.get("namespace", ""), metadata["name"])
                    await delete(self._rest, resources[0], *where, DeleteOptions(), Options(), with_kind=True)
            latest = self._rest.store.collection(COLLECTION).latest(("", name))
            if latest is None or any(True for _ in collection.all_latest()):
                return
            bare = latest.copy()
            kept = [each for each in bare["metadata"].get("finalizers") or [] if each != CRD_CLEANUP]
            bare["metadata"]["finalizers"] = kept
            self._emptying.discard(name)
            await self._rest.change(RESOURCE, latest, bare, Options(manager="podwire"))
        except StatusError as error:
            if error.code not in (404, 409):
                log.warning("crd cleanup failed crd=%s error=%s", name, error)


def _established(crd: Object) -> bool:
    conditions = (crd.get("status") or {}).get("conditions") or []
    return any(each.get("type") == "Established" and each.get("status") == "True" for each in conditions)
