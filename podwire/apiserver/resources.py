"""What a kind is: one `Resource` declaration says everything that the verbs, discovery and tables need to know.

A new kind is one small declaration in a kinds_*.py page. Behaviour that only some kinds have (addresses of a Service,
finalizers of a Namespace) hangs on hooks; everything else is the same code for all. CustomResourceDefinitions add
and remove declarations while the server runs (`Registry`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from podwire.apiserver.errors import qualified
from podwire.apiserver.fields import Schema, schema_for
from podwire.model.gvr import GVR

if TYPE_CHECKING:
    from podwire.apiserver.admission import Admission

Object = dict[str, Any]
VERBS = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a Table. Priority above 0 shows only in wide output. `format` is OpenAPI's (name, date, ...)."""

    name: str
    type: str = "string"
    description: str = ""
    format: str = ""
    priority: int = 0


Row = Callable[[Object, float], list[Any]]
CreateHook = Callable[["Admission", Object], None]
UpdateHook = Callable[["Admission", Object, Object], None]
FinishHook = Callable[["Admission", Object, Object | None], None]
DeleteHook = Callable[["Admission", Object], None]
Convert = Callable[[Object], Object]

NAME = Column("Name", format="name", description="Name must be unique within a namespace.")
AGE = Column("Age", description="Time since the object was created.")
CREATED = Column("Created At", type="date", description="When the object was created.")


def default_row(obj: Object, now: float) -> list[Any]:
    """Name and creation time: what kinds without a printer of their own show."""
    return [obj["metadata"].get("name", ""), obj["metadata"].get("creationTimestamp")]


@dataclass(frozen=True, slots=True)
class Scale:
    """Where the scale subresource reads and writes, as dotted paths. `selector` holds a LabelSelector object, or a
    string for custom resources."""

    replicas: str = "spec.replicas"
    current: str = "status.replicas"
    selector: str = "spec.selector"


@dataclass(frozen=True, slots=True)
class Subresource:
    """A subresource as discovery lists it; `kind` and `api_version` are those of its body."""

    name: str
    verbs: tuple[str, ...]
    kind: str
    group: str = ""
    version: str = "v1"


@dataclass(frozen=True)
class Resource:
    """One kind under one version."""

    gvr: GVR
    short_names: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    singular: str = ""
    verbs: tuple[str, ...] = VERBS
    columns: tuple[Column, ...] = (NAME, CREATED)
    row: Row = default_row
    has_status: bool = False
    status_metadata: bool = False  # writes of status may change labels, annotations and finalizers as well
    scale: Scale | None = None
    subresources: tuple[Subresource, ...] = ()
    generation: bool = False  # metadata.generation counts changes outside metadata and status
    fields: tuple[str, ...] = ()  # what field selectors may name, beside metadata.name and metadata.namespace
    field_defaults: dict[str, str] = field(default_factory=dict)  # the text of an absent field
    create: CreateHook | None = None
    update: UpdateHook | None = None
    finish: FinishHook | None = None  # the last step before storing, after validation; it may take addresses
    delete: DeleteHook | None = None  # raises for what may not go
    create_on_update: bool = False  # PUT makes what is not there
    returns_deleted: bool = False  # DELETE answers with the object, not with a Status
    keeps_status_on_create: bool = False
    collection: str = ""  # where the objects live; kinds that are views of another kind share its collection
    to_storage: Convert | None = None
    from_storage: Convert | None = None
    custom: Schema | None = None  # the schema of a custom resource's version
    is_custom: bool = False
    list_kind: str = ""
    warning: str = ""  # said in every answer
    read_only: str = ""  # why there is nothing to write, and what to write instead

    @property
    def storage(self) -> str:
        return self.collection or qualified(self.gvr)

    @property
    def kind_of_list(self) -> str:
        return self.list_kind or f"{self.gvr.kind}List"

    @property
    def schema(self) -> Schema | None:
        return self.custom if self.is_custom else schema_for(self.gvr.api_version, self.gvr.kind)

    @property
    def singular_name(self) -> str:
        return self.singular or self.gvr.kind.lower()

    def all_subresources(self) -> Iterator[Subresource]:
        gvr = self.gvr
        if self.has_status:
            yield Subresource("status", ("get", "patch", "update"), gvr.kind, gvr.group, gvr.version)
        if self.scale:
            yield Subresource("scale", ("get", "patch", "update"), "Scale", "autoscaling", "v1")
        yield from self.subresources


class Registry:
    """All kinds that are served now."""

    def __init__(self, resources: Iterable[Resource] = ()) -> None:
        self._by_path: dict[tuple[str, str, str], Resource] = {}
        self.generation = 0  # grows at every change, so that discovery and OpenAPI know when to be made anew
        for resource in resources:
            self.add(resource)

    def add(self, resource: Resource) -> None:
        gvr = resource.gvr
        self._by_path[gvr.group, gvr.version, gvr.plural] = resource
        self.generation += 1

    def remove(self, gvr: GVR) -> None:
        if self._by_path.pop((gvr.group, gvr.version, gvr.plural), None):
            self.generation += 1

    def find(self, group: str, version: str, plural: str) -> Resource | None:
        return self._by_path.get((group, version, plural))

    def all(self) -> list[Resource]:
        return list(self._by_path.values())

    def groups(self) -> dict[str, list[str]]:
        """Versions by group, both in the order in which clients should prefer them."""
        found: dict[str, list[str]] = {}
        for group, version, _ in self._by_path:
            versions = found.setdefault(group, [])
            if version not in versions:
                versions.append(version)
        for versions in found.values():
            versions.sort(key=version_rank)
        return found

    def of(self, group: str, version: str) -> list[Resource]:
        found = [each for (g, v, _), each in self._by_path.items() if g == group and v == version]
        return sorted(found, key=lambda each: each.gvr.plural)


_VERSION = re.compile(r"^v(\d+)(?:(alpha|beta)(\d+))?$")


def version_rank(version: str) -> tuple[int, int, int, str]:
    """Sort key: stable before beta before alpha, newer first, other names last (apimachinery version.Compare)."""
    found = _VERSION.match(version)
    if not found:
        return (3, 0, 0, version)
    stage = {None: 0, "beta": 1, "alpha": 2}[found.group(2)]
    return (stage, -int(found.group(1)), -int(found.group(3) or 0), "")
