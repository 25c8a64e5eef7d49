"""Which policies govern this node's pods, and in which order.

Local pods that no selector tells apart are one subject. A policy that governs no subject costs nothing but the
selector of its subject.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from podwire.calc.peers import Group
from podwire.calc.selection import Selection
from podwire.calc.verdicts import Pod
from podwire.model.policy import TIERS, Direction, Policy, PolicyKey, Tier


@dataclass(slots=True, eq=False)
class Subject:
    """Local pods alike, and the policies whose selector matches them."""

    group: Group
    pods: set[Pod] = field(default_factory=set)
    policies: set[PolicyKey] = field(default_factory=set)
    ordered: dict[tuple[Direction, bool], tuple[PolicyKey, ...]] = field(default_factory=dict)


class Governing:
    """Policies and tiers change at once; `changed` gathers what came of it until `take`."""

    def __init__(self) -> None:
        self.policies: dict[PolicyKey, Policy] = {}
        self.tiers: dict[str, Tier] = {tier.name: tier for tier in TIERS}
        self.subjects: dict[Group, Subject] = {}
        self.active: dict[PolicyKey, int] = {}  # → how many subjects it governs
        self._texts: dict[str, set[PolicyKey]] = {}
        self._selection: Selection[Group] = Selection()
        self._changed: set[PolicyKey] = set()
        self._moved: set[Subject] = set()

    def take(self) -> tuple[set[PolicyKey], set[Subject]]:
        """Policies that were changed, or came to govern or not to govern anybody, and subjects that other policies
        govern than before, or in another order."""
        found, self._changed, self._moved = (self._changed, self._moved), set(), set()
        return found

    def on_policy(self, key: PolicyKey, policy: Policy | None) -> None:
        before = self.policies.pop(key, None)
        if policy is not None:
            self.policies[key] = policy
        old, new = (each.subject.selector if each else None for each in (before, policy))
        if old != new and old is not None:
            for group in self._selection.things(old):
                self._govern(self.subjects[group], key, False)
            self._texts[old].discard(key)
            if not self._texts[old]:
                del self._texts[old]
                self._selection.forget(old)
        if old != new and new is not None:
            if new not in self._texts:
                self._selection.watch(new)
            self._texts.setdefault(new, set()).add(key)
            for group in self._selection.things(new):
                self._govern(self.subjects[group], key, True)
        if key in self.active:
            self._changed.add(key)
            if before is None or policy is None or _place(before) != _place(policy):
                self._reorder(key)

    def on_tier(self, name: str, tier: Tier | None) -> None:
        """The built-in tiers are always there."""
        tier = tier or next((each for each in TIERS if each.name == name), None)
        if self.tiers.get(name) == tier:
            return
        self.tiers.pop(name, None)
        if tier is not None:
            self.tiers[name] = tier
        for key in self.active:
            if self.policies[key].tier == name:
                self._changed.add(key)
                self._reorder(key)

    def enter(self, pod: Pod, group: Group) -> Subject:
        subject = self.subjects.get(group)
        if subject is None:
            subject = self.subjects[group] = Subject(group)
            self._selection.put(group, group.labels)
            for text in self._selection.selectors(group.labels):
                for key in self._texts[text]:
                    self._govern(subject, key, True)
        subject.pods.add(pod)
        return subject

    def leave(self, pod: Pod, subject: Subject) -> None:
        subject.pods.discard(pod)
        if not subject.pods:
            for key in list(subject.policies):
                self._govern(subject, key, False)
            del self.subjects[subject.group]
            self._selection.take(subject.group)

    def rows(self, subject: Subject, direction: Direction, staged: bool) -> tuple[PolicyKey, ...]:
        """The policies that govern a subject in a direction, in order, with or without the staged ones. A policy whose
        tier is not there counts for nothing."""
        if (direction, staged) not in subject.ordered:
            found = [self.policies[key] for key in subject.policies]
            meant = [
                each
                for each in found
                if each.tier in self.tiers and each.rules(direction) is not None and (staged or not each.staged)
            ]
            meant.sort(key=lambda each: (self.tiers[each.tier].order, each.tier, each.rank))
            subject.ordered[direction, staged] = tuple(each.key for each in meant)
        return subject.ordered[direction, staged]

    def _govern(self, subject: Subject, key: PolicyKey, governs: bool) -> None:
        if governs:
            subject.policies.add(key)
        else:
            subject.policies.discard(key)
        subject.ordered.clear()
        self._moved.add(subject)
        self.active[key] = self.active.get(key, 0) + (1 if governs else -1)
        if not self.active[key]:
            del self.active[key]
        self._changed.add(key)

    def _reorder(self, key: PolicyKey) -> None:
        for subject in self.subjects.values():
            if key in subject.policies:
                subject.ordered.clear()
                self._moved.add(subject)


def _place(policy: Policy) -> tuple[object, ...]:
    return policy.tier, policy.rank, policy.staged, policy.ingress is None, policy.egress is None
