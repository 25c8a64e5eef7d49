"""Labs as files: a Markdown page whose fenced blocks are steps (typed into a shell) and checks (must then succeed).

A block opens with ```` ```sh step ```` or ```` ```sh check ````. A step may carry `interrupt=SECONDS`: its last command
runs until it is interrupted (Ctrl-C) after that time. Everything else is prose.
"""

from __future__ import annotations

from dataclasses import dataclass


class LabFileError(ValueError):
    """The page is not a lab; the message names the line."""


@dataclass(frozen=True, slots=True)
class Step:
    """Lines to type, one by one; `interrupt` in seconds (0 = wait for the prompt); `line` is where the block begins."""

    title: str
    lines: tuple[str, ...]
    line: int
    interrupt: float = 0.0
    checks: tuple[str, ...] = ()
    prose: str = ""


@dataclass(frozen=True, slots=True)
class LabFile:
    title: str
    steps: tuple[Step, ...]


@dataclass
class _Open:
    kind: str
    line: int
    interrupt: float
    lines: list[str]


def _opening(info: str, number: int) -> _Open:
    words = info.split()
    kind = words[1] if len(words) > 1 and words[0] == "sh" else ""
    interrupt = 0.0
    for word in words[2:]:
        key, _, value = word.partition("=")
        if key != "interrupt" or kind != "step":
            raise LabFileError(
                f"line {number}: {word!r} means nothing on a {kind or 'plain'} block; a step takes interrupt=SECONDS"
            )
        interrupt = float(value)
    if kind not in ("", "step", "check"):
        raise LabFileError(f"line {number}: a sh block is a step or a check, not {kind!r}")
    return _Open(kind, number, interrupt, [])


def parse(text: str) -> LabFile:
    """The lab that a Markdown page describes. Raises LabFileError."""
    title, heading = "", ""
    prose: list[str] = []
    steps: list[Step] = []
    block: _Open | None = None
    for number, line in enumerate(text.splitlines(), 1):
        if block is not None:
            if line.strip() != "```":
                block.lines.append(line)
                continue
            steps = _closed(steps, block, heading, " ".join(prose).strip())
            if block.kind == "step":
                prose = []
            block = None
        elif line.startswith("```"):
            block = _opening(line[3:], number)
        elif line.startswith("# ") and not title:
            title = line[2:].strip()
        elif line.startswith("#"):
            heading, prose = line.lstrip("#").strip(), []
        else:
            prose.append(line.strip())
    if block is not None:
        raise LabFileError(f"line {block.line}: this block is never closed")
    if not steps:
        raise LabFileError("no steps: a lab needs at least one ```sh step block")
    return LabFile(title, tuple(steps))


def _closed(steps: list[Step], block: _Open, heading: str, prose: str) -> list[Step]:
    if block.kind == "step":
        return [*steps, Step(heading, tuple(block.lines), block.line, block.interrupt, (), prose)]
    if block.kind == "check":
        if not steps:
            raise LabFileError(f"line {block.line}: a check needs a step before it")
        last = steps[-1]
        checked = Step(
            last.title, last.lines, last.line, last.interrupt, (*last.checks, "\n".join(block.lines)), last.prose
        )
        return [*steps[:-1], checked]
    return steps
