"""Policies as they were written: one slim record for every kind, and how its spec is read.

The record keeps the spec as it came, so that decoding never fails because of one: what is wrong is said by `spec_of`
and by the kinds' conversions, with the field's path.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any, TypeVar

import msgspec

from podwire.model.meta import Meta

T = TypeVar("T", bound=msgspec.Struct)
_PLACE = re.compile(r" - at `([^`]*)`$")
_DEEP = "it is nested too deeply"
_STRANGE = "there is no such field"


class PolicyError(ValueError):
    """A policy, or a part of it, that cannot be read: `path` is the field ("spec.ingress[0].ports[1]")."""

    def __init__(self, path: str, words: str) -> None:
        super().__init__(f"{path}: {words}" if path else words)
        self.path, self.words = path, words


class Written(msgspec.Struct, frozen=True):
    """A policy, a tier or a network set, its spec not looked into."""

    metadata: Meta
    kind: str = ""
    apiVersion: str = ""
    spec: Any = None

    @property
    def key(self) -> tuple[str, str]:
        return self.metadata.namespace, self.metadata.name


@dataclass(frozen=True, slots=True)
class Problem:
    """What of a policy is not honoured. `refused`: a mistake, for which a server that checks refuses the object;
    otherwise something that may be asked for and is not done here."""

    path: str
    words: str
    refused: bool = True

    def __str__(self) -> str:
        return f"{self.path}: {self.words}" if self.path else self.words


@dataclass(slots=True)
class Notes:
    """Problems as they are found, one of a sort for each path. `strange` are the fields that no record has room for, in
    order."""

    problems: list[Problem] = field(default_factory=list)
    strange: list[str] = field(default_factory=list)
    _told: set[tuple[str, bool]] = field(default_factory=set)

    def wrong(self, error: PolicyError) -> None:
        self._note(Problem(error.path, error.words))

    def unmet(self, path: str, words: str) -> None:
        self._note(Problem(path, words, refused=False))

    def _note(self, problem: Problem) -> None:
        if (problem.path, problem.refused) not in self._told:
            self._told.add((problem.path, problem.refused))
            self.problems.append(problem)

    def within(self, place: str) -> Iterator[str]:
        """The strange fields at or under a field."""
        for start in (f"{place}.", f"{place}["):
            for at in range(bisect_left(self.strange, start), len(self.strange)):
                if not self.strange[at].startswith(start):
                    break
                yield self.strange[at]

    def refuse_strange(self, place: str) -> None:
        """Raises PolicyError for the first strange field at or under a field."""
        for path in self.within(place):
            raise PolicyError(path, _STRANGE)

    @property
    def texts(self) -> tuple[str, ...]:
        return tuple(str(problem) for problem in self.problems)


def spec_of(record: Written, kind: type[T], notes: Notes) -> T:
    """The spec as a record of `kind`. A field that is null counts as absent; one that the record has no room for is
    noted. Raises PolicyError."""
    try:
        bare = _without_nulls({} if record.spec is None else record.spec)
        found, strange = msgspec.convert(bare, kind), _unknown(bare, kind, "spec")
    except msgspec.ValidationError as error:
        text = str(error)
        place = _PLACE.search(text)
        path = place.group(1).removeprefix("$") if place else ""
        raise PolicyError(f"spec{path}", _PLACE.sub("", text)) from None
    except RecursionError:
        raise PolicyError("spec", _DEEP) from None
    for path in strange:
        notes.wrong(PolicyError(path, _STRANGE))
    notes.strange = sorted(strange)
    return found


def plain(text: str, most: int) -> str:
    """A text from outside that a log line or a rule's comment may hold: no control characters, and not endless."""
    return "".join(each if each.isprintable() else "?" for each in text[:most])


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(inner) for key, inner in value.items() if inner is not None}
    return [_without_nulls(inner) for inner in value] if isinstance(value, list) else value


@cache
def _rooms(kind: Any) -> dict[str, Any]:
    """The records within a record: field → the type of its items (None where they are plain)."""
    return {each.encode_name: _inner(each.type) for each in msgspec.inspect.type_info(kind).fields}  # type: ignore[attr-defined]


def _inner(found: Any) -> Any:
    if isinstance(found, msgspec.inspect.StructType):
        return found.cls
    if isinstance(found, msgspec.inspect.ListType):
        return _inner(found.item_type)
    if isinstance(found, msgspec.inspect.UnionType):
        return next((inner for each in found.types if (inner := _inner(each))), None)
    return None


def _unknown(value: Any, kind: Any, path: str) -> list[str]:
    if isinstance(value, list):
        return [each for place, item in enumerate(value) for each in _unknown(item, kind, f"{path}[{place}]")]
    if not isinstance(value, dict):
        return []
    rooms, found = _rooms(kind), []
    for name, inner in value.items():
        if name not in rooms:
            found.append(f"{path}.{plain(str(name), 80)}")
        elif rooms[name] is not None:
            found += _unknown(inner, rooms[name], f"{path}.{name}")
    return found
