"""The oracle's reading of everything but policies: who is at an address, with which labels and named ports.

*Labels* here are what a Calico selector sees: an object's own, and under `pcns.` and `pcsa.` those of its namespace and
service account. Sources: core/v1 Namespace, Pod, Node, ServiceAccount; discovery/v1 EndpointSlice; projectcalico.org/v3
NetworkSet, GlobalNetworkSet, and what a workload endpoint is given of labels.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

from podwire.model.address import AddressError, Cidr, format_ip, parse_ip
from podwire.model.expression import ExpressionError, parse_expression

NAMESPACE, ACCOUNT = "projectcalico.org/namespace", "projectcalico.org/serviceaccount"
Labels = Mapping[str, str]
Object = Mapping[str, Any]
PROTOCOLS = {"TCP": 6, "UDP": 17, "SCTP": 132, "ICMP": 1, "ICMPV6": 58, "UDPLITE": 136}


class Unreadable(ValueError):
    """An object cannot be read; the message names the field."""


@dataclass(frozen=True)
class End:
    """One end of a flow. `pod` is (namespace, name). `node` is given for what the node itself sends or receives, its
    pods in the host's network included. An address alone is looked up among the pods."""

    address: str
    pod: tuple[str, str] | None = None
    node: str | None = None

    def plain(self) -> End:
        """With the address as it is usually written. Raises AddressError."""
        usual = format_ip(*number_of(self.address))
        return self if usual == self.address else replace(self, address=usual)


@dataclass(frozen=True)
class PodEnd:
    """A pod that has addresses of its own. `ports` are (name, protocol, number)."""

    key: tuple[str, str]
    labels: Labels
    own: Labels
    addresses: frozenset[str]
    node: str
    ports: tuple[tuple[str, int, int], ...] = ()


@dataclass(frozen=True)
class SetEnd:
    """A network set; `namespace` '' for a global one."""

    namespace: str
    labels: Labels
    nets: tuple[Cidr, ...]


@dataclass(frozen=True)
class Backend:
    """An endpoint of a service: `port` None is every port of the protocol."""

    address: str
    protocol: int
    port: int | None


@dataclass(frozen=True)
class Objects:
    """By key; `namespaces`, `nodes` and `accounts` are the objects' labels, `nodes` with their addresses."""

    namespaces: dict[str, Labels] = field(default_factory=dict)
    pods: dict[tuple[str, str], PodEnd] = field(default_factory=dict)
    host_pods: dict[tuple[str, str], str] = field(default_factory=dict)
    nodes: dict[str, tuple[Labels, frozenset[str]]] = field(default_factory=dict)
    sets: tuple[SetEnd, ...] = ()
    services: dict[tuple[str, str], tuple[Backend, ...]] = field(default_factory=dict)
    _at: dict[str, list[PodEnd | SetEnd]] = field(default_factory=dict, compare=False, repr=False)

    @staticmethod
    def of(objects: Iterable[Object], problems: list[tuple[str, str]]) -> Objects:
        """Appends (object, what is wrong) of those that cannot be read."""
        by_kind: dict[str, list[Object]] = {}
        for obj in objects:
            by_kind.setdefault(f"{_group(obj)}{obj.get('kind')}", []).append(obj)
        known = Objects()
        for obj in by_kind.get("Namespace", ()):
            known.namespaces[name_of(obj)] = labels_of(obj)
        accounts = {(space_of(obj), name_of(obj)): labels_of(obj) for obj in by_kind.get("ServiceAccount", ())}
        for obj in by_kind.get("Node", ()):
            addresses = (obj.get("status") or {}).get("addresses") or ()
            kept = frozenset(canonical(str(item.get("address"))) for item in addresses) - {""}
            known.nodes[name_of(obj)] = labels_of(obj), kept
        for obj in by_kind.get("Pod", ()):
            _add_pod(known, obj, accounts)
        for obj in by_kind.get("discovery.k8s.io EndpointSlice", ()):
            service = labels_of(obj).get("kubernetes.io/service-name")
            if service:
                key = space_of(obj), service
                known.services[key] = (*known.services.get(key, ()), *_backends(obj))
        sets = [
            *by_kind.get("projectcalico.org NetworkSet", ()),
            *by_kind.get("projectcalico.org GlobalNetworkSet", ()),
        ]
        read = []
        for obj in sets:
            try:
                read.append(_network_set(known, obj))
            except AddressError as error:
                problems.append((f"{obj['kind']} {name_of(obj)}", str(error)))
        return Objects(known.namespaces, known.pods, known.host_pods, known.nodes, tuple(read), known.services)

    def at(self, address: str) -> list[PodEnd | SetEnd]:
        """Everybody who has this address: the pods, and the network sets around it."""
        if address in self._at:
            return self._at[address]
        number, width = number_of(address)
        pods = [pod for pod in self.pods.values() if address in pod.addresses]
        sets = [each for each in self.sets if any(net.width == width and net.holds(number) for net in each.nets)]
        self._at[address] = [*pods, *sets]
        return self._at[address]

    def namespace_labels(self, name: str) -> Labels:
        """A namespace's labels, with the one that the API server gives every namespace."""
        return {**self.namespaces.get(name, {}), "kubernetes.io/metadata.name": name}


