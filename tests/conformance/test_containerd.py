"""containerd 1.6 (Debian's) runs pod sandboxes through our conflist, alone and chained."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conformance import containerd
from tests.conformance.conftest import CACHE, Site
from tests.conformance.containerd import CONFIG_2, Containerd


@pytest.fixture(scope="module")
def runtime(site: Site) -> Iterator[Containerd]:
    """On the agent's own conflist."""
    bin_dir = site.choose(
        podwire=site.plugins / "podwire",
        loopback=site.plugins / "loopback",
        portmap=site.reference / "portmap",
    )
    yield containerd.start(
        site.machine,
        site.reference / "cri",
        CACHE / "root/usr/bin/busybox",
        site.folder,
        config=CONFIG_2,
        programs="/usr/bin",
        bin_dir=str(bin_dir),
        conf_dir=str(site.node.conflist.parent),
    )


def test_sandbox(site: Site, runtime: Containerd) -> None:
    site.until("network ready", lambda: runtime.network_ready()[0])
    identity = runtime.run_sandbox("multitool")
    status = runtime.sandbox(identity)["status"]
    address = status["network"]["ip"]
    assert address.startswith("10.244.")
    assert f"{address} dev cali6d09fa47963 scope link" in site.machine.run("ip", "route")
    site.machine.run("busybox", "ping", "-c1", "-W2", address)
    assert f"k8s-pod-network.{identity}" in site.handles()
    runtime.stop_sandbox(identity)
    runtime.stop_sandbox(identity)
    assert address not in site.machine.run("ip", "route")
    site.until("address given back", lambda: f"k8s-pod-network.{identity}" not in site.handles())
    runtime.remove_sandbox(identity)
