"""May this flow pass, and which rule says so? Small, slow and plain: every policy is asked, rule by rule, in order.

Written from the texts of the APIs alone, so that the compiler of verdict tables, the engines and the kernel can be held
against it: it shares neither code nor the neutral form of `model.policy` with them. `oracle_world` reads the objects,
`oracle_rules` and `oracle_calico` the rules of each kind; here they are put in order and asked. A flow is meant as the
receiving pod's node sees it: after the translation of service addresses, before a masquerade of ours.

Sources: networking/v1 NetworkPolicy, policy.networking.k8s.io ClusterNetworkPolicy, AdminNetworkPolicy and
BaselineAdminNetworkPolicy, projectcalico.org/v3 policies and tiers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from podwire.calc.oracle_calico import calico_policy, staged_kubernetes
from podwire.calc.oracle_rules import Flow, Governing, cluster_policy, network_policy
from podwire.calc.oracle_world import End, Object, Objects, PodEnd, Unreadable
from podwire.model.address import AddressError

__all__ = ["End", "Flow", "Judgement", "Side", "Step", "World", "judge"]

_ALWAYS_THERE = {
    "kube-admin": (1_000.0, "Pass"),
    "default": (1_000_000.0, "Deny"),
    "kube-baseline": (10_000_000.0, "Pass"),
}
"""Tiers that nobody makes or changes: (order, what happens at their end)."""

_READERS: dict[tuple[str, str], Callable[[Object, Objects], Governing | None]] = {
    ("networking.k8s.io", "NetworkPolicy"): network_policy,
    ("policy.networking.k8s.io", "ClusterNetworkPolicy"): cluster_policy,
    ("policy.networking.k8s.io", "AdminNetworkPolicy"): cluster_policy,
    ("policy.networking.k8s.io", "BaselineAdminNetworkPolicy"): cluster_policy,
    ("projectcalico.org", "NetworkPolicy"): calico_policy,
    ("projectcalico.org", "GlobalNetworkPolicy"): calico_policy,
    ("projectcalico.org", "StagedNetworkPolicy"): calico_policy,
    ("projectcalico.org", "StagedGlobalNetworkPolicy"): calico_policy,
    ("projectcalico.org", "StagedKubernetesNetworkPolicy"): staged_kubernetes,
}


@dataclass(frozen=True)
class World:
    """Everything that a verdict depends on. `problems` are (object, what is wrong): of objects that could not be
    read and are left out, and of rules, which then allow nothing, or deny everything."""

    objects: Objects
    tiers: tuple[tuple[str, str], ...]
    policies: dict[str, tuple[Governing, ...]]
    problems: tuple[tuple[str, str], ...] = ()

    @staticmethod
    def of(objects: Iterable[dict[str, Any]]) -> World:
        """Reads objects as an API server gives them (or a file, defaults not yet filled in). Kinds that say nothing
        about policy are skipped, as is what cannot be read."""
        kept = list(objects)
        problems: list[tuple[str, str]] = []
        known = Objects.of(kept, problems)
        found: dict[str, list[Governing]] = {}
        for obj in kept:
            try:
                policy = _policy_of(obj, known)
            except Unreadable as error:
                problems.append((_title(obj), str(error)))
                continue
            if policy is not None:
                found.setdefault(policy.tier, []).append(policy)
                clauses = [*(policy.ingress or ()), *(policy.egress or ())]
                problems += [(_title(obj), clause.problem) for clause in clauses if clause.problem]
        ordered = {tier: tuple(sorted(policies, key=lambda each: each.rank)) for tier, policies in found.items()}
        return World(known, tuple(_tiers(kept)), ordered, tuple(problems))


@dataclass(frozen=True)
class Step:
    """What one tier said: `rule` of `policy`, or with '' for the policy what the tier does at its end."""

    tier: str
    policy: str
    rule: str
    action: str


@dataclass(frozen=True)
class Side:
    """One direction of a verdict. `policy` is "Kind namespace/name" and `rule` its rule's name or place
    ("ingress[2]"); at the end of a tier `policy` is '' and `rule` the tier; both are '' where no policy had a say.
    `reason` says the same in words. `trail` is what happened on the way, the last step decides. `also` are others
    that would have said the same had this rule not been there, before any that says otherwise: (policy, rule)."""

    allowed: bool
    policy: str = ""
    rule: str = ""
    reason: str = ""
    trail: tuple[Step, ...] = ()
    also: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        if self.policy:
            return f"{self.policy} {self.rule}"
        return f"end of tier {self.rule}" if self.rule else "no policy"


@dataclass(frozen=True)
class Judgement:
    """`egress` is what the policies of the source say, `ingress` those of the destination."""

    egress: Side
    ingress: Side

    @property
    def allowed(self) -> bool:
        return self.egress.allowed and self.ingress.allowed


def judge(world: World, flow: Flow, *, staged: bool = False) -> Judgement:
    """The verdict on the first packet of a connection; `staged` as if the staged policies were enforced. Raises
    AddressError."""
    flow = replace(flow, source=flow.source.plain(), destination=flow.destination.plain())
    source, destination = (_subject(world, end) for end in (flow.source, flow.destination))
    if source is not None and destination is not None and source.key == destination.key:
        never = Side(True, reason="a pod reaches itself")
        return Judgement(never, never)
    return Judgement(
        _side(world, flow, source, "egress", staged),
        Side(True, reason="from the pod's own node")
        if destination is not None and _own_node(world, flow.source, destination)
        else _side(world, flow, destination, "ingress", staged),
    )


def _subject(world: World, end: End) -> PodEnd | None:
    """The pod whose policies hold at this end: none for a host, an outside address, or a pod that shares its node's
    network."""
    if end.pod is not None:
        pod = world.objects.pods.get(end.pod)
        return pod if pod is not None and pod.addresses else None
    if end.node is not None:
        return None
    return next((pod for pod in world.objects.pods.values() if end.address in pod.addresses), None)


def _own_node(world: World, source: End, destination: PodEnd) -> bool:
    """Made by the destination's own node: by a process of the host or by a pod in the host's network."""
    if source.pod is not None:
        host = world.objects.host_pods.get(source.pod)
        return bool(host) and host == destination.node
    return bool(source.node) and source.node == destination.node


def _side(world: World, flow: Flow, pod: PodEnd | None, direction: str, staged: bool) -> Side:
    if pod is None:
        return Side(True, reason="not a pod of the cluster's network")
    # Who the peer is, its address alone tells; the governed pod is known.
    if direction == "ingress":
        flow = replace(flow, source=End(flow.source.address), destination=replace(flow.destination, pod=pod.key))
    else:
        flow = replace(flow, source=replace(flow.source, pod=pod.key), destination=End(flow.destination.address))
    trail: list[Step] = []
    on_the_way = _steps(world, flow, pod, direction, staged)
    for step in on_the_way:
        trail.append(step)
        if step.action in ("Allow", "Deny"):
            why = f"{step.action} by {step.policy} {step.rule}"
            if not step.policy:
                names = (policy.title for policy in _governing(world, step.tier, pod, direction, staged))
                why = f"governed by {', '.join(names)}; no rule matches"
            also = tuple(_alike(step, on_the_way))
            return Side(step.action == "Allow", step.policy, step.rule, why, tuple(trail), also)
    return Side(True, reason="passed on by every tier" if trail else "no policy governs the pod", trail=tuple(trail))


def _steps(world: World, flow: Flow, pod: PodEnd, direction: str, staged: bool) -> Iterator[Step]:
    """Who says something, tier by tier; who asks on hears what would be said if this had not been."""
    for tier, default in world.tiers:
        if governing := _governing(world, tier, pod, direction, staged):
            yield from _in_tier(tier, default, governing, flow, direction)


def _in_tier(tier: str, default: str, governing: list[Governing], flow: Flow, direction: str) -> Iterator[Step]:
    for policy in governing:
        for clause in policy.rules(direction) or ():
            if clause.matches(flow):
                yield Step(tier, policy.title, clause.label, clause.action)
                if clause.action == "Pass":
                    return
    yield Step(tier, "", tier, default)


def _governing(world: World, tier: str, pod: PodEnd, direction: str, staged: bool) -> list[Governing]:
    """A tier's policies for this pod and direction, in order."""
    return [
        policy
        for policy in world.policies.get(tier, ())
        if (staged or not policy.staged) and policy.rules(direction) is not None and policy.governs(pod)
    ]


