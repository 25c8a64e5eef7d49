"""The agent's figures in Prometheus' text format: declared once as families, cheap to count, written when asked for.

Counting takes a lock and a dictionary (under a microsecond); where even that is too much a caller keeps a plain number
of its own and hands it over at the time of the scrape (`sources`).
Source: Prometheus' text exposition format 0.0.4.
"""

from __future__ import annotations

import math
import threading
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

COUNTER, GAUGE, HISTOGRAM = "counter", "gauge", "histogram"

Labels = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Family:
    """One metric: `help` is a sentence for operators; `buckets` are a histogram's upper bounds, without infinity."""

    name: str
    kind: str
    help: str
    labels: Labels = ()
    buckets: tuple[float, ...] = ()


Sample = tuple[Family, Labels, float]
Source = Callable[[], Iterable[Sample]]


@dataclass(slots=True)
class _Spread:
    """A histogram's counts, one a bucket and one for what is longer than all."""

    counts: list[int]
    total: float = 0.0


@dataclass
class Figures:
    """Safe for several threads. `sources` are asked at each `text`; one that fails is left out that time."""

    sources: list[Source] = field(default_factory=list)
    _numbers: dict[Family, dict[Labels, float]] = field(default_factory=dict)
    _spreads: dict[Family, dict[Labels, _Spread]] = field(default_factory=dict)
    _guard: threading.Lock = field(default_factory=threading.Lock)

    def add(self, family: Family, *labels: str, amount: float = 1) -> None:
        """Add to a counter."""
        with self._guard:
            numbers = self._numbers.setdefault(family, {})
            numbers[labels] = numbers.get(labels, 0) + amount

    def observe(self, family: Family, value: float, *labels: str) -> None:
        """One value of a histogram."""
        with self._guard:
            spreads = self._spreads.setdefault(family, {})
            spread = spreads.get(labels)
            if spread is None:
                spread = spreads[labels] = _Spread([0] * (len(family.buckets) + 1))
            spread.counts[bisect_left(family.buckets, value)] += 1
            spread.total += value

    def text(self) -> str:
        """Everything, by name."""
        lines: dict[Family, list[str]] = {}
        for source in self.sources:
            try:
                for family, labels, value in list(source()):
                    lines.setdefault(family, []).append(_line(family.name, family.labels, labels, value))
            except (OSError, RuntimeError):  # a file that vanished, a map that changed while it was read
                continue
        with self._guard:
            for family, numbers in self._numbers.items():
                found = lines.setdefault(family, [])
                found += (_line(family.name, family.labels, labels, value) for labels, value in numbers.items())
            for family, spreads in self._spreads.items():
                for labels, spread in spreads.items():
                    lines.setdefault(family, []).extend(_histogram(family, labels, spread))
        out = []
        for family in sorted(lines, key=lambda one: one.name):
            out += [f"# HELP {family.name} {_escaped_help(family.help)}", f"# TYPE {family.name} {family.kind}"]
            out += lines[family]
        return "\n".join([*out, ""])


def _histogram(family: Family, labels: Labels, spread: _Spread) -> Iterator[str]:
    names, upto = (*family.labels, "le"), 0
    for bound, count in zip((*family.buckets, math.inf), spread.counts, strict=True):
        upto += count
        yield _line(f"{family.name}_bucket", names, (*labels, _number(bound)), upto)
    yield _line(f"{family.name}_sum", family.labels, labels, spread.total)
    yield _line(f"{family.name}_count", family.labels, labels, upto)


def _line(name: str, names: Labels, labels: Labels, value: float) -> str:
    pairs = ",".join(f'{key}="{_escaped(text)}"' for key, text in zip(names, labels, strict=True))
    return f"{name}{{{pairs}}} {_number(value)}" if pairs else f"{name} {_number(value)}"


def _number(value: float) -> str:
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(float(value))


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _escaped_help(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n")
