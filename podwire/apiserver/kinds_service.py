"""Services and their endpoints: addresses and node ports are given out here.

Source: behaviour of Kubernetes' registry/core/service (allocation, patchAllocatedValues).
"""

from __future__ import annotations

from typing import Any

from podwire.apiserver.addresses import Taken
from podwire.apiserver.admission import Admission, refuse_field
from podwire.apiserver.resources import Resource
from podwire.apiserver.rows_core import (
    ENDPOINTS_COLUMNS,
    SERVICE_COLUMNS,
    SLICE_COLUMNS,
    endpoints_row,
    service_row,
    slice_row,
)
from podwire.model.gvr import ENDPOINTS, ENDPOINTSLICES, SERVICES

Object = dict[str, Any]
_FACING = ("NodePort", "LoadBalancer")


def create_service(admission: Admission, service: Object) -> None:
    service["status"] = {"loadBalancer": {}}
    _warn(admission, service)


def update_service(admission: Admission, service: Object, old: Object) -> None:
    """A manifest without the allocated values keeps them, and what a new type has no use for goes."""
    spec, before = service.get("spec") or {}, old.get("spec") or {}
    _warn(admission, service)
    _drop_unused(spec, before)
    if spec.get("type") == "ExternalName" or before.get("type") == "ExternalName":
        return
    for key in ("clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"):
        if not spec.get(key) and before.get(key):
            spec[key] = before[key]
    if spec.get("type") in ("NodePort", "LoadBalancer"):
        had = {(p.get("protocol", "TCP"), p.get("port")): p.get("nodePort") for p in before.get("ports") or []}
        for port in spec.get("ports") or []:
            known = had.get((port.get("protocol", "TCP"), port.get("port")))
            if not port.get("nodePort") and known:
                port["nodePort"] = known


def _warn(admission: Admission, service: Object) -> None:
    spec = service.get("spec") or {}
    if spec.get("externalIPs"):
        admission.warnings.append("spec.externalIPs is deprecated and may no longer be implemented in some clusters")
    if spec.get("trafficDistribution") == "PreferClose":
        admission.warnings.append('spec.trafficDistribution: "PreferClose" is deprecated; use "PreferSameZone"')


def create_slice(admission: Admission, endpoints: Object) -> None:
    if endpoints.get("addressType") == "FQDN":
        admission.warnings.append("spec.addressType: FQDN endpoints are deprecated")


def _drop_unused(spec: Object, before: Object) -> None:
    """Values of the old type that the client did not touch when it changed the type."""
    kind, had = spec.get("type"), before.get("type")
    if kind == "ExternalName" and had != kind:
        for key in ("clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"):
            if spec.get(key) == before.get(key):
                spec.pop(key, None)
    if had in _FACING and kind not in _FACING:
        if [port.get("nodePort") for port in spec.get("ports") or []] == [
            port.get("nodePort") for port in before.get("ports") or []
        ]:
            for port in spec.get("ports") or []:
                port.pop("nodePort", None)
        if spec.get("externalTrafficPolicy") == before.get("externalTrafficPolicy") and not (
            kind == "ClusterIP" and spec.get("externalIPs")
        ):
            spec.pop("externalTrafficPolicy", None)
    for key in ("allocateLoadBalancerNodePorts", "loadBalancerClass"):
        if had == "LoadBalancer" and kind != had and spec.get(key) == before.get(key):
            spec.pop(key, None)
    if (
        kind == "ExternalName"
        and had != kind
        and spec.get("internalTrafficPolicy") == before.get("internalTrafficPolicy")
    ):
        spec.pop("internalTrafficPolicy", None)
    unused = _checks_health(before) and not _checks_health(spec)
    if unused and spec.get("healthCheckNodePort") == before.get("healthCheckNodePort"):
        spec.pop("healthCheckNodePort", None)


def _checks_health(spec: Object) -> bool:
    return spec.get("type") == "LoadBalancer" and spec.get("externalTrafficPolicy") == "Local"


def allocate(admission: Admission, service: Object, old: Object | None) -> None:
    """Fill in addresses and node ports; the last step before a Service is stored."""
    spec = service["spec"]
    if spec.get("type") == "ExternalName":
        for key in ("clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"):
            spec.pop(key, None)
        return
    _one_family(service, spec)
    _cluster_address(admission, service, spec, (old or {}).get("spec") or {})
    spec.setdefault("ipFamilies", ["IPv4"])
    spec.setdefault("ipFamilyPolicy", "SingleStack")
    if spec.get("type") in ("NodePort", "LoadBalancer"):
        _node_ports(admission, service, spec, (old or {}).get("spec") or {})
    if _checks_health(spec) and not spec.get("healthCheckNodePort"):
        spec["healthCheckNodePort"] = admission.addresses.take_port(0, dry_run=admission.dry_run)


def _one_family(service: Object, spec: Object) -> None:
    """Addresses are IPv4 here."""
    families = spec.get("ipFamilies") or []
    if spec.get("selector") or spec.get("clusterIP") != "None":
        for i, family in enumerate(families):
            if family != "IPv4":
                message = f'Invalid value: "{family}": not configured on this cluster'
                raise refuse_field(SERVICES, service, f"spec.ipFamilies[{i}]", message)
        if spec.get("ipFamilyPolicy") == "RequireDualStack":
            message = 'Invalid value: "RequireDualStack": this cluster is not configured for dual-stack services'
            raise refuse_field(SERVICES, service, "spec.ipFamilyPolicy", message)


def _cluster_address(admission: Admission, service: Object, spec: Object, before: Object) -> None:
    wanted = spec.get("clusterIP") or next(iter(spec.get("clusterIPs") or []), "")
    if wanted != "None" and not (wanted and wanted == before.get("clusterIP")):
        try:
            wanted = admission.addresses.take(wanted, dry_run=admission.dry_run)
        except Taken as error:
            message = f'Invalid value: ["{wanted}"]: {error}' if wanted else f"Internal error: {error}"
            raise refuse_field(SERVICES, service, "spec.clusterIPs", message) from error
    spec["clusterIP"], spec["clusterIPs"] = wanted, [wanted]


def _node_ports(admission: Admission, service: Object, spec: Object, before: Object) -> None:
    if spec.get("type") == "LoadBalancer" and spec.get("allocateLoadBalancerNodePorts") is False:
        return
    held = {port.get("nodePort") for port in before.get("ports") or []}
    chosen: set[int] = set()
    for position, port in enumerate(spec.get("ports") or []):
        wanted = port.get("nodePort") or 0
        if wanted and (wanted in held or wanted in chosen):
            chosen.add(wanted)
            continue
        try:
            port["nodePort"] = admission.addresses.take_port(wanted, also_taken=chosen, dry_run=admission.dry_run)
        except Taken as error:
            path = f"spec.ports[{position}].nodePort"
            raise refuse_field(SERVICES, service, path, f"Invalid value: {wanted}: {error}") from error
        chosen.add(port["nodePort"])


RESOURCES = (
    Resource(
        SERVICES,
        ("svc",),
        ("all",),
        columns=SERVICE_COLUMNS,
        row=service_row,
        has_status=True,
        create=create_service,
        update=update_service,
        finish=allocate,
        fields=("spec.clusterIP", "spec.type"),
        returns_deleted=True,
    ),
    Resource(
        ENDPOINTS,
        ("ep",),
        singular="endpoints",
        columns=ENDPOINTS_COLUMNS,
        row=endpoints_row,
        create_on_update=True,
        warning="v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice",
    ),
    Resource(ENDPOINTSLICES, columns=SLICE_COLUMNS, row=slice_row, generation=True, create=create_slice),
)