def _alike(decided: Step, rest: Iterator[Step]) -> Iterator[tuple[str, str]]:
    """Who else would have said the same, before anybody says otherwise."""
    for step in rest:
        passed = step.action == "Pass" and not step.policy
        if step.action == decided.action and decided.policy:
            yield step.policy, step.rule
        elif not passed:
            return
        if not step.policy and not passed:
            return


def _policy_of(obj: Object, known: Objects) -> Governing | None:
    """The policy that an object is; None for other kinds. Raises Unreadable."""
    reader = _READERS.get((str(obj.get("apiVersion") or "").partition("/")[0], str(obj.get("kind"))))
    try:
        return reader(obj, known) if reader else None
    except (AddressError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise Unreadable(f"{type(error).__name__}: {error}") from error


def _tiers(objects: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Names and end actions, in order."""
    found = dict(_ALWAYS_THERE)
    for obj in objects:
        if obj.get("kind") != "Tier" or not str(obj.get("apiVersion", "")).startswith("projectcalico.org/"):
            continue
        spec, name = obj.get("spec") or {}, obj["metadata"]["name"]
        order = spec.get("order")
        found.setdefault(name, (1_000_000.0 if order is None else float(order), spec.get("defaultAction") or "Deny"))
    return [(name, found[name][1]) for name in sorted(found, key=lambda name: (found[name][0], name))]


def _title(obj: dict[str, Any]) -> str:
    meta = obj.get("metadata") or {}
    return f"{obj.get('kind')} {'/'.join(filter(None, (meta.get('namespace'), meta.get('name'))))}"
