"""From a Service and its pods to EndpointSlices and the older Endpoints object: decisions only.

Source: k8s.io/kubernetes pkg/controller/endpointslice, staging endpointslice and pkg/controller/endpoint.
"""

from __future__ import annotations

import ipaddress
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from podwire.controllers import pods
from podwire.controllers.objects import Object, labels, meta, name_of, owner_reference, spec, status, uid_of
from podwire.model.gvr import SERVICES

SERVICE = "kubernetes.io/service-name"
MANAGED_BY = "endpointslice.kubernetes.io/managed-by"
US = "endpointslice-controller.k8s.io"
HEADLESS = "service.kubernetes.io/headless"
ZONE = "topology.kubernetes.io/zone"
PER_SLICE = 100

Ports = tuple[tuple[str, str, int, str], ...]  # name, protocol, number, appProtocol


@dataclass(frozen=True)
class Wanted:
    """One slice as it should be; `name` is empty for one that has to be created."""

    name: str
    body: Object


@dataclass(frozen=True)
class Plan:
    """What to write: slices to create or update, and surplus ones to delete."""

    write: list[Wanted]
    delete: list[Object]


def ports_of(service: Object, pod: Object | None) -> Ports:
    """The service's ports as the numbers on a pod; a named target port that the pod does not have is left out."""
    found = []
    for port in spec(service).get("ports") or []:
        protocol = port.get("protocol") or "TCP"
        target = port.get("targetPort", port.get("port"))
        number = target if isinstance(target, int) and target else _named(pod, target, protocol, port)
        if number is not None:
            found.append((port.get("name") or "", protocol, int(number), port.get("appProtocol") or ""))
    return tuple(found)


def _named(pod: Object | None, target: Any, protocol: str, port: Mapping[str, Any]) -> int | None:
    if target in (0, "", None):
        return port.get("port")
    if pod is None:
        return None
    sidecars = [one for one in spec(pod).get("initContainers") or [] if one.get("restartPolicy") == "Always"]
    for container in [*(spec(pod).get("containers") or []), *sidecars]:
        for one in container.get("ports") or []:
            if one.get("name") == target and (one.get("protocol") or "TCP") == protocol:
                return int(one["containerPort"])
    return None


def addresses(pod: Object, family: str) -> list[str]:
    """The pod's addresses of a family (IPv4 or IPv6)."""
    told = [one.get("ip") for one in status(pod).get("podIPs") or []] or [status(pod).get("podIP")]
    wanted = 6 if family == "IPv6" else 4
    return [ip for ip in told if ip and _version(ip) == wanted]


def _version(ip: str) -> int:
    try:
        return ipaddress.ip_address(ip).version
    except ValueError:
        return 0


def families(service: Object) -> list[str]:
    """The address families that a service has slices for."""
    told = spec(service).get("ipFamilies") or []
    if told:
        return [str(one) for one in told]
    return ["IPv6" if ":" in str(spec(service).get("clusterIP") or "") else "IPv4"]


def endpoint(service: Object, pod: Object, node: Object | None, family: str) -> Object:
    """One pod as an endpoint."""
    leaving = "deletionTimestamp" in meta(pod)
    is_ready = pods.ready(pod)
    publish = bool(spec(service).get("publishNotReadyAddresses"))
    found: Object = {
        "addresses": addresses(pod, family)[:1],
        "conditions": {
            "ready": publish or (is_ready and not leaving),
            "serving": publish or is_ready,
            "terminating": leaving,
        },
        "targetRef": target(pod),
    }
    if spec(pod).get("nodeName"):
        found["nodeName"] = spec(pod)["nodeName"]
    if node is not None and labels(node).get(ZONE):
        found["zone"] = labels(node)[ZONE]
    if spec(pod).get("hostname") and spec(pod).get("subdomain") == name_of(service):
        found["hostname"] = spec(pod)["hostname"]
    return found


def target(pod: Object) -> Object:
    """A reference to the pod."""
    return {"kind": "Pod", "namespace": meta(pod).get("namespace", ""), "name": name_of(pod), "uid": uid_of(pod)}


def listed(pod: Object) -> bool:
    """Has an address and may still serve."""
    return bool(status(pod).get("podIP") or status(pod).get("podIPs")) and not pods.finished(pod)


def groups(
    service: Object, chosen: Sequence[Object], nodes: Mapping[str, Object], family: str
) -> dict[Ports, list[Object]]:
    """Endpoints by the port numbers that they serve at, in a fixed order."""
    found: dict[Ports, list[Object]] = defaultdict(list)
    for pod in sorted(chosen, key=name_of):
        if not listed(pod) or not addresses(pod, family):
            continue
        ports = ports_of(service, pod)
        if not ports and (spec(service).get("ports") or spec(service).get("clusterIP") != "None"):
            continue
        node = nodes.get(spec(pod).get("nodeName", ""))
        found[ports].append(endpoint(service, pod, node, family))
    if not found:
        found[()] = []  # an empty slice says: the service is known and has nobody
    return found


def _identity(one: Object) -> tuple[str, ...]:
    return (str((one.get("targetRef") or {}).get("uid", "")), *one.get("addresses", []))


