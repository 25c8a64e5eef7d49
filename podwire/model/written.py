"""Policies as they were written: one slim record for every kind, and how its spec is read.

The record keeps the spec as it came, so that decoding never fails because of one: what is wrong is said by `spec_of`
and by the kinds' conversions, with the field's path.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cache
from typing import Any, TypeVar

import msgspec

from podwire.model.meta import Meta

T = TypeVar("T", bound=msgspec.Struct)
_PLACE = re.compile(r" - at `([^`]*)`$")
_DEEP = "it is nested too deeply"


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
    """Problems as they are found."""

    problems: list[Problem] = field(default_factory=list)

    def wrong(self, error: PolicyError) -> None:
        self.problems.append(Problem(error.path, error.words))

    def unmet(self, path: str, words: str) -> None:
        self.problems.append(Problem(path, words, refused=False))

    @property
    def texts(self) -> tuple[str, ...]:
        return tuple(str(problem) for problem in self.problems)


def spec_of(record: Written, kind: type[T]) -> tuple[T, list[str]]:
    """The spec as a record of `kind`, and the paths of the fields that it has no room for. A field that is null counts
    as absent. Raises PolicyError."""
    try:
        bare = _without_nulls({} if record.spec is None else record.spec)
        found = msgspec.convert(bare, kind)
        return found, _unknown(bare, kind, "spec")
    except msgspec.ValidationError as error:
        text = str(error)
        place = _PLACE.search(text)
        path = place.group(1).removeprefix("$") if place else ""
        raise PolicyError(f"spec{path}", _PLACE.sub("", text)) from None
    except RecursionError:
        raise PolicyError("spec", _DEEP) from None


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
            found.append(f"{path}.{name}")
        elif rooms[name] is not None:
            found += _unknown(inner, rooms[name], f"{path}.{name}")
    return found


def within(paths: list[str], place: str) -> list[str]:
    """Those of `paths` that lie at or under a field."""
    return [path for path in paths if path.startswith((f"{place}.", f"{place}["))]
