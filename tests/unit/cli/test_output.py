"""Tables, help, and bad usage."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from podwire.cli import output
from podwire.cli.main import group

BOX = """\
╭──────────┬──────────╮
│   Name   │   Kind   │
├──────────┼──────────┤
│ a-worker │ k8s-kind │
│          │ image    │
╰──────────┴──────────╯"""


def test_boxes_are_drawn_as_containerlab_does() -> None:
    assert output.boxed(("Name", "Kind"), [("a-worker", "k8s-kind\nimage")]) == BOX


def test_columns_line_up() -> None:
    assert output.columns(("A", "LONG"), [("xyz", "1")]) == "A     LONG\nxyz   1"


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["lab"],
        ["lab", "up"],
        ["lab", "down"],
        ["lab", "list"],
        ["lab", "status"],
        ["lab", "inspect"],
        ["lab", "kubeconfig"],
        ["lab", "exec"],
        ["lab", "load"],
        ["lab", "run"],
        ["lab", "demo"],
        ["agent"],
        ["cni", "install"],
        ["cni", "uninstall"],
        ["bench"],
    ],
)
def test_every_help_teaches_with_an_example(words: list[str]) -> None:
    result = CliRunner().invoke(group, [*words, "--help"])
    assert result.exit_code == 0, result.output
    assert "podwire " in result.output.split("Options:")[0].split("\n", 2)[2]


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["nosuch"], 2),
        (["lab", "up", "--nodes", "x"], 2),
        (["lab", "up", "--nodes", "0"], 2),
        (["lab", "up", "--config", "/nosuch.yaml"], 2),
        (["lab", "exec", "node"], 2),
        (["lab", "up", "--name", ""], 2),
        (["lab", "down", "--name", ""], 2),
        (["lab", "demo", "--name", ""], 2),
        (["lab", "status", "--name", "nosuch"], 1),
        (["lab", "exec", "nosuch", "ls"], 1),
        (["bench", "nosuch"], 2),
    ],
)
def test_exit_codes(words: list[str], code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PODWIRE_STATE", str(tmp_path / "labs"))
    assert CliRunner().invoke(group, words).exit_code == code


def test_help_is_quick() -> None:
    command = [str(Path(sys.executable).parent / "podwire"), "--help"]
    seconds = []
    for _ in range(5):  # of the processor: those of the clock are the machine's as well
        begin = sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])
        subprocess.run(command, check=True, capture_output=True)
        seconds.append(sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2]) - begin)
    assert min(seconds) < 0.15, seconds
