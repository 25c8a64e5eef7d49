"""Manifests as people write them: YAML or JSON text to objects that know the line of each of their fields. Pure.

What kubectl would refuse to read is a ManifestError with file, line, what is wrong and the way out: also text whose
indentation got lost on its way through a web page.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

from podwire.model.api import Object
from podwire.observe.shapes import misshapen

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_SCALARS = yaml.constructor.SafeConstructor()
_TYPED = {f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float")}
_MERGE = "tag:yaml.org,2002:merge"
_STEP = re.compile(r"([^.\[\]]+)|\[(\d+)\]")
_PARENTS = {"metadata": ("name", "namespace", "labels", "annotations", "generateName")}
"""Keys that stand directly below `metadata:`; of others we assume `spec:`."""


class ManifestError(ValueError):
    """The text cannot be read: `source` and `line` (0: unknown) say where, `remedy` what to do."""

    def __init__(self, source: str, line: int, problem: str, remedy: str) -> None:
        where = f"{source}:{line}" if line else source
        super().__init__(f"{where}: {problem}. {remedy}")
        self.source, self.line, self.problem, self.remedy = source, line, problem, remedy


@dataclass(frozen=True, slots=True)
class Manifest:
    """An object and where it was written. `node` is None when it came as JSON or from a cluster (`source` '')."""

    object: Object
    source: str = ""
    node: yaml.Node | None = field(default=None, repr=False, compare=False)

    def line(self, path: str = "") -> int:
        """The line of a field (`spec.ingress[0].from`), or of the last step towards it that is there; 0: unknown."""
        if self.node is None:
            return 0
        here, line = self.node, int(self.node.start_mark.line) + 1
        for key, index in _STEP.findall(path):
            found = _below(here, key, index)
            if found is None:
                break
            here, line = found
        return line

    def where(self, path: str = "") -> str:
        """`file:line`, `file`, or '' when it came from a cluster."""
        line = self.line(path)
        return f"{self.source}:{line}" if line else self.source


def _below(node: yaml.Node, key: str, index: str) -> tuple[yaml.Node, int] | None:
    if index and isinstance(node, yaml.SequenceNode) and int(index) < len(node.value):
        item = node.value[int(index)]
        return item, int(item.start_mark.line) + 1
    if key and isinstance(node, yaml.MappingNode):
        for name, value in node.value:
            if name.value == key:
                return value, int(name.start_mark.line) + 1
    return None


def read(text: str, source: str, *, beside: str = "") -> list[Manifest]:
    """Every object in the text; Lists are taken apart. A document without kind that has the key `beside` comes as it
    is. Raises ManifestError."""
    if text.lstrip().startswith("{"):
        try:
            value = json.loads(text)
        except ValueError as error:
            if not text.lstrip().startswith("{{"):
                return _yaml(text, source, beside, error)  # flow style, or several documents
            raise ManifestError(source, 1, "this is a template", "Render it first, as `helm template` does") from None
        return list(_objects(Manifest(value, source), beside))
    return _yaml(text, source, beside)


def _yaml(text: str, source: str, beside: str, not_json: ValueError | None = None) -> list[Manifest]:
    try:
        nodes = [node for node in yaml.compose_all(text, Loader=_LOADER) if node is not None]
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 0
        if isinstance(not_json, json.JSONDecodeError) and "---" not in text:
            raise ManifestError(
                source, not_json.lineno, f"not JSON: {not_json.msg}", f"Look at column {not_json.colno}"
            ) from None
        raise ManifestError(
            source, line, f"not YAML: {error.problem}", _remedy(text, line, str(error.problem))
        ) from None
    except yaml.YAMLError as error:
        raise ManifestError(source, 0, f"not YAML: {error}", "Save the file as UTF-8 text") from None
    except RecursionError:
        raise ManifestError(source, 0, "nested too deeply to be read", "No object of Kubernetes is so deep") from None
    found: list[Manifest] = []
    for node in nodes:
        value = _Values(source).value(node)
        if value is not None:
            found += _objects(Manifest(value, source, node), beside)
    return found


def _remedy(text: str, line: int, problem: str) -> str:
    """What may have gone wrong around that line (from 1)."""
    lines = text.splitlines()
    here = lines[line - 1] if 0 < line <= len(lines) else ""
    if "\t" in here[: len(here) - len(here.lstrip())] or "'\\t'" in problem:
        return "Indent with spaces: YAML takes no tabs there"
    if "mapping values" in problem:
        before = next((one for one in reversed(lines[: line - 1]) if one.strip()), "")
        key, _, value = before.strip().partition(":")
        if value.strip() and _indent(here) > _indent(before):
            inner = here.strip().partition(":")[0].removeprefix("- ")
            parent = next((name for name, keys in _PARENTS.items() if inner in keys), "spec")
            return (
                f"`{here.strip()}` is indented below `{before.strip()}`, which has a value ({value.strip()}) already: "
                f"lines are missing or lost their indentation. Put `{parent}:` on a line of its own before it, "
                f"as deep as `{key}:`, or take the manifest from where it was first published"
            )
        return "Put a text that has a colon and a blank in it in quotes"
    if "block end" in problem or "did not find expected" in problem:
        return (
            "Items of one list, and keys of one mapping, begin in the same column: compare this line with those above"
        )
    if "alias" in problem or "%" in here or "@" in here or "`" in here:
        return "Put a text that begins with one of * & % @ ` { [ in quotes"
    return "Compare the indentation of this line with that of the lines above"


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


@dataclass
class _Values:
    """Nodes to plain values, as Kubernetes reads YAML: dates stay texts, keys are texts and stand once."""

    source: str
    done: dict[int, Any] = field(default_factory=dict)
    begun: set[int] = field(default_factory=set)

    def value(self, node: yaml.Node) -> Any:
        if isinstance(node, yaml.ScalarNode):
            if node.tag not in _TYPED:
                return node.value
            try:
                return _SCALARS.construct_object(node)
            except ValueError as error:
                raise self.error(node, str(error), "Write another value, or put it in quotes") from None
        mark = id(node)
        if mark in self.done:
            return self.done[mark]
        if mark in self.begun:
            raise self.error(node, "this value contains itself", "Remove the alias (*)")
        self.begun.add(mark)
        if isinstance(node, yaml.SequenceNode):
            self.done[mark] = [self.value(item) for item in node.value]
        else:
            self.done[mark] = self._mapping(node)
        return self.done[mark]

    def _mapping(self, node: yaml.Node) -> dict[str, Any]:
        if isinstance(node, yaml.MappingNode) and any(key.tag == _MERGE for key, _ in node.value):
            _SCALARS.flatten_mapping(node)
            return {str(key.value): self.value(value) for key, value in node.value}
        found: dict[str, Any] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise self.error(key, "a key must be a text", "Put a text that begins with { or [ in quotes")
            if key.value in found:
                raise self.error(key, f"`{key.value}` stands here twice", "Only one of them would count: keep one")
            found[key.value] = self.value(value)
        return found

    def error(self, node: yaml.Node, problem: str, remedy: str) -> ManifestError:
        return ManifestError(self.source, int(node.start_mark.line) + 1, problem, remedy)


def _objects(found: Manifest, beside: str = "") -> Iterator[Manifest]:
    """The object, or those that a List holds. Raises ManifestError for what is none."""
    value = found.object
    if not isinstance(value, dict):
        raise ManifestError(
            found.source, found.line(), "this is no object", "An object has apiVersion, kind and metadata"
        )
    kind = value.get("kind")
    if beside and beside in value and kind is None:
        yield found
        return
    if isinstance(kind, str) and kind.endswith("List") and "items" in value:
        inner = {"apiVersion": value.get("apiVersion"), "kind": kind.removesuffix("List")}
        items = value["items"] or []
        if not isinstance(items, list):
            raise ManifestError(found.source, found.line("items"), "items is no list", "Begin each item with `- `")
        for index, item in enumerate(items):
            if isinstance(item, dict) and "kind" not in item and kind != "List":
                item = {**inner, **item}
            place = _below(found.node, "items", "") if found.node else None
            node = _below(place[0], "", str(index)) if place else None
            yield from _objects(Manifest(item, found.source, node[0] if node else None))
        return
    for key in ("apiVersion", "kind"):
        if not isinstance(value.get(key), str) or not value[key]:
            raise ManifestError(
                found.source,
                found.line(key),
                f"an object without `{key}`",
                f"Write `{key}:` at the top; its keys are {', '.join(map(str, list(value)[:5])) or 'none'}",
            )
    metadata = value.get("metadata")
    if not isinstance(metadata, dict) or not isinstance(metadata.get("name"), str) or not metadata["name"]:
        way = "Write `metadata:` and below it, indented, `name: …`"
        raise ManifestError(found.source, found.line("metadata"), f"a {kind} without `metadata.name`", way)
    if not isinstance(metadata.get("namespace") or "", str):
        where = found.line("metadata.namespace")
        raise ManifestError(found.source, where, "metadata.namespace is not a text", "Put it in quotes")
    field_, wrong = misshapen(value)
    if wrong:
        way = f"Correct it as `kubectl explain {value['kind'].lower()}` says; a number as a text stands in quotes"
        raise ManifestError(found.source, found.line(field_), f"{kind} {metadata['name']} {field_}: {wrong}", way)
    yield found
