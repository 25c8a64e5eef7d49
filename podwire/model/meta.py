"""The part of metadata that the network reads, shared by all slim records.

Slim records are msgspec Structs with only the fields that are used: the decoder skips the rest without building
objects. They are what `watch(..., decode=)` yields.
"""

from __future__ import annotations

import msgspec


class Meta(msgspec.Struct, frozen=True):
    """ObjectMeta, as far as it matters here."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    resourceVersion: str = ""
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    deletionTimestamp: str | None = None