def _ports_in(found: Object) -> Ports:
    return tuple(
        (one.get("name") or "", one.get("protocol") or "TCP", int(one.get("port") or 0), one.get("appProtocol") or "")
        for one in found.get("ports") or []
    )


def _port_objects(ports: Ports) -> list[Object]:
    found = []
    for name, protocol, number, app in ports:
        one: Object = {"name": name, "protocol": protocol, "port": number}
        if app:
            one["appProtocol"] = app
        found.append(one)
    return found


def slice_labels(service: Object) -> dict[str, str]:
    """The service's own labels, and those by which slices are found."""
    found = {**labels(service), SERVICE: name_of(service), MANAGED_BY: US}
    found.pop(HEADLESS, None)
    if spec(service).get("clusterIP") == "None":
        found[HEADLESS] = ""
    return found


def plan(service: Object, chosen: Sequence[Object], nodes: Mapping[str, Object], existing: Sequence[Object]) -> Plan:
    """The writes that make the slices right. Endpoints stay in the slice where they are, so that a change of one pod
    is a change of one slice."""
    write: list[Wanted] = []
    kept: set[str] = set()
    for family in families(service):
        ours = [one for one in existing if one.get("addressType") == family]
        for ports, endpoints in groups(service, chosen, nodes, family).items():
            same = [one for one in ours if _ports_in(one) == ports and name_of(one) not in kept]
            if not same and not ports and not endpoints and ours:
                same = [one for one in ours if name_of(one) not in kept][:1]
            for old, members in _distribute(endpoints, same):
                if old is not None:
                    kept.add(name_of(old))
                body = _slice(service, family, ports, members, old)
                if old is None or not _equal(old, body):
                    write.append(Wanted(name_of(old) if old else "", body))
    return Plan(write, [one for one in existing if name_of(one) not in kept])


def _distribute(endpoints: list[Object], slices: list[Object]) -> list[tuple[Object | None, list[Object]]]:
    """Which endpoints go into which slice (None: a new one)."""
    left = {_identity(one): one for one in endpoints}
    result: list[tuple[Object | None, list[Object]]] = []
    for old in sorted(slices, key=name_of):
        identities = dict.fromkeys(_identity(one) for one in old.get("endpoints") or [])
        stay = [left.pop(one) for one in list(identities)[:PER_SLICE] if one in left]
        result.append((old, stay))
    rest = list(left.values())
    for _, members in result:
        while rest and len(members) < PER_SLICE:
            members.append(rest.pop(0))
    while rest:
        result.append((None, rest[:PER_SLICE]))
        rest = rest[PER_SLICE:]
    if not result:
        return [(None, [])]
    filled = [pair for pair in result if pair[1]]
    return filled or result[:1]


def _slice(service: Object, family: str, ports: Ports, members: list[Object], old: Object | None) -> Object:
    namespace = meta(service).get("namespace", "")
    metadata: Object = {"namespace": namespace, "labels": slice_labels(service)}
    if old is not None:
        metadata = {**meta(old), **metadata}
    else:
        metadata["generateName"] = f"{name_of(service)}-"
        metadata["ownerReferences"] = [owner_reference(SERVICES, service)]
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": metadata,
        "addressType": family,
        "endpoints": members,
        "ports": _port_objects(ports),
    }


def _equal(old: Object, new: Object) -> bool:
    def by_identity(one: Object) -> list[Object]:
        return sorted(one.get("endpoints") or [], key=_identity)

    same_ports = _ports_in(old) == _ports_in(new)
    return same_ports and labels(old) == labels(new) and by_identity(old) == by_identity(new)


def endpoints_subsets(service: Object, chosen: Sequence[Object]) -> list[Object]:
    """The older form: addresses of the first family, ready and not ready, grouped by ports."""
    family = families(service)[0]
    publish = bool(spec(service).get("publishNotReadyAddresses"))
    found: dict[Ports, tuple[list[Object], list[Object]]] = {}
    for pod in sorted(chosen, key=name_of):
        if not listed(pod) or not addresses(pod, family):
            continue
        if "deletionTimestamp" in meta(pod) and not publish:
            continue
        ports = ports_of(service, pod)
        if not ports and (spec(service).get("ports") or spec(service).get("clusterIP") != "None"):
            continue
        address: Object = {"ip": addresses(pod, family)[0], "targetRef": target(pod)}
        if spec(pod).get("nodeName"):
            address["nodeName"] = spec(pod)["nodeName"]
        if spec(pod).get("hostname") and spec(pod).get("subdomain") == name_of(service):
            address["hostname"] = spec(pod)["hostname"]
        ready, not_ready = found.setdefault(ports, ([], []))
        (ready if publish or pods.ready(pod) else not_ready).append(address)
    return [_subset(ports, *both) for ports, both in sorted(found.items())]


def _subset(ports: Ports, ready: list[Object], not_ready: list[Object]) -> Object:
    result: Object = {}
    if ready:
        result["addresses"] = sorted(ready, key=lambda one: ipaddress.ip_address(one["ip"]).packed)
    if not_ready:
        result["notReadyAddresses"] = sorted(not_ready, key=lambda one: ipaddress.ip_address(one["ip"]).packed)
    if ports:
        # An unnamed port has no name here, while slices say "".
        result["ports"] = [{key: value for key, value in one.items() if value} for one in _port_objects(ports)]
    return result
