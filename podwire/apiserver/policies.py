"""Policies on their way in: what the API's own validation of their kinds would say, and what is written back.

CRDs declare the kinds; their CEL rules, which are not evaluated here, and the checks that upstream makes in its client
library or a webhook are made by reading the policy as an agent would (`model.policykinds`). What is a mistake is
refused with the field's path; what is asked for and not done here is accepted with a warning.
Source: projectcalico.org/v3 (names, defaults, tiers), policy.networking.k8s.io.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from podwire.apiserver.admission import Admission
from podwire.apiserver.errors import StatusCause, forbidden, invalid, qualified
from podwire.apiserver.resources import Resource
from podwire.model import gvr, policy
from podwire.model.gvr import GVR
from podwire.model.policykinds import BY_API, written
from podwire.model.written import PolicyError

Object = dict[str, Any]

TIER_LABEL = "projectcalico.org/tier"
_IN_TIERS = (
    gvr.CALICONETWORKPOLICIES,
    gvr.GLOBALNETWORKPOLICIES,
    gvr.STAGEDNETWORKPOLICIES,
    gvr.STAGEDGLOBALNETWORKPOLICIES,
)
_WORD = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_GLOBAL_NAME = re.compile(rf"({_WORD}\.)?{_WORD}")
_NAME = re.compile(rf"({_WORD}\.)?{_WORD}|(knp|ossg)\.default\.{_WORD}(\.{_WORD})*")
_TIER_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_NAMES = {
    **{each: (_NAME, "two DNS labels at most, with a dot between them") for each in _IN_TIERS if each.namespaced},
    **{each: (_GLOBAL_NAME, "two DNS labels at most, with a dot between") for each in _IN_TIERS if not each.namespaced},
    gvr.TIERS: (_TIER_NAME, "a DNS label: at most 63 small letters, digits and hyphens, no dots"),
}
_PROFILE = "not enforced: a pod's profiles follow from its namespace and its service account"


def hooked(resource: Resource) -> Resource:
    """The resource of a CustomResourceDefinition with the hooks that its kind has, if it has any."""
    kind = resource.gvr
    if (kind.api_version, kind.kind) in BY_API:
        return replace(
            resource,
            create=_fill,
            update=lambda admission, obj, old: _fill(admission, obj),
            finish=_check,
            delete=_may_go if kind == gvr.TIERS else None,
        )
    return replace(resource, finish=_warn_of_profile) if kind == gvr.PROFILES else resource


def is_checked(group: str, version: str, kind: str) -> bool:
    """The CEL rules of this kind are held to by code."""
    return (f"{group}/{version}", kind) in BY_API


def _fill(admission: Admission, obj: Object) -> None:
    """What a policy leaves open, written back. Its schema is checked later: anything may stand here."""
    spec, kind = obj.get("spec"), _kind(obj)
    if not isinstance(spec, dict):
        return
    if kind in _IN_TIERS:
        tier = spec.get("tier")
        if isinstance(tier, str) and tier:
            obj["metadata"].setdefault("labels", {})[TIER_LABEL] = tier
        if not spec.get("types") and spec.get("stagedAction") != "Delete":
            only_out = spec.get("egress") and not spec.get("ingress")
            spec["types"] = [*(() if only_out else ("Ingress",)), *(("Egress",) if spec.get("egress") else ())]
    elif kind == gvr.STAGEDKUBERNETESNETWORKPOLICIES and not spec.get("policyTypes"):
        spec["policyTypes"] = ["Ingress", *(("Egress",) if spec.get("egress") else ())]


def _kind(obj: Object) -> GVR:
    return BY_API[obj["apiVersion"], obj["kind"]].gvr


def _check(admission: Admission, obj: Object, old: Object | None) -> None:
    """Raises 422. Of what is stored only changes are looked at."""
    if old is not None and _same(obj, old):
        return
    causes = list(_causes(admission, obj, old))
    if causes:
        raise invalid(_kind(obj), obj["metadata"]["name"], causes)


def _same(obj: Object, old: Object) -> bool:
    """In what the checks read; the tier's label is ours."""
    labels, before = ({**(each["metadata"].get("labels") or {}), TIER_LABEL: ""} for each in (obj, old))
    return obj.get("spec") == old.get("spec") and labels == before


def _causes(admission: Admission, obj: Object, old: Object | None) -> Iterator[StatusCause]:
    kind, name = _kind(obj), obj["metadata"]["name"]
    if old is None and kind in _NAMES and not _NAMES[kind][0].fullmatch(name):
        yield _cause("metadata.name", f"{name!r} must be {_NAMES[kind][1]}")
    try:
        _, problems = BY_API[kind.api_version, kind.kind].inspect(written(obj))
    except PolicyError as error:
        yield _cause(error.path, error.words)
        return
    for problem in problems:
        if problem.refused:
            yield _cause(problem.path, problem.words)
        else:
            admission.warnings.append(str(problem))
    if kind in _IN_TIERS:
        tier = obj["spec"].get("tier") or "default"
        before = (old or {}).get("spec", {}).get("tier")
        if tier != before and admission.latest(qualified(gvr.TIERS), ("", tier)) is None:
            yield _cause("spec.tier", f"there is no tier {tier}: create it first")


def _cause(path: str, words: str) -> StatusCause:
    return StatusCause("FieldValueInvalid", words, path)


def _may_go(admission: Admission, obj: Object) -> None:
    """Raises 403 for tiers that must stay."""
    name = obj["metadata"]["name"]
    if any(name == each.name for each in policy.TIERS):
        raise forbidden(gvr.TIERS, name, "this tier is always there")
    held = [
        f"{kind.kind} {'/'.join(part for part in key if part)}"
        for kind in _IN_TIERS
        for key, spec in _stored(admission, kind)
        if spec.get("tier") == name
    ]
    if held:
        more = f" and {len(held) - 3} more" if len(held) > 3 else ""
        raise forbidden(gvr.TIERS, name, f"policies are in this tier: {', '.join(held[:3])}{more}")


def _stored(admission: Admission, kind: GVR) -> Iterator[tuple[tuple[str, str], Object]]:
    for stored in admission.store.collection(qualified(kind)).all_latest():
        metadata = stored.object["metadata"]
        yield (metadata.get("namespace", ""), metadata["name"]), stored.object.get("spec") or {}


def _warn_of_profile(admission: Admission, obj: Object, old: Object | None) -> None:
    if old is None or old.get("spec") != obj.get("spec"):
        admission.warnings.append(f"Profile {obj['metadata']['name']}: {_PROFILE}")
