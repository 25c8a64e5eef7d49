"""containerd 2.4 runs pod sandboxes through our conflist."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance import containerd
from tests.conformance.conftest import CACHE, Site
from tests.conformance.containerd import CONFIG_3, Containerd


@pytest.fixture(scope="module")
def runtime(site: Site, built: Path) -> Iterator[Containerd]:
    programs = site.machine.path("/opt/kubernetes")
    shutil.copytree(built, programs)
    bin_dir = site.choose(podwire=site.plugins / "podwire", loopback=site.reference / "loopback")
    yield containerd.start(
        site.machine,
        site.reference / "cri",
        CACHE / "root/usr/bin/busybox",
        site.folder,
        config=CONFIG_3,
        programs="/opt/kubernetes",
        bin_dir=str(bin_dir),
        conf_dir=str(site.node.conflist.parent),
    )


def test_sandbox(site: Site, runtime: Containerd) -> None:
    site.until("network ready", lambda: runtime.network_ready()[0])
    assert "2.4" in runtime.ask("Version")["runtimeVersion"]
    identity = runtime.run_sandbox("multitool")
    address = runtime.sandbox(identity)["status"]["network"]["ip"]
    assert f"{address} dev cali6d09fa47963 scope link" in site.machine.run("ip", "route")
    site.machine.run("busybox", "ping", "-c1", "-W2", address)
    assert f"k8s-pod-network.{identity}" in site.handles()
    runtime.stop_sandbox(identity)
    runtime.stop_sandbox(identity)
    assert address not in site.machine.run("ip", "route")
    site.until("address given back", lambda: f"k8s-pod-network.{identity}" not in site.handles())
    runtime.remove_sandbox(identity)
