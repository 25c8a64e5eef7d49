"""Calico's policies and tiers as policies. Source: projectcalico.org/v3 NetworkPolicy, GlobalNetworkPolicy, Tier and
the staged kinds; their defaults and upstream's translation.

What only concerns host endpoints (doNotTrack, preDNAT, applyOnForward) is read and said not to be enforced.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping

import msgspec

from podwire.model import networkpolicy
from podwire.model.calicorule import LONGEST, CalicoRule, RuleReader, term
from podwire.model.expression import selector_of
from podwire.model.meta import Meta
from podwire.model.policy import TIERS, Action, Direction, Peers, Policy, PolicyKey, Rule, Tier
from podwire.model.terms import (
    NAMESPACE,
    OF_ACCOUNT,
    OF_NAMESPACE,
    SERVICE_ACCOUNT,
    Compare,
    Has,
    Term,
    joined,
    renamed,
)
from podwire.model.written import Notes, PolicyError, Written, spec_of

NETWORK_POLICY = "NetworkPolicy.projectcalico.org"
"""What its policies are called: Kubernetes has a kind of the same name."""
DEFAULT_TIER = "default"
TIER_ORDER = 1_000_000.0
STAGED = ("Set", "Delete", "Learn", "Ignore")
NOTED = "projectcalico.org/metadata"
"""In Calico's older storage layout: the metadata that the user gave, as JSON."""
_RULES = 1_024


class Spec(msgspec.Struct, frozen=True):
    """What NetworkPolicy and GlobalNetworkPolicy share."""

    tier: str = DEFAULT_TIER
    order: float | None = None
    selector: str = ""
    ingress: list[CalicoRule] = []
    egress: list[CalicoRule] = []
    types: list[str] = []
    serviceAccountSelector: str = ""
    performanceHints: list[str] = []


class GlobalSpec(Spec, frozen=True):
    namespaceSelector: str = ""
    doNotTrack: bool = False
    preDNAT: bool = False
    applyOnForward: bool = False


class StagedSpec(Spec, frozen=True):
    stagedAction: str = "Set"


class StagedGlobalSpec(GlobalSpec, frozen=True):
    stagedAction: str = "Set"


class ProfileSpec(msgspec.Struct, frozen=True):
    """Accepted, and of no matter for pods: theirs follow from namespace and service account."""

    ingress: list[CalicoRule] = []
    egress: list[CalicoRule] = []
    labelsToApply: dict[str, str] = {}


class TierSpec(msgspec.Struct, frozen=True):
    order: float | None = None
    defaultAction: str = "Deny"


def network_policy(record: Written, notes: Notes) -> Policy:
    """Raises PolicyError if tier, order, types or subject cannot be read."""
    return _policy(record, NETWORK_POLICY, Spec, notes)


def global_network_policy(record: Written, notes: Notes) -> Policy:
    """Raises PolicyError if tier, order, types or subject cannot be read."""
    return _policy(record, "GlobalNetworkPolicy", GlobalSpec, notes)


def staged_network_policy(record: Written, notes: Notes) -> Policy:
    """Raises PolicyError as the kind that it stages."""
    return _policy(record, "StagedNetworkPolicy", StagedSpec, notes, staged=True)


def staged_global_network_policy(record: Written, notes: Notes) -> Policy:
    """Raises PolicyError as the kind that it stages."""
    return _policy(record, "StagedGlobalNetworkPolicy", StagedGlobalSpec, notes, staged=True)


def staged_kubernetes_network_policy(record: Written, notes: Notes) -> Policy:
    """Raises PolicyError as the kind that it stages."""
    spec = spec_of(record, networkpolicy.StagedSpec, notes)
    key = PolicyKey("StagedKubernetesNetworkPolicy", *record.key)
    if _is_calculated(spec.stagedAction):
        return networkpolicy.convert(record, networkpolicy.StagedSpec, key, notes, staged=True)
    return Policy(key, Peers("all()"), None, None, staged=True)


def _is_calculated(action: str) -> bool:
    if action not in STAGED:
        raise PolicyError("spec.stagedAction", f"{action[:80]!r} is none of {', '.join(STAGED)}")
    return action in ("Set", "Learn")


def _beside_delete(spec: Mapping[str, object]) -> str:
    """A field that has something in it beside those that may."""
    return next((name for name in spec if name not in ("tier", "stagedAction", "types") and spec[name]), "")


def _policy(record: Written, kind: str, shape: type[Spec], notes: Notes, *, staged: bool = False) -> Policy:
    spec = spec_of(record, shape, notes)
    namespace = record.metadata.namespace if not isinstance(spec, GlobalSpec) else ""
    tier = spec.tier or DEFAULT_TIER
    key = PolicyKey(kind, namespace, shown_name(record.metadata, tier))
    order = math.inf if spec.order is None else spec.order
    if spec.order is not None and not math.isfinite(spec.order):
        raise PolicyError("spec.order", f"{spec.order} is no number to go by")
    if isinstance(spec, StagedSpec | StagedGlobalSpec) and not _is_calculated(spec.stagedAction):
        if spec.stagedAction == "Delete" and (extra := _beside_delete(record.spec)):
            notes.wrong(PolicyError(f"spec.{extra}", "must be empty with the stagedAction Delete"))
        return Policy(key, Peers("all()"), None, None, tier, order, True, notes.texts)
    subject = _subject(spec, namespace)
    types = types_of(spec)
    ingress = _rules(Direction.INGRESS, spec.ingress, namespace, notes) if "Ingress" in types else None
    egress = _rules(Direction.EGRESS, spec.egress, namespace, notes) if "Egress" in types else None
    if isinstance(spec, GlobalSpec) and _for_hosts(spec, notes):
        ingress = egress = None
    return Policy(key, subject, ingress, egress, tier, order, staged, notes.texts)


