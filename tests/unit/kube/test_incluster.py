"""A pod's identity: where it lies, where the API is, and what is said when it is not there."""

from __future__ import annotations

from pathlib import Path

import pytest

from podwire.kube.incluster import cluster
from podwire.kube.kubeconfig import KubeconfigError


def folder(tmp_path: Path, *names: str) -> Path:
    for name in names:
        (tmp_path / name).write_text(f"{name} of kube-system\n")
    return tmp_path


SERVERS = {
    "service": ("", {"KUBERNETES_SERVICE_HOST": "10.96.0.1"}, "https://10.96.0.1:443"),
    "service with a port": (
        "",
        {"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "6443"},
        "https://10.96.0.1:6443",
    ),
    "service over IPv6": ("", {"KUBERNETES_SERVICE_HOST": "fd00::1"}, "https://[fd00::1]:443"),
    "told": ("https://192.0.2.1:6443/", {}, "https://192.0.2.1:6443"),
    "told wins": ("https://192.0.2.1:6443", {"KUBERNETES_SERVICE_HOST": "10.96.0.1"}, "https://192.0.2.1:6443"),
}


@pytest.mark.parametrize(("told", "environment", "server"), SERVERS.values(), ids=SERVERS)
def test_server(tmp_path: Path, told: str, environment: dict[str, str], server: str) -> None:
    found = cluster(told, folder(tmp_path, "ca.crt", "namespace", "token"), environment)
    assert found.server == server
    assert found.ca == b"ca.crt of kube-system\n"
    assert (found.token, found.token_file) == ("", str(tmp_path / "token"))
    assert found.namespace == "namespace of kube-system"


@pytest.mark.parametrize("missing", ["ca.crt", "namespace", "token"])
def test_what_is_missing_is_named(tmp_path: Path, missing: str) -> None:
    there = {"ca.crt", "namespace", "token"} - {missing}
    with pytest.raises(KubeconfigError, match=missing):
        cluster("https://a:1", folder(tmp_path, *there), {})


def test_no_service_and_nothing_told(tmp_path: Path) -> None:
    with pytest.raises(KubeconfigError, match="KUBERNETES_SERVICE_HOST is not set"):
        cluster("", folder(tmp_path, "ca.crt", "namespace", "token"), {})
