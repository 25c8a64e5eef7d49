"""The tree itself: names that say something, licence and docs in place, no page too long to hold in mind."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
FORBIDDEN = re.compile(r"(^|_)(utils?|common|helpers?|managers?|misc|stuff)(_|$)")

# The longest page may only become shorter: lower this number when it does.
LONGEST_PAGE = 700


def tracked(pattern: str) -> list[Path]:
    out = subprocess.run(["git", "ls-files", pattern], cwd=ROOT, capture_output=True, text=True, check=True)
    return [ROOT / line for line in out.stdout.splitlines() if (ROOT / line).exists()]


def test_page_names_say_something() -> None:
    assert [path for path in tracked("podwire/*.py") if FORBIDDEN.search(path.stem)] == []


def test_no_page_is_too_long_to_hold_in_mind() -> None:
    lines = {str(path.relative_to(ROOT)): path.read_text().count("\n") for path in tracked("*.py")}
    assert {path: count for path, count in lines.items() if count > LONGEST_PAGE} == {}


def test_every_room_says_what_it_is_for() -> None:
    silent = [path for path in tracked("podwire/*.py") if not path.read_text().lstrip().startswith('"""')]
    assert silent == []


def test_the_papers_are_there() -> None:
    for name in ("README.md", "LICENSE", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "requirements.lock"):
        assert (ROOT / name).stat().st_size > 0, name


def test_the_lock_covers_every_direct_dependency() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    names = {re.split(r"[<>=;\s]", line)[0].lower() for line in wanted}
    locked = set(re.findall(r"(?m)^([a-z0-9_.-]+)==", (ROOT / "requirements.lock").read_text().lower()))
    assert {name.replace("_", "-") for name in names} <= {name.replace("_", "-") for name in locked}
