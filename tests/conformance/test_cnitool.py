"""cnitool, that is libcni itself: every verb, every version, alone and chained with the reference plugins."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from podwire.cni.install import CONFLIST
from podwire.cni.listing import NETWORK
from tests.conformance.conftest import Site, Space, conflist, talk

VERSIONS = ("0.3.1", "0.4.0", "1.0.0", "1.1.0")
OURS = {"type": "podwire", "ipam": {"type": "podwire-ipam"}}


@dataclass
class Network:
    """One network of cnitool's: where its configuration is, and CNI_PATH."""

    site: Site
    name: str
    folder: Path
    path: str

    def tool(self, verb: str, space: Space, **env: str) -> tuple[int, str]:
        """Exit code and words; `env` may have CAP_ARGS (JSON) and CNI_ARGS."""
        settings = {"NETCONFPATH": str(self.folder), "CNI_PATH": self.path, "CNI_IFNAME": "eth0", **env}
        done = self.site.machine.try_run(str(self.site.reference / "cnitool"), verb, self.name, space.path, **settings)
        return done.returncode, done.stdout + done.stderr

    def must(self, verb: str, space: Space, **env: str) -> str:
        code, output = self.tool(verb, space, **env)
        assert code == 0, f"cnitool {verb}: {output}"
        return output

    def add(self, space: Space, **env: str) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self.must("add", space, **env))
        return answer


def network(site: Site, name: str, *plugins: dict[str, Any], path: Path | None = None, **more: Any) -> Network:
    """On CNI_PATH: `path`, or ours first and then the reference plugins, so that a type that both have is ours."""
    folder = conflist(site, name, list(plugins), **more)
    return Network(site, name, folder, str(path) if path else f"{site.plugins}:{site.reference}")


def address(result: dict[str, Any]) -> str:
    """The first one."""
    return str(result["ips"][0]["address"]).partition("/")[0]


def reaches_node(space: Space, site: Site) -> None:
    space.run("busybox", "ping", "-c1", "-W2", site.node.address)


def gone(net: Network, space: Space) -> None:
    """DEL, once more, and nothing is left: no interface, no address held."""
    net.must("del", space)
    assert "eth0" not in space.run("ip", "link")
    net.must("del", space)
    net.site.until("addresses given back", lambda: not any(h.startswith(f"{net.name}.") for h in net.site.handles()))


@pytest.mark.parametrize("version", VERSIONS)
def test_alone(site: Site, version: str) -> None:
    net, space = network(site, f"alone-{version}", OURS, version=version), site.space()
    result = net.add(space)
    assert result["cniVersion"] == version
    assert f"inet {address(result)}/32" in space.run("ip", "address", "show", "eth0")
    reaches_node(space, site)
    if version != "0.3.1":  # libcni itself refuses before
        net.must("check", space)
        space.run("ip", "address", "flush", "dev", "eth0")
        code, words = net.tool("check", space)
        assert (code, f"address {address(result)} is missing" in words) == (1, True), words
    gone(net, space)


def test_the_conflist_that_the_agent_installed(site: Site) -> None:
    """As a kubelet's runtime takes it: found by its order in the folder, under its own name."""
    net, space = Network(site, NETWORK, site.node.conflist.parent, str(site.plugins)), site.space()
    assert sorted(path.name for path in net.folder.iterdir())[0] == CONFLIST
    pod = {"CNI_ARGS": "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=multitool"}
    result = net.add(space, **pod)
    assert result["interfaces"][0]["name"] == "cali6d09fa47963"
    net.must("check", space, **pod)
    reaches_node(space, site)
    gone(net, space)


