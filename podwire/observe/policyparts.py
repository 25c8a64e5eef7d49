"""A policy as it was written, taken apart: whom it selects, and each rule with its peers and ports, every part with the
path of its field. Pure.

Calculation reads `model.policy`, where the spelling is gone; who lints or explains needs the spelling. Sources:
networking.k8s.io/v1, policy.networking.k8s.io/v1alpha1 and v1alpha2, projectcalico.org/v3.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from podwire.model.api import Object
from podwire.model.expression import parse_expression
from podwire.model.selectors import LabelSelector, label_selector
from podwire.observe.policyscene import Endpoint, Space

KUBERNETES, CLUSTER, CALICO = "networking.k8s.io", "policy.networking.k8s.io", "projectcalico.org"
KINDS = {
    (KUBERNETES, "NetworkPolicy"),
    (CLUSTER, "ClusterNetworkPolicy"),
    (CLUSTER, "AdminNetworkPolicy"),
    (CLUSTER, "BaselineAdminNetworkPolicy"),
    *((CALICO, f"{staged}{kind}") for staged in ("", "Staged") for kind in ("NetworkPolicy", "GlobalNetworkPolicy")),
    (CALICO, "StagedKubernetesNetworkPolicy"),
}
PROTOCOLS = {"tcp": "TCP", "udp": "UDP", "sctp": "SCTP"}


@dataclass(frozen=True, slots=True)
class Selection:
    """Pods by their labels. `spaces`, where the namespace is chosen by labels as well, is that half alone, written at
    `spaces_path`. `own` is the namespace that the selection is confined to for want of such a half, '' if none.
    `every`: all pods there."""

    path: str
    text: str
    pods: Callable[[Endpoint], bool]
    keys: tuple[tuple[str, tuple[str, ...]], ...] = ()
    spaces: Callable[[Space], bool] | None = None
    spaces_path: str = ""
    spaces_text: str = ""
    own: str = ""
    every: bool = False


@dataclass(frozen=True, slots=True)
class Port:
    """`number` to `last`, or a `name`, or neither: every port of `protocol` ('' for any)."""

    path: str
    protocol: str
    number: int | None = None
    last: int | None = None
    name: str = ""


@dataclass(frozen=True, slots=True)
class RulePart:
    """`anybody`: no field says who the peer is. `others` are the peers that labels do not choose (nets, nodes, names),
    as text; `extra` whatever else must hold, as text ('' if nothing)."""

    path: str
    direction: str
    action: str
    peers: tuple[Selection, ...]
    ports: tuple[Port, ...]
    anybody: bool
    others: tuple[str, ...] = ()
    extra: str = ""


@dataclass(frozen=True, slots=True)
class PolicyParts:
    """`types` are the directions that it governs; `told` those that it names itself."""

    kind: str
    namespace: str
    name: str
    subject: Selection
    rules: tuple[RulePart, ...]
    types: frozenset[str]
    told: tuple[str, ...]
    tier: str
    order: float | None
    staged: bool


def is_policy(obj: Object) -> bool:
    return (str(obj.get("apiVersion", "")).partition("/")[0], obj.get("kind")) in KINDS


def parts(obj: Object) -> PolicyParts:
    """Raises SelectorError, ExpressionError, and TypeError, KeyError, AttributeError, ValueError for what the API would
    refuse."""
    group, kind = obj["apiVersion"].partition("/")[0], obj["kind"]
    spec = obj.get("spec") or {}
    namespace = obj["metadata"].get("namespace") or "default"
    if group == KUBERNETES or kind == "StagedKubernetesNetworkPolicy":
        return _kubernetes(obj, spec, namespace)
    if group == CLUSTER:
        return _cluster(obj, spec)
    return _calico(obj, spec, "" if "Global" in kind else namespace)


def _short(selector: Any) -> str:
    return json.dumps(selector, separators=(", ", ": ")) if selector else "{}"


# -- Kubernetes label selectors ---------------------------------------------------------------------------------------


def _selector(obj: Mapping[str, Any] | None) -> LabelSelector:
    return label_selector(obj or {}) or LabelSelector()


def _pods(
    path: str, pod: Mapping[str, Any] | None, space: Mapping[str, Any] | None, own: str = "", names: str = ""
) -> Selection:
    """Pods chosen by a pod selector, a namespace selector, or both; without the latter, of the namespace `own`."""
    pod_match, space_match = _selector(pod), _selector(space)
    inside = f"{path}.{names}" if names else path
    pod_path = f"{inside}.podSelector" if names != "namespaces" else inside
    by_space = space is not None

    def matches(one: Endpoint) -> bool:
        at_home = space_match.matches(one.space.labels) if by_space else not own or one.namespace == own
        return at_home and pod_match.matches(one.labels)

    keys = tuple((each.key, tuple(sorted(each.values))) for each in pod_match.requirements if each.operator == "In")
    return Selection(
        path=pod_path if pod is not None or (names == "" and not by_space) else inside,
        text=_short(pod) if pod is not None else _short(space),
        pods=matches,
        keys=keys,
        spaces=(lambda one: space_match.matches(one.labels)) if by_space else None,
        spaces_path=(inside if names == "namespaces" else f"{inside}.namespaceSelector") if by_space else "",
        spaces_text=_short(space) if by_space else "",
        own="" if by_space else own,
        every=not pod_match.requirements,
    )


def _kubernetes(obj: Object, spec: Mapping[str, Any], namespace: str) -> PolicyParts:
    rules = []
    for direction, field in (("ingress", "from"), ("egress", "to")):
        for at, rule in enumerate(spec.get(direction) or []):
            path = f"spec.{direction}[{at}]"
            peers, others, written = [], [], rule.get(field) or []
            for index, peer in enumerate(written):
                if "podSelector" in peer or "namespaceSelector" in peer:
                    pod, space = peer.get("podSelector"), peer.get("namespaceSelector")
                    peers.append(_pods(f"{path}.{field}[{index}]", pod, space, namespace))
                else:
                    block = peer.get("ipBlock") or {}
                    others.append(_short(peer) if block.get("except") else str(block.get("cidr")))
            ports = tuple(_port(f"{path}.ports[{n}]", port) for n, port in enumerate(rule.get("ports") or []))
            rules.append(RulePart(path, direction, "Allow", tuple(peers), ports, not written, tuple(others)))
    told = tuple(word.lower() for word in spec.get("policyTypes") or [])
    assumed = {"ingress", *(["egress"] if spec.get("egress") else [])}
    selector = spec.get("podSelector") or {}
    subject = _pods("spec", selector, None, namespace)
    staged = obj["kind"].startswith("Staged")
    types = frozenset(told or assumed)
    return PolicyParts(
        obj["kind"], namespace, obj["metadata"]["name"], subject, tuple(rules), types, told, "default", 1000.0, staged
    )


def _port(path: str, port: Mapping[str, Any]) -> Port:
    protocol, value = port.get("protocol") or "TCP", port.get("port")
    if isinstance(value, str) and not value.isdigit():
        return Port(f"{path}.port", protocol, name=value)
    number = int(value) if value is not None else None
    return Port(f"{path}.port", protocol, number, int(port.get("endPort") or number or 0) or None)


def _cluster(obj: Object, spec: Mapping[str, Any]) -> PolicyParts:
    rules = []
    for direction, field in (("ingress", "from"), ("egress", "to")):
        for at, rule in enumerate(spec.get(direction) or []):
            path = f"spec.{direction}[{at}]"
            written = rule.get(field) or []
            chosen = [_cluster_peer(f"{path}.{field}[{index}]", peer) for index, peer in enumerate(written)]
            peers = tuple(one for one in chosen if one)
            others: list[str] = []
            for peer, one in zip(written, chosen, strict=True):
                if one is None:
                    others += peer["networks"] if list(peer) == ["networks"] else [_short(peer)]
            ports = (*_protocols(path, rule.get("protocols") or []), *_old_ports(path, rule.get("ports") or []))
            action = str(rule.get("action", ""))
            rules.append(RulePart(path, direction, action, peers, ports, not written, tuple(others)))
    baseline = obj["kind"].startswith("Baseline") or spec.get("tier") == "Baseline"
    subject = _cluster_peer("spec.subject", spec.get("subject") or {})
    if subject is None:
        raise ValueError("spec.subject names neither namespaces nor pods")
    return PolicyParts(
        kind=obj["kind"],
        namespace="",
        name=obj["metadata"]["name"],
        subject=subject,
        rules=tuple(rules),
        types=frozenset(direction for direction in ("ingress", "egress") if spec.get(direction)),
        told=(),
        tier="kube-baseline" if baseline else "kube-admin",
        order=float(spec["priority"]) if "priority" in spec else None,
        staged=False,
    )


def _cluster_peer(path: str, peer: Mapping[str, Any]) -> Selection | None:
    if peer.get("namespaces") is not None:
        return _pods(path, None, peer["namespaces"], names="namespaces")
    if peer.get("pods") is not None:
        pods = peer["pods"]
        return _pods(path, pods.get("podSelector") or {}, pods.get("namespaceSelector") or {}, names="pods")
    return None


def _protocols(path: str, protocols: Iterable[Mapping[str, Any]]) -> Iterator[Port]:
    """Of v1alpha2."""
    for index, entry in enumerate(protocols):
        here = f"{path}.protocols[{index}]"
        if name := entry.get("destinationNamedPort"):
            yield Port(f"{here}.destinationNamedPort", "", name=name)
        for key, protocol in PROTOCOLS.items():
            if key in entry:
                port = (entry[key] or {}).get("destinationPort") or {}
                span = port.get("range") or {}
                number = port.get("number", span.get("start"))
                yield Port(f"{here}.{key}.destinationPort", protocol, number, span.get("end", number))


def _old_ports(path: str, ports: Iterable[Mapping[str, Any]]) -> Iterator[Port]:
    """Of v1alpha1."""
    for index, entry in enumerate(ports):
        here = f"{path}.ports[{index}]"
        if name := entry.get("namedPort"):
            yield Port(f"{here}.namedPort", "", name=name)
        if one := entry.get("portNumber"):
            yield Port(f"{here}.portNumber", one.get("protocol") or "TCP", one.get("port"), one.get("port"))
        if span := entry.get("portRange"):
            yield Port(f"{here}.portRange", span.get("protocol") or "TCP", span.get("start"), span.get("end"))


# -- Calico's expressions ---------------------------------------------------------------------------------------------


def _calico(obj: Object, spec: Mapping[str, Any], namespace: str) -> PolicyParts:
    rules = []
    for direction in ("ingress", "egress"):
        for at, rule in enumerate(spec.get(direction) or []):
            path = f"spec.{direction}[{at}]"
            end = "source" if direction == "ingress" else "destination"
            entity = rule.get(end) or {}
            chosen = _entity(f"{path}.{end}", entity, namespace)
            where = f"{path}.destination.ports"
            written = enumerate((rule.get("destination") or {}).get("ports") or [])
            ports = tuple(_calico_port(f"{where}[{n}]", rule.get("protocol"), port) for n, port in written)
            if not ports and rule.get("protocol") is not None:
                ports = (Port(f"{path}.protocol", str(rule["protocol"]).upper()),)
            nets = tuple(map(str, entity.get("nets") or ())) if not chosen else ()
            peers = (chosen,) if chosen else ()
            anybody = not chosen and not any(entity.get(key) for key in _PEER_KEYS)
            extra = _extra(rule, end, with_nets=bool(chosen))
            rules.append(RulePart(path, direction, str(rule.get("action", "")), peers, ports, anybody, nets, extra))
    subject = _entity("spec", spec, namespace) or Selection(
        "spec.selector", "all()", (lambda one: not namespace or one.namespace == namespace), own=namespace
    )
    told = tuple(word.lower() for word in spec.get("types") or [])
    assumed = {direction for direction in ("ingress", "egress") if spec.get(direction)} or {"ingress"}
    order = spec.get("order")
    return PolicyParts(
        kind=obj["kind"],
        namespace=namespace,
        name=obj["metadata"]["name"],
        subject=subject,
        rules=tuple(rules),
        types=frozenset(told or assumed),
        told=told,
        tier=spec.get("tier") or "default",
        order=None if order is None else float(order),
        staged=obj["kind"].startswith("Staged"),
    )


_PEER_KEYS = ("nets", "notNets", "notSelector", "services")
_TOLD_ELSEWHERE = ("selector", "namespaceSelector", "serviceAccounts")


def _extra(rule: Mapping[str, Any], end: str, *, with_nets: bool) -> str:
    """What a rule demands beside its peers, its protocol and its destination's ports."""
    found: dict[str, Any] = {key: rule[key] for key in rule if key not in ("action", "protocol", "metadata")}
    for side in ("source", "destination"):
        entity = {key: value for key, value in (rule.get(side) or {}).items() if value}
        told = [*(_TOLD_ELSEWHERE if side == end else ()), *(["nets"] if side == end and not with_nets else [])]
        told += ["ports"] if side == "destination" else []
        found[side] = {key: value for key, value in entity.items() if key not in told}
    left = {key: value for key, value in found.items() if value}
    return json.dumps(left, sort_keys=True) if left else ""


