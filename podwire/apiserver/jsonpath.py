"""The JSONPath of additionalPrinterColumns: `.spec.replicas`, `.status.conditions[?(@.type=="Ready")].status`.

Only what printer columns use: fields (dotted or quoted in brackets), indexes, `[*]` and equality filters.
Source: apiextensions printer columns, client-go util/jsonpath.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

_STEP = re.compile(
    r"""\.\.?(?P<field>(?:\\.|[^.\[\\])+)
      | \[\s*(?P<index>-?\d+)\s*\]
      | \[\s*(?P<star>\*)\s*\]
      | \[\s*(?P<quote>['"])(?P<name>.*?)(?P=quote)\s*\]
      | \[\?\(\s*@\.(?P<key>[\w.\-/]+)\s*(?P<test>==|!=)\s*(?P<mark>['"]?)(?P<value>.*?)(?P=mark)\s*\)\]""",
    re.X,
)


class JsonPathError(ValueError):
    """The path cannot be read; the message says where."""


@lru_cache(maxsize=512)
def steps(path: str) -> tuple[tuple[str, ...], ...]:
    """The path taken apart. Raises JsonPathError."""
    found: list[tuple[str, ...]] = []
    at = 0
    while at < len(path):
        step = _STEP.match(path, at)
        if not step:
            raise JsonPathError(f"unexpected path string, expected a '.' or '[' at {path[at:]!r}")
        part = step.groupdict()
        if part["field"]:
            found.append(("*",) if part["field"] == "*" else ("field", re.sub(r"\\(.)", r"\1", part["field"])))
        elif part["index"]:
            found.append(("index", part["index"]))
        elif part["star"]:
            found.append(("*",))
        elif part["key"]:
            found.append(("filter", part["key"], part["test"], part["value"]))
        else:
            found.append(("field", part["name"]))
        at = step.end()
    return tuple(found)


def find(value: Any, path: str) -> list[Any]:
    """All values at the path; none where something on the way is missing."""
    here = [value]
    for step in steps(path):
        here = [found for each in here for found in _take(each, step)]
    return here


def _take(value: Any, step: tuple[str, ...]) -> list[Any]:
    kind = step[0]
    if kind == "field":
        return [value[step[1]]] if isinstance(value, dict) and step[1] in value else []
    if kind == "*":
        return list(value.values()) if isinstance(value, dict) else list(value) if isinstance(value, list) else []
    if not isinstance(value, list):
        return []
    if kind == "index":
        number = int(step[1])
        return [value[number]] if -len(value) <= number < len(value) else []
    _, key, test, wanted = step
    return [item for item in value if (_text(item, key) == wanted) == (test == "==")]


def _text(item: Any, key: str) -> str | None:
    for part in key.split("."):
        if not isinstance(item, dict) or part not in item:
            return None
        item = item[part]
    return str(item).lower() if isinstance(item, bool) else str(item)
