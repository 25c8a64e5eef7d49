"""From a world with a flow that goes wrong to the least of it that still does."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import yaml

from tests.unit.policy.objects import Object

KEPT = ("apiVersion", "kind", "metadata")
Path = tuple[str | int, ...]


def shrink(objects: list[Object], wrong: Callable[[list[Object]], Any]) -> list[Object]:
    """Objects, then whatever can go from within them, are left out one by one while `wrong` holds. A change that makes
    `wrong` raise is none."""
    least, smaller = copy.deepcopy(objects), True
    while smaller:
        smaller = False
        for path in sorted(_places(least), key=len):
            tried = copy.deepcopy(least)
            if _remove(tried, path) and _holds(wrong, tried):
                least, smaller = tried, True
    return least


def _holds(wrong: Callable[[list[Object]], Any], tried: list[Object]) -> bool:
    try:
        return bool(wrong(tried))
    except Exception:  # noqa: BLE001 (what is left is no world any more)
        return False


def _places(objects: list[Object]) -> Iterator[Path]:
    for at, obj in enumerate(objects):
        yield (at,)
        for key in obj.keys() - set(KEPT):
            yield from ((at, *path) for path in _within(obj[key], (key,)))
        yield from ((at, "metadata", "labels", key) for key in obj["metadata"].get("labels", ()))


def _within(value: Any, path: Path) -> Iterator[Path]:
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in inside:
        yield (*path, key)
        yield from _within(each, (*path, key))


def _remove(objects: list[Object], path: Path) -> bool:
    here: Any = objects
    try:
        for key in path[:-1]:
            here = here[key]
        del here[path[-1]]
    except (KeyError, IndexError, TypeError):
        return False
    return True


def text(objects: list[Object]) -> str:
    """As documents for a regression table."""
    return str(yaml.safe_dump_all(objects, sort_keys=False, default_flow_style=None, width=110))
