"""Tables: what `kubectl get` prints, made on the server. Source: meta/v1 Table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from podwire.apiserver.resources import Column, Resource
from podwire.apiserver.store import Object, Stored, encode


@dataclass(frozen=True, slots=True)
class TableForm:
    """How a Table is asked for: meta.k8s.io version, and what of each object rides along (None, Metadata, Object)."""

    version: str = "v1"
    include: str = "Metadata"


def definitions(columns: Sequence[Column]) -> list[Object]:
    return [
        {
            "name": column.name,
            "type": column.type,
            "format": column.format,
            "description": column.description,
            "priority": column.priority,
        }
        for column in columns
    ]


def partial(stored: Stored, version: str = "v1") -> Object:
    """PartialObjectMetadata of an object."""
    return {
        "kind": "PartialObjectMetadata",
        "apiVersion": f"meta.k8s.io/{version}",
        "metadata": stored.object["metadata"],
    }


def row(resource: Resource, stored: Stored, form: TableForm, now: float) -> Object:
    found: Object = {"cells": resource.row(_core_view(resource, stored), now)}
    if form.include == "Object":
        found["object"] = stored.object
    else:
        found["object"] = partial(stored, form.version) if form.include != "None" else None
    return found


def _core_view(resource: Resource, stored: Stored) -> Object:
    """Rows are written for the stored form of a kind."""
    return resource.to_storage(stored.object) if resource.to_storage and not resource.is_custom else stored.object


def table(resource: Resource, items: Sequence[Stored], form: TableForm, now: float, metadata: dict[str, Any]) -> bytes:
    """A Table of objects as JSON. `metadata` is that of the list, or of the one object."""
    return encode(
        {
            "kind": "Table",
            "apiVersion": f"meta.k8s.io/{form.version}",
            "metadata": metadata,
            "columnDefinitions": definitions(resource.columns),
            "rows": [row(resource, each, form, now) for each in items],
        }
    )
