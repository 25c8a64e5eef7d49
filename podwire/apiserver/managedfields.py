"""Who owns which field (metadata.managedFields), noted at every write. The rules are in apply.py."""

from __future__ import annotations

import contextlib
from typing import Any

from podwire.apiserver import apply
from podwire.apiserver.durations import timestamp
from podwire.apiserver.ownership import ListKeyError
from podwire.apiserver.resources import Resource
from podwire.apiserver.shape import Options

Object = dict[str, Any]


def track(resource: Resource, old: Object | None, new: Object, options: Options, subresource: str) -> None:
    """Note in `new` that this write set what it changed. Lists whose items lack their keys are left to validation."""
    with contextlib.suppress(ListKeyError):
        apply.track_update(old, new, options.manager, "Update", resource.schema, timestamp(options.now), subresource)
