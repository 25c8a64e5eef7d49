"""Calico's selector expressions: `env == 'prod' && !has(skip) || tier in {'a', 'b'}`, parsed to a predicate on labels.

Grammar (upstream's, as described in its documentation and held to its test vectors):
    or := and ("||" and)*     and := op ("&&" op)*
    op := "!"* ( has(label) | all() | global() | label comparison | "(" or ")" )
    comparison := == != contains startswith endswith with a string; in, not in with a set { 'a', "b" }
Nothing at all means all(). Blanks are space and tab only.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import lru_cache

Predicate = Callable[[Mapping[str, str]], bool]

_TOKEN = re.compile(
    r"""[ \t]*(?:
      (?P<call>(?:has|all|global)\() | (?P<mark>&&|\|\||==|!=|[!(){},])
      | (?P<text>"[^"]*"|'[^']*') | (?P<word>[a-zA-Z0-9_./-]{1,512})
    )""",
    re.VERBOSE,
)


class ExpressionError(ValueError):
    """The text is not a selector; the message says where."""


@lru_cache(maxsize=4096)
def parse_expression(text: str) -> Predicate:
    """The predicate of a selector. Raises ExpressionError."""
    reader = _Reader(text)
    if reader.peek() == ("end", ""):
        return _always
    found = reader.either()
    reader.expect("end", "")
    return found


def _always(labels: Mapping[str, str]) -> bool:
    return True


class _Reader:
    """Recursive descent over the tokens of one selector."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = list(self._split(text))
        self._at = 0

    def _split(self, text: str) -> list[tuple[str, str]]:
        tokens, at, end = [], 0, len(text.rstrip(" \t"))
        while at < end:
            found = _TOKEN.match(text, at)
            if not found or found.lastgroup is None:
                raise ExpressionError(f"selector {text!r}: unexpected {text[at:end]!r}")
            tokens.append((found.lastgroup, found.group(found.lastgroup)))
            at = found.end()
        return tokens

    def peek(self, ahead: int = 0) -> tuple[str, str]:
        at = self._at + ahead
        return self._tokens[at] if at < len(self._tokens) else ("end", "")

    def next(self) -> tuple[str, str]:
        token = self.peek()
        self._at += 1
        return token

    def expect(self, kind: str, value: str) -> None:
        token = self.next()
        if token != (kind, value):
            raise self._wrong(token, value or "the end")

    def _wrong(self, token: tuple[str, str], wanted: str) -> ExpressionError:
        return ExpressionError(f"selector {self._text!r}: expected {wanted}, found {token[1] or 'the end'!r}")

    def either(self) -> Predicate:
        terms = [self.both()]
        while self.peek() == ("mark", "||"):
            self.next()
            terms.append(self.both())
        return terms[0] if len(terms) == 1 else lambda labels: any(term(labels) for term in terms)

    def both(self) -> Predicate:
        terms = [self.operation()]
        while self.peek() == ("mark", "&&"):
            self.next()
            terms.append(self.operation())
        return terms[0] if len(terms) == 1 else lambda labels: all(term(labels) for term in terms)

    def operation(self) -> Predicate:
        negated = False
        while self.peek() == ("mark", "!"):
            self.next()
            negated = not negated
        found = self._plain()
        return (lambda labels: not found(labels)) if negated else found

    def _plain(self) -> Predicate:
        kind, value = token = self.next()
        if token == ("mark", "("):
            inner = self.either()
            self.expect("mark", ")")
            return inner
        if kind == "call":
            return self._call(value)
        if kind == "word":
            return self._comparison(value)
        raise self._wrong(token, "a label, has(, all() or (")

    def _call(self, name: str) -> Predicate:
        if name == "has(":
            kind, label = token = self.next()
            if kind != "word":
                raise self._wrong(token, "a label")
            self.expect("mark", ")")
            return lambda labels: label in labels
        self.expect("mark", ")")
        return _always

    def _comparison(self, label: str) -> Predicate:
        kind, value = token = self.next()
        if token == ("mark", "=="):
            wanted = self._string()
            return lambda labels: labels.get(label) == wanted
        if token == ("mark", "!="):
            wanted = self._string()
            return lambda labels: labels.get(label) != wanted
        if kind != "word":
            raise self._wrong(token, "a comparison")
        if value in ("not", "starts", "ends"):
            second = self.next()
            if second != ("word", "in" if value == "not" else "with"):
                raise self._wrong(second, "in" if value == "not" else "with")
            value += second[1]
        if value in ("in", "notin"):
            members, inside = self._set(), value == "in"
            # `not in` holds for a label that is absent.
            return lambda labels: (labels.get(label) in members) == inside
        tests: dict[str, Callable[[str, str], bool]] = {
            "contains": lambda have, part: part in have,
            "startswith": str.startswith,
            "endswith": str.endswith,
        }
        if value not in tests:
            raise self._wrong(token, "a comparison")
        test, part = tests[value], self._string()
        return lambda labels: label in labels and test(labels[label], part)

    def _string(self) -> str:
        kind, value = token = self.next()
        if kind != "text":
            raise self._wrong(token, "a quoted string")
        return value[1:-1]

    def _set(self) -> frozenset[str]:
        self.expect("mark", "{")
        members = set()
        while self.peek() != ("mark", "}"):
            members.add(self._string())
            if self.peek() != ("mark", ","):
                break
            self.next()
        self.expect("mark", "}")
        return frozenset(members)
