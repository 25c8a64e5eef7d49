"""Validation of NetworkPolicy, EndpointSlice, Endpoints and Ingress-free networking kinds.

Source: pkg/apis/networking and pkg/apis/discovery validation of Kubernetes.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Set
from typing import Any

from podwire.apiserver.validation_meta import (
    Errors,
    Object,
    canonical_cidr,
    cidr,
    dns_label,
    ip_address,
    label_selector,
    port_name,
    port_number,
    qualified_name,
    strict_cidr,
)

PROTOCOLS = ("SCTP", "TCP", "UDP")
_POLICY_PROTOCOLS = ("TCP", "UDP", "SCTP")


def network_policy(errors: Errors, obj: Object, old: Object | None) -> None:
    spec, known = obj.get("spec") or {}, {text for _, text in _prefixes(old or {})}
    label_selector(errors, "spec.podSelector", spec.get("podSelector"))
    for direction, peers in (("ingress", "from"), ("egress", "to")):
        for i, rule in enumerate(spec.get(direction) or []):
            where = f"spec.{direction}[{i}]"
            for j, port in enumerate(rule.get("ports") or []):
                _policy_port(errors, f"{where}.ports[{j}]", port)
            for j, peer in enumerate(rule.get(peers) or []):
                _peer(errors, f"{where}.{peers}[{j}]", peer, known)
    types = spec.get("policyTypes") or []
    if len(types) > 2:
        errors.invalid("spec.policyTypes", types, "may not specify more than two policyTypes")
        return
    for i, kind in enumerate(types):
        errors.one_of(f"spec.policyTypes[{i}]", kind, ("Ingress", "Egress"))


def _policy_port(errors: Errors, path: str, rule: Object) -> None:
    if "protocol" in rule:
        errors.one_of(f"{path}.protocol", rule["protocol"], _POLICY_PROTOCOLS)
    port, end = rule.get("port"), rule.get("endPort")
    if port is None:
        if end is not None:
            errors.invalid(f"{path}.endPort", end, "may not be specified when `port` is not specified")
    elif isinstance(port, str):
        if end is not None:
            errors.invalid(f"{path}.endPort", end, "may not be specified when `port` is non-numeric")
        errors.check(f"{path}.port", port, port_name)
    else:
        errors.check(f"{path}.port", port, port_number)  # type: ignore[arg-type]
        if end is not None:
            if end < port:
                errors.invalid(f"{path}.endPort", port, "must be greater than or equal to `port`")
            errors.check(f"{path}.endPort", end, port_number)  # type: ignore[arg-type]


def policy_warnings(obj: Object, old: Object | None) -> list[str]:
    """What may be written, but not so, in a valid policy."""
    known = {text for _, text in _prefixes(old or {})}
    return [
        f'{path}: IPv6 CIDR value "{text}" should be in RFC 5952 canonical format ("{canonical_cidr(text)}")'
        for path, text in _prefixes(obj)
        if text not in known and ":" in text and canonical_cidr(text) != text
    ]


def _prefixes(obj: Object) -> Iterator[tuple[str, str]]:
    """The path and the text of each prefix in a policy."""
    spec = obj.get("spec") or {}
    for direction, peers in (("ingress", "from"), ("egress", "to")):
        for i, rule in enumerate(spec.get(direction) or []):
            for j, peer in enumerate(rule.get(peers) or []):
                block, path = peer.get("ipBlock") or {}, f"spec.{direction}[{i}].{peers}[{j}].ipBlock"
                yield from ((f"{path}.cidr", text) for text in [block.get("cidr")] if text)
                yield from ((f"{path}.except[{k}]", text) for k, text in enumerate(block.get("except") or []))


def _peer(errors: Errors, path: str, peer: Object, known: Set[str]) -> None:
    given = [key for key in ("podSelector", "namespaceSelector", "ipBlock") if peer.get(key) is not None]
    for key in given:
        if key == "ipBlock":
            _ip_block(errors, f"{path}.ipBlock", peer["ipBlock"], known)
        else:
            label_selector(errors, f"{path}.{key}", peer[key])
    if not given:
        errors.required(path, "must specify a peer")
    elif len(given) > 1 and "ipBlock" in given:
        errors.forbidden(path, "may not specify both ipBlock and another peer")


def _ip_block(errors: Errors, path: str, block: Object, known: Set[str]) -> None:
    """Prefixes that the stored object has already (`known`) may stay as they are."""
    text = block.get("cidr") or ""
    if not text:
        errors.required(f"{path}.cidr")
        return
    errors.check(f"{path}.cidr", text, cidr if text in known else strict_cidr)
    whole = _network(text)
    for i, inside in enumerate(block.get("except") or []):
        errors.check(f"{path}.except[{i}]", inside, cidr if inside in known else strict_cidr)
        part = _network(inside)
        if whole is None or part is None:
            continue
        if whole.version != part.version or whole.prefixlen >= part.prefixlen or part[0] not in whole:
            errors.invalid(f"{path}.except[{i}]", inside, "must be a strict subset of `cidr`")


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    if cidr(text):
        return None
    return ipaddress.ip_network(text, strict=False)


_ENDPOINTS, _ADDRESSES, _PORTS = 1000, 100, 20000
_ADDRESS_TYPES = ("FQDN", "IPv4", "IPv6")


def endpoint_slice(errors: Errors, obj: Object, old: Object | None) -> None:
    kind = obj.get("addressType") or ""
    if not kind:
        errors.required("addressType")
    else:
        errors.one_of("addressType", kind, _ADDRESS_TYPES)
    if old is not None and old.get("addressType") != kind:
        errors.invalid("addressType", kind, "field is immutable")
    _slice_ports(errors, obj.get("ports") or [])
    endpoints = obj.get("endpoints") or []
    if len(endpoints) > _ENDPOINTS:
        errors.too_many("endpoints", len(endpoints), _ENDPOINTS)
        return
    for i, endpoint in enumerate(endpoints):
        _endpoint(errors, f"endpoints[{i}]", endpoint, kind)


def _slice_ports(errors: Errors, ports: list[Object]) -> None:
    if len(ports) > _PORTS:
        errors.too_many("ports", len(ports), _PORTS)
        return
    names: set[str] = set()
    for i, port in enumerate(ports):
        name = port.get("name") or ""
        if name:
            errors.check(f"ports[{i}].name", name, dns_label)
        if name in names:
            errors.duplicate(f"ports[{i}].name", name)
        names.add(name)
        errors.one_of(f"ports[{i}].protocol", port.get("protocol", ""), PROTOCOLS)
        if port.get("appProtocol"):
            errors.check(f"ports[{i}].appProtocol", port["appProtocol"], qualified_name)


def _endpoint(errors: Errors, path: str, endpoint: Object, kind: str) -> None:
    addresses = endpoint.get("addresses") or []
    if not addresses:
        errors.required(f"{path}.addresses", "must contain at least 1 address")
    elif len(addresses) > _ADDRESSES:
        errors.too_many(f"{path}.addresses", len(addresses), _ADDRESSES)
    for j, address in enumerate(addresses):
        where = f"{path}.addresses[{j}]"
        if kind not in ("IPv4", "IPv6"):
            continue
        wrong = ip_address(address)
        if wrong:
            errors.check(where, address, ip_address)
        elif (":" in address) != (kind == "IPv6"):
            errors.invalid(f"{path}.addresses", address, f"must be an {kind} address")
        if not wrong:
            endpoint_ip(errors, where, address)
    if endpoint.get("hostname"):
        errors.check(f"{path}.hostname", endpoint["hostname"], dns_label)


def endpoint_ip(errors: Errors, path: str, text: str) -> None:
    """Addresses that cannot be anybody's endpoint."""
    address = ipaddress.ip_address(text)
    if address.is_unspecified:
        errors.invalid(path, text, "may not be unspecified (0.0.0.0 or ::)")
    if address.is_loopback:
        errors.invalid(path, text, "may not be in the loopback range (127.0.0.0/8, ::1/128)")
    if address.is_link_local:
        errors.invalid(path, text, "may not be in the link-local range (169.254.0.0/16, fe80::/10)")
    if address.is_multicast and str(address).startswith(("224.0.0.", "ff02:")):
        errors.invalid(path, text, "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)")


def endpoints(errors: Errors, obj: Object, old: Object | None) -> None:
    del old
    for i, subset in enumerate(obj.get("subsets") or []):
        where = f"subsets[{i}]"
        addresses = [*(subset.get("addresses") or []), *(subset.get("notReadyAddresses") or [])]
        if not addresses:
            errors.required(where, "must specify `addresses` or `notReadyAddresses`")
        for key in ("addresses", "notReadyAddresses"):
            for j, address in enumerate(subset.get(key) or []):
                _subset_address(errors, f"{where}.{key}[{j}].ip", address.get("ip", ""))
        ports = subset.get("ports") or []
        for j, port in enumerate(ports):
            if len(ports) > 1 and not port.get("name"):
                errors.required(f"{where}.ports[{j}].name")
            errors.check(f"{where}.ports[{j}].port", port.get("port", 0), port_number)  # type: ignore[arg-type]
            errors.one_of(f"{where}.ports[{j}].protocol", port.get("protocol", ""), PROTOCOLS)


def _subset_address(errors: Errors, path: str, text: Any) -> None:
    if ip_address(text):
        errors.check(path, text, ip_address)
    else:
        endpoint_ip(errors, path, text)
