"""May this pod run on that node, and which of the nodes suits it best: the scheduler's decisions.

Source: k8s.io/kubernetes pkg/scheduler/framework/plugins, and the wording of its refusals. Deterministic: the same
cluster gives the same node.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from podwire.controllers.needs import NodeRoom, PodNeeds, tolerates
from podwire.model.selectors import SelectorError, label_selector

HOSTNAME = "kubernetes.io/hostname"


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a node will not do. `final`: removing pods from it would not help."""

    reason: str
    final: bool


@dataclass
class Cluster:
    """Every node with its pods, and the labels of namespaces (for affinity terms that select them)."""

    nodes: Sequence[NodeRoom]
    namespaces: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Choice:
    """The node that was chosen, or '' and the message that says why there is none."""

    node: str
    message: str = ""


def choose(pod: PodNeeds, cluster: Cluster) -> Choice:
    """The node for a pod."""
    if not cluster.nodes:
        return Choice("", "no nodes available to schedule pods")
    between = Neighbours(pod, cluster)
    refusals = {node.name: refuse(pod, node, between) for node in cluster.nodes}
    feasible = [node for node in cluster.nodes if not refusals[node.name]]
    if not feasible:
        return Choice("", _message(refusals))
    points = score(pod, feasible, cluster, between)
    best = min(feasible, key=lambda node: (-points[node.name], len(node.pods), node.name))
    return Choice(best.name)


def _message(refusals: Mapping[str, list[Refusal]]) -> str:
    count = len(refusals)
    reasons = Counter(reason.reason for found in refusals.values() for reason in found)
    final = sum(any(reason.final for reason in found) for found in refusals.values())
    told = ", ".join(sorted(f"{number} {reason}" for reason, number in reasons.items()))
    hopes = []
    if final:
        hopes.append(f"{final} Preemption is not helpful for scheduling")
    if count - final:
        hopes.append(f"{count - final} No preemption victims found for incoming pod")
    nodes = f"0/{count} nodes are available"
    return f"{nodes}: {told}. preemption: {nodes}: {', '.join(sorted(hopes))}."


def refuse(pod: PodNeeds, node: NodeRoom, between: Neighbours) -> list[Refusal]:
    """Why not, as the first check that fails says it; empty when the node will do."""
    for check in (_unschedulable, _tainted, _affine, _ports, _room):
        if found := check(pod, node):
            return found
    return between.refuse(node)


def _unschedulable(pod: PodNeeds, node: NodeRoom) -> list[Refusal]:
    taint = {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}
    if node.unschedulable and not tolerates(pod.tolerations, taint):
        return [Refusal("node(s) were unschedulable", True)]
    return []


def _tainted(pod: PodNeeds, node: NodeRoom) -> list[Refusal]:
    for taint in node.taints:
        if taint.get("effect") in ("NoSchedule", "NoExecute") and not tolerates(pod.tolerations, taint):
            told = f"{taint.get('key')}: {taint.get('value') or ''}"
            return [Refusal(f"node(s) had untolerated taint {{{told}}}", True)]
    return []


def _affine(pod: PodNeeds, node: NodeRoom) -> list[Refusal]:
    if node_matches(pod, node):
        return []
    return [Refusal("node(s) didn't match Pod's node affinity/selector", True)]


def node_matches(pod: PodNeeds, node: NodeRoom) -> bool:
    """nodeSelector and the required node affinity."""
    if any(node.labels.get(key) != value for key, value in pod.selector.items()):
        return False
    required = (pod.affinity.get("nodeAffinity") or {}).get("requiredDuringSchedulingIgnoredDuringExecution")
    if required is None:
        return True
    return any(term_matches(term, node) for term in required.get("nodeSelectorTerms") or [])


def term_matches(term: Mapping[str, Any], node: NodeRoom) -> bool:
    """All expressions and fields of one term; a term without any matches nothing."""
    expressions, fields = term.get("matchExpressions") or [], term.get("matchFields") or []
    if not expressions and not fields:
        return False
    return all(_expression(one, node.labels) for one in expressions) and all(
        _expression(one, {"metadata.name": node.name}) for one in fields
    )


def _expression(expression: Mapping[str, Any], have: Mapping[str, str]) -> bool:
    value, wanted = have.get(expression.get("key", "")), expression.get("values") or []
    match expression.get("operator"):
        case "In":
            return value in wanted
        case "NotIn":
            return value not in wanted
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
        case "Gt" | "Lt" as operator:
            try:
                left, right = int(value or ""), int(wanted[0])
            except (ValueError, IndexError):
                return False
            return left > right if operator == "Gt" else left < right
        case _:
            return False


