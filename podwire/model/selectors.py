"""Kubernetes label and field selectors: parsed once, matched often.

Source: k8s.io/apimachinery labels and fields packages (the textual form of kubectl -l and --field-selector), and
meta/v1 LabelSelector (matchLabels, matchExpressions).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

KEY = re.compile(r"([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
"""What a label is called and what it may be, as a full match."""
_SET = re.compile(r"^(\S+)\s+(in|notin)\s*\(([^()]*)\)$")


class SelectorError(ValueError):
    """The text or object is not a selector; the message says which part."""


@dataclass(frozen=True, slots=True)
class Requirement:
    """One term. `operator` is In, NotIn, Exists or DoesNotExist; `values` is empty for the last two."""

    key: str
    operator: str
    values: frozenset[str] = frozenset()

    def matches(self, labels: Mapping[str, str]) -> bool:
        match self.operator:
            case "In":
                return self.key in labels and labels[self.key] in self.values
            case "NotIn":
                return self.key not in labels or labels[self.key] not in self.values
            case "Exists":
                return self.key in labels
            case _:
                return self.key not in labels


@dataclass(frozen=True, slots=True)
class LabelSelector:
    """All requirements must hold; none at all matches everything."""

    requirements: tuple[Requirement, ...] = ()

    def matches(self, labels: Mapping[str, str] | None) -> bool:
        have = labels or {}
        return all(requirement.matches(have) for requirement in self.requirements)


def _split(text: str) -> list[str]:
    """Split at commas that stand outside parentheses."""
    terms, depth, start = [], 0, 0
    for position, char in enumerate(text):
        if char == "(":
            depth += 1
        elif char == ")":
            depth -= 1
        elif char == "," and depth == 0:
            terms.append(text[start:position])
            start = position + 1
    terms.append(text[start:])
    return [term.strip() for term in terms if term.strip()]


def _requirement(key: str, operator: str, values: list[str]) -> Requirement:
    if not KEY.fullmatch(key):
        raise SelectorError(f"{key!r} is not a valid label key")
    for value in values:
        if not VALUE.fullmatch(value):
            raise SelectorError(f"{value!r} is not a valid label value")
    return Requirement(key, operator, frozenset(values))


def parse_label_selector(text: str) -> LabelSelector:
    """Parse `a=b,c!=d,e in (f,g),h,!i`. Raises SelectorError."""
    found = []
    for term in _split(text):
        as_set = _SET.match(term)
        if as_set:
            key, word, inside = as_set.groups()
            values = [value.strip() for value in inside.split(",")]
            found.append(_requirement(key, "In" if word == "in" else "NotIn", values))
        elif "!=" in term:
            key, _, value = term.partition("!=")
            found.append(_requirement(key.strip(), "NotIn", [value.strip()]))
        elif "=" in term:
            key, _, value = term.partition("==" if "==" in term else "=")
            found.append(_requirement(key.strip(), "In", [value.strip()]))
        elif term.startswith("!"):
            found.append(_requirement(term[1:].strip(), "DoesNotExist", []))
        else:
            found.append(_requirement(term, "Exists", []))
    return LabelSelector(tuple(found))


def label_selector(obj: Mapping[str, Any] | None) -> LabelSelector | None:
    """A meta/v1 LabelSelector object as a value. None (an absent selector) selects nothing and gives None; an empty
    object selects everything. Raises SelectorError."""
    if obj is None:
        return None
    found = [_requirement(key, "In", [value]) for key, value in (obj.get("matchLabels") or {}).items()]
    for expression in obj.get("matchExpressions") or []:
        operator, values = expression.get("operator"), list(expression.get("values") or [])
        if operator not in ("In", "NotIn", "Exists", "DoesNotExist"):
            raise SelectorError(f"{operator!r} is not a valid label selector operator")
        if (operator in ("In", "NotIn")) != bool(values):
            raise SelectorError(
                f"values must be given for In and NotIn, and for nothing else (key {expression.get('key')!r})"
            )
        found.append(_requirement(expression.get("key", ""), operator, values))
    return LabelSelector(tuple(found))


@dataclass(frozen=True, slots=True)
class FieldSelector:
    """Terms (dotted path, value, wanted equal or unequal), all of which must hold; an absent field counts as ''."""

    terms: tuple[tuple[str, str, bool], ...] = ()

    def matches(self, obj: Mapping[str, Any]) -> bool:
        return all((field_text(obj, path) == value) == equal for path, value, equal in self.terms)


def field_text(obj: Mapping[str, Any], path: str) -> str:
    """The value at a dotted path as the text that a field selector compares."""
    here: Any = obj
    for part in path.split("."):
        if not isinstance(here, Mapping) or part not in here:
            return ""
        here = here[part]
    if isinstance(here, bool):
        return "true" if here else "false"
    return "" if here is None else str(here)


def parse_field_selector(text: str) -> FieldSelector:
    """Parse `metadata.name=web,spec.nodeName!=a`. Raises SelectorError."""
    terms = []
    for term in _split(text):
        if "!=" in term:
            path, _, value = term.partition("!=")
            terms.append((path.strip(), value.strip(), False))
        elif "=" in term:
            path, _, value = term.partition("==" if "==" in term else "=")
            terms.append((path.strip(), value.strip(), True))
        else:
            raise SelectorError(f"{term!r} has no = or !=")
    return FieldSelector(tuple(terms))
