"""Calico's selector expressions: `env == 'prod' && !has(skip) || tier in {'a', 'b'}`, parsed once, matched often.

Grammar (upstream's, as described in its documentation and held to its test vectors):
    or := and ("||" and)*     and := op ("&&" op)*
    op := "!"* ( has(label) | all() | global() | label comparison | "(" or ")" )
    comparison := == != contains startswith endswith with a string; in, not in with a set { 'a', "b" }
Nothing at all means all(). Blanks are space and tab only. Trees are in `model.terms`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from podwire.model import terms
from podwire.model.terms import ALL, GLOBAL, Compare, Every, Has, Not, OneOf, Some, Term

Predicate = Callable[[Mapping[str, str]], bool]
Pairs = frozenset[tuple[str, str]]

_DEEPEST = 64
_SHOWN = 80
_TOKEN = re.compile(
    r"""[ \t]*(?:
      (?P<call>(?:has|all|global)\() | (?P<mark>&&|\|\||==|!=|[!(){},])
      | (?P<text>"[^"]*"|'[^']*') | (?P<word>[a-zA-Z0-9_./-]{1,512})
    )""",
    re.VERBOSE,
)
_HINTS = {
    "=": "use ==",
    "&": "use &&",
    "|": "use ||",
    "\n": "a selector is one line: no line break, not even at its end (in YAML, write >- or |- for > or |)",
    '"': "the quotation mark is never closed",
    "'": "the quotation mark is never closed",
}


class ExpressionError(ValueError):
    """The text is not a selector; the message says where (from 1) and, where it can, what to write."""


@dataclass(frozen=True, slots=True)
class Selector:
    """`text` is the canonical form: equal meaning by construction gives equal text, and parsing it gives the same
    selector. `keys` are the labels that it reads. Whatever it matches has at least one of the label values `needs`;
    None: it may match without any."""

    text: str
    matches: Predicate
    keys: frozenset[str]
    needs: Pairs | None

    def __str__(self) -> str:
        return self.text


def selector_of(term: Term) -> Selector:
    """The selector of a tree."""
    return Selector(str(term), terms.predicate(term), terms.keys(term), terms.needs(term))


@lru_cache(maxsize=65_536)
def parse_selector(text: str) -> Selector:
    """Raises ExpressionError."""
    return selector_of(parse_term(text))


def parse_expression(text: str) -> Predicate:
    """The predicate of a selector. Raises ExpressionError."""
    return parse_selector(text).matches


def parse_term(text: str) -> Term:
    """The tree of a selector. Raises ExpressionError."""
    reader = _Reader(text)
    if reader.peek() == ("end", ""):
        return ALL
    found = reader.either()
    reader.expect("end", "")
    return found


class _Reader:
    """Recursive descent over the tokens of one selector."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = list(self._split(text))
        self._at = 0
        self._depth = 0

    def _split(self, text: str) -> list[tuple[str, str, int]]:
        tokens, at, end = [], 0, len(text.rstrip(" \t"))
        while at < end:
            found = _TOKEN.match(text, at)
            if not found or found.lastgroup is None:
                at += len(text[at:]) - len(text[at:].lstrip(" \t"))
                raise self._error(at, f"unexpected {text[at]!r}", _HINTS.get(text[at], ""))
            kind = found.lastgroup
            tokens.append((kind, found.group(kind), found.start(kind)))
            at = found.end()
        return tokens

    def _error(self, at: int, wrong: str, hint: str = "") -> ExpressionError:
        shown = self._text if len(self._text) <= _SHOWN else self._text[:_SHOWN] + "…"
        return ExpressionError(f"selector {shown!r}: position {at + 1}: {wrong}{': ' if hint else ''}{hint}")

    def peek(self) -> tuple[str, str]:
        return self._tokens[self._at][:2] if self._at < len(self._tokens) else ("end", "")

    def next(self) -> tuple[str, str]:
        token = self.peek()
        self._at += 1
        return token

    def expect(self, kind: str, value: str) -> None:
        if self.next() != (kind, value):
            raise self._wrong(value or "&&, || or the end")

    def _wrong(self, wanted: str, hint: str = "") -> ExpressionError:
        """About the token that was just taken."""
        at = self._at - 1
        if at >= len(self._tokens):
            return self._error(len(self._text), f"{wanted} expected, but it ends here", hint)
        kind, value, place = self._tokens[at]
        if kind == "call" and not hint:
            hint = "write it alone, without a label before it"
        return self._error(place, f"{wanted} expected, not {value}", hint)

    def either(self) -> Term:
        return Some.of(self._row("||", self._both))

    def _both(self) -> Term:
        return Every.of(self._row("&&", self._operation))

    def _row(self, mark: str, read: Callable[[], Term]) -> list[Term]:
        found = [read()]
        while self.peek() == ("mark", mark):
            self.next()
            found.append(read())
        return found

    def _operation(self) -> Term:
        negated = False
        while self.peek() == ("mark", "!"):
            self.next()
            negated = not negated
        found = self._plain()
        return Not.of(found) if negated else found

    def _plain(self) -> Term:
        kind, value = token = self.next()
        if token == ("mark", "("):
            self._depth += 1
            if self._depth > _DEEPEST:
                raise self._wrong(f"at most {_DEEPEST} parentheses within each other")
            inner = self.either()
            self.expect("mark", ")")
            self._depth -= 1
            return inner
        if kind == "call":
            return self._call(value)
        if kind == "word":
            return self._comparison(value)
        raise self._wrong("a label, has(…), all() or (", "labels stand without quotation marks" * (kind == "text"))

    def _call(self, name: str) -> Term:
        if name != "has(":
            self.expect("mark", ")")
            return ALL if name == "all(" else GLOBAL
        kind, label = self.next()
        if kind != "word":
            raise self._wrong("a label", "labels stand without quotation marks" * (kind == "text"))
        self.expect("mark", ")")
        return Has(label)

    def _comparison(self, label: str) -> Term:
        kind, value = self.next()
        if (kind, value) in (("mark", "=="), ("mark", "!=")):
            return Compare(label, value, self._string())
        if (kind, value) == ("mark", "(") and label in ("has", "all", "global"):
            raise self._wrong("a comparison", f"write {label}( without a blank")
        if kind != "word":
            raise self._wrong("a comparison", f"write has({label})" * (kind in ("end", "mark")))
        if value in ("not", "starts", "ends"):
            second = "in" if value == "not" else "with"
            self.expect("word", second)
            value += second
        if value in ("in", "notin"):
            return OneOf.of(label, self._set(), negated=value == "notin")
        if value not in terms.PARTS:
            raise self._wrong("a comparison (==, !=, in, not in, contains, starts with, ends with)")
        return Compare(label, terms.PARTS[value], self._string())

    def _string(self) -> str:
        kind, value = self.next()
        if kind != "text":
            raise self._wrong("a quoted string", f"write '{value}'" * (kind == "word"))
        return value[1:-1]

    def _set(self) -> set[str]:
        self.expect("mark", "{")
        members = set()
        while self.peek() != ("mark", "}"):
            members.add(self._string())
            if self.peek() != ("mark", ","):
                break
            self.next()
        self.expect("mark", "}")
        return members
