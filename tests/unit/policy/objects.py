"""API objects as plain dicts, and flows between them, written shortly."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from podwire.calc.oracle import End, Flow

Object = dict[str, Any]
PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132, "icmp": 1, "icmpv6": 58}
CALICO, CLUSTER, NETWORKING = "projectcalico.org/v3", "policy.networking.k8s.io/v1alpha2", "networking.k8s.io/v1"


def namespace(name: str, /, **labels: str) -> Object:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}


def pod(
    key: str,
    /,
    *addresses: str,
    node: str = "n1",
    ports: Iterable[tuple[str, str, int]] = (),
    account: str = "default",
    host: bool = False,
    phase: str = "Running",
    **labels: str,
) -> Object:
    """`key` is "namespace/name"; `ports` are (name, protocol, number)."""
    space, _, name = key.partition("/")
    listed = [{"name": port, "protocol": protocol, "containerPort": number} for port, protocol, number in ports]
    spec: Object = {
        "nodeName": node,
        "serviceAccountName": account,
        "containers": [{"name": "main", "image": "web", "ports": listed}],
    }
    if host:
        spec["hostNetwork"] = True
    status: Object = {"phase": phase}
    if addresses:
        status |= {"podIP": addresses[0], "podIPs": [{"ip": address} for address in addresses]}
    meta = {"namespace": space, "name": name, "labels": labels}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec, "status": status}


def node(name: str, /, *addresses: str, **labels: str) -> Object:
    listed = [{"type": "InternalIP", "address": address} for address in addresses]
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": labels},
        "status": {"addresses": listed},
    }


def account(key: str, /, **labels: str) -> Object:
    space, _, name = key.partition("/")
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": {"namespace": space, "name": name, "labels": labels},
    }


def slices(service: str, addresses: Iterable[str], ports: Iterable[tuple[str, int]]) -> Object:
    """One endpoint slice of a service "namespace/name"; `ports` are (protocol, number)."""
    space, _, name = service.partition("/")
    listed = list(addresses)
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "namespace": space,
            "name": f"{name}-{'six' if any(':' in each for each in listed) else 'four'}",
            "labels": {"kubernetes.io/service-name": name},
        },
        "addressType": "IPv6" if any(":" in each for each in listed) else "IPv4",
        "endpoints": [{"addresses": [address]} for address in listed],
        "ports": [{"name": f"p{number}", "protocol": protocol, "port": number} for protocol, number in ports],
    }


def of(api: str, kind: str, key: str, spec: Mapping[str, Any], /, **labels: str) -> Object:
    """Any object; `key` is "name" or "namespace/name"."""
    space, _, name = key.rpartition("/")
    meta: Object = {"name": name} | ({"namespace": space} if space else {}) | ({"labels": labels} if labels else {})
    return {"apiVersion": api, "kind": kind, "metadata": meta, "spec": dict(spec)}


def network_policy(key: str, **spec: Any) -> Object:
    return of(NETWORKING, "NetworkPolicy", key, spec)


def cluster_policy(name: str, **spec: Any) -> Object:
    given = {"tier": "Admin", "priority": 10, "subject": {"namespaces": {}}}
    return of(CLUSTER, "ClusterNetworkPolicy", name, given | spec)


def calico_policy(key: str, **spec: Any) -> Object:
    return of(CALICO, "NetworkPolicy" if "/" in key else "GlobalNetworkPolicy", key, spec)


def flow(
    source: End | Object,
    destination: End | Object,
    to: str = "tcp/80",
    *,
    source_port: int = 40_000,
    six: bool = False,
) -> Flow:
    """`to` is "tcp/80", or "icmp/8/0" with type and code. Pods are taken by the address of the family."""
    protocol, *numbers = to.split("/")
    ends = [end if isinstance(end, End) else end_of(end, six) for end in (source, destination)]
    kind, code = (int(numbers[0]), int(numbers[1])) if protocol.startswith("icmp") else (0, 0)
    port = int(numbers[0]) if not protocol.startswith("icmp") and numbers else 0
    number = PROTOCOLS.get(protocol) or int(protocol)
    return Flow(*ends, number, port, source_port if port else 0, kind, code)


def end_of(obj: Object, six: bool = False) -> End:
    """A pod's end of a flow; for one in the host's network that of its node."""
    meta = obj["metadata"]
    listed = [item["ip"] for item in obj["status"].get("podIPs", ())]
    address = next((each for each in listed if (":" in each) == six), "fd00::dead" if six else "192.0.2.99")
    return End(address, (meta["namespace"], meta["name"]))