@pytest.mark.parametrize("version", VERSIONS)
def test_reference_plugins_behind_ours(site: Site, version: str) -> None:
    """Each takes our result as its prevResult, and ours stays right in CHECK whatever they change."""
    chain = [
        OURS,
        {"type": "tuning", "sysctl": {"net.ipv4.conf.IFNAME.arp_filter": "1"}},
        {"type": "bandwidth", "ingressRate": 10**7, "ingressBurst": 10**6, "egressRate": 10**7, "egressBurst": 10**6},
        {"type": "portmap", "backend": "iptables", "capabilities": {"portMappings": True}, "snat": True},
    ]
    reference = {name: site.reference / name for name in ("tuning", "bandwidth", "portmap")}
    path = site.choose(podwire=site.plugins / "podwire", **reference)
    net, space, client = network(site, f"behind-{version}", *chain, path=path, version=version), site.space(), None
    port = 20_000 + VERSIONS.index(version)
    ports = {"CAP_ARGS": json.dumps({"portMappings": [{"hostPort": port, "containerPort": 80, "protocol": "tcp"}]})}
    result = net.add(space, **ports)
    other = network(site, "client", OURS)
    client = site.space()
    seen = address(other.add(client))
    assert space.run("busybox", "cat", "/proc/sys/net/ipv4/conf/eth0/arp_filter") == "1\n"
    assert "qdisc tbf" in site.machine.run("tc", "qdisc", "show", "dev", result["interfaces"][0]["name"])
    assert talk(client, space, 80, address=site.node.address, to_port=port) == seen
    if version != "0.3.1":
        net.must("check", space, **ports)
    gone(other, client)
    net.must("del", space, **ports)
    gone(net, space)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("main", ["bridge", "ptp"])
def test_reference_wiring_with_our_addresses(site: Site, main: str, version: str) -> None:
    name = f"{main}-{version}"
    wiring: dict[str, Any] = {"type": main, "ipam": {"type": "podwire-ipam"}}
    if main == "bridge":
        wiring |= {"bridge": f"br{VERSIONS.index(version)}", "isGateway": True}
    net, space = network(site, name, wiring, version=version), site.space()
    result = net.add(space)
    assert address(result).startswith("10.244.")
    assert f"inet {address(result)}/" in space.run("ip", "address", "show", "eth0")
    site.until("address on the API", lambda: any(h.startswith(f"{name}.") for h in site.handles()))
    if version != "0.3.1":
        net.must("check", space)
    gone(net, space)


@pytest.mark.parametrize("version", VERSIONS)
def test_ours_behind_the_reference_bridge(site: Site, version: str) -> None:
    """Somebody else wires; our portmap, our bandwidth, and Podwire itself for policy only."""
    number = VERSIONS.index(version)
    networks = site.folder / f"networks{number}"
    chain = [
        {
            "type": "bridge",
            "bridge": f"chain{number}",
            "isDefaultGateway": True,
            "ipam": {"type": "host-local", "subnet": f"10.77.{number}.0/24", "dataDir": str(networks)},
        },
        {"type": "portmap", "capabilities": {"portMappings": True}, "snat": True},
        {"type": "bandwidth", "capabilities": {"bandwidth": True}},
        {"type": "podwire"},
    ]
    net, space = network(site, f"chain-{version}", *chain, version=version), site.space()
    port = 21_000 + number
    limits = {"ingressRate": 10**8, "ingressBurst": 10**7, "egressRate": 10**8, "egressBurst": 10**7}
    asked = {"portMappings": [{"hostPort": port, "containerPort": 80, "protocol": "tcp"}], "bandwidth": limits}
    ports = {"CAP_ARGS": json.dumps(asked)}
    result = net.add(space, **ports)
    assert result["cniVersion"] == version
    assert address(result).startswith(f"10.77.{number}.")
    assert (networks / net.name / address(result)).exists()
    veth = next(i["name"] for i in result["interfaces"] if i["name"].startswith("veth"))
    assert "qdisc tbf" in site.machine.run("tc", "qdisc", "show", "dev", veth)
    reaches_node(space, site)
    other, client = network(site, "client", OURS), site.space()
    seen = address(other.add(client))
    assert talk(client, space, 80, address=site.node.address, to_port=port) in (seen, f"10.77.{number}.1")
    if version != "0.3.1":
        net.must("check", space, **ports)
    gone(other, client)
    net.must("del", space, **ports)
    assert "eth0" not in space.run("ip", "link")
    assert not (networks / net.name / address(result)).exists()
    gone(net, space)


