"""The shape of what policies are asked about, as far as it is read: whoever reads a checked object needs not look out.

Sources: core/v1 Namespace, Pod, Node, Service, ServiceAccount; discovery.k8s.io/v1 EndpointSlice.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from podwire.model.api import Object

Protocol = Literal["TCP", "UDP", "SCTP"]


class Metadata(msgspec.Struct):
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None


class ContainerPort(msgspec.Struct):
    containerPort: int
    name: str | None = None
    protocol: Protocol | None = None


class Container(msgspec.Struct):
    ports: list[ContainerPort] | None = None
    restartPolicy: str | None = None


class PodSpec(msgspec.Struct):
    nodeName: str | None = None
    serviceAccountName: str | None = None
    hostNetwork: bool | None = None
    containers: list[Container] | None = None
    initContainers: list[Container] | None = None


class PodIP(msgspec.Struct):
    ip: str | None = None


class PodStatus(msgspec.Struct):
    phase: str | None = None
    podIP: str | None = None
    podIPs: list[PodIP] | None = None


class Pod(msgspec.Struct):
    metadata: Metadata
    spec: PodSpec | None = None
    status: PodStatus | None = None


class Plain(msgspec.Struct):
    """A Namespace or ServiceAccount."""

    metadata: Metadata


class NodeAddress(msgspec.Struct):
    address: str
    type: str | None = None


class NodeStatus(msgspec.Struct):
    addresses: list[NodeAddress] | None = None


class Node(msgspec.Struct):
    metadata: Metadata
    status: NodeStatus | None = None


class ServicePort(msgspec.Struct):
    port: int
    name: str | None = None
    protocol: Protocol | None = None
    targetPort: int | str | None = None


class ServiceSpec(msgspec.Struct):
    selector: dict[str, str] | None = None
    ports: list[ServicePort] | None = None
    clusterIP: str | None = None
    clusterIPs: list[str] | None = None
    externalIPs: list[str] | None = None


class Ingress(msgspec.Struct):
    ip: str | None = None


class LoadBalancer(msgspec.Struct):
    ingress: list[Ingress] | None = None


class ServiceStatus(msgspec.Struct):
    loadBalancer: LoadBalancer | None = None


class Service(msgspec.Struct):
    metadata: Metadata
    spec: ServiceSpec | None = None
    status: ServiceStatus | None = None


class Conditions(msgspec.Struct):
    ready: bool | None = None


class Endpoint(msgspec.Struct):
    addresses: list[str]
    conditions: Conditions | None = None


class EndpointPort(msgspec.Struct):
    name: str | None = None
    port: int | None = None
    protocol: Protocol | None = None


class EndpointSlice(msgspec.Struct):
    metadata: Metadata
    addressType: str | None = None
    endpoints: list[Endpoint] | None = None
    ports: list[EndpointPort] | None = None


_SHAPES: Mapping[str, type[msgspec.Struct]] = {
    "Namespace": Plain,
    "ServiceAccount": Plain,
    "Pod": Pod,
    "Node": Node,
    "Service": Service,
    "EndpointSlice": EndpointSlice,
}


def misshapen(obj: Object) -> tuple[str, str]:
    """The field that is of a wrong type, and what is wrong; ('', '') when all is well. Of other kinds only metadata is
    looked at."""
    shape: Any = _SHAPES.get(obj["kind"], Plain)
    try:
        msgspec.convert(obj, shape)
    except msgspec.ValidationError as error:
        words, _, place = str(error).partition(" - at `$")
        return place.strip("`").lstrip(".").replace("[...]", ""), words[:1].lower() + words[1:]
    except RecursionError:
        return "", "it is nested too deeply"
    return "", ""
