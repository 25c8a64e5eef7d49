"""Upgrade and downgrade between versions that differ: nothing that runs notices, and pods start meanwhile."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from podwire import __version__
from podwire.agent import attachments
from podwire.kubelet import agentimage
from podwire.kubelet.debroot import private_root
from podwire.lab.state import cache_root
from tests.kubernetes import soak
from tests.kubernetes.genuine import until, up
from tests.kubernetes.soak import Site, held, table
from tests.kubernetes.test_install_cluster import EARLIER, THIS, downgrade, former, upgrade
from tests.kubernetes.versions import Version, made_up
from tests.lab.host import lab_in
from tests.lab.kubectl import Kubectl

__all__ = ["former", "table"]

NAME = "versions"
NODES = (f"{NAME}-control-plane", f"{NAME}-worker")


@pytest.fixture(scope="module")
def site(built: Path, former: Version, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Two nodes with the earlier version, installed by its own command, and pods that it wired."""
    with lab_in(tmp_path_factory.mktemp("versions")) as lab:
        up(lab, built, "--network", "none", name=NAME, nodes=len(NODES))
        cache = cache_root()
        for archive in (agentimage.ensure(cache, (THIS,), private_root(cache)), former.image(EARLIER)):
            lab("load", str(archive), seconds=180)
        former.podwire(lab.env, "install", "--set", f"image={EARLIER}", "--set", "pull-policy=Never")
        lab.kubectl("create", "namespace", "soak")
        until("the namespace's account", lambda: "default" in lab.kubectl("-n", "soak", "get", "serviceaccounts"))
        found = Site(lab, NAME, NODES, Kubectl(lab.env, "soak"))
        found.ready()
        found.place()
        yield found


def test_the_made_up_version_is_another(tmp_path: Path) -> None:
    """Where no history is, it stands for one: it runs, and this version reads its records."""
    version = made_up(tmp_path)
    assert __version__ not in version.podwire(dict(os.environ), "--version").split()
    record = """
import msgspec
from podwire.agent.attachments import Attachment
print(msgspec.json.encode(Attachment("c", "eth0", "n", "/n", "cali1", "", 1450, "h", sources=("10.0.0.0/8",))).decode())
"""
    done = subprocess.run(
        [sys.executable, "-P", "-c", record], env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "another" in done.stdout
    assert attachments.decode(done.stdout.encode()).sources == ("10.0.0.0/8",)


@pytest.mark.soak
@pytest.mark.timeout(1500)
def test_nothing_is_lost_between_versions(site: Site, former: Version, table: list[str]) -> None:
    """To this version, back, and to this again, for five minutes; the brief form is in test_install_cluster."""
    installs = (partial(upgrade, site), partial(downgrade, site, former), partial(upgrade, site))
    harm = partial(soak.versions, installs=installs)
    result = soak.watched(site, f"up to this version and down to {former.told}", harm, 300)
    table.append(soak.row(result))
    held(result)
