"""What a hook of a kind may use while a write is prepared: the time, the store, allocators, who asks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from podwire.apiserver.addresses import ServiceAddresses
from podwire.apiserver.durations import timestamp
from podwire.apiserver.errors import StatusCause, StatusError, invalid
from podwire.apiserver.store import Key, Store, Stored
from podwire.model.gvr import GVR

Object = dict[str, Any]


@dataclass(frozen=True, slots=True)
class User:
    """Who asks. `groups` includes system:authenticated for everyone who proved a name."""

    name: str
    groups: tuple[str, ...] = ()
    uid: str = ""
    extra: dict[str, list[str]] = field(default_factory=dict)


ADMIN = User("system:admin", ("system:masters", "system:authenticated"))


@dataclass(slots=True)
class Admission:
    """One write on its way in. `now` is Unix time; `warnings` go to the client."""

    store: Store
    addresses: ServiceAddresses
    user: User
    now: float
    dry_run: bool = False
    warnings: list[str] = field(default_factory=list)

    @property
    def timestamp(self) -> str:
        return timestamp(self.now)

    def latest(self, collection: str, key: Key) -> Stored | None:
        return self.store.collection(collection).latest(key)


def refuse_field(gvr: GVR, obj: Object, path: str, message: str, reason: str = "FieldValueInvalid") -> StatusError:
    """A 422 about one field."""
    return invalid(gvr, obj["metadata"].get("name", ""), [StatusCause(reason, message, path)])