@pytest.mark.parametrize("version", VERSIONS)
def test_loopback(site: Site, version: str) -> None:
    net, space = network(site, f"lo-{version}", {"type": "loopback"}, version=version), site.space()
    result = net.add(space, CNI_IFNAME="lo")
    assert result["interfaces"][0]["name"] == "lo"
    assert "127.0.0.1/8" in space.run("ip", "address", "show", "lo")
    if version != "0.3.1":
        net.must("check", space, CNI_IFNAME="lo")
    net.must("del", space, CNI_IFNAME="lo")


def test_host_ports_and_limits_of_the_agent_itself(site: Site) -> None:
    """One plugin, no chain: what containerd sends by the capabilities of our conflist."""
    net, space = Network(site, NETWORK, site.node.conflist.parent, str(site.plugins)), site.space()
    limits = {"ingressRate": 10**8, "ingressBurst": 10**7, "egressRate": 10**8, "egressBurst": 10**7}
    asked = {"portMappings": [{"hostPort": 22_000, "containerPort": 80, "protocol": "tcp"}], "bandwidth": limits}
    ports = {"CAP_ARGS": json.dumps(asked)}
    result = net.add(space, **ports)
    other, client = network(site, "client", OURS), site.space()
    seen = address(other.add(client))
    assert talk(client, space, 80, address=site.node.address, to_port=22_000) == seen
    assert "qdisc tbf" in site.machine.run("tc", "qdisc", "show", "dev", result["interfaces"][0]["name"])
    net.must("check", space, **ports)
    net.must("del", space, **ports)
    gone(other, client)
    with client.socket() as late, pytest.raises(OSError):
        late.connect((site.node.address, 22_000))
    gone(net, space)


def test_status_and_gc(site: Site) -> None:
    """cnitool gc knows of no valid attachment: libcni ends every one in its cache, then asks the plugins."""
    net, space = network(site, "collected", OURS, version="1.1.0"), site.space()
    net.must("status", space)
    net.add(space)
    net.must("gc", space)
    assert "eth0" not in space.run("ip", "link")
    gone(net, space)


def test_gc_by_a_list(site: Site) -> None:
    """As a runtime that lost its cache would: what is valid stays, the rest goes, other networks are not touched."""
    net, other = network(site, "listed", OURS, version="1.1.0"), network(site, "unlisted", OURS, version="1.1.0")
    kept, lost, foreign = site.space(), site.space(), site.space()
    for name, space in (("listed", kept), ("listed", lost), ("unlisted", foreign)):
        (net if name == "listed" else other).add(space)
    config = {"cniVersion": "1.1.0", "name": "listed", **OURS}
    site.until("handles written", lambda: sum(handle.startswith("listed.") for handle in site.handles()) == 2)
    container = next(handle.split(".", 1)[1] for handle in site.handles() if handle.startswith("listed."))
    config["cni.dev/valid-attachments"] = [{"containerID": container, "ifname": "eth0"}]
    done = subprocess.run(
        [site.plugins / "podwire"],
        env={"CNI_COMMAND": "GC", "CNI_PATH": str(site.plugins)},
        input=json.dumps(config).encode(),
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, b"")
    site.until("one is left", lambda: sum(handle.startswith("listed.") for handle in site.handles()) == 1)
    assert "eth0" in foreign.run("ip", "link")
    assert sorted("eth0" in space.run("ip", "link") for space in (kept, lost)) == [False, True]
    for space in (kept, lost):
        net.must("del", space)
    gone(other, foreign)
    gone(net, kept)
