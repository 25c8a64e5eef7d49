"""containerd 1.6 (Debian's) runs pod sandboxes through our conflist, alone and chained."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from podwire.kernel.nft import program
from tests.conformance import containerd
from tests.conformance.conftest import CACHE, Site
from tests.conformance.containerd import CONFIG_2, Containerd


@pytest.fixture(scope="module")
def runtime(site: Site) -> Iterator[Containerd]:
    """On the agent's own conflist."""
    ours = {name: site.plugins / name for name in ("podwire", "loopback", "portmap")}
    bin_dir = site.choose(**ours, host_local=site.plugins / "host-local", bridge=site.reference / "bridge")
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
    site.until("handle written", lambda: f"k8s-pod-network.{identity}" in site.handles())
    runtime.stop_sandbox(identity)
    runtime.stop_sandbox(identity)
    assert address not in site.machine.run("ip", "route")
    site.until("address given back", lambda: f"k8s-pod-network.{identity}" not in site.handles())
    runtime.remove_sandbox(identity)


def test_host_port_and_limits(site: Site, runtime: Containerd) -> None:
    """By the capabilities of our conflist; containerd writes their keys its own way."""
    mapping = {"protocol": "TCP", "containerPort": 80, "hostPort": 23_000}
    notes = {"kubernetes.io/ingress-bandwidth": "100M", "kubernetes.io/egress-bandwidth": "100M"}
    identity = runtime.run_sandbox("ported", portMappings=[mapping], annotations=notes, hostname="ported")
    status = runtime.sandbox(identity)
    assert status["status"]["network"]["ip"].startswith("10.244.")
    rules = site.machine.run("tc", "qdisc")
    assert "tbf" in rules
    assert "23000" in site.node.space.run(program(), "list", "ruleset")
    runtime.stop_sandbox(identity)
    runtime.remove_sandbox(identity)
    assert "23000" not in site.node.space.run(program(), "list", "ruleset")


def test_bridge_chained(site: Site, runtime: Containerd) -> None:
    """Reference bridge wires, our host-local and portmap serve, Podwire admits: the runtime sees one network."""

    def config() -> str:
        return str(runtime.ask("Status", verbose=True)["info"])

    own = site.node.conflist.parent
    networks = site.folder / "networks"
    ipam = {"type": "host-local", "subnet": "10.88.0.0/24", "dataDir": str(networks)}
    bridge = {"type": "bridge", "bridge": "ctr0", "isGateway": True, "ipam": ipam}
    chain = [bridge, {"type": "portmap", "capabilities": {"portMappings": True}}, {"type": "podwire"}]
    first = own / "01-chain.conflist"
    first.write_text(json.dumps({"cniVersion": "1.0.0", "name": "chain", "plugins": chain}))
    try:
        site.until("chain loaded", lambda: "01-chain" in config() or "ctr0" in config())
        identity = runtime.run_sandbox("chained")
        assert runtime.sandbox(identity)["status"]["network"]["ip"].startswith("10.88.0.")
        runtime.stop_sandbox(identity)
        runtime.remove_sandbox(identity)
        assert [path.name for path in (networks / "chain").glob("10.*")] == []
    finally:
        first.unlink()
