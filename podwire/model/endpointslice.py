"""EndpointSlices, as far as policies read them. Source: discovery.k8s.io/v1 EndpointSlice."""

from __future__ import annotations

import msgspec

from podwire.model.meta import Meta

SERVICE = "kubernetes.io/service-name"


class Endpoint(msgspec.Struct, frozen=True, gc=False):
    addresses: tuple[str, ...] = ()


class EndpointPort(msgspec.Struct, frozen=True, gc=False):
    """`port` None: every port."""

    protocol: str = "TCP"
    port: int | None = None


class EndpointSlice(msgspec.Struct, frozen=True):
    metadata: Meta
    addressType: str = ""
    endpoints: tuple[Endpoint, ...] | None = None
    ports: tuple[EndpointPort, ...] | None = None

    @property
    def key(self) -> tuple[str, str]:
        return self.metadata.namespace, self.metadata.name

    @property
    def service(self) -> tuple[str, str] | None:
        """The Service that it belongs to: (namespace, name)."""
        name = self.metadata.labels.get(SERVICE)
        return (self.metadata.namespace, name) if name else None

    @property
    def addresses(self) -> tuple[str, ...]:
        """Of all endpoints, ready or not: a policy is about who they are."""
        if self.addressType not in ("IPv4", "IPv6"):
            return ()
        return tuple(address for endpoint in self.endpoints or () for address in endpoint.addresses)
