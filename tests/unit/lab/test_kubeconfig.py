"""The user's kubeconfig: entered and left without touching what is others'."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from podwire.lab import kubeconfig
from podwire.lab.kubeconfig import Credentials
from podwire.lab.state import LabError

OURS = Credentials("https://127.0.0.1:1", "CA", "CRT", "KEY")
THEIRS = {
    "apiVersion": "v1",
    "kind": "Config",
    "x-unknown": {"keep": [1, 2]},
    "clusters": [{"name": "prod", "cluster": {"server": "https://prod", "extensions": [{"name": "e"}]}}],
    "contexts": [{"name": "prod", "context": {"cluster": "prod", "user": "me"}}],
    "users": [{"name": "me", "user": {"exec": {"command": "aws"}}}],
    "current-context": "prod",
}


def test_in_and_out_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "config"
    path.write_text(yaml.safe_dump(THEIRS))
    before = kubeconfig.install("lab", OURS, path)
    assert before is not None and before.context == "prod"
    there = yaml.safe_load(path.read_text())
    assert there["current-context"] == "podwire-lab"
    assert there["x-unknown"] == THEIRS["x-unknown"]
    assert [entry["name"] for entry in there["users"]] == ["me", "podwire-lab"]
    kubeconfig.uninstall("lab", before)
    assert yaml.safe_load(path.read_text()) == THEIRS


def test_a_file_that_we_made_is_removed_and_is_private(tmp_path: Path) -> None:
    path = tmp_path / "new" / "config"
    before = kubeconfig.install("lab", OURS, path)
    assert before is not None
    assert path.stat().st_mode & 0o777 == 0o600
    kubeconfig.uninstall("lab", before)
    assert not path.exists()


def test_twice_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "config"
    kubeconfig.install("lab", OURS, path)
    stamp = path.stat().st_mtime_ns
    assert kubeconfig.install("lab", OURS, path) is None
    assert path.stat().st_mtime_ns == stamp


def test_two_labs_leave_one_after_the_other(tmp_path: Path) -> None:
    path = tmp_path / "config"
    first, second = kubeconfig.install("a", OURS, path), kubeconfig.install("b", OURS, path)
    assert first and second
    kubeconfig.uninstall("a", first)
    assert yaml.safe_load(path.read_text())["current-context"] == "podwire-b"
    kubeconfig.uninstall("b", second)
    assert yaml.safe_load(path.read_text())["current-context"] == ""


def test_a_context_the_user_chose_meanwhile_stays(tmp_path: Path) -> None:
    path = tmp_path / "config"
    path.write_text(yaml.safe_dump({**THEIRS, "contexts": [*THEIRS["contexts"], {"name": "dev", "context": {}}]}))
    before = kubeconfig.install("lab", OURS, path)
    assert before is not None
    path.write_text(path.read_text().replace("current-context: podwire-lab", "current-context: dev"))
    kubeconfig.uninstall("lab", before)
    assert yaml.safe_load(path.read_text())["current-context"] == "dev"


@pytest.mark.parametrize("text", ["- a\n- b\n", "a: [", "just words"])
def test_what_is_no_kubeconfig_is_left_alone(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config"
    path.write_text(text)
    with pytest.raises(LabError, match="left as it is"):
        kubeconfig.install("lab", OURS, path)
    assert path.read_text() == text


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("")
    (tmp_path / "config").symlink_to("real")
    kubeconfig.install("lab", OURS, tmp_path / "config")
    assert (tmp_path / "config").is_symlink()
    assert "podwire-lab" in (tmp_path / "real").read_text()
