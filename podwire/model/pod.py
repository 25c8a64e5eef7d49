"""Pods, as far as the network reads them. Source: core/v1 Pod."""

from __future__ import annotations

import msgspec

from podwire.model.meta import Meta


class PodIP(msgspec.Struct, frozen=True):
    ip: str = ""


class PodSpec(msgspec.Struct, frozen=True):
    nodeName: str = ""
    hostNetwork: bool = False
    serviceAccountName: str = ""


class PodStatus(msgspec.Struct, frozen=True):
    phase: str = ""
    podIP: str = ""
    podIPs: list[PodIP] = []


class Pod(msgspec.Struct, frozen=True):
    metadata: Meta
    spec: PodSpec = PodSpec()
    status: PodStatus = PodStatus()

    @property
    def key(self) -> tuple[str, str]:
        return self.metadata.namespace, self.metadata.name

    @property
    def addresses(self) -> tuple[str, ...]:
        """The pod's own addresses; none for a pod in the host's network, and none once it has ended."""
        if self.spec.hostNetwork or self.status.phase in ("Succeeded", "Failed"):
            return ()
        return tuple(item.ip for item in self.status.podIPs) or ((self.status.podIP,) if self.status.podIP else ())
