"""What policies are asked about, as it stands in manifests or in a cluster: namespaces, pods and their labels, and the
rest. Pure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from podwire.model.address import AddressError, format_ip, parse_ip
from podwire.model.api import Object
from podwire.model.workload import pod_addresses
from podwire.observe.manifests import Manifest

NAME_LABEL = "kubernetes.io/metadata.name"
_SHOWN = ("Succeeded", "Failed")


@dataclass(frozen=True, slots=True)
class Space:
    """A namespace; `declared` is false when only its pods are known. `calico_labels` are those that a namespaceSelector
    of projectcalico.org sees."""

    name: str
    labels: Mapping[str, str]
    declared: bool = True

    @property
    def calico_labels(self) -> dict[str, str]:
        return {
            **self.labels,
            "projectcalico.org/name": self.name,
            "projectcalico.org/namespace": self.name,
        }


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A pod that has not ended. `ports` are (name, protocol, number) of its containers. `addresses` are empty in the
    host's network, where `host` is true."""

    namespace: str
    name: str
    labels: Mapping[str, str]
    space: Space
    account: str = "default"
    account_labels: Mapping[str, str] = field(default_factory=dict)
    addresses: tuple[str, ...] = ()
    node: str = ""
    ports: tuple[tuple[str, str, int], ...] = ()
    host: bool = False

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"

    @property
    def calico_labels(self) -> dict[str, str]:
        return {
            **self.labels,
            "projectcalico.org/namespace": self.namespace,
            "projectcalico.org/orchestrator": "k8s",
            "projectcalico.org/serviceaccount": self.account,
        }


@dataclass(frozen=True)
class Scene:
    """`spaces` by name, `pods` by (namespace, name), those in the host's network included. `objects` are all, as they
    came: the calculation reads them itself."""

    manifests: tuple[Manifest, ...]

    @property
    def objects(self) -> list[Object]:
        return [one.object for one in self.manifests]

    def of_kind(self, *kinds: str) -> list[Manifest]:
        return [one for one in self.manifests if one.object["kind"] in kinds]

    @cached_property
    def spaces(self) -> dict[str, Space]:
        found = {}
        for one in self.of_kind("Namespace"):
            name = one.object["metadata"]["name"]
            found[name] = Space(name, {**_texts(one.object["metadata"].get("labels")), NAME_LABEL: name})
        for one in self.of_kind("Pod"):
            name = namespace_of(one.object)
            found.setdefault(name, Space(name, {NAME_LABEL: name}, declared=False))
        return found

    @cached_property
    def pods(self) -> dict[tuple[str, str], Endpoint]:
        accounts = {
            (namespace_of(one.object), one.object["metadata"]["name"]): _texts(one.object["metadata"].get("labels"))
            for one in self.of_kind("ServiceAccount")
        }
        found = {}
        for one in self.of_kind("Pod"):
            pod = one.object
            if (pod.get("status") or {}).get("phase") in _SHOWN:
                continue
            spec, namespace = pod.get("spec") or {}, namespace_of(pod)
            account = spec.get("serviceAccountName") or "default"
            host = bool(spec.get("hostNetwork"))
            key = namespace, pod["metadata"]["name"]
            found[key] = Endpoint(
                *key,
                labels=_texts(pod["metadata"].get("labels")),
                space=self.spaces[namespace],
                account=account,
                account_labels={**accounts.get((namespace, account), {}), "projectcalico.org/name": account},
                addresses=() if host else tuple(_usual(pod_addresses(pod))),
                node=spec.get("nodeName") or "",
                ports=tuple(_ports(spec)),
                host=host,
            )
        return found

    @cached_property
    def by_address(self) -> dict[str, Endpoint]:
        return {address: pod for pod in self.pods.values() for address in pod.addresses}

    @cached_property
    def node_addresses(self) -> list[tuple[str, str]]:
        """(node, address) in the usual text, but for those that a pod has."""
        found = []
        for one in self.of_kind("Node"):
            for entry in (one.object.get("status") or {}).get("addresses") or []:
                try:
                    address = format_ip(*parse_ip(str(entry.get("address"))))
                except AddressError:
                    continue  # its host name
                if address not in self.by_address:
                    found.append((str(one.object["metadata"]["name"]), address))
        return list(dict.fromkeys(found))

    @cached_property
    def ported(self) -> list[Endpoint]:
        """Pods with an address of their own, in order: those that a policy can govern."""
        return [pod for _, pod in sorted(self.pods.items()) if pod.addresses]

    def counted(self) -> str:
        """`3 policies, 12 pods in 2 namespaces`."""
        from podwire.observe.policyparts import is_policy

        policies = sum(is_policy(one.object) for one in self.manifests)
        parts = [
            number(policies, "policy", "policies"),
            f"{number(len(self.pods), 'pod')} in {number(len(self.spaces), 'namespace')}",
        ]
        return ", ".join(parts)


