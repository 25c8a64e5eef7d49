"""Trees of selector expressions: their canonical text, what they match, and how they change their labels' names.

Source: the canonical form is that of Calico's selector parser (it feeds the identity of sets).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

PARTS = {"contains": "contains", "startswith": "starts with", "endswith": "ends with"}
_TESTS: dict[str, Callable[[str, str], bool]] = {
    "contains": lambda have, part: part in have,
    "starts with": str.startswith,
    "ends with": str.endswith,
}
NAMESPACE = "projectcalico.org/namespace"
ORCHESTRATOR = "projectcalico.org/orchestrator"
SERVICE_ACCOUNT = "projectcalico.org/serviceaccount"
"""Labels that every pod has for its policies. Those of its namespace and service account come under prefixes."""
OF_NAMESPACE, OF_ACCOUNT = "pcns.", "pcsa."

Labels = Mapping[str, str]
Pairs = frozenset[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Word:
    """all() or global(): both hold of everything; what global() means is settled before (`renamed`)."""

    text: str

    def __str__(self) -> str:
        return self.text


ALL, GLOBAL = Word("all()"), Word("global()")


@dataclass(frozen=True, slots=True)
class Has:
    label: str

    def __str__(self) -> str:
        return f"has({self.label})"


@dataclass(frozen=True, slots=True)
class Compare:
    """`how` is ==, !=, contains, starts with or ends with."""

    label: str
    how: str
    value: str

    def __str__(self) -> str:
        return f"{self.label} {self.how} {_quoted(self.value)}"


@dataclass(frozen=True, slots=True)
class OneOf:
    """`values` are in order, each once."""

    label: str
    values: tuple[str, ...]
    negated: bool = False

    @staticmethod
    def of(label: str, values: Iterable[str], *, negated: bool = False) -> OneOf:
        return OneOf(label, tuple(sorted(set(values))), negated)

    def __str__(self) -> str:
        return f"{self.label} {'not in' if self.negated else 'in'} {{{', '.join(map(_quoted, self.values))}}}"


@dataclass(frozen=True, slots=True)
class Not:
    term: Term

    @staticmethod
    def of(term: Term) -> Term:
        return term.term if isinstance(term, Not) else Not(term)

    def __str__(self) -> str:
        return f"!{self.term}"


@dataclass(frozen=True, slots=True)
class Every:
    terms: tuple[Term, ...]

    @staticmethod
    def of(terms: Iterable[Term]) -> Term:
        found = tuple(terms)
        return found[0] if len(found) == 1 else Every(found) if found else ALL

    def __str__(self) -> str:
        return f"({' && '.join(map(str, self.terms))})"


@dataclass(frozen=True, slots=True)
class Some:
    terms: tuple[Term, ...]

    @staticmethod
    def of(terms: Iterable[Term]) -> Term:
        """Of one at least."""
        found = tuple(terms)
        return found[0] if len(found) == 1 else Some(found)

    def __str__(self) -> str:
        return f"({' || '.join(map(str, self.terms))})"


Term = Word | Has | Compare | OneOf | Not | Every | Some


def _quoted(text: str) -> str:
    return f"'{text}'" if '"' in text else f'"{text}"'


def predicate(term: Term) -> Callable[[Labels], bool]:
    """What a tree says of labels. A label that is missing is unequal to everything and in no set."""
    match term:
        case Word():
            return _always
        case Has(label):
            return lambda labels: label in labels
        case Compare(label, "==", value):
            return lambda labels: labels.get(label) == value
        case Compare(label, "!=", value):
            return lambda labels: labels.get(label) != value
        case Compare(label, how, value):
            test = _TESTS[how]
            return lambda labels: label in labels and test(labels[label], value)
        case OneOf(label, values, negated):
            members = frozenset(values)
            return lambda labels: (labels.get(label) in members) != negated
        case Not(inner):
            inside = predicate(inner)
            return lambda labels: not inside(labels)
        case Every(inner):
            each = [predicate(one) for one in inner]
            return lambda labels: all(one(labels) for one in each)
        case Some(inner):
            each = [predicate(one) for one in inner]
            return lambda labels: any(one(labels) for one in each)


def _always(labels: Labels) -> bool:
    return True


def keys(term: Term) -> frozenset[str]:
    """The labels that a tree reads."""
    match term:
        case Word():
            return frozenset()
        case Not(inner):
            return keys(inner)
        case Every(inner) | Some(inner):
            return frozenset().union(*map(keys, inner))
        case _:
            return frozenset((term.label,))


def needs(term: Term) -> Pairs | None:
    """Label values of which whatever the tree matches has at least one; the fewest and the most telling that can be
    read off it. None: it may match without any."""
    match term:
        case Compare(label, "==", value):
            return frozenset(((label, value),))
        case OneOf(label, values, False):
            return frozenset((label, value) for value in values)
        case Every(inner):
            found = [pairs for one in inner if (pairs := needs(one)) is not None]
            return min(found, key=_breadth, default=None)
        case Some(inner):
            each = [needs(one) for one in inner]
            return None if None in each else frozenset().union(*(pairs for pairs in each if pairs is not None))
        case _:
            return None


def _breadth(pairs: Pairs) -> tuple[bool, int, bool]:
    """Every pod has the same orchestrator; namespaces are many."""
    labels = {label for label, _ in pairs}
    return labels == {ORCHESTRATOR}, len(pairs), NAMESPACE not in labels


def renamed(term: Term, prefix: str, everybody: Term) -> Term:
    """The tree with `prefix` before each label's name, all() replaced by `everybody` and global() by its contrary."""
    match term:
        case Word():
            return everybody if term == ALL else Not.of(everybody)
        case Has(label):
            return Has(prefix + label)
        case Compare(label, how, value):
            return Compare(prefix + label, how, value)
        case OneOf(label, values, negated):
            return OneOf(prefix + label, values, negated)
        case Not(inner):
            return Not.of(renamed(inner, prefix, everybody))
        case Every(inner):
            return Every(tuple(renamed(one, prefix, everybody) for one in inner))
        case Some(inner):
            return Some(tuple(renamed(one, prefix, everybody) for one in inner))


def names_global(term: Term) -> bool:
    """global() occurs in it."""
    match term:
        case Not(inner):
            return names_global(inner)
        case Every(inner) | Some(inner):
            return any(map(names_global, inner))
        case _:
            return term == GLOBAL


def joined(terms: Iterable[Term]) -> Term:
    """All of them, without parentheses within each other."""
    flat: list[Term] = []
    for term in terms:
        flat.extend(term.terms if isinstance(term, Every) else (term,))
    return Every.of(flat)