def _entity(path: str, entity: Mapping[str, Any], namespace: str) -> Selection | None:
    """Whom the selectors of a policy or of a rule's end choose; None when there are none."""
    own_text, space_text = entity.get("selector") or "", entity.get("namespaceSelector") or ""
    accounts = entity.get("serviceAccounts") or {}
    account_text = accounts.get("selector") or entity.get("serviceAccountSelector") or ""
    names = frozenset(accounts.get("names") or ())
    if not (own_text or space_text or account_text or names):
        return None
    own, account = parse_expression(own_text.strip()), parse_expression(account_text.strip())
    nowhere = space_text.strip() == "global()"
    space = parse_expression(space_text.strip())

    def matches(one: Endpoint) -> bool:
        if nowhere or (namespace and not space_text and one.namespace != namespace):
            return False
        by_account = not account_text or account(one.account_labels)
        return (
            by_account
            and (not names or one.account in names)
            and space(one.space.calico_labels)
            and own(one.calico_labels)
        )

    said = [own_text, *([f"serviceAccounts {', '.join(sorted(names))}"] if names else []), account_text]
    field = "selector" if own_text else "namespaceSelector" if space_text else "serviceAccounts"
    if not own_text and not space_text and path == "spec":
        field = "serviceAccountSelector"
    return Selection(
        path=f"{path}.{field}",
        text=" and ".join(text.strip() for text in said if text) or space_text.strip(),
        pods=matches,
        spaces=(lambda one: space(one.calico_labels)) if space_text and not nowhere else None,
        spaces_path=f"{path}.namespaceSelector" if space_text else "",
        spaces_text=space_text.strip(),
        own=namespace if not space_text else "",
        every=own_text.strip() in ("", "all()") and not (account_text or names),
    )


def _calico_port(path: str, protocol: Any, port: Any) -> Port:
    word = str(protocol).upper() if protocol is not None else ""
    first, colon, last = str(port).partition(":")
    if first.isdigit() and (not colon or last.isdigit()):
        return Port(path, word, int(first), int(last or first))
    return Port(path, word, name=str(port))
