"""docs/security.md: every claim names its test, and every test that it names exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "security.md"
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def claims() -> list[str]:
    """The tables' rows, without their heads."""
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("|") and not line.startswith("|---")]
    return [row for row in rows if row not in ("| claim | test |", "| what was | here | test |")]


def test_every_claim_names_its_test() -> None:
    bare = [row for row in claims() if not NAMED.search(row) and "Reason: " not in row]
    assert len(claims()) > 30
    assert bare == []


def test_every_named_test_exists() -> None:
    missing = []
    for path, name in NAMED.findall(PAGE.read_text()):
        page = ROOT / path
        tree = ast.parse(page.read_text()) if page.exists() else ast.Module([], [])
        if name not in {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}:
            missing.append(f"{path}::{name}")
    assert missing == []
    assert "::" not in NAMED.sub("", PAGE.read_text()).replace("`::`", "")
