"""Another version of Podwire than this one: a checkout with its package and its shim, and its command.

It is the first of this repository's history that had `podwire install`: tables, settings, roles and the shim's protocol
were others then. Without that history (an archive, a shallow clone) it is a copy of this version whose shim, number and
records on disk differ: that shows less, and the test says so.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from podwire.kubelet import agentimage
from podwire.kubelet.debroot import private_root
from podwire.lab.state import cache_root

ROOT = Path(__file__).parents[2]
FIRST = "podwire/install/apply.py"
"""The page whose first commit is the version."""
_CHANGES = {
    "podwire/__init__.py": ('__version__ = "', '__version__ = "0.0.9-'),
    "podwire/agent/attachments.py": (
        "    sources: tuple[str, ...] = ()\n",
        '    sources: tuple[str, ...] = ()\n    another: str = msgspec.field(default_factory=lambda: "version")\n',
    ),
    "shim/podwire-shim.c": ("\n#include", '\n__attribute__((used)) static const char another[] = "version";\n#include'),
}
"""What tells the made-up version from this one: page → (text, its replacement)."""


@dataclass(frozen=True)
class Version:
    """`told` is its commit, or how it was made."""

    told: str
    checkout: Path

    def podwire(self, env: dict[str, str], *words: str) -> str:
        """Its own command; what it printed."""
        command = [
            sys.executable,
            "-P",
            "-c",
            "import sys; from podwire.cli.main import main; sys.exit(main())",
            *words,
        ]
        done = subprocess.run(
            command,
            env={**env, "PYTHONPATH": str(self.checkout)},
            capture_output=True,
            text=True,
            timeout=320,
            check=False,
        )
        assert done.returncode == 0, f"{self.told}: {words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr

    def image(self, name: str) -> Path:
        """The archive of its image under that name; in a cache of its own, where this version's stays."""
        cache = cache_root()
        return agentimage.ensure(cache / "another-version", (name,), private_root(cache), self.checkout)


def earlier(folder: Path) -> Version:
    """Unpacked below `folder`."""
    checkout = folder / "earlier"
    checkout.mkdir()
    commit = _commit()
    if commit:
        packed = subprocess.run(
            ["git", "archive", "--format=tar", commit, "podwire", "shim"], cwd=ROOT, capture_output=True, check=True
        )
        with tarfile.open(fileobj=BytesIO(packed.stdout)) as archive:
            archive.extractall(checkout, filter="data")
        return Version(f"commit {commit[:12]}", checkout)
    return made_up(checkout)


def made_up(checkout: Path) -> Version:
    """This version, changed."""
    for name in ("podwire", "shim"):
        shutil.copytree(ROOT / name, checkout / name, ignore=shutil.ignore_patterns("__pycache__"))
    for page, (old, new) in _CHANGES.items():
        text = (checkout / page).read_text()
        assert old in text, f"{page}: the made-up version changes {old!r}, which is no longer there"
        (checkout / page).write_text(text.replace(old, new, 1))
    return Version("a copy with another shim and other records: no git history is here", checkout)


def _commit() -> str:
    """Empty where git, or the history, is not there."""
    if shutil.which("git") is None:
        return ""
    asks = ["git", "log", "--diff-filter=A", "--format=%H", "--", FIRST]
    environment = {
        **os.environ,
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": "safe.directory",
        "GIT_CONFIG_VALUE_0": "*",
    }
    done = subprocess.run(asks, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    shallow = subprocess.run(
        ["git", "rev-parse", "--is-shallow-repository"], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    # in a shallow clone the oldest commit there seems to add every page
    return done.stdout.split()[-1] if done.stdout.strip() and shallow.stdout.strip() == "false" else ""
