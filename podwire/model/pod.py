"""Pods, as far as the network reads them. Source: core/v1 Pod.

There are many, and each agent holds all of them: what repeats is kept once, and what nobody reads is not kept.
"""

from __future__ import annotations

import sys
from functools import lru_cache

import msgspec

from podwire.model.meta import Meta
from podwire.model.policy import SCTP, TCP, UDP

_PROTOCOLS = {"TCP": TCP, "UDP": UDP, "SCTP": SCTP}
_SIDECAR = "Always"


class PodIP(msgspec.Struct, frozen=True, gc=False):
    ip: str = ""


class ContainerPort(msgspec.Struct, frozen=True, gc=False):
    name: str = ""
    containerPort: int = 0
    protocol: str = "TCP"


class Container(msgspec.Struct, frozen=True, gc=False):
    ports: tuple[ContainerPort, ...] | None = None
    restartPolicy: str = ""


class PodSpec(msgspec.Struct, frozen=True, gc=False):
    """Of its containers only those with named ports are kept, of init containers only those that stay (sidecars)."""

    nodeName: str = ""
    hostNetwork: bool = False
    serviceAccountName: str = ""
    containers: tuple[Container, ...] | None = None
    initContainers: tuple[Container, ...] | None = None

    def __post_init__(self) -> None:
        keep = msgspec.structs.force_setattr
        keep(self, "nodeName", sys.intern(self.nodeName))
        keep(self, "serviceAccountName", sys.intern(self.serviceAccountName))
        keep(self, "containers", _same(tuple(each for each in self.containers or () if _named(each))))
        stay = (each for each in self.initContainers or () if each.restartPolicy == _SIDECAR and _named(each))
        keep(self, "initContainers", _same(tuple(stay)))


def _named(container: Container) -> bool:
    return any(port.name for port in container.ports or ())


@lru_cache(maxsize=4_096)
def _same(containers: tuple[Container, ...]) -> tuple[Container, ...]:
    return containers


class PodStatus(msgspec.Struct, frozen=True, gc=False):
    phase: str = ""
    podIP: str = ""
    podIPs: tuple[PodIP, ...] | None = None

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "phase", sys.intern(self.phase))


class Pod(msgspec.Struct, frozen=True, gc=False):
    metadata: Meta
    spec: PodSpec = PodSpec()
    status: PodStatus = PodStatus()

    @property
    def key(self) -> tuple[str, str]:
        return self.metadata.namespace, self.metadata.name

    @property
    def addresses(self) -> tuple[str, ...]:
        """The pod's own addresses; none for a pod in the host's network, and none once it has ended."""
        if not self.governed:
            return ()
        return tuple(item.ip for item in self.status.podIPs or ()) or (
            (self.status.podIP,) if self.status.podIP else ()
        )

    @property
    def governed(self) -> bool:
        """Policies see it, as subject and as peer: it has a network of its own and has not ended. A pod that is being
        deleted counts until its containers are gone."""
        return not self.spec.hostNetwork and self.status.phase not in ("Succeeded", "Failed")

    @property
    def named_ports(self) -> tuple[tuple[str, int, int], ...]:
        """(name, IP protocol, number) of every port that has a name."""
        return tuple(
            (port.name, _PROTOCOLS[port.protocol], port.containerPort)
            for container in (*(self.spec.containers or ()), *(self.spec.initContainers or ()))
            for port in container.ports or ()
            if port.name and port.protocol in _PROTOCOLS
        )
