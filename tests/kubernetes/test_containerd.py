"""containerd 2.4 runs pod sandboxes through our conflist."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance import containerd
from tests.conformance.conftest import CACHE, Site
from tests.conformance.containerd import CONFIG_3, Containerd


@pytest.fixture(scope="module")
def runtime(site: Site, built: Path) -> Iterator[Containerd]:
    programs = site.machine.path("/opt/kubernetes")
    programs.mkdir(parents=True)
    for name in ("containerd", "containerd-shim-runc-v2", "ctr"):
        shutil.copy(built / name, programs)
    bin_dir = site.choose(podwire=site.plugins / "podwire", loopback=site.plugins / "loopback")
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
    site.until("handle written", lambda: f"k8s-pod-network.{identity}" in site.handles())
    runtime.stop_sandbox(identity)
    runtime.stop_sandbox(identity)
    assert address not in site.machine.run("ip", "route")
    site.until("address given back", lambda: f"k8s-pod-network.{identity}" not in site.handles())
    runtime.remove_sandbox(identity)


def test_agent_down_is_a_node_that_is_not_ready(site: Site, runtime: Containerd) -> None:
    site.node.stop(signal.SIGKILL)
    try:
        ready, words = runtime.network_ready()
        assert (ready, "the Podwire agent is not available" in words) == (False, True), words
        code, output = runtime.try_ask(
            "RunPodSandbox", config={"metadata": {"name": "x", "uid": "x", "namespace": "d"}}
        )
        assert (code, "try again later" in output) == (1, True), output
    finally:
        site.node.start()
    site.until("network ready", lambda: runtime.network_ready()[0])
    identity = runtime.run_sandbox("after")
    runtime.stop_sandbox(identity)
    runtime.remove_sandbox(identity)
