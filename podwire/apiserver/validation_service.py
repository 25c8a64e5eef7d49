"""Validation of Services. Source: pkg/apis/core/validation of Kubernetes (ValidateService and its update)."""

from __future__ import annotations

from typing import Any

from podwire.apiserver.validation_meta import (
    Errors,
    Object,
    cidr,
    dns_label,
    dns_subdomain,
    immutable,
    ip_address,
    labels,
    port_number,
    port_or_name,
    qualified_name,
)
from podwire.apiserver.validation_network import PROTOCOLS, endpoint_ip

_TYPES = ("ClusterIP", "ExternalName", "LoadBalancer", "NodePort")
_AFFINITIES = ("ClientIP", "None")
_POLICIES = ("Cluster", "Local")
_DAY = 86400


def service(errors: Errors, obj: Object, old: Object | None) -> None:
    spec = obj.get("spec") or {}
    kind, headless = spec.get("type") or "", spec.get("clusterIP") == "None"
    ports = spec.get("ports") or []
    if not ports and not headless and kind != "ExternalName":
        errors.required("spec.ports")
    if kind in ("LoadBalancer", "NodePort") and headless:
        errors.invalid("spec.clusterIPs[0]", "None", f"may not be set to 'None' for {kind} services")
    if kind == "ExternalName":
        _external_name(errors, spec)
    names: set[str] = set()
    for i, port in enumerate(ports):
        _port(errors, f"spec.ports[{i}]", port, len(ports) > 1, names)
    labels(errors, "spec.selector", spec.get("selector"))
    _affinity(errors, spec)
    _cluster_ips(errors, spec, (old or {}).get("spec") or {})
    for i, address in enumerate(spec.get("externalIPs") or []):
        if ip_address(address):
            errors.check(f"spec.externalIPs[{i}]", address, ip_address)
        else:
            endpoint_ip(errors, f"spec.externalIPs[{i}]", address)
    if not kind:
        errors.required("spec.type")
    else:
        errors.one_of("spec.type", kind, _TYPES)
    _port_clashes(errors, ports, kind)
    _traffic(errors, spec, kind)


def _external_name(errors: Errors, spec: Object) -> None:
    for key in ("clusterIPs", "ipFamilies", "ipFamilyPolicy"):
        if spec.get(key) or (key == "clusterIPs" and spec.get("clusterIP")):
            errors.forbidden(f"spec.{key}", "may not be set for ExternalName services")
    name = (spec.get("externalName") or "").removesuffix(".")
    if name:
        errors.check("spec.externalName", name, dns_subdomain)
    else:
        errors.required("spec.externalName")


def _port(errors: Errors, path: str, port: Object, named: bool, names: set[str]) -> None:
    name = port.get("name") or ""
    if named and not name:
        errors.required(f"{path}.name")
    elif name:
        errors.check(f"{path}.name", name, dns_label)
        if name in names:
            errors.duplicate(f"{path}.name", name)
        names.add(name)
    errors.check(f"{path}.port", port.get("port", 0), port_number)  # type: ignore[arg-type]
    if not port.get("protocol"):
        errors.required(f"{path}.protocol")
    else:
        errors.one_of(f"{path}.protocol", port["protocol"], PROTOCOLS)
    port_or_name(errors, f"{path}.targetPort", port.get("targetPort", 0))
    if port.get("appProtocol"):
        errors.check(f"{path}.appProtocol", port["appProtocol"], qualified_name)


def _affinity(errors: Errors, spec: Object) -> None:
    affinity, config = spec.get("sessionAffinity") or "", spec.get("sessionAffinityConfig")
    if not affinity:
        errors.required("spec.sessionAffinity")
    else:
        errors.one_of("spec.sessionAffinity", affinity, _AFFINITIES)
    if affinity == "None" and config is not None:
        errors.forbidden("spec.sessionAffinityConfig", "must not be set when session affinity is None")
    if affinity == "ClientIP":
        seconds = ((config or {}).get("clientIP") or {}).get("timeoutSeconds")
        where = "spec.sessionAffinityConfig.clientIP.timeoutSeconds"
        if seconds is None:
            errors.required("spec.sessionAffinityConfig", "when session affinity type is ClientIP")
        elif not 0 < seconds <= _DAY:
            errors.invalid(where, seconds, f"must be greater than 0 and less than {_DAY}")


