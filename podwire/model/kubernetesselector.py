"""Kubernetes' label selectors, rewritten as expressions over effective labels."""

from __future__ import annotations

import msgspec

from podwire.model.expression import selector_of
from podwire.model.policy import Over, Peers
from podwire.model.selectors import KEY, VALUE
from podwire.model.terms import NAMESPACE, OF_NAMESPACE, ORCHESTRATOR, Compare, Every, Has, Not, OneOf, Term
from podwire.model.written import PolicyError

POD = Compare(ORCHESTRATOR, "==", "k8s")
"""Matches pods, not network sets."""


class Requirement(msgspec.Struct, frozen=True):
    key: str = ""
    operator: str = ""
    values: list[str] = []


class LabelSelector(msgspec.Struct, frozen=True):
    """meta/v1 LabelSelector. Nothing in it selects everything."""

    matchLabels: dict[str, str] = {}
    matchExpressions: list[Requirement] = []


def terms_of(selector: LabelSelector, path: str, prefix: str = "") -> list[Term]:
    """Its requirements, in an order of their own. Raises PolicyError."""
    found: list[Term] = []
    for key, value in selector.matchLabels.items():
        found.append(_equal(prefix + _key(key, f"{path}.matchLabels"), [_value(value, f"{path}.matchLabels")]))
    for place, each in enumerate(selector.matchExpressions):
        found.append(_requirement(each, f"{path}.matchExpressions[{place}]", prefix))
    return sorted(found, key=str)


def _requirement(each: Requirement, path: str, prefix: str) -> Term:
    key = prefix + _key(each.key, f"{path}.key")
    if each.operator not in ("In", "NotIn", "Exists", "DoesNotExist"):
        raise PolicyError(f"{path}.operator", f"{each.operator!r} is none of In, NotIn, Exists, DoesNotExist")
    if each.operator in ("In", "NotIn"):
        if not each.values:
            raise PolicyError(f"{path}.values", "must be given with In and NotIn")
        values = [_value(value, f"{path}.values[{place}]") for place, value in enumerate(each.values)]
        return _equal(key, values, negated=each.operator == "NotIn")
    if each.values:
        raise PolicyError(f"{path}.values", "must not be given with Exists and DoesNotExist")
    return Has(key) if each.operator == "Exists" else Not(Has(key))


def _equal(key: str, values: list[str], *, negated: bool = False) -> Term:
    if len(set(values)) == 1:
        return Compare(key, "!=" if negated else "==", values[0])
    return OneOf.of(key, values, negated=negated)


def _key(key: str, path: str) -> str:
    if not KEY.fullmatch(key):
        raise PolicyError(path, f"{key[:300]!r} is no label's name")
    return key


def _value(value: str, path: str) -> str:
    if not VALUE.fullmatch(value):
        raise PolicyError(path, f"{value[:80]!r} is no label's value")
    return value


def pods(
    path: str,
    *,
    own: LabelSelector | None = None,
    namespaces: LabelSelector | None = None,
    namespace: str = "",
    at: tuple[str, str] = ("podSelector", "namespaceSelector"),
) -> Peers:
    """Pods by their labels, in the namespaces that are selected, else in `namespace`; `at` are the fields' names under
    `path`. Raises PolicyError."""
    where: list[Term] = []
    if namespaces is not None:
        where = terms_of(namespaces, f"{path}.{at[1]}", OF_NAMESPACE)
    elif namespace:
        where = [Compare(NAMESPACE, "==", namespace)]
    mine = terms_of(own, f"{path}.{at[0]}") if own is not None else []
    return Peers(selector_of(Every.of([*where, POD, *mine])).text)


def nodes(selector: LabelSelector, path: str) -> Peers:
    """Nodes by their labels. Raises PolicyError."""
    return Peers(selector_of(Every.of(terms_of(selector, path))).text, Over.NODES)