def number(count: int, one: str, many: str = "") -> str:
    return f"{count} {one if count == 1 else many or one + 's'}"


def namespace_of(obj: Object) -> str:
    """Where kubectl would put it."""
    return str(obj["metadata"].get("namespace") or "default")


def identity(obj: Object) -> tuple[str, str, str, str]:
    """Group, kind, namespace and name: what replaces what. (One kind's versions are one object.)"""
    group = str(obj["apiVersion"]).rpartition("/")[0]
    return group, str(obj["kind"]), str(obj["metadata"].get("namespace") or ""), str(obj["metadata"]["name"])


def title(obj: Object) -> str:
    """`NetworkPolicy default/web`."""
    kind, name = obj["kind"], obj["metadata"]["name"]
    if kind in OF_THE_CLUSTER:
        return f"{kind} {name}"
    if kind == "NetworkPolicy" and obj["apiVersion"].startswith("projectcalico.org/"):
        kind = "NetworkPolicy.projectcalico.org"
    return f"{kind} {namespace_of(obj)}/{name}"


def settled(obj: Object) -> Object:
    """In the namespace where kubectl would put it, and with texts for labels."""
    metadata = obj["metadata"]
    if obj["kind"] not in OF_THE_CLUSTER and not metadata.get("namespace"):
        metadata = {**metadata, "namespace": "default"}
    labels = {str(key): str(value) for key, value in (metadata.get("labels") or {}).items()}
    kept = {key: value for key, value in metadata.items() if value is not None}
    return {**obj, "metadata": {**kept, "labels": labels}}


def over(below: Iterable[Manifest], above: Iterable[Manifest]) -> tuple[Manifest, ...]:
    """What there is after `kubectl apply` of `above` on `below`: an object of the same name takes the other's place."""
    found = {_settled(one): one for one in below}
    found.update({_settled(one): one for one in above})
    return tuple(found.values())


OF_THE_CLUSTER = (
    "Namespace", "Node", "ClusterNetworkPolicy", "AdminNetworkPolicy", "BaselineAdminNetworkPolicy",
    "GlobalNetworkPolicy", "StagedGlobalNetworkPolicy", "GlobalNetworkSet", "Tier", "Profile", "HostEndpoint",
)  # fmt: skip


def _settled(one: Manifest) -> tuple[str, str, str, str]:
    group, kind, namespace, name = identity(one.object)
    return group, kind, "" if kind in OF_THE_CLUSTER else namespace or "default", name


def twice(manifests: Iterable[Manifest]) -> list[Manifest]:
    """Those whose name something before them has already."""
    seen: Counter[tuple[str, str, str, str]] = Counter()
    found = []
    for one in manifests:
        key = _settled(one)
        seen[key] += 1
        if seen[key] > 1:
            found.append(one)
    return found


def _texts(labels: Any) -> dict[str, str]:
    return {str(key): str(value) for key, value in (labels or {}).items()} if isinstance(labels, dict) else {}


def _usual(addresses: Iterable[str]) -> Iterable[str]:
    """In their usual text; what is no address is left out."""
    for address in addresses:
        try:
            yield format_ip(*parse_ip(address))
        except AddressError:
            continue


def _ports(spec: Mapping[str, Any]) -> Iterable[tuple[str, str, int]]:
    """Of containers and of sidecars (init containers that go on)."""
    sidecars = [one for one in spec.get("initContainers") or [] if one.get("restartPolicy") == "Always"]
    for container in [*(spec.get("containers") or []), *sidecars]:
        for port in container.get("ports") or []:
            yield str(port.get("name") or ""), port.get("protocol") or "TCP", int(port.get("containerPort") or 0)