def _for_hosts(spec: GlobalSpec, notes: Notes) -> bool:
    """Says what is not enforced; True for what concerns host endpoints alone."""
    for name in ("doNotTrack", "preDNAT", "applyOnForward"):
        if getattr(spec, name):
            notes.unmet(f"spec.{name}", "not enforced: it concerns host endpoints, which are not there yet")
    if spec.doNotTrack and spec.preDNAT:
        notes.wrong(PolicyError("spec.preDNAT", "may not stand beside doNotTrack"))
    if (spec.doNotTrack or spec.preDNAT) and not spec.applyOnForward:
        notes.wrong(PolicyError("spec.applyOnForward", "must be true with doNotTrack and preDNAT"))
    if spec.preDNAT and (spec.egress or "Egress" in spec.types):
        notes.wrong(PolicyError("spec.egress", "a preDNAT policy has no egress rules"))
    return spec.doNotTrack or spec.preDNAT


def _rules(direction: Direction, written: list[CalicoRule], namespace: str, notes: Notes) -> tuple[Rule, ...]:
    if len(written) > _RULES:
        notes.wrong(PolicyError(f"spec.{direction}", f"may not have more than {_RULES} rules: {len(written)}"))
    return RuleReader(direction, namespace, notes).rules(written)


def types_of(spec: Spec) -> set[str]:
    """The directions that a policy is for, as they are written when they are left out. Raises PolicyError."""
    for place, each in enumerate(spec.types):
        if each not in ("Ingress", "Egress"):
            raise PolicyError(f"spec.types[{place}]", f"{each[:80]!r} is neither Ingress nor Egress")
        if each in spec.types[:place]:
            raise PolicyError(f"spec.types[{place}]", f"{each} stands there twice")
    if spec.types:
        return set(spec.types)
    return {"Ingress"} if not spec.egress else {"Egress"} if not spec.ingress else {"Ingress", "Egress"}


def _subject(spec: Spec, namespace: str) -> Peers:
    where = ("selector", "serviceAccountSelector", "namespaceSelector")
    for name in where:
        if len(getattr(spec, name, "")) > LONGEST:
            raise PolicyError(f"spec.{name}", f"may not be longer than {LONGEST} characters")
    found: list[Term] = [Compare(NAMESPACE, "==", namespace)] if namespace else []
    if spec.selector:
        found.append(term(spec.selector, "spec.selector"))
    if isinstance(spec, GlobalSpec) and spec.namespaceSelector:
        chosen = term(spec.namespaceSelector, "spec.namespaceSelector")
        found.append(renamed(chosen, OF_NAMESPACE, Has(NAMESPACE)))
    if spec.serviceAccountSelector:
        chosen = term(spec.serviceAccountSelector, "spec.serviceAccountSelector")
        found.append(renamed(chosen, OF_ACCOUNT, Has(SERVICE_ACCOUNT)))
    return Peers(selector_of(joined(found)).text)


def shown_name(metadata: Meta, tier: str) -> str:
    """The name that the user gave. Calico's older layout stores `<tier>.<name>`, so a policy of the tier `default` may
    stand there as `default.<name>`; the metadata noted beside it may tell the name."""
    noted = noted_metadata(metadata)
    if noted is None:
        return metadata.name
    if isinstance(noted.get("name"), str) and noted["name"]:
        return str(noted["name"])
    return metadata.name.removeprefix("default.") if tier == DEFAULT_TIER else metadata.name


def noted_metadata(metadata: Meta) -> dict[str, object] | None:
    """What Calico's older layout notes of the user's metadata; None in the newer one."""
    if NOTED not in metadata.annotations:
        return None
    try:
        found = json.loads(metadata.annotations[NOTED])
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def tier(record: Written, notes: Notes) -> Tier:
    """The three that are always there stay as they are. Raises PolicyError."""
    name = record.metadata.name
    spec = spec_of(record, TierSpec, notes)
    if spec.defaultAction not in (Action.DENY, Action.PASS):
        raise PolicyError("spec.defaultAction", f"{spec.defaultAction[:80]!r} is neither Deny nor Pass")
    order = TIER_ORDER if spec.order is None else spec.order
    if not math.isfinite(order):
        raise PolicyError("spec.order", f"{order} is no number to go by")
    for own in TIERS:
        if own.name == name:
            if (order, spec.defaultAction) != (own.order, own.default):
                notes.wrong(PolicyError("spec", f"tier {name} has order {own.order} and defaultAction {own.default}"))
            return own
    return Tier(name, order, Action(spec.defaultAction))
