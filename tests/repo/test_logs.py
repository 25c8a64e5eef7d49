"""Every line that the agent may log names an event, and docs/logs.md has it with its levels and fields."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from podwire.agent.logs import RESERVED, shape

ROOT = Path(__file__).parents[2]
ROOMS = ("agent", "kube", "ipam", "kernel", "http", "cni", "render", "calc", "model")
LEVELS = {"exception": {"error"}, "log": {"debug", "warning"}}  # `log.log`: where it is done, it chooses between these
VERBS = ("debug", "info", "warning", "error", "exception", "critical", "log")


def calls(source: str) -> Iterator[tuple[int, str, str | None, int]]:
    """(line, verb, template, number of values) of every call of a logger; no template: not a constant text."""
    for node in ast.walk(ast.parse(source)):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        if not (isinstance(node.func.value, ast.Name) and node.func.value.id == "log" and node.func.attr in VERBS):
            continue
        template, *values = node.args[1:] if node.func.attr == "log" else node.args
        text = template.value if isinstance(template, ast.Constant) and isinstance(template.value, str) else None
        spread = any(isinstance(value, ast.Starred) for value in values)
        yield node.lineno, node.func.attr, text, -1 if spread else len(values)


def faults(source: str) -> list[str]:
    """Calls that name no event, or whose values do not fit."""
    wrong = []
    for line, verb, template, values in calls(source):
        known = shape(template) if template is not None else None
        if known is None:
            wrong.append(f"line {line}: log.{verb} names no event: words first, then key=%s")
            continue
        if values >= 0 and sum(count for *_, count in known.fields) != values:
            wrong.append(f"line {line}: {known.event}: values do not fit the template")
        wrong += [
            f"line {line}: {known.event}: the field {key} is taken" for key, *_ in known.fields if key in RESERVED
        ]
    return wrong


def pages() -> list[Path]:
    return [path for room in ROOMS for path in sorted((ROOT / "podwire" / room).glob("*.py"))]


def events() -> dict[str, tuple[set[str], set[str]]]:
    """Event → levels, fields."""
    found: dict[str, tuple[set[str], set[str]]] = {}
    for path in pages():
        for _, verb, template, _ in calls(path.read_text()):
            known = shape(template or "")
            if known is not None:
                levels, fields = found.setdefault(known.event, (set(), set()))
                levels |= LEVELS.get(verb, {verb})
                fields |= {key for key, *_ in known.fields}
    return found


def documented() -> dict[str, tuple[set[str], set[str]]]:
    table: dict[str, tuple[set[str], set[str]]] = {}
    for line in (ROOT / "docs/logs.md").read_text().splitlines():
        if found := re.fullmatch(r"\| `([a-z0-9-]+)` \| ([a-z, ]+) \| ([a-zA-Z_, ]*) ?\| (.{10,}) \|", line):
            levels, fields = (set(re.findall(r"\w+", found[number])) for number in (2, 3))
            assert found[1] not in table, f"{found[1]} stands there twice"
            table[found[1]] = levels, fields
    return table


def test_every_line_names_an_event() -> None:
    wrong = {str(path.relative_to(ROOT)): found for path in pages() if (found := faults(path.read_text()))}
    assert wrong == {}


def test_the_page_has_every_event_and_no_other() -> None:
    code, page = events(), documented()
    assert sorted(code.keys() - page.keys()) == [], "not in docs/logs.md"
    assert sorted(page.keys() - code.keys()) == [], "in docs/logs.md, but nowhere in the code"
    assert {name: code[name] for name in code if code[name] != page[name]} == {}, "levels or fields differ"


def test_the_page_is_in_order() -> None:
    assert list(documented()) == sorted(documented())


def test_the_tests_above_can_fail() -> None:
    assert faults('log.info("took %s", x)') == ["line 1: log.info names no event: words first, then key=%s"]
    assert faults('log.info(f"took {x}")') == ["line 1: log.info names no event: words first, then key=%s"]
    assert faults('log.info("taken up count=%d", x, y)') == ["line 1: taken-up: values do not fit the template"]
    assert faults('log.info("taken up node=%s", x)') == ["line 1: taken-up: the field node is taken"]
