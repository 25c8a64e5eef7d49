"""Which selectors match which labels, asked from either side without trying every pair.

Two indexes. From labels to selectors: a selector stands under the label values of which its matches have at least one
(`Selector.needs`). From selectors to labels: an index of one label's values is made when the first selector needs that
label, and kept from then on. Nothing remembers matches: who asks does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Generic, TypeVar

from podwire.model.expression import Selector, parse_selector

T = TypeVar("T")
Labels = Mapping[str, str]


class Selection(Generic[T]):
    """Things have labels that stay as they are: a thing with other labels is another thing."""

    def __init__(self) -> None:
        self._things: dict[T, Labels] = {}
        self._values: dict[str, dict[str, set[T]]] = {}  # label → value → things; only labels that a selector needs
        self._selectors: dict[str, Selector] = {}
        self._needing: dict[tuple[str, str], dict[str, Selector]] = {}
        self._needless: dict[str, Selector] = {}

    def put(self, thing: T, labels: Labels) -> None:
        self._things[thing] = labels
        for label, values in self._values.items():
            if label in labels:
                values.setdefault(labels[label], set()).add(thing)

    def take(self, thing: T) -> None:
        labels = self._things.pop(thing)
        for label, values in self._values.items():
            if label in labels:
                values[labels[label]].discard(thing)
                if not values[labels[label]]:
                    del values[labels[label]]

    def watch(self, text: str) -> None:
        """From now on `selectors` tells of this one. Raises ExpressionError."""
        self._selectors[text] = selector = parse_selector(text)
        for place in self._places(selector):
            place[text] = selector

    def forget(self, text: str) -> None:
        selector = self._selectors.pop(text)
        for place in self._places(selector):
            del place[text]
        for pair in selector.needs or ():
            if not self._needing[pair]:
                del self._needing[pair]

    def _places(self, selector: Selector) -> list[dict[str, Selector]]:
        if selector.needs is None:
            return [self._needless]
        return [self._needing.setdefault(pair, {}) for pair in selector.needs]

    def selectors(self, labels: Labels) -> set[str]:
        """Of the watched ones those that match."""
        found = {text for text, selector in self._needless.items() if selector.matches(labels)}
        needing = self._needing
        for pair in labels.items():
            if pair in needing:
                found.update(text for text, selector in needing[pair].items() if selector.matches(labels))
        return found

    def things(self, text: str) -> Iterator[T]:
        """Those that a selector matches, watched or not."""
        selector = self._selectors.get(text) or parse_selector(text)
        if selector.needs is None:
            yield from [thing for thing, labels in self._things.items() if selector.matches(labels)]
            return
        seen: set[T] = set()
        for label, value in selector.needs:
            for thing in self._with(label).get(value, ()):
                if thing not in seen and selector.matches(self._things[thing]):
                    seen.add(thing)
                    yield thing

    def _with(self, label: str) -> dict[str, set[T]]:
        if label not in self._values:
            found = self._values[label] = dict[str, set[T]]()
            for thing, labels in self._things.items():
                if label in labels:
                    found.setdefault(labels[label], set()).add(thing)
        return self._values[label]
