"""The agent's log: lines with a stable event name and fields, as text or as JSON, and the latest of them for dumps.

A call says `log.info("words of the event key=%s other=%d", …)`: the words are the event's name ("words-of-the-event"),
the rest its fields. docs/logs.md lists every event, and a test compares. Secrets are left out of both forms.
"""

from __future__ import annotations

import logging
import re
import sys
import threading
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import msgspec

from podwire.agent import families, redact
from podwire.agent.figures import Sample

TEXT, JSON = "text", "json"
OTHER = "log"
"""The event of lines that other libraries write; their words are in the field `message`."""
RESERVED = ("ts", "level", "event", "node", "logger", "message", "exception")
_PLAIN = frozenset({str, int, float, bool})
_TEXT_FORMAT = "%(asctime)s.%(msecs)03d %(levelname)s %(name)s %(message)s"
_FIELD = re.compile(r"(?:\A| )([a-zA-Z]\w*)=")
_SLOT = re.compile(r"%[-#0 +]*\d*(?:\.\d+)?[sdrfgx%]")


@dataclass(frozen=True, slots=True)
class Shape:
    """A message's template, taken apart: `fields` are (key, format, how many arguments it takes)."""

    event: str
    fields: tuple[tuple[str, str, int], ...]


@lru_cache(maxsize=1024)
def shape(template: str) -> Shape | None:
    """None for a message that names no event."""
    found = list(_FIELD.finditer(template))
    head = template[: found[0].start()] if found else template
    words = re.findall(r"[a-z0-9]+", re.sub(r"['’]", "", head.lower()))
    if not words or "%" in head or ":" in head or not template.isprintable():
        return None
    ends = [*(match.start() for match in found[1:]), len(template)]
    fields = [(one[1], template[one.end() : end]) for one, end in zip(found, ends, strict=False)]
    slots = [sum(slot != "%%" for slot in _SLOT.findall(words)) for _, words in fields]
    return Shape("-".join(words), tuple((key, text, n) for (key, text), n in zip(fields, slots, strict=True)))


def event(name: str, template: Any, args: Any) -> tuple[str, dict[str, Any]]:
    """The event's name and its fields. `name` is the logger's: what is not ours names no events."""
    known = shape(template) if isinstance(template, str) and name.startswith("podwire.") else None
    values = args if isinstance(args, tuple) else ()
    if known is None or sum(count for *_, count in known.fields) != len(values):
        return OTHER, {"message": redact.text(_formatted(template, args))}
    fields: dict[str, Any] = {}
    at = 0
    for key, text, count in known.fields:
        part, at = values[at : at + count], at + count
        if text == "%d" and isinstance(part[0], int):
            fields[key] = part[0]
        else:
            fields[key] = redact.text(_formatted(text, part))
    return known.event, fields


def _formatted(template: Any, args: Any) -> str:
    try:
        return str(template) % args if args else str(template)
    except (TypeError, ValueError, KeyError):
        return f"{template} {args}"


def _when(created: float) -> str:
    return datetime.fromtimestamp(created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class JsonLines(logging.Formatter):
    """One JSON object a line: ts (UTC), level, event, node, logger, then the event's fields."""

    def __init__(self, node: str) -> None:
        super().__init__()
        self._node = node

    def format(self, record: logging.LogRecord) -> str:
        name, fields = event(record.name, record.msg, record.args)
        line: dict[str, Any] = {
            "ts": _when(record.created),
            "level": record.levelname.lower(),
            "event": name,
            "node": self._node,
            "logger": record.name,
            **fields,
        }
        if record.exc_info:
            line["exception"] = redact.text(self.formatException(record.exc_info))
        return msgspec.json.encode(line, enc_hook=str).decode()


class TextLines(logging.Formatter):
    """`2026-01-02T03:04:05.678 INFO podwire.agent.main words key=value`."""

    def __init__(self) -> None:
        super().__init__(_TEXT_FORMAT, "%Y-%m-%dT%H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        return redact.text(super().format(record))


class Recent(logging.Handler):
    """The latest lines, those that warn apart so that others do not push them out; and how many of each event."""

    def __init__(self, kept: int = 200, warnings: int = 50) -> None:
        super().__init__(logging.INFO)
        self._lines: deque[tuple[float, int, str, Any, Any]] = deque(maxlen=kept)
        self._warnings: deque[tuple[float, int, str, Any, Any]] = deque(maxlen=warnings)
        self._counts: Counter[tuple[str, str, int]] = Counter()
        self._guard = threading.Lock()

    def emit(self, record: logging.LogRecord) -> None:
        """With the values as they are now, and no reference to exceptions, whose frames would live on."""
        args = record.args
        if isinstance(args, tuple):
            args = tuple(arg if type(arg) in _PLAIN else str(arg) for arg in args)
        line = (record.created, record.levelno, record.name, record.msg, args)
        ours = record.name.startswith("podwire.") and isinstance(record.msg, str)
        with self._guard:
            (self._warnings if record.levelno >= logging.WARNING else self._lines).append(line)
            self._counts["podwire." if ours else "", record.msg if ours else "", record.levelno] += 1

    def lines(self) -> list[dict[str, Any]]:
        """Oldest first, secrets left out."""
        with self._guard:
            found = sorted([*self._lines, *self._warnings], key=lambda line: line[0])
        shown = []
        for created, level, name, message, args in found:
            words, fields = event(name, message, args)
            head = {"ts": _when(created), "level": logging.getLevelName(level).lower(), "event": words, "logger": name}
            shown.append({**head, **fields})
        return shown

    def samples(self) -> Iterator[Sample]:
        with self._guard:
            counted = dict(self._counts)
        sums: Counter[tuple[str, str]] = Counter()
        for (name, template, level), number in counted.items():
            known = shape(template) if name else None
            sums[known.event if known else OTHER, logging.getLevelName(level).lower()] += number
        for labels, number in sorted(sums.items()):
            yield families.LOG_EVENTS, labels, number


def start(form: str, node: str) -> None:
    """Log INFO and above of this process to standard error, in that form."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines(node) if form == JSON else TextLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
