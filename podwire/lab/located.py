"""YAML whose every value knows its line and its key, so that an error can name both.

Pure. Values are looked at through small typed questions (`text`, `number`, `truth`, `each`); a wrong type
raises PlanError with `file:line: key: what is wrong`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from podwire.lab.topology import PlanError

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_TRUE = {"true", "yes", "on"}
_FALSE = {"false", "no", "off"}


@dataclass(frozen=True, slots=True)
class Located:
    """A YAML node with the file it stands in and the path of keys that leads to it."""

    node: yaml.Node
    source: str
    path: str = ""
    first_line: int = 1

    @property
    def line(self) -> int:
        """The line in the file, from 1."""
        return int(self.node.start_mark.line) + self.first_line

    def error(self, message: str) -> PlanError:
        """The error that names this place."""
        key = f"{self.path}: " if self.path else ""
        return PlanError(f"{self.source}:{self.line}: {key}{message}")

    def where(self) -> str:
        """`file:line: key`, for a warning."""
        return f"{self.source}:{self.line}: {self.path}"

    def entries(self) -> Iterator[tuple[str, Located]]:
        """The entries of a mapping. An absent mapping (`key:` with nothing) has none."""
        if self.is_null():
            return
        if not isinstance(self.node, yaml.MappingNode):
            raise self.error(f"must be a mapping, not {_kind_of(self.node)}")
        seen: set[str] = set()
        for key_node, value in self.node.value:
            key = str(key_node.value)
            path = f"{self.path}.{key}" if self.path else key
            place = Located(value, self.source, path, self.first_line)
            if key in seen:
                raise place.error("stands here twice")
            seen.add(key)
            yield key, place

    def get(self, key: str) -> Located | None:
        """The value of `key`, or None."""
        return next((value for name, value in self.entries() if name == key), None)

    def each(self) -> Iterator[Located]:
        """The items of a list."""
        if self.is_null():
            return
        if not isinstance(self.node, yaml.SequenceNode):
            raise self.error(f"must be a list, not {_kind_of(self.node)}")
        for index, item in enumerate(self.node.value):
            yield Located(item, self.source, f"{self.path}[{index}]", self.first_line)

    def is_null(self) -> bool:
        """Whether nothing stands here."""
        return isinstance(self.node, yaml.ScalarNode) and self.node.tag == "tag:yaml.org,2002:null"

    def text(self) -> str:
        """A string (a number or truth value counts as its text)."""
        if not isinstance(self.node, yaml.ScalarNode) or self.is_null():
            raise self.error(f"must be a string, not {_kind_of(self.node)}")
        return str(self.node.value)

    def number(self) -> int:
        """A whole number."""
        try:
            return int(self.text())
        except ValueError:
            raise self.error(f"must be a whole number, not {self.text()!r}") from None

    def truth(self) -> bool:
        """true or false."""
        word = self.text().lower()
        if word not in _TRUE | _FALSE:
            raise self.error(f"must be true or false, not {self.text()!r}")
        return word in _TRUE

    def plain(self) -> Any:
        """The value as ordinary Python values, without places."""
        return yaml.constructor.SafeConstructor().construct_document(self.node)


def _kind_of(node: yaml.Node) -> str:
    if isinstance(node, yaml.MappingNode):
        return "a mapping"
    if isinstance(node, yaml.SequenceNode):
        return "a list"
    return "nothing" if node.tag.endswith(":null") else f"{node.value!r}"


def documents(text: str, source: str, first_line: int = 1) -> list[Located]:
    """Every YAML document in `text`. Raises PlanError where it is not YAML."""
    try:
        nodes = list(yaml.compose_all(text, Loader=_LOADER))
    except yaml.MarkedYAMLError as error:
        line = (error.problem_mark.line if error.problem_mark else 0) + first_line
        raise PlanError(f"{source}:{line}: not YAML: {error.problem}") from None
    except yaml.YAMLError as error:
        raise PlanError(f"{source}: not YAML: {error}") from None
    return [Located(node, source, "", first_line) for node in nodes if node is not None]
