"""Which clauses of policies decide: a clause decides a flow when the verdict is another without it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

from podwire.calc.oracle import Flow, Judgement, World, judge
from tests.unit.policy.objects import Object

Cut = Callable[[Object], bool]
"""Takes a clause out of a policy, in place; False when there was none."""


def _dicts(value: Any) -> Iterator[Object]:
    if isinstance(value, dict):
        yield value
    for each in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _dicts(each)


def _field(*names: str) -> Cut:
    """Wherever it stands in a rule."""

    def cut(obj: Object) -> bool:
        found = [each for each in _dicts(obj.get("spec")) if each.keys() & {*names}]
        for each in found:
            for name in names:
                each.pop(name, None)
        return bool(found)

    return cut


def _action(kind: str, action: str) -> Cut:
    """All rules of an action in policies of a kind."""

    def cut(obj: Object) -> bool:
        spec, before = obj.get("spec") or {}, copy.deepcopy(obj.get("spec"))
        if kind in obj["kind"]:
            for direction in {"ingress", "egress"} & spec.keys():
                spec[direction] = [rule for rule in spec[direction] if rule.get("action") != action]
        return bool(spec != before)

    return cut


def _named_port(obj: Object) -> bool:
    """A port that nobody asks for in the place of its name."""
    found = False
    for each in _dicts(obj.get("spec")):
        for name in ("ports", "notPorts"):
            if any(isinstance(port, str) and port[0].isalpha() for port in each.get(name) or ()):
                each[name] = [2 if str(port)[0].isalpha() else port for port in each[name]]
                found = True
        for name, put in (
            ("destinationNamedPort", ("tcp", {"destinationPort": {"number": 2}})),
            ("namedPort", ("portNumber", {"port": 2})),
        ):
            if each.pop(name, None):
                each[put[0]], found = put[1], True
        if isinstance(each.get("port"), str):
            each["port"], found = 2, True
    return found


def _port_range(obj: Object) -> bool:
    found = _field("endPort")(obj)
    for each in _dicts(obj.get("spec")):
        for name in ("ports", "notPorts"):
            if any(":" in str(port) for port in each.get(name) or () if not isinstance(port, dict)):
                each[name] = [
                    int(port.partition(":")[0]) if isinstance(port, str) and ":" in port else port
                    for port in each[name]
                ]
                found = True
    return found


def _nodes(obj: Object) -> bool:
    found = [each for each in _dicts(obj.get("spec")) if "nodes" in each]
    for each in found:
        del each["nodes"]
        each["networks"] = []
    return bool(found)


def _kind(*kinds: str) -> Cut:
    """The object itself says nothing any more."""

    def cut(obj: Object) -> bool:
        if obj["kind"] not in kinds:
            return False
        obj["kind"] = "Nothing"
        return True

    return cut


CUTS: dict[str, Cut] = {
    "Pass of a tier": _action("NetworkPolicy", "Pass"),
    "named port": _named_port,
    "except": _field("except"),
    "endPort or range": _port_range,
    "notNets": _field("notNets"),
    "notSelector": _field("notSelector"),
    "notPorts": _field("notPorts"),
    "notProtocol": _field("notProtocol"),
    "ICMP": _field("icmp", "notICMP"),
    "service account": _field("serviceAccounts", "serviceAccountSelector"),
    "services": _field("services"),
    "network set": _kind("NetworkSet", "GlobalNetworkSet"),
    "nodes": _nodes,
    "namespaceSelector": _field("namespaceSelector"),
    "order": _field("order"),
    "tier": _kind("Tier"),
    "ClusterNetworkPolicy Accept": _action("ClusterNetworkPolicy", "Accept"),
    "ClusterNetworkPolicy Deny": _action("ClusterNetworkPolicy", "Deny"),
    "ClusterNetworkPolicy Pass": _action("ClusterNetworkPolicy", "Pass"),
    "AdminNetworkPolicy": _kind("AdminNetworkPolicy", "BaselineAdminNetworkPolicy"),
    "NetworkPolicy": _kind("NetworkPolicy"),
    "source port": lambda obj: sum(_source_ports(each) for each in _dicts(obj.get("spec"))) > 0,
}


def _source_ports(each: Object) -> int:
    source = each.get("source") or {}
    return sum(source.pop(name, None) is not None for name in ("ports", "notPorts"))


def said(verdict: Judgement) -> Iterator[str]:
    """What decides without being a clause that can be cut: seen in the verdict itself."""
    for side in (verdict.egress, verdict.ingress):
        if side.rule and not side.policy:
            yield "end of tier"
        if any(step.action == "Log" for step in side.trail):
            yield "Log"
        if side.reason == "from the pod's own node":
            yield "own node"
        if side.reason == "a pod reaches itself":
            yield "itself"


def without(clause: str, objects: list[Object]) -> World | None:
    """The world without a clause; None if no policy has it."""
    kept = copy.deepcopy(objects)
    cut = [CUTS[clause](obj) for obj in kept]
    return World.of(kept) if any(cut) else None


def decided(clause: str, objects: list[Object], judged: list[tuple[Flow, Judgement]]) -> int:
    """How many of the flows."""
    other = without(clause, objects)
    if other is None:
        return 0
    return sum(
        (verdict.egress.allowed, verdict.ingress.allowed) != _sides(judge(other, flow)) for flow, verdict in judged
    )


def _sides(verdict: Judgement) -> tuple[bool, bool]:
    return verdict.egress.allowed, verdict.ingress.allowed
