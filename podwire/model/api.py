"""The Kubernetes API as the rest of Podwire sees it: one protocol, one error, and what watches yield.

It stands among the values so that rooms below `kube` can name what they are given. Three things speak it:
`kube.client.Client` (HTTP), `apiserver.local.LocalClient` (in process) and `kube.fake.FakeApi` (for tests). They pass
the same contract tests.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from podwire.model.gvr import GVR

Object = dict[str, Any]
Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Update:
    """What the API holds now under `key` (namespace, name); `object` is None when there is nothing any more, and
    `version` then the resource version by which that was so: what is held from a later one has the same name only."""

    key: Key
    object: Any | None
    version: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class InSync:
    """Everything that existed when the watch began has been told."""


class ApiError(Exception):
    """The API refused, or could not be reached (status 0, reason ConnectionError). `str()` is the message.

    `reason` is a Status reason (NotFound, AlreadyExists, Conflict, Invalid, ...); `details` is Status.details or {}.
    """

    def __init__(self, status: int, reason: str, message: str, details: Object | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.message = message
        self.details: Object = details or {}

    @property
    def not_found(self) -> bool:
        return self.status == 404

    @property
    def conflict(self) -> bool:
        """A compare-and-swap lost (not: a name was taken)."""
        return self.status == 409 and self.reason == "Conflict"

    @property
    def already_exists(self) -> bool:
        return self.status == 409 and self.reason == "AlreadyExists"

    @property
    def unreachable(self) -> bool:
        """Nobody answered, or the server says that it cannot now: trying again later makes sense."""
        return self.status == 0 or self.status == 429 or self.status >= 500


class Api(Protocol):
    """Calls raise ApiError. Objects are plain JSON dictionaries; the caller owns what it gets and what it gave."""

    async def get(self, gvr: GVR, name: str, namespace: str = "", subresource: str = "") -> Object: ...

    async def list(
        self, gvr: GVR, namespace: str = "", *, label_selector: str = "", field_selector: str = ""
    ) -> tuple[list[Object], str]:
        """All objects (with apiVersion and kind) and the resourceVersion of the list."""
        ...

    async def create(
        self, gvr: GVR, obj: Object, namespace: str = "", *, subresource: str = "", name: str = ""
    ) -> Object:
        """`namespace` defaults to the object's; `subresource` and `name` for pods/binding, pods/eviction, token."""
        ...

    async def update(self, gvr: GVR, obj: Object, *, subresource: str = "") -> Object:
        """Replace by metadata.name; with metadata.resourceVersion this is a compare-and-swap (409 Conflict)."""
        ...

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
        """`kind` is merge, json, strategic or apply (server-side, needs `manager`)."""
        ...

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
        """`uid` and `resource_version` are preconditions (409 Conflict); `grace` in seconds."""
        ...

    def watch(
        self, gvr: GVR, namespace: str = "", *, label_selector: str = "", field_selector: str = ""
    ) -> AsyncIterator[Update | InSync]:
        """Never ends by itself and never raises ApiError: see `kube.watch`. Close the iterator to stop."""
        ...

    async def close(self) -> None: ...