def _add_pod(known: Objects, obj: Object, accounts: Mapping[tuple[str, str], Labels]) -> None:
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    key, node = (space_of(obj), name_of(obj)), str(spec.get("nodeName") or "")
    if spec.get("hostNetwork"):
        known.host_pods[key] = node
        return
    if status.get("phase") in ("Succeeded", "Failed"):
        return
    texts = [item.get("ip") for item in status.get("podIPs") or ()] or [status.get("podIP")]
    account = spec.get("serviceAccountName") or "default"
    own = labels_of(obj)
    labels = {
        **under("pcsa.", {**accounts.get((key[0], account), {}), "projectcalico.org/name": account}),
        **under("pcns.", {**known.namespace_labels(key[0]), "projectcalico.org/name": key[0]}),
        **own,
        NAMESPACE: key[0],
        "projectcalico.org/orchestrator": "k8s",
    }
    if len(account) < 63:
        labels[ACCOUNT] = account
    addresses = frozenset(canonical(text) for text in texts if text)
    known.pods[key] = PodEnd(key, labels, own, addresses, node, tuple(_named_ports(spec)))


def _named_ports(spec: Object) -> Iterable[tuple[str, int, int]]:
    """Of containers, and of init containers that go on running beside them."""
    sidecars = [each for each in spec.get("initContainers") or () if each.get("restartPolicy") == "Always"]
    for container in [*(spec.get("containers") or ()), *sidecars]:
        for port in container.get("ports") or ():
            if port.get("name"):
                yield port["name"], protocol_number(port.get("protocol") or "TCP"), int(port["containerPort"])


def _backends(obj: Object) -> Iterable[Backend]:
    """Ready or not: whoever is listed."""
    for endpoint in obj.get("endpoints") or ():
        for address in endpoint.get("addresses") or ():
            for port in obj.get("ports") or ():
                yield Backend(canonical(address), protocol_number(port.get("protocol") or "TCP"), port.get("port"))


def _network_set(known: Objects, obj: Object) -> SetEnd:
    nets = tuple(cidr(text) for text in (obj.get("spec") or {}).get("nets") or ())
    namespace = space_of(obj) if obj["kind"] == "NetworkSet" else ""
    labels = dict(labels_of(obj))
    if namespace:
        inherited = under("pcns.", {**known.namespace_labels(namespace), "projectcalico.org/name": namespace})
        labels = {**inherited, **labels, NAMESPACE: namespace}
    return SetEnd(namespace, labels, nets)


def label_selector(selector: Object | None, labels: Labels) -> bool:
    """A meta/v1 LabelSelector; None and {} select everything."""
    selector = selector or {}
    for key, value in (selector.get("matchLabels") or {}).items():
        if labels.get(key) != value:
            return False
    for term in selector.get("matchExpressions") or ():
        key, values = term["key"], term.get("values") or ()
        match term.get("operator"):
            case "In":
                holds = key in labels and labels[key] in values
            case "NotIn":
                holds = not (key in labels and labels[key] in values)
            case "Exists":
                holds = key in labels
            case "DoesNotExist":
                holds = key not in labels
            case _:
                holds = False
        if not holds:
            return False
    return True