def _cluster_ips(errors: Errors, spec: Object, old: Object) -> None:
    address, addresses = spec.get("clusterIP") or "", spec.get("clusterIPs") or []
    if addresses and addresses[0] != address:
        errors.invalid("spec.clusterIPs", addresses, "first value must match `clusterIP`")
    for i, text in enumerate(addresses or ([address] if address else [])):
        if text == "None" or not text:
            continue
        errors.check(f"spec.clusterIPs[{i}]", text, ip_address)
    before = old.get("clusterIP") or ""
    kinds = (spec.get("type"), old.get("type"))
    if before and "ExternalName" not in kinds and address != before:
        errors.invalid("spec.clusterIPs[0]", addresses or [address], "may not change once set")
    if before and kinds == ("ExternalName", old.get("type")) and address:
        errors.forbidden("spec.clusterIP", "may not be set for ExternalName services")
    families, had = spec.get("ipFamilies") or [], old.get("ipFamilies") or []
    if families and had and families[0] != had[0] and "ExternalName" not in kinds:
        errors.invalid("spec.ipFamilies[0]", families, "may not change once set")
    for i, family in enumerate(families):
        errors.one_of(f"spec.ipFamilies[{i}]", family, ("IPv4", "IPv6"))


def _port_clashes(errors: Errors, ports: list[Object], kind: str) -> None:
    numbers: set[tuple[Any, Any]] = set()
    node_ports: set[tuple[Any, Any]] = set()
    for i, port in enumerate(ports):
        node_port = port.get("nodePort") or 0
        if node_port and kind == "ClusterIP":
            errors.forbidden(f"spec.ports[{i}].nodePort", "may not be used when `type` is 'ClusterIP'")
        if node_port:
            if (port.get("protocol"), node_port) in node_ports:
                errors.duplicate(f"spec.ports[{i}].nodePort", node_port)
            node_ports.add((port.get("protocol"), node_port))
    for i, port in enumerate(ports):
        key = (port.get("protocol"), port.get("port"))
        if key in numbers:
            shown = {"protocol": key[0], "port": key[1], "targetPort": 0}
            errors.duplicate(f"spec.ports[{i}]", shown)
        numbers.add(key)


def _traffic(errors: Errors, spec: Object, kind: str) -> None:
    ranges = spec.get("loadBalancerSourceRanges") or []
    if ranges and kind != "LoadBalancer":
        errors.forbidden("spec.LoadBalancerSourceRanges", "may only be used when `type` is 'LoadBalancer'")
    for i, text in enumerate(ranges):
        errors.check(f"spec.LoadBalancerSourceRanges[{i}]", text.strip(), cidr)
    if spec.get("allocateLoadBalancerNodePorts") is not None and kind != "LoadBalancer":
        errors.forbidden("spec.allocateLoadBalancerNodePorts", "may only be used when `type` is 'LoadBalancer'")
    if spec.get("loadBalancerClass") and kind != "LoadBalancer":
        errors.forbidden("spec.loadBalancerClass", "may only be used when `type` is 'LoadBalancer'")
    external = spec.get("externalTrafficPolicy")
    facing = kind in ("NodePort", "LoadBalancer") or (kind == "ClusterIP" and spec.get("externalIPs"))
    if external:
        if not facing:
            errors.invalid("spec.externalTrafficPolicy", external, "may only be set for externally-accessible services")
        else:
            errors.one_of("spec.externalTrafficPolicy", external, _POLICIES)
    elif kind in ("NodePort", "LoadBalancer"):
        errors.required("spec.externalTrafficPolicy")
    if spec.get("healthCheckNodePort") and not (kind == "LoadBalancer" and external == "Local"):
        errors.invalid(
            "spec.healthCheckNodePort",
            spec["healthCheckNodePort"],
            "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'",
        )
    internal = spec.get("internalTrafficPolicy")
    if kind != "ExternalName":
        if not internal and kind in _TYPES:
            errors.required("spec.internalTrafficPolicy")
        elif internal:
            errors.one_of("spec.internalTrafficPolicy", internal, _POLICIES)


def service_account(errors: Errors, obj: Object, old: Object | None) -> None:
    """Nothing beyond metadata; here so that the table of kinds is complete."""
    if old is not None:
        immutable(errors, "metadata.name", obj["metadata"].get("name"), old["metadata"].get("name"))
