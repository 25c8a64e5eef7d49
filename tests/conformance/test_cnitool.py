"""cnitool, that is libcni itself: every verb, every version, alone and chained with the reference plugins."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.conftest import Site, conflist

VERSIONS = ("0.3.1", "0.4.0", "1.0.0", "1.1.0")
OURS = {"type": "podwire", "ipam": {"type": "podwire-ipam"}}


@dataclass
class Network:
    """One network of cnitool's, and the namespaces attached to it."""

    site: Site
    name: str
    folder: Path
    path: str

    def tool(self, verb: str, space: str, **env: str) -> tuple[int, str]:
        settings = {"NETCONFPATH": str(self.folder), "CNI_PATH": self.path, "CNI_IFNAME": "eth0", **env}
        target = f"/run/netns/{space}" if space else ""
        words = [str(self.site.reference / "cnitool"), verb, self.name, *([target] if target else [])]
        done = self.site.machine.try_run(*words, **settings)
        return done.returncode, done.stdout + done.stderr

    def must(self, verb: str, space: str, **env: str) -> str:
        code, output = self.tool(verb, space, **env)
        assert code == 0, f"cnitool {verb}: {output}"
        return output

    def add(self, space: str, **env: str) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self.must("add", space, **env))
        return answer


def network(site: Site, name: str, *plugins: dict[str, Any], version: str = "1.0.0", **more: Any) -> Network:
    """Ours first on the path, then the reference plugins; a type that both have is ours."""
    folder = conflist(site, name, list(plugins), version, **more)
    return Network(site, name, folder, f"{site.plugins}:{site.reference}")


def addresses(result: dict[str, Any]) -> list[str]:
    return [str(ip["address"]).partition("/")[0] for ip in result["ips"]]


def reaches(site: Site, space: str) -> None:
    """The pod talks to its node."""
    site.inside(space, "busybox", "ping", "-c1", "-W2", site.node.address)


@pytest.mark.parametrize("version", VERSIONS)
def test_alone(site: Site, version: str) -> None:
    net, space = network(site, f"alone-{version}", OURS, version=version), site.pod_space()
    result = net.add(space)
    assert result["cniVersion"] == version
    [address] = addresses(result)
    assert f"inet {address}/32" in site.inside(space, "ip", "address", "show", "eth0")
    reaches(site, space)
    code, output = net.tool("check", space)
    assert code == 0, output
    net.must("del", space)
    assert "eth0" not in site.inside(space, "ip", "link")
    net.must("del", space)
    site.until("address given back", lambda: not any(h.startswith(net.name) for h in site.handles()))
