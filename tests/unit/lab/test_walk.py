"""Walking a lab: lines are typed one at a time, shells inside shells included, and a failed check stops the walk."""

from __future__ import annotations

import pytest

from podwire.lab.labfile import parse
from podwire.lab.walk import WalkError, transcribed, walk


def page(body: str) -> str:
    return "# t\n\n## s\n\n" + body


def test_variables_and_inner_shells_and_here_documents() -> None:
    body = """```sh step
NAME=world
cat <<'E' | tr a-z A-Z
hello
E
bash --norc --noprofile
echo inner $((40 + 2))
exit
echo "outer $NAME"
```

```sh check
grep -q '^HELLO' <<<"$OUTPUT"
grep -q '^inner 42' <<<"$OUTPUT"
grep -q '^outer world' <<<"$OUTPUT"
```
"""
    (walked,) = walk(parse(page(body)), seconds=20)
    assert "inner 42" in walked.output


def test_an_interrupted_command_gives_the_shell_back() -> None:
    body = "```sh step interrupt=0.6\necho before\nsleep 60\n```\n\n```sh step\necho after\n```\n"
    first, second = walk(parse(page(body)), seconds=20)
    assert "before" in first.output
    assert first.seconds < 20
    assert "after" in second.output


def test_a_failing_check_says_step_line_and_what_was_seen() -> None:
    body = '```sh step\necho red\n```\n\n```sh check\ngrep -q green <<<"$OUTPUT"\n```\n'
    with pytest.raises(WalkError, match=r"'s' \(line 5\): a check failed with exit code 1(.|\n)*red"):
        walk(parse(page(body)), seconds=20)


def test_a_step_that_never_prompts_again_is_an_error() -> None:
    with pytest.raises(WalkError, match="no prompt within 1 s"):
        walk(parse(page("```sh step\nsleep 30\n```\n")), seconds=1)


def test_a_transcript_shows_prompts_and_answers_under_the_steps_titles() -> None:
    lab = parse(page("```sh step\necho red\n```\n\n```sh step\necho blue\n```\n"))
    text = transcribed(lab, walk(lab, seconds=20))
    assert text.startswith("# t: a transcript\n\n## s\n\n```text\n$ echo red\nred\n```\n")
    assert text.count("## s") == 1
    assert text.rstrip().endswith("```text\n$ echo blue\nblue\n```")
