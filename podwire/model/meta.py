"""The part of metadata that the network reads, shared by all slim records.

Slim records are msgspec Structs with only the fields that are used: the decoder skips the rest without building
objects. They are what `watch(..., decode=)` yields.
"""

from __future__ import annotations

import sys
from functools import lru_cache

import msgspec

_OURS, _BANDWIDTH = "projectcalico.org", "kubernetes.io"
"""Annotations that the network reads have names under these domains (`cni.projectcalico.org/ipAddrs`,
`kubernetes.io/ingress-bandwidth`); the others, a whole manifest among them at times, are not kept."""


class Meta(msgspec.Struct, frozen=True, gc=False):
    """ObjectMeta, as far as it matters here. Labels and namespaces repeat: equal texts are kept once, and the labels of
    equal pods are one dictionary, which nobody writes to."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    resourceVersion: str = ""
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    deletionTimestamp: str | None = None

    def __post_init__(self) -> None:
        if self.namespace:
            msgspec.structs.force_setattr(self, "namespace", sys.intern(self.namespace))
        if self.labels:
            msgspec.structs.force_setattr(self, "labels", _shared(tuple(self.labels.items())))
        if self.annotations:
            read = {sys.intern(key): value for key, value in self.annotations.items() if _is_read(key)}
            msgspec.structs.force_setattr(self, "annotations", read)


@lru_cache(maxsize=16_384)
def _shared(items: tuple[tuple[str, str], ...]) -> dict[str, str]:
    return {sys.intern(key): sys.intern(value) for key, value in items}


def _is_read(annotation: str) -> bool:
    domain = annotation.partition("/")[0]
    return domain in (_OURS, _BANDWIDTH) or domain.endswith(f".{_OURS}")