def check_selector(selector: Object | None) -> None:
    """Raises Unreadable where a LabelSelector cannot be read."""
    for term in (selector or {}).get("matchExpressions") or ():
        if term.get("operator") not in ("In", "NotIn", "Exists", "DoesNotExist"):
            raise Unreadable(f"operator {term.get('operator')!r} of a label selector is not known")
        if (term["operator"] in ("In", "NotIn")) != bool(term.get("values")):
            raise Unreadable("values belong to In and NotIn, and to them alone")


def check_nets(nets: Iterable[str]) -> None:
    """Raises AddressError."""
    for net in nets:
        cidr(net)


def expression(text: str) -> Callable[[Labels], bool]:
    """A Calico selector. Raises Unreadable."""
    try:
        return parse_expression(text)
    except ExpressionError as error:
        raise Unreadable(str(error)) from error


def of_namespace(text: str, labels: Labels) -> bool:
    """A namespaceSelector, asked of something with these labels: `all()` is whatever lies in a namespace, `global()`
    whatever does not. A negative one also holds for what has no namespace: the label is absent."""
    if text.strip() == "global()":
        return NAMESPACE not in labels
    return _prefixed(text, "pcns.", NAMESPACE)(labels)


def of_account(text: str, labels: Labels) -> bool:
    """A selector of service accounts; `all()` is whatever runs under one."""
    return _prefixed(text, "pcsa.", ACCOUNT)(labels)


@lru_cache(maxsize=1024)
def _prefixed(text: str, prefix: str, marker: str) -> Callable[[Labels], bool]:
    """The expression about the labels under a prefix, `all()` meaning that the marker is there."""
    asked = expression(text.replace("all()", "has(/)"))
    stripped = len(prefix)

    def holds(labels: Labels) -> bool:
        inherited = {key[stripped:]: value for key, value in labels.items() if key.startswith(prefix)}
        return asked({**inherited, "/": ""} if marker in labels else inherited)

    return holds


def under(prefix: str, labels: Labels) -> dict[str, str]:
    return {prefix + key: value for key, value in labels.items()}


def protocol_number(protocol: str | int) -> int:
    """Raises Unreadable."""
    if isinstance(protocol, int):
        return protocol
    if protocol.upper() not in PROTOCOLS:
        raise Unreadable(f"protocol {protocol!r} is not known")
    return PROTOCOLS[protocol.upper()]


@lru_cache(maxsize=4096)
def cidr(text: str) -> Cidr:
    """Host bits are cut off, leading zeros dropped, and IPv4 written as IPv6 is IPv4. Raises AddressError."""
    found = Cidr.parse(re.sub(r"(^|\.)0+(?=\d)", r"\1", text) if ":" not in text else text, host_bits=True)
    if found.width == 128 and found.length >= 96 and found.first >> 32 == 0xFFFF:
        return Cidr(found.first & 0xFFFFFFFF, found.length - 96, 32)
    return found


@lru_cache(maxsize=4096)
def number_of(address: str) -> tuple[int, int]:
    """An address as (number, width); IPv4 written as IPv6 is IPv4. Raises AddressError."""
    number, width = parse_ip(address)
    return (number & 0xFFFFFFFF, 32) if width == 128 and number >> 32 == 0xFFFF else (number, width)


def canonical(address: str) -> str:
    """The usual text of an address; '' for what is none (a node's host name)."""
    try:
        return format_ip(*number_of(address))
    except AddressError:
        return ""


def _group(obj: Object) -> str:
    group, slash, _ = str(obj.get("apiVersion") or "").partition("/")
    return f"{group} " if slash else ""


def name_of(obj: Object) -> str:
    return str((obj.get("metadata") or {}).get("name") or "")


def space_of(obj: Object) -> str:
    """The namespace; a namespaced object without one is in `default`."""
    return str((obj.get("metadata") or {}).get("namespace") or "default")


def labels_of(obj: Object) -> Labels:
    return (obj.get("metadata") or {}).get("labels") or {}
