"""agent.toml, PODWIRE_* and flags, in rising order."""

from __future__ import annotations

from pathlib import Path

import pytest

from podwire.agent import config
from podwire.agent.config import ConfigError


def test_layers(tmp_path: Path) -> None:
    file = tmp_path / "agent.toml"
    file.write_text('node_name = "n1"\nmtu = 1400\ninstall_cni = false\nsocket = "/run/x.sock"\n')
    loaded = config.load(file, {"PODWIRE_MTU": "1300", "PODWIRE_INSTALL_CNI": "true"}, health_port=9)
    assert (loaded.node_name, loaded.mtu, loaded.install_cni, loaded.health_port) == ("n1", 1300, True, 9)
    assert loaded.socket == Path("/run/x.sock")


@pytest.mark.parametrize(
    ("text", "environment", "words"),
    [
        ("", {}, "node_name"),
        ('node_name = "n"\ncolour = 1\n', {}, "colour"),
        ('node_name = "n"\n', {"PODWIRE_MTU": "wide"}, "mtu"),
        ('node_name = "n"\ninstall_cni = "maybe"\n', {}, "install_cni"),
        ("node_name = 3\n", {}, "node_name"),
        ('node_name = "n"\n', {"PODWIRE_LOG_FORMAT": "xml"}, "log_format"),
        ("node_name =", {}, "agent.toml"),
    ],
)
def test_faults_are_named(tmp_path: Path, text: str, environment: dict[str, str], words: str) -> None:
    file = tmp_path / "agent.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=words):
        config.load(file, environment)
