"""Labs as files: what is a step, what is a check, and which pages are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from podwire.lab.labfile import LabFileError, parse

PAGE = """# A lab

Prose.

## 1. First

Type this:

```sh step interrupt=2.5
echo one
sleep 60
```

```sh check
grep -q one <<<"$OUTPUT"
```

```text
not typed
```

```sh step
echo two
```
"""


def test_steps_carry_their_title_lines_and_checks() -> None:
    lab = parse(PAGE)
    first, second = lab.steps
    assert lab.title == "A lab"
    assert (first.title, first.lines, first.interrupt, first.line) == ("1. First", ("echo one", "sleep 60"), 2.5, 9)
    assert first.checks == ('grep -q one <<<"$OUTPUT"',)
    assert (second.lines, second.checks, second.prose) == (("echo two",), (), "")


@pytest.mark.parametrize(
    ("page", "words"),
    [
        ("# x\n", "no steps"),
        ("```sh step\necho\n", "line 1: this block is never closed"),
        ("```sh check\ntrue\n```\n", "line 1: a check needs a step"),
        ("```sh stepp\ntrue\n```\n", "a step or a check, not 'stepp'"),
        ("```sh step wait=3\ntrue\n```\n", "'wait=3' means nothing on a step block"),
        ("```sh check interrupt=3\ntrue\n```\n", "means nothing on a check block"),
    ],
)
def test_a_page_that_is_no_lab_is_refused_with_the_line(page: str, words: str) -> None:
    with pytest.raises(LabFileError, match=words):
        parse(page)


@pytest.mark.parametrize(
    "path", sorted((Path(__file__).parents[3] / "docs" / "labs").glob("*.md")), ids=lambda p: p.stem
)
def test_every_lab_in_the_docs_parses_and_checks_its_steps(path: Path) -> None:
    lab = parse(path.read_text())
    assert lab.title
    assert sum(len(step.checks) for step in lab.steps) >= len(lab.steps) / 2


def test_a_negated_check_stands_last_since_the_shell_ignores_it_elsewhere() -> None:
    for path in (Path(__file__).parents[3] / "docs" / "labs").glob("*.md"):
        for step in parse(path.read_text()).steps:
            for script in step.checks:
                lines = script.strip().splitlines()
                assert not [line for line in lines[:-1] if line.startswith("! ")], f"{path.name}: {step.title}"