def _ports(pod: PodNeeds, node: NodeRoom) -> list[Refusal]:
    for address, protocol, number in pod.ports:
        for other in node.pods:
            for taken, kind, held in other.ports:
                clash = "0.0.0.0" in (address, taken) or address == taken
                if clash and (kind, held) == (protocol, number):
                    return [Refusal("node(s) didn't have free ports for the requested pod ports", False)]
    return []


def _room(pod: PodNeeds, node: NodeRoom) -> list[Refusal]:
    used, found = node.used(), []
    if used["pods"] + 1 > node.allocatable.get("pods", 0):
        found.append(Refusal("Too many pods", False))
    for name, wanted in sorted(pod.asked.items()):
        have = node.allocatable.get(name, 0)
        if wanted and wanted > have - used[name]:
            found.append(Refusal(f"Insufficient {name}", wanted > have))
    return found


class Neighbours:
    """The rules about other pods: affinity, anti-affinity and topology spread. Counted once for a pod."""

    def __init__(self, pod: PodNeeds, cluster: Cluster) -> None:
        self._pod, self._cluster = pod, cluster
        affinity = pod.affinity.get("podAffinity") or {}
        anti = pod.affinity.get("podAntiAffinity") or {}
        required = "requiredDuringSchedulingIgnoredDuringExecution"
        self._near = [(term, self._count(term, pod)) for term in affinity.get(required) or []]
        self._apart = [(term, self._count(term, pod)) for term in anti.get(required) or []]
        self._shunned = self._shunning(required)
        self._spread = [
            (rule, self._domains(rule)) for rule in pod.spread if rule.get("whenUnsatisfiable") != "ScheduleAnyway"
        ]

    def refuse(self, node: NodeRoom) -> list[Refusal]:
        for rule, domains in self._spread:
            domain = node.labels.get(rule.get("topologyKey", ""))
            if domain is None:
                told = "node(s) didn't match pod topology spread constraints (missing required label)"
                return [Refusal(told, True)]
            if self._skew(rule, domains, domain) > int(rule.get("maxSkew") or 1):
                return [Refusal("node(s) didn't match pod topology spread constraints", False)]
        if not self._near_enough(node):
            return [Refusal("node(s) didn't match pod affinity rules", True)]
        for term, counts in self._apart:
            if counts.get(node.labels.get(term.get("topologyKey", ""), ""), 0):
                return [Refusal("node(s) didn't match pod anti-affinity rules", False)]
        if any(node.labels.get(key) == value for key, value in self._shunned):
            return [Refusal("node(s) didn't satisfy existing pods anti-affinity rules", False)]
        return []

    def _near_enough(self, node: NodeRoom) -> bool:
        """The first pod of a group that wants to be together may start anywhere where the keys exist."""
        if not self._near:
            return True
        values = [node.labels.get(term.get("topologyKey", "")) for term, _ in self._near]
        if None in values:
            return False
        if all(counts.get(value or "", 0) for (_, counts), value in zip(self._near, values, strict=True)):
            return True
        nobody = not any(counts for _, counts in self._near)
        return nobody and all(self._selects(term, self._pod, self._pod) for term, _ in self._near)

    def _count(self, term: Mapping[str, Any], asker: PodNeeds) -> Counter[str]:
        """Pods that a term selects, by topology domain."""
        counts: Counter[str] = Counter()
        for node in self._cluster.nodes:
            domain = node.labels.get(term.get("topologyKey", ""))
            if domain is not None:
                here = sum(self._selects(term, asker, other) for other in node.pods)
                if here:
                    counts[domain] += here
        return counts

    def _shunning(self, required: str) -> set[tuple[str, str]]:
        """(topology key, value) where a pod runs that does not want ours near."""
        found = set()
        for node in self._cluster.nodes:
            for other in node.pods:
                for term in (other.affinity.get("podAntiAffinity") or {}).get(required) or []:
                    key = term.get("topologyKey", "")
                    if key in node.labels and self._selects(term, other, self._pod):
                        found.add((key, node.labels[key]))
        return found

    def _selects(self, term: Mapping[str, Any], asker: PodNeeds, other: PodNeeds) -> bool:
        return self._in_scope(term, asker, other.namespace) and _matches(term, asker, other)

    def _in_scope(self, term: Mapping[str, Any], asker: PodNeeds, namespace: str) -> bool:
        names, selector = term.get("namespaces") or [], term.get("namespaceSelector")
        if not names and selector is None:
            return namespace == asker.namespace
        if namespace in names:
            return True
        chosen = label_selector(selector)
        return chosen is not None and chosen.matches(self._cluster.namespaces.get(namespace))

    def _domains(self, rule: Mapping[str, Any]) -> dict[str, int]:
        """Matching pods in each domain that counts for the pod."""
        counts: dict[str, int] = defaultdict(int)
        for node in self._cluster.nodes:
            domain = node.labels.get(rule.get("topologyKey", ""))
            if domain is None:
                continue
            if rule.get("nodeAffinityPolicy") != "Ignore" and not node_matches(self._pod, node):
                continue
            if rule.get("nodeTaintsPolicy") == "Honor" and _tainted(self._pod, node):
                continue
            counts[domain] += sum(self._spreads_with(rule, other) for other in node.pods)
        return counts

    def _spreads_with(self, rule: Mapping[str, Any], other: PodNeeds) -> bool:
        return not other.leaving and other.namespace == self._pod.namespace and _matches(rule, self._pod, other)

    def _skew(self, rule: Mapping[str, Any], domains: Mapping[str, int], domain: str) -> int:
        fewest = min(domains.values(), default=0)
        if len(domains) < int(rule.get("minDomains") or 1):
            fewest = 0
        own = int(_matches(rule, self._pod, self._pod))
        return domains.get(domain, 0) + own - fewest

    def preference(self, node: NodeRoom) -> float:
        """Preferred pod affinity less preferred anti-affinity and soft spread; higher is better, of no fixed scale."""
        points = 0.0
        preferred = "preferredDuringSchedulingIgnoredDuringExecution"
        for name, sign in (("podAffinity", 1), ("podAntiAffinity", -1)):
            for weighted in (self._pod.affinity.get(name) or {}).get(preferred) or []:
                term = weighted.get("podAffinityTerm") or {}
                domain = node.labels.get(term.get("topologyKey", ""))
                if domain is not None:
                    points += sign * int(weighted.get("weight") or 0) * self._count(term, self._pod)[domain]
        for rule in self._pod.spread:
            if rule.get("whenUnsatisfiable") == "ScheduleAnyway":
                domain = node.labels.get(rule.get("topologyKey", ""))
                points -= 10.0 * self._domains(rule).get(domain or "", 0)
        return points


