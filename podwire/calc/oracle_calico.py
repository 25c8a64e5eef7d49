"""The oracle's reading of Calico's policies: whom each governs, and its rules as questions about a flow.

Source: projectcalico.org/v3 NetworkPolicy, GlobalNetworkPolicy and their staged kin.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from podwire.calc.oracle_rules import (
    PORTED,
    Clause,
    Flow,
    Governing,
    has_named_port,
    in_nets,
    network_policy,
    read,
    tie,
    title,
)
from podwire.calc.oracle_world import (
    ACCOUNT,
    NAMESPACE,
    End,
    Object,
    Objects,
    PodEnd,
    SetEnd,
    Unreadable,
    check_nets,
    cidr,
    expression,
    number_of,
    of_account,
    of_namespace,
    protocol_number,
    space_of,
)


def calico_policy(obj: Object, known: Objects) -> Governing | None:
    kind, spec = str(obj["kind"]), obj.get("spec") or {}
    staged = kind.startswith("Staged")
    if staged and spec.get("stagedAction") in ("Delete", "Ignore"):
        return None
    if spec.get("doNotTrack") or spec.get("preDNAT"):
        return None  # of host endpoints only
    namespaced = kind.endswith("NetworkPolicy") and "Global" not in kind
    namespace = space_of(obj) if namespaced else ""
    called = f"{kind}.projectcalico.org" if kind == "NetworkPolicy" else kind  # another kind has that name
    types = spec.get("types") or [
        *(["Ingress"] if spec.get("ingress") or not spec.get("egress") else []),
        *(["Egress"] if spec.get("egress") else []),
    ]
    selector = expression(spec.get("selector") or "")
    for text in (spec.get("namespaceSelector"), spec.get("serviceAccountSelector")):
        expression(text or "")

    def governs(pod: PodEnd) -> bool:
        return (
            (not namespaced or pod.key[0] == namespace)
            and selector(pod.labels)
            and (not spec.get("namespaceSelector") or of_namespace(spec["namespaceSelector"], pod.labels))
            and (not spec.get("serviceAccountSelector") or of_account(spec["serviceAccountSelector"], pod.labels))
        )

    def clauses(direction: str) -> tuple[Clause, ...]:
        return tuple(
            _calico_clause(rule, f"{direction}[{at}]", namespace, known)
            for at, rule in enumerate(spec.get(direction) or ())
        )

    order = spec.get("order")
    return Governing(
        title(called, obj, namespaced),
        spec.get("tier") or "default",
        (math.inf if order is None else float(order), tie(obj, called, namespaced)),
        governs,
        clauses("ingress") if "Ingress" in types else None,
        clauses("egress") if "Egress" in types else None,
        staged,
    )


def staged_kubernetes(obj: Object, known: Objects) -> Governing | None:
    if (obj.get("spec") or {}).get("stagedAction") in ("Delete", "Ignore"):
        return None
    return replace(network_policy(obj, known, "StagedKubernetesNetworkPolicy"), staged=True)


def _calico_clause(rule: Object, label: str, namespace: str, known: Objects) -> Clause:
    if rule["action"] not in ("Allow", "Deny", "Pass", "Log"):
        raise Unreadable(f"{label}: action {rule['action']!r} is not known")
    return read(label, rule["action"], lambda: _calico_rule(rule, namespace, known))


def _calico_rule(rule: Object, namespace: str, known: Objects) -> Callable[[Flow], bool]:
    """All that is given must hold."""
    source, destination = rule.get("source") or {}, rule.get("destination") or {}
    for entity in (source, destination):
        for key in ("selector", "notSelector", "namespaceSelector"):
            expression(entity.get(key) or "")
        expression((entity.get("serviceAccounts") or {}).get("selector") or "")
        check_nets([*(entity.get("nets") or ()), *(entity.get("notNets") or ())])
    for key in ("protocol", "notProtocol"):
        if rule.get(key) is not None:
            protocol_number(rule[key])

    def matches(flow: Flow) -> bool:
        if rule.get("http"):
            return False  # nobody here reads HTTP, and to allow more than asked for would be wrong
        if rule.get("ipVersion") and rule["ipVersion"] != flow.version:
            return False
        if rule.get("protocol") is not None and protocol_number(rule["protocol"]) != flow.protocol:
            return False
        if rule.get("notProtocol") is not None and protocol_number(rule["notProtocol"]) == flow.protocol:
            return False
        if rule.get("icmp") and not _icmp(rule["icmp"], flow):
            return False
        if rule.get("notICMP") and _icmp(rule["notICMP"], flow):
            return False
        return (
            _entity(source, flow.source, namespace, known)
            and _entity(destination, flow.destination, namespace, known)
            and _ports(source, flow.source, flow.source_port, flow.protocol, known)
            and _ports(destination, flow.destination, flow.port, flow.protocol, known)
            and _services(source, flow.source, namespace, None, known)
            and _services(destination, flow.destination, namespace, (flow.protocol, flow.port), known)
        )

    return matches


def _icmp(wanted: Object, flow: Flow) -> bool:
    return (
        flow.protocol in (1, 58)
        and wanted.get("type") in (None, flow.icmp_type)
        and wanted.get("code") in (None, flow.icmp_code)
    )


def _entity(entity: Object, end: End, namespace: str, known: Objects) -> bool:
    if entity.get("nets") and not in_nets(end, entity["nets"]):
        return False
    if entity.get("notNets"):
        # A list that has nothing of this family: the rule is for the other family only.
        width = number_of(end.address)[1]
        if in_nets(end, entity["notNets"]) or all(cidr(text).width != width for text in entity["notNets"]):
            return False
    accounts = entity.get("serviceAccounts") or {}
    named = [entity.get("selector"), entity.get("notSelector"), accounts.get("names") or accounts.get("selector")]
    if not any(named) and not entity.get("namespaceSelector"):
        return True
    members = known.at(end.address)
    if entity.get("notSelector") and any(expression(entity["notSelector"])(each.labels) for each in members):
        return False
    # In a namespaced policy even a notSelector alone confines to that namespace; in a global one it confines nobody.
    positive = entity.get("selector") or named[2] or entity.get("namespaceSelector")
    if not positive and not namespace:
        return True
    return any(_member(entity, accounts, each, namespace) for each in members)


def _member(entity: Object, accounts: Object, each: PodEnd | SetEnd, namespace: str) -> bool:
    labels = each.labels
    if entity.get("namespaceSelector"):
        if not of_namespace(entity["namespaceSelector"], labels):
            return False
    elif namespace and labels.get(NAMESPACE) != namespace:
        return False
    return (
        (not entity.get("selector") or expression(entity["selector"])(labels))
        and (not accounts.get("names") or labels.get(ACCOUNT) in accounts["names"])
        and (not accounts.get("selector") or of_account(accounts["selector"], labels))
    )


def _ports(entity: Object, end: End, port: int, protocol: int, known: Objects) -> bool:
    wanted, unwanted = entity.get("ports") or (), entity.get("notPorts") or ()
    if protocol not in PORTED:
        return not wanted
    has = [_calico_port(each, end, port, protocol, known) for each in wanted]
    return (any(has) or not has) and not any(_calico_port(each, end, port, protocol, known) for each in unwanted)


def _calico_port(wanted: str | int, end: End, port: int, protocol: int, known: Objects) -> bool:
    first, colon, last = str(wanted).partition(":")
    if first.isdigit():
        return int(first) <= port <= int(last if colon else first)
    return has_named_port(end, str(wanted), protocol, port, known)


def _services(entity: Object, end: End, namespace: str, port: tuple[int, int] | None, known: Objects) -> bool:
    service = entity.get("services")
    if not service:
        return True
    backends = known.services.get((service.get("namespace") or namespace, service["name"]), ())
    return any(
        each.address == end.address and (port is None or (each.protocol, each.port or port[1]) == port)
        for each in backends
    )