def _matches(term: Mapping[str, Any], asker: PodNeeds, other: PodNeeds) -> bool:
    """The label selector of a term, with matchLabelKeys taken from the asking pod."""
    try:
        selector = label_selector(term.get("labelSelector"))
    except SelectorError:
        return False
    if selector is None or not selector.matches(other.labels):
        return False
    keys: Iterable[str] = term.get("matchLabelKeys") or []
    return all(other.labels.get(key) == asker.labels.get(key) for key in keys if key in asker.labels)


def score(pod: PodNeeds, nodes: Sequence[NodeRoom], cluster: Cluster, between: Neighbours) -> dict[str, float]:
    """Points of each node: the weighted sum of what upstream's default plugins weigh, each on a scale of 0 to 100."""
    parts: list[tuple[float, dict[str, float]]] = [
        (2.0, _fewest({node.name: _siblings(pod, node) for node in nodes})),
        (3.0, _fewest({node.name: _avoided(pod, node) for node in nodes})),
        (2.0, _most({node.name: _preferred(pod, node) for node in nodes})),
        (2.0, _most({node.name: between.preference(node) for node in nodes})),
        (1.0, {node.name: _free(pod, node) for node in nodes}),
    ]
    return {node.name: sum(weight * points[node.name] for weight, points in parts) for node in nodes}


def _most(found: Mapping[str, float]) -> dict[str, float]:
    """Scaled so that the highest has 100 and the lowest 0; all 0 when they are equal."""
    low, high = min(found.values()), max(found.values())
    return {name: 100.0 * (value - low) / (high - low) if high > low else 0.0 for name, value in found.items()}


def _fewest(found: Mapping[str, float]) -> dict[str, float]:
    return _most({name: -value for name, value in found.items()})


def _siblings(pod: PodNeeds, node: NodeRoom) -> float:
    """Pods of the same owner: replicas are to stand on different nodes."""
    if not pod.owner:
        return 0.0
    return float(sum(other.owner == pod.owner and not other.leaving for other in node.pods))


def _avoided(pod: PodNeeds, node: NodeRoom) -> float:
    soft = [taint for taint in node.taints if taint.get("effect") == "PreferNoSchedule"]
    return float(sum(not tolerates(pod.tolerations, taint) for taint in soft))


def _preferred(pod: PodNeeds, node: NodeRoom) -> float:
    affinity = pod.affinity.get("nodeAffinity") or {}
    points = 0.0
    for weighted in affinity.get("preferredDuringSchedulingIgnoredDuringExecution") or []:
        if term_matches(weighted.get("preference") or {}, node):
            points += int(weighted.get("weight") or 0)
    return points


def _free(pod: PodNeeds, node: NodeRoom) -> float:
    """How much of cpu and memory would be left, in percent (least allocated is best)."""
    used, shares = node.likely(), []
    for name in ("cpu", "memory"):
        have = node.allocatable.get(name, 0)
        if have:
            shares.append(max(0.0, 100.0 * (have - used[name] - pod.likely.get(name, 0)) / have))
    return sum(shares) / len(shares) if shares else 0.0
